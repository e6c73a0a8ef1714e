"""Headers of an answer: what was done, by whom, at what price."""

import math
import re
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from functools import lru_cache

import msgspec

from windvane.core.catalog.models import ModelCard
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Source
from windvane.core.ledger import BYPASS
from windvane.core.money import NANO_PER_USD, NanoUsd, usd_text
from windvane.gateway.data_plane.asgi import JSON, HeaderList
from windvane.gateway.data_plane.limit_headers import limit_lines, refused_rate_headers

_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9._:/@-]")
_UNSAFE_TEXT = re.compile(r"[^\x20-\x7e]")
NAME_CHARS_MAX = 128
TEXT_CHARS_MAX = 200

SECONDS_BEFORE_RETRY = 1
SOON_S = 60.0
"""OpenAI's SDK waits no longer than this for a `Retry-After`; of a longer one it takes no notice."""

INTERNAL = Fault(
    kind=FaultKind.INTERNAL,
    source=Source.GATEWAY,
    message="the gateway failed; its log has the reason",
    status=500,
)
"""A failure of our own, as a caller is told of it."""


def safe_name(name: str) -> bytes:
    """A model's or route's name as a header may carry it."""
    return _UNSAFE_NAME.sub("_", name)[:NAME_CHARS_MAX].encode()


def safe_text(text: str) -> bytes:
    """Configured text as a header may carry it."""
    return _UNSAFE_TEXT.sub("?", text)[:TEXT_CHARS_MAX].encode()


def id_headers(request_id: str) -> HeaderList:
    """One id under the three names that the SDKs read."""
    shown = request_id.encode()
    return [
        (b"x-request-id", shown),
        (b"request-id", shown),
        (b"mistral-correlation-id", shown),
    ]


def lines_of(headers: HeaderList) -> bytes:
    """Headers as they go over the wire."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_IDS = lines_of(id_headers("%b"))
_WHOLE = [(b"x-router-cost-usd", b"%b"), JSON, (b"cache-control", b"no-store")]
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_METADATA = (
    b'{"selected_provider":%b,"selected_model":%b,"requested_model":%b,"estimated_cost":%%b,'
    b'"cost_nano_usd":%%b,"cached":%%b,"reason":%b,"latency_ms":%%b}'
)
FORMS_MAX = 1_024
"""Forms of good answers' headers and metadata that are kept: all that is the same for every answer of a
deployment for a reason. They are filled in one go, not written one by one."""

PLAIN_FROM_NANO_USD = 10_000
"""Where JSON's numbers of dollars begin to be written without an exponent."""

_CACHED = ("hit", "joined")

_encode = msgspec.json.Encoder().encode


def whole_lines(exchange: Exchange, now_s: float) -> tuple[bytes, bytes]:
    """Headers of a whole answer, and its `router_metadata`, which mostly tells the same."""
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    deployment = attempt.deployment
    form, metadata_form = _whole_forms(
        deployment.provider,
        deployment.model,
        exchange.request.model,
        decision.reason,
        len(exchange.attempts),
    )
    elapsed_ms = (now_s - exchange.received_s) * 1000
    elapsed = b"%.1f" % elapsed_ms
    cost, dollars = _cost_texts(exchange.cost_nano_usd)
    facts: tuple[object, ...] = _facts(exchange, elapsed, elapsed_ms, exchange.upstream_s * 1000)
    facts += (cost,)
    lines = form % facts + _rare_lines(exchange, deployment.card)
    return lines, _metadata(exchange, metadata_form, dollars, elapsed)


def stream_lines(exchange: Exchange, now_s: float) -> bytes:
    """Headers of a stream. It has no cost yet: that comes with its last chunk."""
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    deployment = attempt.deployment
    attempts = len(exchange.attempts)
    form = _stream_form(deployment.provider, deployment.model, decision.reason, attempts)
    elapsed_ms = (now_s - exchange.received_s) * 1000
    upstream_ms = exchange.upstream_s * 1000
    if exchange.cache_status != "hit":
        # Who joins waits since it came, which is mostly later than that the provider was asked.
        has_joined = exchange.cache_status == "joined"
        since_s = exchange.received_s if has_joined else attempt.started_s
        upstream_ms += (now_s - since_s) * 1000
    lines = form % _facts(exchange, b"%.1f" % elapsed_ms, elapsed_ms, upstream_ms)
    return lines + _rare_lines(exchange, deployment.card)


