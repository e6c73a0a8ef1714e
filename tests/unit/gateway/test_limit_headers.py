"""What an answer tells of rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.core.chat import ChatRequest
from windvane.core.exchange import Credentials, Exchange
from windvane.core.limits import Gcra, RateLease, RateTable, RateTerms, Share, least
from windvane.core.principal import GLOBAL
from windvane.gateway.data_plane import limit_headers
from windvane.gateway.data_plane.limit_headers import limit_lines
from windvane.stores.memory import MemoryLimits

SCOPES = (GLOBAL,)


def limits_of(requests: int | None, tokens: int | None) -> RateTable:
    return RateTable({GLOBAL: RateTerms(requests_per_minute=requests, tokens_per_minute=tokens)})


def admitted(limits: MemoryLimits) -> Exchange:
    """An exchange past the gate."""
    lease = limits.take_request(SCOPES, 0)
    assert isinstance(lease, RateLease)
    return Exchange(
        id="x",
        dialect="openai",
        request=ChatRequest(model="m", messages=[], body={}),
        credentials=Credentials(bearer=None),
        received_s=0.0,
        received_at_us=0,
        lease=lease,
    )


def told(exchange: Exchange) -> dict[str, str]:
    lines = limit_lines(exchange).decode().splitlines()
    pairs = (line.removeprefix("x-ratelimit-").split(": ") for line in lines)
    return {name: value for name, value in pairs if not name.endswith("-minute")}


def test_an_answer_that_took_no_tokens_tells_of_no_rates() -> None:
    limits = MemoryLimits(limits_of(60, 600))
    exchange = admitted(limits)
    assert told(exchange) == {}
    assert exchange.lease is not None
    assert limits.take_tokens(SCOPES, 100, exchange.lease, 0) is None
    assert told(exchange) == {
        "limit-requests": "60",
        "remaining-requests": "59",
        "reset-requests": "1s",
        "limit-tokens": "600",
        "remaining-tokens": "500",
        "reset-tokens": "10s",
    }


@pytest.mark.parametrize(
    ("tokens", "remaining", "reset"),
    [(6_000, "5900", "1s"), (150, "50", "40s"), (60, "0", "1m40s"), (0, "0", "0ms")],
)
def test_of_limits_that_changed_meanwhile_the_new_ones_are_told(
    tokens: int, remaining: str, reset: str
) -> None:
    """What was taken counts against them: never is less than nothing left, nor more than all."""
    limits = MemoryLimits(limits_of(None, 600))
    exchange = admitted(limits)
    assert exchange.lease is not None
    assert limits.take_tokens(SCOPES, 100, exchange.lease, 0) is None
    limits.change(limits_of(None, tokens))
    admitted(limits)
    assert told(exchange) == {
        "limit-tokens": str(tokens),
        "remaining-tokens": remaining,
        "reset-tokens": reset,
    }


@st.composite
def _shares(draw: st.DrawFn) -> Share:
    """A share of a rate, which may have been changed since it was taken, even to nothing."""
    bucket = Gcra(draw(st.integers(1, 10**9)))
    share = None
    for now_us in draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=4).map(sorted)):
        share = bucket.take(draw(st.integers(0, 10**9)), now_us) or share
    if share is None:
        share = Gcra(1).take(1, 0)
        assert share is not None
    if draw(st.booleans()):
        bucket.change(draw(st.integers(0, 100)), None, 10**9)
    return share


@given(_shares(), _shares())
def test_one_rate_of_each_is_told_as_any_are(requests: Share, tokens: Share) -> None:
    expected = limit_headers._rate_lines(least([requests]), least([tokens]))
    assert limit_headers._lines_of_one_each(requests, tokens) == expected
