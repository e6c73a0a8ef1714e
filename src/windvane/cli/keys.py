"""`windvane keys`: gateway keys, of the gateway that runs, or of its data folder when none does."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from windvane import system
from windvane.cli.admin_client import KEYS_PATH, Admin, administration, key_path, told
from windvane.cli.connecting import connection_options, json_option
from windvane.cli.key_terms import seconds, term_options, terms_said
from windvane.cli.tables import plain_table, print_table

_NO_LIMIT = "-"
PAGE = 1_000
"""As many as one answer may have."""


@click.group("keys")
def command() -> None:
    """Make, list, change, rotate and revoke gateway keys.

    KEY is a key's id or its name. While a gateway runs, it is asked, and what changes holds at once.
    """


def _now() -> datetime:
    return datetime.fromtimestamp(system.SystemClock().wall_us() / 1_000_000, UTC)


def _all_keys(admin: Admin) -> Iterator[dict[str, Any]]:
    """Every key, page by page."""
    after = None
    while True:
        page = told(admin, "GET", KEYS_PATH, query={"limit": str(PAGE), "after": after})
        yield from page["data"]
        after = page.get("next")
        if after is None:
            return


@command.command("create")
@click.argument("name")
@term_options
@click.option("--quiet", is_flag=True, help="Print the secret alone.")
@json_option
@connection_options
def create(
    name: str, quiet: bool, as_json: bool, path: Path | None, url: str | None, **options: Any
) -> None:
    """Make a key called NAME, and show its secret, this once."""
    body = {"name": name, **terms_said(options, _now())}
    _show_secret(told(administration(path, url), "POST", KEYS_PATH, body), quiet, as_json)


@command.command("list")
@click.option("--all", "with_ended", is_flag=True, help="Revoked and expired keys too.")
@json_option
@connection_options
def list_keys(with_ended: bool, as_json: bool, path: Path | None, url: str | None) -> None:
    """List keys, those of the configuration included."""
    every = _all_keys(administration(path, url))
    keys = [key for key in every if with_ended or key["status"] == "live"]
    if as_json:
        click.echo(json.dumps({"data": keys}))
    elif not keys:
        click.echo("there is no key; make one with `windvane keys create NAME`")
    else:
        _show_table(keys)


@command.command("show")
@click.argument("key")
@json_option
@connection_options
def show(key: str, as_json: bool, path: Path | None, url: str | None) -> None:
    """Show one key."""
    admin = administration(path, url)
    _show_key(told(admin, "GET", key_path(key)), as_json)


@command.command("update")
@click.argument("key")
@click.option("--name", help="Another name.")
@term_options
@json_option
@connection_options
def update(key: str, as_json: bool, path: Path | None, url: str | None, **options: Any) -> None:
    """Change a key's terms; what is not said stays, and `none` takes a term away."""
    body = terms_said(options, _now())
    if not body:
        raise click.UsageError("say what to change, as `--daily-budget 5`")
    admin = administration(path, url)
    _show_key(told(admin, "PATCH", key_path(key), body), as_json)


@command.command("rotate")
@click.argument("key")
@click.option("--overlap", default="1d", show_default=True, help="How long the old one works on.")
@click.option("--quiet", is_flag=True, help="Print the secret alone.")
@json_option
@connection_options
def rotate(
    key: str, overlap: str, quiet: bool, as_json: bool, path: Path | None, url: str | None
) -> None:
    """Give a key a new secret, and show it, this once."""
    body = {"overlap_s": seconds(overlap)}
    admin = administration(path, url)
    _show_secret(told(admin, "POST", f"{key_path(key)}/rotate", body), quiet, as_json)


@command.command("revoke")
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@connection_options
def revoke(key: str, yes: bool, as_json: bool, path: Path | None, url: str | None) -> None:
    """End a key for good. At a terminal it asks first."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Revoke {key}? It cannot be taken back", abort=True, err=True)
    admin = administration(path, url)
    answer = told(admin, "DELETE", key_path(key))
    click.echo(json.dumps(answer) if as_json else f"revoked {answer['name']} ({answer['id']})")


def _show_secret(made: dict[str, Any], quiet: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(made))
    elif quiet:
        click.echo(made["key"])
    else:
        click.echo(f"{made['name']} ({made['id']}):\n\n  {made['key']}\n")
        click.echo("It is shown this once. Keep it where secrets are kept.")


def _show_key(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(key))
        return
    for name, value in key.items():
        if name == "budget":
            click.echo(f"{'budget:':<19}{_budget(key)}")
        elif name == "rates":
            click.echo(f"{'rates:':<19}{_rates(key)}")
        elif name == "secrets":
            for each in value:
                ends = f", until {each['expires_at']}" if each["expires_at"] else ""
                click.echo(f"{'secret:':<19}{each['hint']}, since {each['created_at']}{ends}")
        elif value not in (None, [], False):
            told_as = ", ".join(value) if isinstance(value, list) else str(value)
            click.echo(f"{name + ':':<19}{'yes' if value is True else told_as}")


def _budget(key: dict[str, Any]) -> str:
    said = [
        f"${usd} {period}"
        for period in ("daily", "monthly", "total")
        if (usd := key["budget"][f"{period}_usd"]) is not None
    ]
    return ", ".join(said) or _NO_LIMIT


def _allowed(key: dict[str, Any]) -> str:
    what = ", ".join([*key["models"], *key["routes"]]) or "all"
    return f"{what}; {', '.join(key['endpoints'])} only" if key["endpoints"] else what


def _rates(key: dict[str, Any]) -> str:
    said = [f"{name} {value}" for name, value in key["rates"].items() if value is not None]
    return ", ".join(said).replace("_", " ") or _NO_LIMIT


def _show_table(keys: list[dict[str, Any]]) -> None:
    table = plain_table()
    for heading in ("name", "id", "secret"):
        table.add_column(heading, no_wrap=True)
    for heading in ("owner", "team", "may use", "budget", "expires"):
        table.add_column(heading, overflow="fold")
    for key in keys:
        hint = key["secrets"][-1]["hint"] if key["secrets"] else ""
        status = "" if key["status"] == "live" else f" [{key['status']}]"
        table.add_row(
            f"{key['name']}{status}",
            key["id"],
            "configured" if key["configured"] else hint,
            key["owner"] or "",
            key["team"] or "",
            _allowed(key),
            _budget(key),
            (key["expires_at"] or "")[:10],
        )
    print_table(table)
