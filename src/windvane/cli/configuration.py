"""Reading the configuration for a command, and telling all that is wrong with it."""

from pathlib import Path

import click

from windvane import system
from windvane.config import Config, ConfigError, load_config

ADDRESS_FILE = "address"
"""In the data folder: where the gateway that has it open listens."""


def read_config(path: Path | None) -> Config:
    """The configuration. Exits with status 1, printing every problem, when it cannot be used."""
    try:
        return load_config(system.environment(), path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
