"""Headers of an answer: what was done, by whom, at what price."""

import math
import re
from datetime import UTC, datetime, time
from email.utils import format_datetime
from functools import lru_cache

from windvane.core.catalog.models import ModelCard
from windvane.core.chat import JsonObject
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Source
from windvane.core.money import NANO_PER_USD, usd_text
from windvane.gateway.data_plane.asgi import HeaderList

_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9._:/@-]")
_UNSAFE_TEXT = re.compile(r"[^\x20-\x7e]")
NAME_CHARS_MAX = 128
TEXT_CHARS_MAX = 200

SECONDS_BEFORE_RETRY = 1

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


def answer_headers(exchange: Exchange, now_s: float, *, has_cost: bool) -> HeaderList:
    """Headers of an answer. A stream has no cost yet: it comes with its last chunk."""
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    elapsed_ms = (now_s - exchange.received_s) * 1000
    upstream_ms = exchange.upstream_s * 1000
    if not has_cost:
        upstream_ms += (now_s - attempt.started_s) * 1000
    own_ms = elapsed_ms - upstream_ms
    deployment = attempt.deployment
    shown = exchange.public_id.encode()
    headers = [
        (b"x-request-id", shown),
        (b"request-id", shown),
        (b"mistral-correlation-id", shown),
        *_choice_headers(deployment.model, deployment.provider, decision.reason),
        (b"x-router-latency-ms", b"%.1f" % elapsed_ms),
        (b"x-router-attempts", b"%d" % len(exchange.attempts)),
        (b"cache-status", _CACHE_STATUS[exchange.cache_status]),
        (
            b"server-timing",
            b"upstream;dur=%.2f, gateway;dur=%.2f" % (upstream_ms, own_ms if own_ms > 0 else 0.0),
        ),
    ]
    if has_cost:
        cost = exchange.cost_nano_usd
        headers.append(
            (b"x-router-cost-usd", b"unknown" if cost is None else usd_text(cost).encode())
        )
    if deployment.card is not None and deployment.card.deprecated_on is not None:
        headers += deprecation_headers(deployment.card)
    return headers


@lru_cache(maxsize=1024)
def _choice_headers(model: str, provider: str, reason: str) -> HeaderList:
    """The headers that are the same for every answer of a deployment for a reason."""
    return [
        (b"x-router-model", safe_name(model)),
        (b"x-router-provider", safe_name(provider)),
        (b"x-router-reason", safe_text(reason)),
    ]


_CACHE_STATUS = {
    "miss": b"Windvane; fwd=miss",
    "bypass": b"Windvane; fwd=bypass",
    "hit": b"Windvane; hit",
}


def deprecation_headers(card: ModelCard) -> HeaderList:
    """`Deprecation` (RFC 9745) and `Sunset` (RFC 8594) of a model on its way out."""
    assert card.deprecated_on is not None
    since = datetime.combine(card.deprecated_on, time(), UTC)
    headers = [(b"deprecation", b"@%d" % int(since.timestamp()))]
    if card.retires_on is not None:
        sunset = datetime.combine(card.retires_on, time(), UTC)
        headers.append((b"sunset", format_datetime(sunset, usegmt=True).encode()))
    return headers


def error_headers(fault: Fault, exchange: Exchange | None, request_id: str) -> HeaderList:
    """Headers of an error: whether, when, and by whom it should be tried again."""
    headers = id_headers(request_id)
    if fault.status in (429, 503):
        wait_s = fault.retry_after_s if fault.retry_after_s is not None else SECONDS_BEFORE_RETRY
        headers.append((b"retry-after", b"%d" % max(math.ceil(wait_s), 1)))
        headers.append((b"retry-after-ms", b"%d" % max(math.ceil(wait_s * 1000), 1)))
    if exchange is not None and exchange.attempts:
        attempt = exchange.attempts[-1]
        headers.append((b"x-should-retry", b"false"))
        headers.append((b"x-router-model", safe_name(attempt.deployment.model)))
        headers.append((b"x-router-attempts", b"%d" % len(exchange.attempts)))
        if exchange.decision is not None:
            headers.append((b"x-router-reason", safe_text(exchange.decision.reason)))
        cost = exchange.cost_nano_usd
        shown = "unknown" if cost is None else usd_text(cost)
        headers.append((b"x-router-cost-usd", shown.encode()))
    elif fault.status >= 500 and fault.kind is not FaultKind.INTERNAL:
        headers.append((b"x-should-retry", b"false"))
    if fault.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="windvane"'))
    return headers


def router_metadata(exchange: Exchange, now_s: float) -> JsonObject:
    """`router_metadata` of an answer. `estimated_cost` is in dollars, for people; the exact amount
    is `cost_nano_usd`, an integer, or null when the price is unknown."""
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    cost = exchange.cost_nano_usd
    return {
        "selected_provider": attempt.deployment.provider,
        "selected_model": attempt.deployment.model,
        "requested_model": exchange.request.model,
        "estimated_cost": None if cost is None else cost / NANO_PER_USD,
        "cost_nano_usd": cost,
        "cached": False,
        "reason": decision.reason,
        "latency_ms": round((now_s - exchange.received_s) * 1000, 1),
    }
