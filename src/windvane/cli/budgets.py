"""`windvane budgets`: how every budget stands."""

import json
from pathlib import Path
from typing import Any

import click

from windvane.cli.admin_client import administration, told
from windvane.cli.connecting import connection_options, json_option
from windvane.cli.tables import plain_table, print_table


@click.command("budgets")
@click.option("--scope", help="One scope (team:research), or a kind (key, team, user, tag, model).")
@json_option
@connection_options
def command(scope: str | None, as_json: bool, path: Path | None, url: str | None) -> None:
    """Show budgets: limit, spent, held for what runs, and left."""
    answer = told(administration(path, url), "GET", "/admin/budgets", query={"scope": scope})
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer["data"]:
        click.echo("there is no budget")
    else:
        _show(answer["data"])


def _show(standings: list[dict[str, Any]]) -> None:
    table = plain_table()
    table.add_column("scope", overflow="fold")
    table.add_column("period")
    for heading in ("limit $", "spent $", "held $", "left $", "used"):
        table.add_column(heading, justify="right")
    table.add_column("renews")
    for each in standings:
        name = each["key_name"]
        table.add_row(
            f"key:{name}" if name else each["scope"],
            each["period"],
            each["limit_usd"],
            each["spent_usd"],
            each["held_usd"],
            each["left_usd"],
            f"{each['used_percent']:g} %",
            each["renews_at"] or "never",
        )
    print_table(table)