@lru_cache(FORMS_MAX)
def _whole_forms(
    provider: str, model: str, requested: str, reason: str, attempts: int
) -> tuple[bytes, bytes]:
    lines = _facts_form(provider, model, reason, attempts) + lines_of(_WHOLE)
    return lines, _metadata_form(provider, model, requested, reason)


@lru_cache(FORMS_MAX)
def _stream_form(provider: str, model: str, reason: str, attempts: int) -> bytes:
    return _facts_form(provider, model, reason, attempts) + lines_of(_STREAM)


def _facts_form(provider: str, model: str, reason: str, attempts: int) -> bytes:
    choice = lines_of(
        [
            (b"x-router-model", safe_name(model)),
            (b"x-router-provider", safe_name(provider)),
            (b"x-router-reason", safe_text(reason)),
        ]
    )
    work = lines_of(
        [
            (b"x-router-latency-ms", b"%b"),
            (b"x-router-attempts", b"%d" % attempts),
            (b"cache-status", b"%b"),
            (b"server-timing", b"upstream;dur=%.2f, gateway;dur=%.2f"),
        ]
    )
    return _IDS + choice.replace(b"%", b"%%") + work


def _facts(
    exchange: Exchange, elapsed: bytes, elapsed_ms: float, upstream_ms: float
) -> tuple[bytes, bytes, bytes, bytes, bytes, float, float]:
    """What the headers of both kinds of answer tell, in their order."""
    shown = (exchange.client_request_id or exchange.id).encode()
    return (
        shown,
        shown,
        shown,
        elapsed,
        _cache_status(exchange),
        upstream_ms,
        elapsed_ms - upstream_ms if elapsed_ms > upstream_ms else 0.0,
    )


def _cost_texts(cost: NanoUsd | None) -> tuple[bytes, bytes]:
    """A cost in dollars: the exact decimal that `usd_text` writes, and the number that JSON does.

    Mostly they are the same: a number's text is the shortest that means it, and no more than nine decimals
    are always that.
    """
    if not cost:
        return (b"unknown", b"null") if cost is None else (b"0", b"0.0")
    number = _encode(cost / NANO_PER_USD)
    if PLAIN_FROM_NANO_USD <= cost < NANO_PER_USD:
        return number, number
    return usd_text(cost).encode(), number


def _rare_lines(exchange: Exchange, card: ModelCard | None) -> bytes:
    """What few answers tell: of limits, of their age, and of a model on its way out."""
    lines = limit_lines(exchange)
    if exchange.cache_age_s is not None:
        lines += b"age: %b\r\n" % _encode(exchange.cache_age_s)
    if card is not None and (card.retires_on is not None or card.deprecated_on is not None):
        lines += ending_lines(card.deprecated_on, card.retires_on)
    return lines


@lru_cache
def ending_lines(deprecated_on: date | None, retires_on: date | None) -> bytes:
    """`Deprecation` (RFC 9745) and `Sunset` (RFC 8594), each when its day is known: not every provider
    tells since when a model is deprecated."""
    headers: HeaderList = []
    if deprecated_on is not None:
        since = datetime.combine(deprecated_on, time(), UTC)
        headers.append((b"deprecation", b"@%d" % int(since.timestamp())))
    if retires_on is not None:
        sunset = datetime.combine(retires_on, time(), UTC)
        headers.append((b"sunset", format_datetime(sunset, usegmt=True).encode()))
    return lines_of(headers)


_BYPASSED = b"Windvane; fwd=bypass"
_FORWARDED = {why: b"Windvane; fwd=" + why.encode() for why in ("miss", "stale", "request")}
_NOT_FORWARDED = b"Windvane; detail=not-forwarded"


def _cache_status(exchange: Exchange) -> bytes:
    """`Cache-Status` (RFC 9211)."""
    status = exchange.cache_status
    if status == BYPASS:
        return _BYPASSED
    if status == "hit":
        how = _asked_in_vain(exchange) if exchange.attempts else b"Windvane; hit"
        key = exchange.cache_key.hex().encode()
        return b'%b; ttl=%b; key="%b"' % (how, _encode(exchange.cache_ttl_s or 0), key)
    said = _FORWARDED[exchange.cache_forward]
    if status == "joined":
        said += b"; collapsed"
    return said + b"; stored" if exchange.is_stored else said


