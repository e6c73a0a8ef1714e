"""The version, read by the build and shown by `windvane --version`."""

__version__ = "0.1.0"
