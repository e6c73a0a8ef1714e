"""Limits as callers see them: headers of their rates, refusals that help, a shortened answer, and whose key
goes to the provider."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import openai
import pytest
from tests.surface.served import Served, chat, serving

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig, RateConfig
from windvane.core.faults import Fault, FaultKind, Source
from windvane.gateway.data_plane.outgoing import error_headers
from windvane.simulator import SimulatorConfig

PLAIN, RATED, POOR, STRICT = "sk-plain-key", "sk-rated-key", "sk-poor-key", "sk-strict-key"
RATES = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-req-minute",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-limit-tokens-minute",
)


@pytest.fixture
def served() -> Iterator[Served]:
    budget = BudgetConfig(daily=Decimal("0.001"))
    keys = (
        KeyConfig(key=PLAIN, name="plain"),
        KeyConfig(
            key=RATED,
            name="rated",
            rates=RateConfig(requests_per_minute=2, tokens_per_minute=100_000),
        ),
        KeyConfig(key=POOR, name="poor", budget=budget),
        KeyConfig(key=STRICT, name="strict", budget=budget, clamp=False),
    )
    with serving(auth=AuthConfig(keys=keys)) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_under_a_rate_is_told_of_it_in_both_spellings(served, stream):
    first = served.ask(chat(stream=stream), **bearer(RATED))
    assert first.status == 200
    assert [first.headers[name] for name in RATES] == ["2", "2", "100000", "100000"]
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-req-minute"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    served.ask(chat(stream=stream), **bearer(RATED))
    refused = served.ask(chat(stream=stream), **bearer(RATED))
    assert refused.status == 429
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-should-retry"] == "true"
    assert 15 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json["error"]["code"] == "rate_limited"
    limit = refused.json["error"]["limit"]
    assert (limit["scope"], limit["what"], limit["limit"], limit["left"]) == (
        "key:rated", "requests", 2, 0,
    )  # fmt: skip


def test_who_is_under_no_rate_is_told_of_none(served):
    reply = served.ask(chat(), **bearer(PLAIN))
    assert reply.status == 200
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_cut_to_what_is_left_and_a_header_says_so(served, stream):
    reply = served.ask(chat("Tell me.", stream=stream), **bearer(POOR))
    assert reply.status == 200
    sent = json.loads(served.sim.tape[-1].body)
    assert sent["max_tokens"] == int(reply.headers["x-windvane-max-tokens"]) > 0


def test_who_wants_no_shorter_answer_is_refused_with_what_is_left(served):
    before = len(served.sim.tape)
    reply = served.ask(chat("Tell me.", max_tokens=4_096), **bearer(STRICT))
    assert reply.status == 429
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers  # it is more than the whole limit
    error = reply.json["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")
    limit = error["limit"]
    assert (limit["scope"], limit["period"]) == ("key:strict", "daily")
    assert (limit["limit_usd"], limit["used_usd"], limit["left_usd"]) == ("0.001", "0", "0.001")
    assert limit["renews_at"].endswith("T00:00:00.000Z")
    assert len(served.sim.tape) == before


def test_who_waits_for_what_is_only_held_is_told_to_try_again(served):
    """Next to nothing is spent: the SDK comes again, and is served when the other has ended."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.ask, chat("!late 1500", max_tokens=1_000), **bearer(STRICT))
        served.until(lambda: served.sim.tape, "the first to be sent")
        refused = served.ask(chat("second", max_tokens=1_000), **bearer(STRICT))
        assert refused.status == 429
        assert "held for requests that are running" in refused.message
        said = {name: refused.headers.get(name) for name in ("retry-after", "x-should-retry")}
        assert said == {"retry-after": "1", "x-should-retry": "true"}
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key=STRICT, max_retries=9) as client:
            answer = client.chat.completions.create(
                model="mistral-small-latest",
                max_tokens=1_000,
                messages=[{"role": "user", "content": "third"}],
            )
        assert answer.choices[0].message.content
        assert first.result().status == 200


