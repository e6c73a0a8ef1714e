"""The data plane: `/v1/*`, raw ASGI and msgspec, no framework."""
