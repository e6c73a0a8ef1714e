"""`windvane models`: the catalog, with today's prices."""

from datetime import date

import click
import msgspec

from windvane import system
from windvane.assembly import today
from windvane.config.resolve import shipped_catalog
from windvane.core.catalog.models import Catalog, ModelCard
from windvane.core.money import usd_text

NARROW = 120
"""Columns below which what else is known of a model stands under it."""


@click.command("models")
@click.option("--provider", help="Only this provider's.")
@click.option("--all", "with_retired", is_flag=True, help="Retired models too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(provider: str | None, with_retired: bool, as_json: bool) -> None:
    """List models, prices and abilities."""
    catalog = shipped_catalog()
    day = today(system.SystemClock())
    cards = [
        card
        for card in catalog.cards
        if provider in (None, card.provider) and (with_retired or not card.is_retired(day))
    ]
    if not cards:
        raise click.ClickException(f"the catalog has no models of {provider!r}")
    if as_json:
        rows = [_row(card, catalog, day) for card in cards]
        click.echo(msgspec.json.encode({"as_of": catalog.as_of, "models": rows}))
    else:
        _show(cards, catalog, day)


def _row(card: ModelCard, catalog: Catalog, day: date) -> dict[str, object]:
    price = card.price_on(day)
    return {
        "id": card.id,
        "provider": card.provider,
        "aliases": _aliases(card, catalog, day),
        "status": card.status,
        "context_window_tokens": card.context_window_tokens,
        "capabilities": sorted(card.capabilities),
        "input_nano_usd_per_million": price.input if price else None,
        "output_nano_usd_per_million": price.output if price else None,
        "cache_read_nano_usd_per_million": price.cache_read if price else None,
        "price_since": price.since if price else None,
        "price_source": price.source if price else None,
        "retires_on": card.retires_on,
        "replacement": card.replacement,
    }


def _aliases(card: ModelCard, catalog: Catalog, day: date) -> list[str]:
    """The aliases that mean this card today; some have moved on."""
    return [alias.name for alias in card.aliases if catalog.resolve(alias.name, day) is card]


def _show(cards: list[ModelCard], catalog: Catalog, day: date) -> None:
    from rich.text import Text  # noqa: PLC0415 - slow to load; only for people

    from windvane.cli.tables import (  # noqa: PLC0415 - likewise
        plain_table,
        print_table,
        terminal_width,
    )

    table = plain_table(f"Dollars per million tokens (catalog of {catalog.as_of})")
    table.add_column("model", no_wrap=True)
    for heading in ("input", "cached", "output", "window"):
        table.add_column(heading, justify="right", no_wrap=True)
    width = terminal_width()
    is_narrow = width is not None and width < NARROW
    if not is_narrow:
        table.add_column("also called; note")
    provider = None
    for card in sorted(cards, key=lambda card: card.provider):
        if card.provider != provider:
            provider = card.provider
            table.add_row(Text(provider, style="bold"))
        price = card.price_on(day)
        cached = price.cache_read if price else None
        aliases, note = _aliases(card, catalog, day), _note(card, day)
        beside = "; ".join(each for each in (", ".join(aliases), note) if each)
        table.add_row(
            card.id,
            usd_text(price.input) if price else "unknown",
            usd_text(cached) if cached is not None else "-",
            usd_text(price.output) if price else "unknown",
            _window(card.context_window_tokens),
            *(() if is_narrow else (beside,)),
        )
        for each in (*aliases, note) if is_narrow else ():
            if each:
                table.add_row(f"  {each}")
    print_table(table)


def _note(card: ModelCard, day: date) -> str:
    if card.is_retired(day):
        return f"retired; use {card.replacement}" if card.replacement else "retired"
    if card.retires_on:
        return f"retires {card.retires_on}"
    return "" if card.status.value == "ga" else card.status.value


def _window(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"
