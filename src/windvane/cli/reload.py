"""`windvane reload`: the gateway that runs reads its configuration again."""

import json
from pathlib import Path

import click

from windvane.cli.admin_client import StoppedGateway, administration, told
from windvane.cli.connecting import connection_options, json_option


@click.command("reload")
@json_option
@connection_options
def command(as_json: bool, path: Path | None, url: str | None) -> None:
    """Have a running gateway read its configuration again.

    Its budgets and rates hold at once. What needs a restart is told. With a problem nothing changes.
    """
    admin = administration(path, url)
    if isinstance(admin, StoppedGateway):
        raise click.ClickException(
            "no gateway runs that has this data folder; each reads its configuration when it starts"
        )
    answer = told(admin, "POST", "/admin/reload")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for what in ("budgets", "rates"):
        click.echo(f"{what + ':':<9}{', '.join(answer[what]) or 'as they were'}")
    if answer["needs_restart"]:
        click.echo(f"not used before a restart: {', '.join(answer['needs_restart'])}", err=True)
