"""`windvane prices`: whether what is asked for has a price, and how long it will be there."""

import sys
from pathlib import Path

import click
import msgspec

from windvane import system
from windvane.assembly import snapshot_of, today
from windvane.cli.configuration import read_config
from windvane.cli.connecting import json_option
from windvane.cli.price_findings import FAILING, Finding, findings
from windvane.cli.tables import plain_table, print_table
from windvane.config import ConfigError
from windvane.config.schema import ProviderConfig

EXIT_FAILED = 1


@click.group("prices")
def command() -> None:
    """Look after the prices that costs are reckoned by."""


@command.command("check")
@click.option(
    "--strict", is_flag=True, help="Exit with 1 when a price is unknown or a model retired."
)
@json_option
@click.option("--config", "path", type=click.Path(path_type=Path), help="Path of windvane.yaml.")
def check(strict: bool, as_json: bool, path: Path | None) -> None:
    """List unknown and old prices, models that end, and aliases that moved.

    It looks at what the configuration leads to; without a configured provider, at Mistral's models.
    """
    config = read_config(path)
    if not config.providers:
        mistral = {"mistral": ProviderConfig(api_key="not-needed-to-look")}
        config = msgspec.structs.replace(config, providers=mistral)
    try:
        snapshot = snapshot_of(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    day = today(system.SystemClock())
    found = findings(snapshot, day)
    as_of = snapshot.catalog.as_of
    if as_json:
        click.echo(msgspec.json.encode({"as_of": as_of, "day": day, "findings": found}))
    elif found:
        _show(found)
        click.echo(f"catalog of {as_of}, looked at on {day}")
    else:
        click.echo(f"nothing to tell (catalog of {as_of})")
    if strict and any(each.kind in FAILING for each in found):
        sys.exit(EXIT_FAILED)


def _show(found: list[Finding]) -> None:
    table = plain_table()
    for heading in ("what", "model", "provider", "detail", "instead", "where"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(
            each.kind.value.replace("_", " "),
            each.model,
            each.provider,
            each.detail,
            each.replacement or "",
            ", ".join(each.where),
        )
    print_table(table)
