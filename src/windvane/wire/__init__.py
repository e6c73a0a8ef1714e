"""Bytes to core values and back: sans-IO, incremental, one dialect a file."""
