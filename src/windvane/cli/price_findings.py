"""What there is to say about the prices and models of a configuration, as of one day.

Only what the configuration leads to is looked at: the models its providers serve, and those its
routes name. What nobody here can ask for is nobody's trouble.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from enum import StrEnum

import msgspec

from windvane.core.catalog.models import Catalog, ModelCard, Status
from windvane.core.catalog.prices import Price
from windvane.core.deployment import Deployment
from windvane.core.money import usd_text
from windvane.engine.snapshot import Snapshot

STALE_DAYS = 180
"""Providers change prices without notice: a row that nobody has looked at for so long may be wrong."""
_LOOKED_AT = re.compile(r"\d{4}-\d\d-\d\d")


class Kind(StrEnum):
    UNKNOWN_PRICE = "unknown_price"
    RETIRED = "retired"
    DEPRECATED = "deprecated"
    STALE_PRICE = "stale_price"
    ALIAS_MOVED = "alias_moved"


FAILING = (Kind.UNKNOWN_PRICE, Kind.RETIRED)
"""What makes a strict check fail."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know. `where` is what leads to the model."""

    kind: Kind
    model: str
    provider: str
    where: tuple[str, ...]
    detail: str
    replacement: str | None = None


def findings(snapshot: Snapshot, day: date) -> list[Finding]:
    """All findings, the gravest first."""
    named = _named_in_routes(snapshot)
    found = [*_of_deployments(snapshot, day, named), *_of_names(snapshot, day, named)]
    order = list(Kind)
    return sorted(found, key=lambda each: (order.index(each.kind), each.provider, each.model))


def _named_in_routes(snapshot: Snapshot) -> dict[str, list[str]]:
    """Each model name in a route, and the routes that have it."""
    named: dict[str, list[str]] = {}
    for name, (route, rules) in snapshot.routes.routes.items():
        models = [model for compiled in rules for model in compiled.rule.models]
        for model in dict.fromkeys((*models, *route.default_models, *route.fallbacks)):
            named.setdefault(model, []).append(f"routes.{name}")
    return named


def _of_deployments(
    snapshot: Snapshot, day: date, named: Mapping[str, list[str]]
) -> Iterator[Finding]:
    """What is served. Several names of one model are one finding."""
    places: dict[tuple[str, str], list[str]] = {}
    serving: dict[tuple[str, str], Deployment] = {}
    for public, group in snapshot.deployments.items():
        for each in group:
            key = (each.provider, each.resolved_model)
            serving.setdefault(key, each)
            here = places.setdefault(key, [f"providers.{each.provider}"])
            here += [place for place in named.get(public, ()) if place not in here]
    for key, deployment in serving.items():
        yield from _of_deployment(deployment, snapshot.catalog, day, tuple(places[key]))


def _of_deployment(
    deployment: Deployment, catalog: Catalog, day: date, where: tuple[str, ...]
) -> Iterator[Finding]:
    price, card = deployment.price_on(day), deployment.card

    def finding(kind: Kind, detail: str, replacement: str | None = None) -> Finding:
        return Finding(
            kind=kind,
            model=deployment.resolved_model,
            provider=deployment.provider,
            where=where,
            detail=detail,
            replacement=replacement,
        )

    if price is None:
        yield finding(Kind.UNKNOWN_PRICE, "its cost is unknown, and no budget lets it be asked")
    elif deployment.own_price is None:
        looked_at = _looked_at(price, catalog)
        if (day - looked_at).days > STALE_DAYS:
            yield finding(Kind.STALE_PRICE, f"its price was last looked at on {looked_at}")
    if card is not None and (card.is_retired(day) or card.status is Status.DEPRECATED):
        kind = Kind.RETIRED if card.is_retired(day) else Kind.DEPRECATED
        yield finding(kind, _ending(card, day), card.replacement)


def _ending(card: ModelCard, day: date) -> str:
    if card.retires_on is None:
        return "deprecated; the day it ends is not known"
    return f"{'retired' if card.is_retired(day) else 'retires'} on {card.retires_on}"


def _looked_at(price: Price, catalog: Catalog) -> date:
    """The day the row's source tells, else the catalog's."""
    found = _LOOKED_AT.search(price.source)
    return date.fromisoformat(found[0]) if found else catalog.as_of


def _of_names(snapshot: Snapshot, day: date, named: Mapping[str, list[str]]) -> Iterator[Finding]:
    """What routes call models: retired ones that no provider serves any more, and aliases that have
    come to mean another."""
    catalog = snapshot.catalog
    for name, where in named.items():
        card = catalog.resolve(name, day)
        if card is None:
            continue
        if card.is_retired(day) and name not in snapshot.deployments:
            yield Finding(
                kind=Kind.RETIRED,
                model=name,
                provider=card.provider,
                where=tuple(where),
                detail=_ending(card, day),
                replacement=card.replacement,
            )
        elif (moved := _moved(catalog, name, day)) is not None:
            yield Finding(
                kind=Kind.ALIAS_MOVED,
                model=name,
                provider=card.provider,
                where=tuple(where),
                detail=moved,
            )


def _moved(catalog: Catalog, name: str, day: date) -> str | None:
    """When the alias last came to mean another model, and what that did to the price."""
    meant = sorted(
        (
            (alias.since or card.released or date.min, card.id)
            for card in catalog.cards
            for alias in card.aliases
            if alias.name == name
        ),
    )
    past = [(since, model) for since, model in meant if since <= day]
    if len(past) < 2 or catalog.resolve(name, day) is None:
        return None
    (_, before), (since, now) = past[-2:]
    return f"{before} until {since}, {now} since: {_step(catalog, before, now, day)}"


def _step(catalog: Catalog, before: str, now: str, day: date) -> str:
    cards = [catalog.resolve(model, day) for model in (before, now)]
    prices = [None if card is None else card.price_on(day) for card in cards]
    told = [
        "unknown" if each is None else f"${usd_text(each.input)} in, ${usd_text(each.output)} out"
        for each in prices
    ]
    return " then ".join(told)