def _asked_in_vain(exchange: Exchange) -> bytes:
    """Of a stored answer, given since a provider failed."""
    said, status = _FORWARDED[exchange.cache_forward], exchange.attempts[-1].status
    return said if status is None else b"%b; fwd-status=%d" % (said, status)


def error_headers(fault: Fault, exchange: Exchange | None, request_id: str) -> HeaderList:
    """Headers of an error: whether, when, and by whom it should be tried again."""
    headers = id_headers(request_id)
    is_budget = fault.kind is FaultKind.BUDGET_EXCEEDED
    if fault.status in (429, 503) and not (is_budget and fault.retry_after_s is None):
        wait_s = fault.retry_after_s if fault.retry_after_s is not None else SECONDS_BEFORE_RETRY
        headers.append((b"retry-after", b"%d" % max(math.ceil(wait_s), 1)))
        headers.append((b"retry-after-ms", b"%d" % max(math.ceil(wait_s * 1000), 1)))
    if is_budget:
        # What is left does not grow by asking again, unless it does so soon.
        is_soon = fault.retry_after_s is not None and fault.retry_after_s <= SOON_S
        headers.append((b"x-should-retry", b"true" if is_soon else b"false"))
    headers += refused_rate_headers(fault)
    if exchange is not None:
        headers.append((b"cache-status", _cache_status_of_error(exchange)))
    # What this process cannot end, another can begin.
    is_stopping = fault.kind is FaultKind.SHUTTING_DOWN
    if exchange is not None and exchange.attempts:
        attempt = exchange.attempts[-1]
        if not (is_budget or is_stopping):
            headers.append((b"x-should-retry", b"false"))
        headers.append((b"x-router-model", safe_name(attempt.deployment.model)))
        headers.append((b"x-router-attempts", b"%d" % len(exchange.attempts)))
        if exchange.decision is not None:
            headers.append((b"x-router-reason", safe_text(exchange.decision.reason)))
        # Whose flight is broken off as the process ends is told before that is settled.
        is_open = exchange.leads and exchange.ended_s is None
        cost = None if is_open else exchange.cost_nano_usd
        headers.append((b"x-router-cost-usd", _cost_texts(cost)[0]))
    elif (exchange is not None and _has_joined_in_vain(exchange, fault)) or (
        fault.status >= 500 and fault.kind is not FaultKind.INTERNAL and not is_stopping
    ):
        headers.append((b"x-should-retry", b"false"))
    elif fault.kind is FaultKind.RATE_LIMITED:
        # Nobody was asked: there was no room, and there will be. A wait is all that it takes.
        headers.append((b"x-should-retry", b"true"))
    if fault.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="windvane"'))
    return headers


def _has_joined_in_vain(exchange: Exchange, fault: Fault) -> bool:
    """Whether it was told what another's request was: a provider's refusal, after all our retries."""
    is_providers = fault.source is Source.UPSTREAM or fault.upstream_status is not None
    return exchange.cache_status == "joined" and is_providers


def _cache_status_of_error(exchange: Exchange) -> bytes:
    """`Cache-Status`, where there is no answer: whether anybody was asked, and why."""
    is_forwarded = exchange.attempts or exchange.cache_status == "joined"
    return _cache_status(exchange) if is_forwarded else _NOT_FORWARDED


def stream_metadata(exchange: Exchange, now_s: float) -> msgspec.Raw:
    """`router_metadata` of a stream, as JSON."""
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    deployment = attempt.deployment
    form = _metadata_form(
        deployment.provider, deployment.model, exchange.request.model, decision.reason
    )
    _, dollars = _cost_texts(exchange.cost_nano_usd)
    elapsed = b"%.1f" % ((now_s - exchange.received_s) * 1000)
    return msgspec.Raw(_metadata(exchange, form, dollars, elapsed))


def _metadata(exchange: Exchange, form: bytes, dollars: bytes, elapsed: bytes) -> bytes:
    """`estimated_cost` is in dollars, for people; the exact amount is `cost_nano_usd`, an integer, or null
    when the price is unknown."""
    return form % (
        dollars,
        _encode(exchange.cost_nano_usd),
        b"true" if exchange.cache_status in _CACHED else b"false",
        elapsed,
    )


@lru_cache(FORMS_MAX)
def _metadata_form(provider: str, model: str, requested: str, reason: str) -> bytes:
    said = (_encode(text).replace(b"%", b"%%") for text in (provider, model, requested, reason))
    return _METADATA % tuple(said)
