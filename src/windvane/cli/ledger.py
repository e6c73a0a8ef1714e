"""`windvane ledger`: are the sums that reports are made of those of the entries, and making them so."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from windvane.cli.admin_client import administration, told
from windvane.cli.connecting import connection_options, json_option
from windvane.cli.tables import plain_table, print_table

EXIT_DIFFERS = 1
TIMEOUT_S = 3_600.0
"""A large ledger takes a while."""
SHOWN_MAX = 20
_NAMES = ("day", "key", "team", "user", "tags", "provider", "model", "route")


@click.group("ledger")
def command() -> None:
    """Check the ledger's sums against its entries, or make them anew."""


@command.command("verify")
@json_option
@connection_options
def verify(as_json: bool, path: Path | None, url: str | None) -> None:
    """Add up every entry again, and compare with the sums that are kept.

    The exit status is 1 when they differ. Requests are served meanwhile.
    """
    admin = administration(path, url, timeout_s=TIMEOUT_S)
    answer = told(admin, "GET", "/admin/ledger/verification")
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["agrees"]:
        click.echo("the sums are those of the entries")
    else:
        _show(answer)
    if answer["refused_entries"]:
        click.echo(
            f"{answer['refused_entries']} entries could not be taken and are in no sum: see"
            " set_aside.jsonl in the data folder",
            err=True,
        )
    if not answer["agrees"]:
        sys.exit(EXIT_DIFFERS)


@command.command("rebuild")
@json_option
@connection_options
def rebuild(as_json: bool, path: Path | None, url: str | None) -> None:
    """Make the sums anew from the entries.

    While it runs nothing else is written: some seconds for a million entries. A gateway that runs
    goes on with the budgets it has; restart it if sums were wrong.
    """
    admin = administration(path, url, timeout_s=TIMEOUT_S)
    answer = told(admin, "POST", "/admin/ledger/rebuild")
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["mended"]:
        click.echo(
            f"{answer['mended']} sums were wrong and are made anew; restart a gateway that runs, so"
            " that its budgets count by them"
        )
    else:
        click.echo("the sums are made anew; none was wrong")


def _show(answer: dict[str, Any]) -> None:
    total = answer["differences_total"]
    click.echo(f"{total} sums are not those of their entries:")
    table = plain_table()
    for name in _NAMES:
        table.add_column(name, overflow="fold")
    for heading in ("requests kept", "found", "cost $ kept", "found"):
        table.add_column(heading, justify="right")
    for each in answer["differences"][:SHOWN_MAX]:
        kept, found = each["kept"], each["found"]
        table.add_row(
            *(each[name] for name in _NAMES),
            str(kept["requests"]),
            str(found["requests"]),
            kept["cost_usd"],
            found["cost_usd"],
        )
    print_table(table)
    if total > SHOWN_MAX:
        click.echo(
            f"and {total - SHOWN_MAX} more; --json tells {len(answer['differences'])} of them"
        )
    click.echo("`windvane ledger rebuild` makes them anew")
