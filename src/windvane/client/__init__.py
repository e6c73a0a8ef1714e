"""The Python door: the engine in the caller's own process."""
