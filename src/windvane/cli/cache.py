"""`windvane cache`: what is kept of answers, what it saved, and taking it back."""

import json
from pathlib import Path
from typing import Any

import click

from windvane.cli.admin_client import administration, told
from windvane.cli.connecting import connection_options, json_option
from windvane.cli.tables import plain_table, print_table

OWED = {
    "later": "others who share the cache could not be told yet, and may still give these answers: it is"
    " tried again each second while the gateway runs, and when it next starts",
    "here": "it could not be written down: others who share the cache may still give these answers, and"
    " so will this gateway when it ends before that was done; clear again",
}
"""What is told when taking answers back is not done with."""


@click.group("cache")
def command() -> None:
    """Look at the cache of answers, or take answers back."""


@command.command("stats")
@json_option
@connection_options
def stats(as_json: bool, path: Path | None, url: str | None) -> None:
    """Show hits, what they saved, and what each tier holds."""
    answer = told(administration(path, url), "GET", "/admin/cache")
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer["enabled"]:
        click.echo("nothing is kept: set cache.scope to key, team or shared")
    else:
        _show(answer)


@command.command("clear")
@click.option("--tag", help="A tag that callers gave (x-windvane-cache-tags).")
@click.option("--model", help="A model's id, or one of its names.")
@click.option("--route", help="A route's name.")
@click.option("--scope", help="Whose answers: key:ID, team:NAME or shared.")
@click.option("--key", help="A gateway key's id or name.")
@click.option("--entry", help="One answer: the key that Cache-Status of its hits shows.")
@json_option
@connection_options
def clear(as_json: bool, path: Path | None, url: str | None, **query: str | None) -> None:
    """Take answers back: all of them, or those with one tag, model, route, scope or key, or one."""
    for name, value in query.items():
        if value is not None and not value.strip():
            raise click.BadParameter(
                "it is empty; to take back all, leave it out", param_hint=f"--{name}"
            )
    answer = told(administration(path, url), "DELETE", "/admin/cache", query=query)
    count = answer["removed"]
    told_as = f"{count} answer was taken back" if count == 1 else f"{count} answers were taken back"
    click.echo(json.dumps(answer) if as_json else told_as)
    if answer["reach"] != "everywhere":
        raise click.ClickException(OWED[answer["reach"]])
    if answer["note"] is not None:
        raise click.ClickException(answer["note"])


def _show(report: dict[str, Any]) -> None:
    lookups = report["lookups"]
    rate = report["hit_rate"]
    click.echo(
        f"shared by {report['scope']}; "
        + ", ".join(f"{count} {name}" for name, count in lookups.items())
        + (f"; {rate:.1%} answered from it" if rate is not None else "")
        + f"; ${report['saved_usd']}, {report['saved_tokens']:,} tokens and"
        + f" {report['saved_seconds']:,.1f} s saved"
    )
    table = plain_table()
    table.add_column("tier")
    headings = ("entries", "of", "bytes", "of", "hits", "stored", "evicted", "expired", "faults")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in report["tiers"]:
        table.add_row(
            each["tier"] if each["is_up"] else f"{each['tier']} (down)",
            *(
                "-" if each[name] is None else f"{each[name]:,}"
                for name in (
                    "entries", "entries_max", "bytes", "bytes_max", "hits", "stored", "evicted",
                    "expired", "faults",
                )
            ),
        )  # fmt: skip
    print_table(table)
