"""Configuration: read, checked whole, and resolved into one snapshot."""

from windvane.config.check import ConfigError
from windvane.config.load import load_config
from windvane.config.schema import Config

__all__ = ["Config", "ConfigError", "load_config"]
