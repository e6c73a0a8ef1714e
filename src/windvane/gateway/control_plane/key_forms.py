"""Keys as operators write them, and as they are shown. What is stored is another thing.

A form has what may be set and nothing else: an unknown field is an error, an amount is exact, a list
is bounded, a name is fit for scopes and reports. Nothing that is shown has a secret or a digest in
it; the one time a secret is shown is `KeyMade`.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from windvane.config.accounts import nano_usd
from windvane.core.budgets import BudgetTerms, Period
from windvane.core.faults import FaultKind, refuse
from windvane.core.keys import PREFIX, KeyTerms, VirtualKey
from windvane.core.limits import RateTerms
from windvane.core.money import usd_text
from windvane.core.principal import Principal
from windvane.core.priority import Priority
from windvane.engine.keyring import OVERLAP_MAX_S
from windvane.gateway.control_plane.times import moment_us, utc_text, utc_text_or_none

NAMES_MAX = 100
"""The most models, routes or tags of one key."""
PATTERN_CHARS_MAX = 256
COUNT_MAX = 10**12
TOKENS_MAX = 2**31
OVERLAP_DEFAULT_S = 86_400
PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Keys of one answer: more would hold up the event loop while they are written."""
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
NAME = re.compile(r"[\w.:/@+-][\w.:/@+ -]{0,127}")
"""As `engine.attribution` has it: a key's name, team and tags become scopes, as a caller's do."""


def _name(text: str) -> str:
    if not NAME.fullmatch(text) or text != text.strip():
        raise ValueError(
            "must be 1 to 128 letters, digits and . : / @ + - _, spaces between them, no comma"
        )
    if PREFIX in text:
        raise ValueError("that looks like a key itself, and names are shown")
    return text


def _pattern(text: str) -> str:
    if not text.isprintable() or text != text.strip() or "," in text:
        raise ValueError("must be a name, or its beginning with a * behind")
    return text


