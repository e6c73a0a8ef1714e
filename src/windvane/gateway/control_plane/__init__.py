"""The control plane: health, metrics, statistics, documentation. FastAPI and pydantic live here alone."""
