"""`windvane check`: every problem of a configuration, or what it amounts to."""

from pathlib import Path

import click
import msgspec

from windvane.assembly import check, today
from windvane.cli.configuration import read_config
from windvane.config import ConfigError
from windvane.config.routes import notes_of
from windvane.config.schema import json_schema
from windvane.gateway.data_plane.models import public_names
from windvane.system import SystemClock


@click.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON Schema of windvane.yaml instead.")
def command(path: Path | None, schema: bool) -> None:
    """Check a configuration; print every problem.

    Without PATH it checks what `windvane serve` would read. The exit status is 1 with problems. A note
    is of what may be meant, such as a route whose models are retired.
    """
    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(json_schema())).decode())
        return
    config = read_config(path)
    try:
        snapshot = check(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"no problems: {len(snapshot.upstreams)} provider(s), {len(snapshot.routes.routes)} route(s),"
        f" {len(public_names(snapshot)) - len(snapshot.routes.routes)} model names,"
        f" {len(snapshot.keys)} key(s)"
    )
    for note in notes_of(config, snapshot, today(SystemClock())):
        click.echo(f"note: {note}", err=True)
    if not snapshot.upstreams:
        click.echo("note: no provider is configured; set MISTRAL_API_KEY", err=True)