def _amount(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be dollars, as a number or a decimal text")
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError('must be dollars, as a number or a decimal text as "2.50"')
    return value


def _nano(usd: Decimal) -> Decimal:
    nano_usd(usd)
    return usd


def _moment(text: str) -> str:
    moment_us(text)
    return text


Name = Annotated[
    str,
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$", "maxLength": 128}),
]
Pattern = Annotated[
    str, Field(min_length=1, max_length=PATTERN_CHARS_MAX), AfterValidator(_pattern)
]
Names = Annotated[list[Name], Field(max_length=NAMES_MAX)]
Patterns = Annotated[list[Pattern], Field(max_length=NAMES_MAX)]
Count = Annotated[int, Field(strict=True, ge=1, le=COUNT_MAX)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=TOKENS_MAX)]
Usd = Annotated[
    Decimal,
    Field(ge=0, max_digits=28, decimal_places=9),
    BeforeValidator(_amount),
    AfterValidator(_nano),
]
Moment = Annotated[
    str, AfterValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
Flag = Annotated[bool, Field(strict=True)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetForm(_Form):
    """Dollars per UTC day, per UTC month, and ever; a number or a decimal text."""

    daily: Usd | None = None
    monthly: Usd | None = None
    total: Usd | None = None


class RatesForm(_Form):
    """`burst_requests` is how many may come at once: a minute's, unless said otherwise."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    burst_requests: Count | None = None


class KeyChange(_Form):
    """Terms to set; what is left out stays, and null clears."""

    name: Name | None = Field(default=None, description="how reports call it; cannot be cleared")
    owner: Name | None = None
    team: Name | None = None
    tags: Names | None = None
    models: Patterns | None = Field(default=None, description="what it may use; all when empty")
    routes: Patterns | None = None
    endpoints: Patterns | None = Field(default=None, description="chat, models, route, metrics")
    expires_at: Moment | None = None
    budget: BudgetForm | None = None
    rates: RatesForm | None = None
    route: Name | None = Field(default=None, description="what `auto` means for it")
    priority: Priority | None = None
    output_tokens_max: Tokens | None = None
    clamp: Flag | None = Field(
        default=None, description="ask for a shorter answer when the budget does not cover this one"
    )


class KeyCreation(KeyChange):
    """The terms of a new key."""

    name: Name = Field(description="how reports call it")


class Rotation(_Form):
    overlap_s: Annotated[int, Field(strict=True, ge=0, le=OVERLAP_MAX_S)] = Field(
        default=OVERLAP_DEFAULT_S, description="how long the old secret still works"
    )


_CLEARED: dict[str, object] = {
    "tags": (),
    "models": (),
    "routes": (),
    "endpoints": (),
    "priority": Priority.NORMAL,
    "clamp": True,
}
"""What null stands for, where that is not None."""


def terms_of(form: KeyCreation, now_us: int) -> KeyTerms:
    """The terms of a new key. Raises BadRequestError for a moment that is past."""
    return changed(KeyTerms(name=form.name), form, now_us)


def changed(terms: KeyTerms, form: KeyChange, now_us: int) -> KeyTerms:
    """`terms` with what the form sets. Raises BadRequestError."""
    given = form.model_fields_set
    if "name" in given and form.name is None:
        raise refuse(FaultKind.INVALID_REQUEST, "name: a key has a name", param="name")
    if form.expires_at is not None and moment_us(form.expires_at) <= now_us:
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"expires_at: {form.expires_at} is past; to end a key now, revoke it",
            param="expires_at",
        )
    changes: dict[str, Any] = {}
    for field in given:
        value = getattr(form, field)
        make = _MADE.get(field)
        if make is not None:
            changes |= make(terms, value)
        else:
            cleared = _CLEARED.get(field)
            changes[field] = cleared if value is None else _frozen(value)
    return msgspec.structs.replace(terms, **changes)


def _frozen(value: object) -> object:
    return tuple(dict.fromkeys(value)) if isinstance(value, list) else value


def _expiry(terms: KeyTerms, text: str | None) -> dict[str, Any]:
    return {"expires_at_us": None if text is None else moment_us(text)}


def _clamp(terms: KeyTerms, value: bool | None) -> dict[str, Any]:
    return {"may_clamp": True if value is None else value}


def _budget(terms: KeyTerms, form: BudgetForm | None) -> dict[str, Any]:
    if form is None:
        return {"budget": BudgetTerms()}
    said = {
        period: None if (usd := getattr(form, period)) is None else nano_usd(usd)
        for period in form.model_fields_set
    }
    return {"budget": msgspec.structs.replace(terms.budget, **said)}


def _rates(terms: KeyTerms, form: RatesForm | None) -> dict[str, Any]:
    if form is None:
        return {"rates": RateTerms()}
    said = {name: getattr(form, name) for name in form.model_fields_set}
    return {"rates": msgspec.structs.replace(terms.rates, **said)}


_MADE: dict[str, Callable[[KeyTerms, Any], dict[str, Any]]] = {
    "expires_at": _expiry,
    "clamp": _clamp,
    "budget": _budget,
    "rates": _rates,
}
"""Fields that are stored otherwise than they are written."""


class SecretShown(BaseModel):
    """One secret of a key, by enough of it to recognize it."""

    hint: str
    created_at: str
    expires_at: str | None = Field(description="set when a rotation has replaced it")


class BudgetShown(BaseModel):
    daily_usd: str | None
    daily_nano_usd: int | None
    monthly_usd: str | None
    monthly_nano_usd: int | None
    total_usd: str | None
    total_nano_usd: int | None


class RatesShown(BaseModel):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    burst_requests: int | None


class KeyShown(BaseModel):
    """A key, without anything that could be used as one."""

    id: str
    name: str
    configured: bool = Field(description="it is in the configuration, and is changed there")
    admin: bool
    status: str = Field(description="live, expired or revoked")
    owner: str | None
    team: str | None
    tags: list[str]
    models: list[str]
    routes: list[str]
    endpoints: list[str]
    created_at: str | None = Field(description="null when it is configured")
    expires_at: str | None
    revoked_at: str | None
    budget: BudgetShown
    rates: RatesShown
    route: str | None
    priority: Priority
    output_tokens_max: int | None
    clamp: bool
    secrets: list[SecretShown] = Field(description="those that work now")


class KeyMade(KeyShown):
    """A key with its secret, which is shown here and never again."""

    key: str


class KeyQuestion(BaseModel):
    """Which keys: so many, after one."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    after: str | None = Field(
        default=None,
        min_length=1,
        max_length=PATTERN_CHARS_MAX,
        description="the `next` of the page before",
    )


class KeyList(BaseModel):
    data: list[KeyShown]
    next: str | None = Field(
        description="what to say as `after` for the next page; null at the end"
    )


def shown_budget(terms: BudgetTerms) -> BudgetShown:
    said: dict[str, Any] = {}
    for period in Period:
        limit = getattr(terms, period.value)
        said[f"{period.value}_nano_usd"] = limit
        said[f"{period.value}_usd"] = None if limit is None else usd_text(limit)
    return BudgetShown(**said)


def shown_rates(terms: RateTerms) -> RatesShown:
    return RatesShown(**msgspec.structs.asdict(terms))


def shown_key(key: VirtualKey, now_us: int) -> KeyShown:
    """A key that was made, as of `now_us`."""
    terms = key.terms
    status = "live" if key.is_live(now_us) else "expired"
    live = [
        each for each in key.secrets if each.expires_at_us is None or now_us < each.expires_at_us
    ]
    return KeyShown(
        id=key.id,
        name=terms.name,
        configured=False,
        admin=False,
        status="revoked" if key.revoked_at_us is not None else status,
        created_at=utc_text(key.created_at_us),
        expires_at=utc_text_or_none(terms.expires_at_us),
        revoked_at=utc_text_or_none(key.revoked_at_us),
        budget=shown_budget(terms.budget),
        rates=shown_rates(terms.rates),
        secrets=[
            SecretShown(
                hint=each.hint,
                created_at=utc_text(each.created_at_us),
                expires_at=utc_text_or_none(each.expires_at_us),
            )
            for each in (live if key.is_live(now_us) else ())
        ],
        **_allowed(key.principal()),
    )


def shown_fixed(
    principal: Principal, budget: BudgetTerms, rates: RateTerms, *, is_refused: bool
) -> KeyShown:
    """A key of the configuration; refused when its secret was that of a made key, and is none now."""
    return KeyShown(
        id=principal.key_id,
        name=principal.key_id,
        configured=True,
        admin=principal.is_admin,
        status="revoked" if is_refused else "live",
        created_at=None,
        expires_at=None,
        revoked_at=None,
        budget=shown_budget(budget),
        rates=shown_rates(rates),
        secrets=[],
        **_allowed(principal),
    )


def _allowed(principal: Principal) -> dict[str, Any]:
    return {
        "owner": principal.owner,
        "team": principal.team,
        "tags": list(principal.tags),
        "models": list(principal.models),
        "routes": list(principal.routes),
        "endpoints": list(principal.endpoints),
        "route": principal.route,
        "priority": principal.priority,
        "output_tokens_max": principal.output_tokens_max,
        "clamp": principal.may_clamp,
    }
