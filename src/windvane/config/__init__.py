"""Configuration: read, checked whole, and resolved into one snapshot."""

from windvane.config.load import ConfigError, load_config
from windvane.config.schema import Config

__all__ = ["Config", "ConfigError", "load_config"]
