"""`windvane usage`: what was used, by whom, when and for what."""

import http.client
from pathlib import Path
from typing import Any

import click

from windvane.cli.admin_client import Admin, administration, key_path, text_told, told
from windvane.cli.connecting import connection_options, json_option
from windvane.cli.tables import plain_table, print_table
from windvane.core.usage_report import DIMENSIONS
from windvane.engine.keyring import RESERVED_NAMES

_USAGE = "/admin/usage"
_COUNTS = {
    "requests": "requests",
    "cache_hits": "hits",
    "cache_joins": "joins",
    "cache_misses": "misses",
    "cache_bypasses": "bypasses",
    "attempts": "attempts",
    "failed_attempts": "failed",
    "input_tokens": "input",
    "output_tokens": "output",
}
_HEADINGS = (*_COUNTS.values(), "cost $")


@click.command("usage")
@click.option("--since", metavar="DAY", help="First UTC day, 2026-12-31.")
@click.option("--until", metavar="DAY", help="Last UTC day.")
@click.option(
    "--by",
    default="key",
    show_default=True,
    metavar="LIST",
    help=f"Group by, with commas between: {', '.join(DIMENSIONS)}; none for the total alone.",
)
@click.option("--key", help="Only this key's, by id or name.")
@click.option("--team", help="Only this team's.")
@click.option("--user", help="Only this end user's.")
@click.option("--tag", help="Only with this tag.")
@click.option("--model", help="Only this model's, by its id.")
@click.option("--provider", help="Only this provider's.")
@click.option("--route", help="Only by this route.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@connection_options
def command(
    by: str, as_json: bool, as_csv: bool, path: Path | None, url: str | None, **filters: str | None
) -> None:
    """Show what was used, from the ledger."""
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    query = {**filters, "by": "" if by == "none" else by}
    admin = administration(path, url)
    if filters["key"] is not None:
        _check_key(admin, filters["key"])
    if as_csv:
        text = text_told(admin, "GET", _USAGE, query={**query, "format": "csv"})
        click.echo(text.replace("\r\n", "\n"), nl=False)
    elif as_json:
        click.echo(text_told(admin, "GET", _USAGE, query=query))
    else:
        _show(told(admin, "GET", _USAGE, query=query))


def _check_key(admin: Admin, key: str) -> None:
    """Exit with status 1 for a key that neither the gateway nor its ledger has: a table without rows
    would look as if it had used nothing."""
    status, _ = admin.ask("GET", key_path(key))
    if status == http.client.NOT_FOUND and key not in RESERVED_NAMES:
        used = told(admin, "GET", _USAGE, query={"key": key, "by": ""})["totals"]
        if not used["requests"] and not used["attempts"]:
            told(admin, "GET", key_path(key))


def _show(answer: dict[str, Any]) -> None:
    by: list[str] = answer["by"]
    table = plain_table()
    table.show_footer = bool(by) and len(answer["rows"]) > 1
    for place, name in enumerate(by):
        table.add_column(name, overflow="fold", footer="all" if place == 0 else "")
    totals = _cells(answer["totals"])
    for heading, total in zip(_HEADINGS, totals, strict=True):
        table.add_column(heading, justify="right", footer=total)
    for row in answer["rows"]:
        table.add_row(*(_named(row, name) for name in by), *_cells(row))
    print_table(table)
    whole = answer["totals"]
    if whole["saved_tokens"] or whole["saved_nano_usd"]:
        click.echo(
            f"saved by the cache: ${whole['saved_usd']}, {whole['saved_tokens']:,} tokens,"
            f" {whole['saved_seconds']:,.1f} s"
        )
    unpriced = whole["unpriced_attempts"]
    if unpriced:
        click.echo(f"{unpriced} attempt(s) have no known price, and are in no amount", err=True)


def _named(row: dict[str, Any], name: str) -> str:
    value = row.get("key_name") or row[name] if name == "key" else row[name]
    return str(value) or "(none)"


def _cells(sums: dict[str, Any]) -> list[str]:
    return [*(f"{sums[name]:,}" for name in _COUNTS), sums["cost_usd"]]
