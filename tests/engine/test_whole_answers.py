"""Answers that come whole: what the engine does with each thing a provider may do."""

import msgspec

from windvane.config.schema import AuthConfig, KeyConfig, ProviderConfig, UpstreamLimitsConfig
from windvane.core.retry import RetryPolicy
from windvane.engine.snapshot import Timeouts
from windvane.testing.answers import error_body
from windvane.testing.playbook import (
    Connecting,
    Failed,
    HungUp,
    Left,
    Playbook,
    Said,
    Sent,
    Settled,
    Slept,
    answer,
    ask,
    breaks,
    connects,
    ends,
    head,
    jumps,
    leaves,
    passes,
    refuses,
    sends,
    slow_network,
    status,
)
from windvane.testing.stage import two_providers

JITTER = Slept(0.1, 0.3)


def test_a_plain_answer() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> passes(1.0)
        >> answer("one two three")
        # 9 input tokens at $0.15 and 3 output tokens at $0.60 a million
        << Settled("exact", "ok", cost=9 * 150 + 3 * 600, output_tokens=3)
        << Said("one two three")
    ).run()


def test_a_429_is_waited_for_as_long_as_the_provider_says() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> status(429, retry_after=2)
        << Settled("exact", "rate_limited", cost=0)
        << Slept(2.0)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_long_retry_after_is_not_waited_for_when_another_can_answer() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(429, retry_after=30)
        << Settled("exact", "rate_limited")
        << Slept(0)
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_429_that_says_nothing_is_answered_elsewhere_where_there_is_room() -> None:
    """The first choice would be asked again after a short wait; but it is closed for a second."""
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(429)
        << Settled("exact", "rate_limited")
        << JITTER
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_429_that_says_nothing_is_waited_for_where_all_share_the_limit() -> None:
    """The first choice is asked again when it is open, and then the next: none would be asked sooner."""
    config = two_providers()
    one, two = config.providers["one"], config.providers["two"]
    both = msgspec.structs.replace(
        one,
        models={**one.models, **two.models},
        limits=UpstreamLimitsConfig(requests_per_minute=1_000),
    )
    (
        Playbook(msgspec.structs.replace(config, providers={"one": both}))
        >> ask("auto")
        << Sent("one/small")
        >> status(429)
        << Settled("exact", "rate_limited")
        << Slept(1.0)
        << Sent("one/small")
        >> status(429)
        << Settled("exact", "rate_limited")
        << Slept(2.0)
        << Sent("one/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_503_is_tried_once_more_and_then_elsewhere() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(503)
        << Settled("exact", "overloaded", cost=0)
        << JITTER
        << Sent("one/small")
        >> status(503)
        << Settled("exact", "overloaded", cost=0)
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_400_is_the_callers_and_is_not_tried_again() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(400)
        << Settled("exact", "invalid_request", cost=0)
        << Failed("invalid_request", 400)
    ).run()


def test_a_refused_connection_costs_nothing_and_another_is_asked() -> None:
    (
        Playbook()
        >> slow_network()
        >> ask("auto")
        << Connecting("one/small")
        >> refuses()
        << Settled("exact", "connect_failed", cost=0)
        << JITTER
        << Connecting("one/small")
        >> refuses()
        << Settled("exact", "connect_failed", cost=0)
        << Connecting("two/large")
        >> connects()
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_connection_that_breaks_before_the_answer_may_have_cost_everything() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> breaks()
        << Settled("assumed", "stream_broken")
        << JITTER
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_retries_have_an_end() -> None:
    book = Playbook() >> ask("small") << Sent("one/small")
    book >> status(500) << Settled("exact", "upstream_error") << JITTER << Sent("one/small")
    book >> status(500) << Settled("exact", "upstream_error") << Failed("upstream_error", 502)
    book.run()


def test_the_total_deadline_ends_a_hang_and_nobody_else_is_asked() -> None:
    """An attempt that begins with no time left would be paid for and not listened to."""
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        << Slept(600.0)
        << HungUp("one/small")
        << Settled("assumed", "timeout")
        << Failed("timeout", 504)
    ).run()


def test_the_total_deadline_counts_attempts_and_waits_together() -> None:
    config = two_providers(timeouts=Timeouts(total_s=10.0))
    (
        Playbook(config)
        >> ask("small")
        << Sent("one/small")
        >> passes(3.0)
        >> status(429, retry_after=4)
        << Settled("exact", "rate_limited")
        << Slept(4.0)
        << Sent("one/small")
        << Slept(3.0)
        << HungUp("one/small")
        << Settled("assumed", "timeout")
        << Failed("timeout")
    ).run()


def test_a_wait_longer_than_the_time_left_is_not_begun() -> None:
    config = two_providers(timeouts=Timeouts(total_s=10.0))
    (
        Playbook(config)
        >> ask("small")
        << Sent("one/small")
        >> passes(5.0)
        >> status(429, retry_after=6)
        << Settled("exact", "rate_limited")
        << Slept(0)
        << Failed("rate_limited", 429)
    ).run()


def test_an_empty_answer_goes_to_a_stronger_model_once() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> answer("")
        << Settled("exact", "low_quality", cost=9 * 150)
        << Sent("two/large")
        >> answer("better")
        << Settled("exact", "ok")
        << Said("better")
    ).run()