@pytest.mark.parametrize(
    ("retry_after_s", "says"), [(None, b"false"), (60, b"true"), (61, b"false")]
)
def test_a_budget_is_worth_another_try_if_it_renews_soon(retry_after_s, says):
    """For longer than a minute no SDK waits: it would come again before, and in vain."""
    fault = Fault(
        kind=FaultKind.BUDGET_EXCEEDED,
        source=Source.CLIENT,
        message="",
        status=429,
        retry_after_s=retry_after_s,
    )
    headers = dict(error_headers(fault, None, "req_1"))
    assert headers[b"x-should-retry"] == says
    assert (b"retry-after" in headers) is (retry_after_s is not None)


@pytest.mark.parametrize("code", ["rate_limited", "upstream_rate_limited"])
def test_who_has_to_wait_for_room_is_told_that_a_wait_helps(code):
    """Also for longer than a minute: an SDK that waits so long does, and one that does not would come early
    without the header too."""
    for retry_after_s in (1.0, 99.0):
        fault = Fault(
            kind=FaultKind.RATE_LIMITED,
            source=Source.GATEWAY,
            message="",
            status=429,
            code=code,
            retry_after_s=retry_after_s,
        )
        said = [
            value for name, value in error_headers(fault, None, "x") if name == b"x-should-retry"
        ]
        assert said == [b"true"]


@pytest.mark.parametrize("dialect", ["openai/1", "mistral-client/1", "curl/8"])
def test_every_dialect_is_told_that_a_wait_helps(dialect):
    keys = (KeyConfig(key=RATED, name="one", rates=RateConfig(concurrency=1)),)
    with serving(auth=AuthConfig(keys=keys)) as place, ThreadPoolExecutor(1) as pool:
        first = pool.submit(place.ask, chat("!late 1500"), **bearer(RATED))
        place.until(lambda: place.sim.tape, "the first to be sent")
        refused = place.ask(chat(), **{"user-agent": dialect}, **bearer(RATED))
        assert (refused.status, refused.headers["x-should-retry"]) == (429, "true")
        with openai.OpenAI(base_url=f"{place.url}/v1", api_key=RATED, max_retries=9) as client:
            answer = client.chat.completions.create(
                model="mistral-small-latest", messages=[{"role": "user", "content": "third"}]
            )
        assert answer.choices[0].message.content
        assert first.result().status == 200


def test_a_callers_own_key_goes_to_the_provider_and_is_kept_nowhere(tmp_path):
    own = "mistral-key-of-the-caller-9"
    auth = AuthConfig(passthrough="mistral")
    # The provider counts by key: that two callers do not get into each other's way shows whose keys
    # it was shown.
    one_each = SimulatorConfig(requests_per_minute=1)
    with serving(one_each, auth=auth, data_dir=str(tmp_path), provider_key="our-own") as served:
        assert served.ask(chat()).status == 401
        assert served.ask(chat(), **bearer(own)).status == 200
        assert served.ask(chat(), **bearer(own)).status == 429
        assert served.ask(chat(), **bearer(f"{own}-other")).status == 200
        refused = served.ask(chat("!error 401"), **bearer(f"{own}-third"))
        assert refused.status == 401
        assert own not in refused.body.decode()
        asked = len(served.sim.tape)
        ours = "sk-wv-not-a-key-of-anybody"
        for spelt in (
            ours,
            f"Bearer {ours}",
            f'"{ours}"',
            f"\u200b{ours}",
            f"'{own}'",
            f"Bearer {own}",
        ):
            shown = spelt.encode().decode("latin-1")
            assert served.ask(chat(), **bearer(shown)).status == 401
            assert served.ask(chat(), x_api_key=shown).status == 401
        assert len(served.sim.tape) == asked
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert own.encode() not in path.read_bytes(), path
