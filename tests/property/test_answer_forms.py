"""An answer's headers and metadata are forms filled in; here they are beside the plain way of writing
them."""

import random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from windvane.core.catalog.models import ModelCard
from windvane.core.deployment import Deployment
from windvane.core.exchange import Credentials, Exchange
from windvane.core.money import usd_text
from windvane.gateway.data_plane import outgoing
from windvane.system import SystemIds

TEXTS = st.text(alphabet='ab%"\\ é\r\n/:', max_size=12)
EDGES = [0, 1, 9_999, 10_000, 10**9 - 1, 10**9, 2**63 - 1]
COSTS = st.none() | st.integers(0, 10**5) | st.integers(0, 2 * 10**9) | st.sampled_from(EDGES)
TIMES_S = st.floats(0, 10_000) | st.sampled_from([0.0, 0.00005, 0.00015, 0.00025, 0.5])


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """As much of an answered exchange as is told of it."""
    deployment = msgspec.defstruct(
        "Told", [("provider", str), ("model", str), ("card", ModelCard | None, None)]
    )(draw(TEXTS), draw(TEXTS))
    tried = [("deployment", Deployment), ("started_s", float), ("status", int | None)]
    status = draw(st.sampled_from([None, 502]))
    attempt: Any = msgspec.defstruct("Tried", tried)(deployment, 1.0, status)
    decision: Any = msgspec.defstruct("Decided", [("reason", str)])(draw(TEXTS))
    request: Any = msgspec.defstruct("Asked", [("model", str)])(draw(TEXTS))
    return Exchange(
        id="req_1",
        client_request_id=draw(st.none() | st.just("mine")),
        dialect="openai",
        request=request,
        credentials=Credentials(),
        received_s=draw(TIMES_S),
        received_at_us=0,
        decision=decision,
        attempts=[attempt] * draw(st.integers(0, 3)),
        answered_by=attempt,
        cost_nano_usd=draw(COSTS),
        cache_status=draw(st.sampled_from(["miss", "bypass", "joined", "hit"])),
        cache_forward=draw(st.sampled_from(["miss", "stale", "request"])),
        cache_ttl_s=draw(st.integers(-5, 3_600)),
        cache_key=draw(st.binary(max_size=32)),
        upstream_s=draw(TIMES_S),
        is_stored=draw(st.booleans()),
    )


def plain_lines(exchange: Exchange, now_s: float, upstream_ms: float) -> list[str]:
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    elapsed_ms = (now_s - exchange.received_s) * 1000
    own_ms = max(elapsed_ms - upstream_ms, 0.0)
    shown = exchange.public_id
    tried = exchange.attempts[-1].status if exchange.attempts else None
    in_vain = f"Windvane; fwd={exchange.cache_forward}"
    in_vain += "" if tried is None else f"; fwd-status={tried}"
    hit = in_vain if exchange.attempts else "Windvane; hit"
    status = {
        "miss": f"Windvane; fwd={exchange.cache_forward}",
        "bypass": "Windvane; fwd=bypass",
        "joined": f"Windvane; fwd={exchange.cache_forward}; collapsed",
        "hit": f'{hit}; ttl={exchange.cache_ttl_s}; key="{exchange.cache_key.hex()}"',
    }[exchange.cache_status]
    if exchange.is_stored and exchange.cache_status in ("miss", "joined"):
        status += "; stored"
    return [
        f"x-request-id: {shown}",
        f"request-id: {shown}",
        f"mistral-correlation-id: {shown}",
        f"x-router-model: {outgoing.safe_name(attempt.deployment.model).decode()}",
        f"x-router-provider: {outgoing.safe_name(attempt.deployment.provider).decode()}",
        f"x-router-reason: {outgoing.safe_text(decision.reason).decode()}",
        f"x-router-latency-ms: {elapsed_ms:.1f}",
        f"x-router-attempts: {len(exchange.attempts)}",
        f"cache-status: {status}",
        f"server-timing: upstream;dur={upstream_ms:.2f}, gateway;dur={own_ms:.2f}",
    ]


@given(exchanges(), TIMES_S)
def test_the_headers_of_a_whole_answer(exchange, after_s):
    now_s = exchange.received_s + after_s
    cost = exchange.cost_nano_usd
    expected = [
        *plain_lines(exchange, now_s, exchange.upstream_s * 1000),
        f"x-router-cost-usd: {'unknown' if cost is None else usd_text(cost)}",
        "content-type: application/json",
        "cache-control: no-store",
    ]
    lines, _ = outgoing.whole_lines(exchange, now_s)
    assert lines.decode() == "\r\n".join([*expected, ""])


@given(exchanges(), TIMES_S)
def test_the_headers_of_a_stream(exchange, after_s):
    now_s = exchange.received_s + after_s
    since_s = {"hit": now_s, "joined": exchange.received_s}.get(exchange.cache_status, 1.0)
    upstream_ms = exchange.upstream_s * 1000 + (now_s - since_s) * 1000
    expected = [
        *plain_lines(exchange, now_s, upstream_ms),
        "content-type: text/event-stream; charset=utf-8",
        "cache-control: no-store",
        "x-accel-buffering: no",
    ]
    assert outgoing.stream_lines(exchange, now_s).decode() == "\r\n".join([*expected, ""])


@given(exchanges(), TIMES_S)
def test_the_metadata_of_an_answer(exchange, after_s):
    now_s = exchange.received_s + after_s
    attempt, decision, cost = exchange.final_attempt, exchange.decision, exchange.cost_nano_usd
    assert attempt is not None and decision is not None
    expected = {
        "selected_provider": attempt.deployment.provider,
        "selected_model": attempt.deployment.model,
        "requested_model": exchange.request.model,
        "estimated_cost": None if cost is None else cost / 10**9,
        "cost_nano_usd": cost,
        "cached": exchange.cache_status in ("hit", "joined"),
        "reason": decision.reason,
        "latency_ms": round((now_s - exchange.received_s) * 1000, 1),
    }
    _, metadata = outgoing.whole_lines(exchange, now_s)
    assert metadata == msgspec.json.encode(expected)
    assert bytes(outgoing.stream_metadata(exchange, now_s)) == metadata


@given(st.integers(0, 2**48 * 1_000 - 1), st.integers())
def test_an_id_is_the_time_and_dice(wall_us, seed):
    dice = random.Random(seed).getrandbits(80)
    shown = SystemIds(random.Random(seed)).request_id(wall_us)
    assert shown == f"req_{wall_us // 1_000:012x}{dice:020x}"