def test_two_empty_answers_are_enough() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> answer("")
        << Settled("exact", "low_quality")
        << Sent("two/large")
        >> answer(" ")
        << Settled("exact", "ok")
        << Said(" ")
    ).run()


def test_the_empty_answer_stands_when_the_stronger_model_fails() -> None:
    play = (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> answer("")
        << Settled("exact", "low_quality")
        << Sent("two/large")
        >> status(503)
        << Settled("exact", "overloaded")
        << Said("")
    ).run()
    assert play.exchanges[0].answered_by is play.exchanges[0].attempts[0]


def test_an_empty_answer_with_nobody_stronger_is_the_answer() -> None:
    (
        Playbook()
        >> ask("large")
        << Sent("two/large")
        >> answer("")
        << Settled("exact", "ok")
        << Said("")
    ).run()


def test_a_model_asked_for_by_name_is_never_replaced() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> status(404)
        << Settled("exact", "not_found")
        << Failed("not_found", 404)
    ).run()


def test_missing_usage_is_estimated() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> answer("one two three four five", is_counted=False)
        << Settled("estimated", "ok")
        << Said("one two three four five")
    ).run()


def test_an_unknown_price_is_not_zero() -> None:
    play = (
        Playbook()
        >> ask("odd")
        << Sent("one/odd")
        >> answer("hello")
        << Settled("exact", "ok", cost=None)
        << Said("hello")
    ).run()
    assert play.exchanges[0].cost_nano_usd is None


def test_a_request_costs_what_all_its_attempts_cost() -> None:
    play = (
        Playbook()
        >> ask("small", max_tokens=5)
        << Sent("one/small")
        >> head()
        >> breaks()
        << Settled("assumed", "stream_broken")
        << JITTER
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    (exchange,) = play.exchanges
    costs = [attempt.entry.cost_nano_usd for attempt in exchange.attempts if attempt.entry]
    assert len(costs) == 2 and all(costs)
    assert exchange.cost_nano_usd == sum(costs)


def test_what_a_request_costs_is_not_known_when_one_attempt_is_not() -> None:
    play = (
        Playbook()
        >> ask("odd")
        << Sent("one/odd")
        >> head()
        >> breaks()
        << Settled("assumed", "stream_broken", cost=None)
        << JITTER
        << Sent("one/odd")
        >> status(404)
        << Settled("exact", "not_found", cost=0)
        << Failed("not_found", 404)
    ).run()
    assert play.exchanges[0].cost_nano_usd is None


def test_nothing_is_sent_for_a_retired_model() -> None:
    config = two_providers()
    maker = ProviderConfig(
        kind="mistral", api_base="http://maker.test/v1", models={"codestral-2501": None}
    )
    config = two_providers(providers={**config.providers, "maker": maker})
    play = (Playbook(config) >> ask("codestral-2501") << Failed("no_route", 400)).run()
    assert not play.stage.transport.calls


def test_nothing_is_sent_for_an_unknown_model() -> None:
    play = (Playbook() >> ask("smal") << Failed("not_found", 404)).run()
    assert not play.stage.transport.calls


def test_an_encoding_nobody_asked_for_cannot_be_read() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> head(content_encoding="gzip")
        << HungUp("one/small")
        << Settled("assumed", "upstream_error")
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_the_identity_encoding_is_no_encoding() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> head(content_encoding="identity")
        >> sends(b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}')
        >> ends()
        << Settled("estimated", "ok")
        << Said("hi")
    ).run()


def test_an_error_page_of_a_proxy_is_an_error_like_any_other() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(502, b"<html><h1>Bad Gateway</h1></html>", content_type="text/html")
        << Settled("exact", "upstream_error", cost=0)
        << JITTER
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_an_error_whose_reason_never_comes_is_not_waited_for() -> None:
    """The status says enough: failing over must not wait for the total deadline."""
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> head(401)
        << Slept(5.0)
        << HungUp("one/small")
        << Settled("exact", "forbidden", cost=0)
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_an_error_whose_reason_breaks_off_costs_nothing() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> head(401)
        >> breaks()
        << Settled("exact", "forbidden", cost=0)
        << Failed("forbidden", 502)
    ).run()


