"""Options that every command about keys and usage has: where to ask, and in what form to answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from windvane.cli.admin_client import URL_VARIABLE

F = TypeVar("F", bound=Callable[..., Any])


def connection_options(command: F) -> F:
    """`--config` and `--url`."""
    command = click.option(
        "--url",
        envvar=URL_VARIABLE,
        help=f"Address of a running gateway; {URL_VARIABLE} says so too.",
    )(command)
    return click.option(
        "--config", "path", type=click.Path(path_type=Path), help="Path of windvane.yaml."
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
