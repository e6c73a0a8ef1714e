"""Keys, budgets and rates of a configuration: who may call, and how much.

A mistake here costs money, so every one is told with its place: a scope that names nothing, an amount
finer than a nano-dollar, two keys of one name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date
from decimal import Decimal
from typing import NamedTuple, TypeVar

from windvane.config.check import ConfigError, Problem
from windvane.config.schema import BudgetConfig, Config, KeyConfig, RateConfig
from windvane.core.budgets import BudgetTerms
from windvane.core.catalog.models import Catalog
from windvane.core.deployment import Deployment, counted_as
from windvane.core.keys import VirtualKey
from windvane.core.limits import RateTerms
from windvane.core.money import AMOUNT_MAX, NanoUsd
from windvane.core.principal import GLOBAL, MODEL, SCOPE_KINDS, Principal, Scope, scope
from windvane.core.terms import filled
from windvane.engine.keyring import RESERVED_NAMES, key_digest, mark_of

ADMIN = "admin"
"""What reports call the admin's key."""
KEY_CHARS_MIN = 8
PEPPER_BYTES_MIN = 16
"""Shorter ones could be tried out by who has the ledger's file: 128 bits cannot."""
NANO_DIGITS = 9
DIGITS_MAX = 64
"""More than any amount of dollars has."""
_PLACE = re.compile(r"key:((?:env|key)-\d+)")
"""What a place in a list of keys might be called: no key is."""
EACH = "*"
"""Stands for each one of a kind."""

T = TypeVar("T")


class ModelNames(NamedTuple):
    """What models are called: by the `deployments`, found by public name, or by the catalog of a `day`."""

    deployments: Mapping[str, Sequence[Deployment]]
    catalog: Catalog
    day: date

    def ids(self, name: str) -> set[str]:
        """The ids that the model `name` is counted by."""
        return counted_as(name, self.deployments, self.catalog, self.day)

    def near(self, name: str) -> list[str]:
        """Known names that look like `name`, best first."""
        return self.catalog.near(name, sorted({*self.deployments, *self.catalog.names()}))


def keys_of(config: Config, pepper: bytes, problems: list[Problem]) -> dict[bytes, Principal]:
    """Callers by the digest of their key. Two keys of one name would see each other's requests; one
    key of two names would be counted under either."""
    named = [
        (f"auth.keys[{place}]", spec.key, _principal(spec, place, pepper))
        for place, spec in enumerate(config.auth.keys)
    ]
    if config.auth.admin_key is not None:
        admin = Principal(key_id=ADMIN, is_admin=True)
        named.append(("auth.admin_key", config.auth.admin_key, admin))
    if (said := config.auth.pepper) is not None and len(said.encode()) < PEPPER_BYTES_MIN:
        problems.append(
            Problem(
                "auth.pepper",
                f"it is a secret of at least {PEPPER_BYTES_MIN} bytes, as `openssl rand -hex 32` makes"
                " one; without it, one is made and kept in the data folder",
            )
        )
    keys: dict[bytes, Principal] = {}
    names: set[str] = set()
    for place, secret, principal in named:
        of_key = place if principal.is_admin else f"{place}.key"
        digest = key_digest(pepper, secret)
        if len(secret) < KEY_CHARS_MIN:
            what = f"a key has at least {KEY_CHARS_MIN} characters"
            problems.append(Problem(place, what, of_key))
        elif not secret.isascii() or not secret.isprintable() or " " in secret:
            what = "it has a space or a character that is not ASCII"
            problems.append(Problem(place, what, of_key))
        if digest in keys:
            problems.append(Problem(place, "this key is there twice", of_key))
        name = principal.key_id
        if name in names:
            problems.append(Problem(place, f'another key is named "{name}"', f"{place}.name"))
        if any("," in tag or not tag.strip() for tag in principal.tags):
            problems.append(Problem(f"{place}.tags", "a tag is a text without commas"))
        if name in RESERVED_NAMES and not principal.is_admin:
            what = f'"{name}" is a name that reports use'
            problems.append(Problem(place, what, f"{place}.name"))
        names.add(name)
        keys[digest] = principal
    if not all(spec.name for spec in config.auth.keys):
        _refuse_places(config, names, problems)
    return keys


def _refuse_places(config: Config, names: Set[str], problems: list[Problem]) -> None:
    """A limit of `key:key-1`, meant for the first key, would be one of nobody."""
    for section, terms in (("budgets", config.budgets), ("rates", config.rates)):
        for name in terms:
            if (place := _PLACE.fullmatch(name)) and place[1] not in names:
                what = (
                    "a key without a name is not called by its place, where another may stand tomorrow:"
                    " give it a name in auth.keys, or say its id, as `windvane keys list` shows it"
                )
                problems.append(Problem(f"{section}.{name}", what))


def _principal(spec: KeyConfig, place: int, pepper: bytes) -> Principal:
    return Principal(
        key_id=_key_id(spec, pepper),
        owner=spec.owner,
        team=spec.team,
        tags=spec.tags,
        models=spec.models,
        routes=spec.routes,
        endpoints=spec.endpoints,
        route=spec.route,
        priority=spec.priority,
        output_tokens_max=spec.output_tokens_max,
        may_clamp=spec.clamp,
        listed_as=None if spec.name else f"key-{place + 1}",
    )