def test_two_hundred_with_an_error_inside_is_not_an_answer() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> head()
        >> sends(error_body("tired"))
        >> ends()
        << Settled("assumed", "upstream_error")
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_caller_who_leaves_before_the_head_is_assumed_to_have_cost_everything() -> None:
    play = (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> passes(1.0)
        >> leaves()
        << HungUp("one/small")
        << Settled("assumed", "cancelled")
        << Left()
    ).run()
    assert play.stage.transport.calls[0].was_cancelled


def test_a_caller_who_leaves_within_the_body() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> head()
        >> sends(b'{"choices"')
        >> leaves()
        << HungUp("one/small")
        << Settled("assumed", "cancelled")
        << Left()
    ).run()


def test_a_caller_who_leaves_during_a_wait_owes_nothing_more() -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> status(429, retry_after=20)
        << Settled("exact", "rate_limited", cost=0)
        >> passes(5.0)
        >> leaves()
        << Left()
    ).run()


def test_a_caller_who_leaves_while_a_stronger_model_is_asked() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> answer("")
        << Settled("exact", "low_quality")
        << Sent("two/large")
        >> leaves()
        << HungUp("two/large")
        << Settled("assumed", "cancelled")
        << Left()
    ).run()


def test_the_breaker_opens_after_five_failures_and_lets_one_probe_through() -> None:
    config = two_providers(retry=RetryPolicy(attempts_max=1))
    book = Playbook(config)
    for _ in range(5):
        book >> ask("small") << Sent("one/small") >> status(503)
        book << Settled("exact", "overloaded") << Failed("overloaded", 503)
    # It rests for a second: those who may go elsewhere do.
    book >> ask("auto") << Sent("two/large") >> answer("a")
    book << Settled("exact", "ok") << Said("a")
    # Then one goes to see, and only one.
    book >> passes(1.0) >> ask("auto") << Sent("one/small")
    book >> ask("auto") << Sent("two/large") >> answer("b", at="two/large")
    book << Settled("exact", "ok") << Said("b")
    book >> answer("c", at="one/small") << Settled("exact", "ok") << Said("c")
    # Its answer closes the breaker.
    book >> ask("auto") << Sent("one/small") >> answer("d")
    book << Settled("exact", "ok") << Said("d")
    book.run()


def test_a_probe_whose_caller_leaves_lets_the_next_one_probe() -> None:
    config = two_providers(retry=RetryPolicy(attempts_max=1))
    book = Playbook(config)
    for _ in range(5):
        book >> ask("small") << Sent("one/small") >> status(503)
        book << Settled("exact", "overloaded") << Failed("overloaded", 503)
    book >> passes(1.0) >> ask("auto") << Sent("one/small") >> leaves()
    book << Settled("assumed", "cancelled") << Left()
    book >> ask("auto") << Sent("one/small") >> answer("a")
    book << Settled("exact", "ok") << Said("a")
    book.run()


def test_a_wall_clock_set_back_changes_no_duration() -> None:
    play = (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> passes(2.0)
        >> jumps(-86_400.0)
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    entry = play.exchanges[0].attempts[0].entry
    assert entry is not None and entry.latency_us is not None
    assert 2_000_000 <= entry.latency_us < 2_100_000


def test_an_entry_says_who_asked_what_of_whom() -> None:
    """Each fact under its own name: entries are made by place."""
    key = KeyConfig(key="sk-number-1", name="one", team="red", tags=("t",))
    play = (
        Playbook(two_providers(auth=AuthConfig(keys=(key,))))
        >> ask("auto", key="sk-number-1", user="ann", max_tokens=7, stream=False)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    exchange = play.exchanges[0]
    (attempt,) = exchange.attempts
    entry = attempt.entry
    assert entry is not None and entry.latency_us is not None
    for said, outcome in ((attempt.hold, "unknown"), (entry, "ok")):
        assert said.attempt_id == f"{exchange.id}-1"
        assert (said.request_id, said.number) == (exchange.id, 1)
        assert (said.key_id, said.team, said.tags, said.user) == ("one", "red", ("t",), "ann")
        assert (said.route, said.requested_model) == ("auto", "auto")
        assert (said.provider, said.model) == ("one", "small")
        assert said.resolved_model == "mistral-small-2603"
        assert said.reason == (exchange.decision and exchange.decision.reason)
        assert (said.dialect, said.is_stream) == ("openai", False)
        assert said.started_at_us == exchange.received_at_us
        assert (said.outcome, said.hold_nano_usd) == (outcome, attempt.hold.cost_nano_usd)
        assert (said.client_request_id, said.saved_nano_usd) == (None, None)
    assert (attempt.hold.certainty, entry.certainty) == ("assumed", "exact")