def _key_id(spec: KeyConfig, pepper: bytes) -> str:
    """What the ledger calls a key: by its name, or by its secret, and never by its place in a list: when
    the list changes, another stands there."""
    return spec.name or f"unnamed-{mark_of(pepper, spec.key)}"


def check_apart(config: Config, made: Sequence[VirtualKey]) -> None:
    """Raise ConfigError when a key of the configuration is called as one that was made: by its id, they
    would be one on the ledger."""
    ids = {key.id for key in made}
    names = {key.terms.name for key in made if key.revoked_at_us is None}
    problems = []
    for number, spec in enumerate(config.auth.keys):
        if (name := spec.name) in ids | names:
            which = "the id" if name in ids else "the name"
            what = f'"{name}" is {which} of a key that was made: give this one another name'
            problems.append(Problem(f"auth.keys[{number}]", what))
    if problems:
        raise ConfigError(problems, "the configuration")


def budgets_of(
    config: Config, models: ModelNames, pepper: bytes, problems: list[Problem]
) -> dict[Scope, BudgetTerms]:
    """Budgets by scope: those of the section, then those said of a key itself."""
    found: dict[Scope, BudgetTerms] = {}
    for place, known, said in _by_scope("budgets", config.budgets, models, problems):
        found[known] = budget_terms(said, place, problems)
    for number, spec in enumerate(config.auth.keys):
        if spec.budget is not None:
            place = f"auth.keys[{number}].budget"
            own = scope("key", _key_id(spec, pepper))
            found[own] = filled(budget_terms(spec.budget, place, problems), found.get(own))
    return found


def budget_terms(said: BudgetConfig, place: str, problems: list[Problem]) -> BudgetTerms:
    """Dollars as nano-dollars."""

    def nano(period: str, usd: Decimal | None) -> NanoUsd | None:
        if usd is None:
            return None
        try:
            return nano_usd(usd)
        except ValueError as error:
            problems.append(Problem(f"{place}.{period}", str(error)))
            return None

    return BudgetTerms(
        daily=nano("daily", said.daily),
        monthly=nano("monthly", said.monthly),
        total=nano("total", said.total),
    )


def nano_usd(usd: Decimal) -> NanoUsd:
    """An amount of dollars. Raises ValueError when it is negative, or finer than a nano-dollar."""
    sign, digits, exponent = usd.as_tuple()
    said = str(usd)[:40]
    wrong = ValueError(f"must be dollars, 0 or more, in whole nano-dollars; got {said}")
    if not isinstance(exponent, int) or len(digits) > DIGITS_MAX or abs(exponent) > DIGITS_MAX:
        raise wrong
    # In whole numbers: decimal arithmetic rounds to the precision of its context.
    whole = int("".join(map(str, digits)))
    shift = exponent + NANO_DIGITS
    amount, rest = (whole * 10**shift, 0) if shift >= 0 else divmod(whole, 10**-shift)
    if rest or (sign and whole):
        raise wrong
    if amount > AMOUNT_MAX:
        most = AMOUNT_MAX // 10**NANO_DIGITS
        raise ValueError(f"must be dollars, {most} at most; got {said}")
    return NanoUsd(amount)


def rates_of(
    config: Config, models: ModelNames, pepper: bytes, problems: list[Problem]
) -> dict[Scope, RateTerms]:
    """Rates by scope: those of the section, then those said of a key itself."""
    found: dict[Scope, RateTerms] = {}
    for _, known, said in _by_scope("rates", config.rates, models, problems):
        found[known] = rate_terms(said)
    for spec in config.auth.keys:
        if spec.rates is not None:
            own = scope("key", _key_id(spec, pepper))
            found[own] = filled(rate_terms(spec.rates), found.get(own))
    return found


def rate_terms(said: RateConfig) -> RateTerms:
    return RateTerms(
        requests_per_minute=said.requests_per_minute,
        tokens_per_minute=said.tokens_per_minute,
        concurrency=said.concurrency,
        burst_requests=said.burst_requests,
    )


def _by_scope(
    section: str, terms: Mapping[str, T], models: ModelNames, problems: list[Problem]
) -> Iterator[tuple[str, Scope, T]]:
    """Each place of a section, the scope it is about, and what it says. A scope has one place: of two
    names of one model, the second would undo what the first says."""
    places: dict[Scope, str] = {}
    for name, said in terms.items():
        place = f"{section}.{name}"
        known = _scope(name, place, models, problems)
        if known is None:
            continue
        if known in places:
            what = f'it is the model of "{places[known]}"; say it under one name'
            problems.append(Problem(place, what))
            continue
        places[known] = name
        yield place, known, said


def _scope(name: str, place: str, models: ModelNames, problems: list[Problem]) -> Scope | None:
    """The scope of that name; a model is counted by its id, whichever of its names is said."""
    if name == GLOBAL:
        return GLOBAL
    kind, colon, rest = name.partition(":")
    if not colon or kind not in SCOPE_KINDS or not rest:
        known = ", ".join(f"{each}:NAME" for each in SCOPE_KINDS)
        problems.append(Problem(place, f"must be global, or one of {known}"))
        return None
    if kind != MODEL or rest == EACH:
        return scope(kind, rest)
    ids = sorted(models.ids(rest))
    if len(ids) == 1:
        return scope(kind, ids[0])
    if ids:
        what = f'"{rest}" stands for several models: name one of {", ".join(ids)}'
    else:
        near = models.near(rest)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        what = f'there is no model "{rest}"{hint}'
    problems.append(Problem(place, what))
    return None
