"""What a provider allows: its tiers, its headers, its bars, and the windows that keep to them."""

from datetime import UTC, datetime

import msgspec
import pytest

from windvane.core.upstream_limits import (
    CAREFUL_GAP_US,
    MINUTE_US,
    MISTRAL_TIERS,
    MONTH_LOOK_US,
    PAUSE_MAX_US,
    SECOND_US,
    SLOTS,
    TRAVEL_US,
    ZERO_ALLOWANCE_US,
    Standing,
    Unit,
    UpstreamLimits,
    UpstreamTerms,
    Window,
    bar_of,
    reset_us,
    standings,
)

NOW_US = 1_000 * SECOND_US
SLOT_US = MINUTE_US // SLOTS
FORGOTTEN_US = MINUTE_US + SLOT_US + TRAVEL_US
"""When what is used at the begin of a slot no longer counts."""

MISTRAL = {
    "x-ratelimit-limit-req-minute": "60",
    "x-ratelimit-remaining-req-minute": "58",
    "x-ratelimit-limit-tokens-minute": "100000",
    "x-ratelimit-remaining-tokens-minute": "99000",
    "x-ratelimit-limit-tokens-month": "1000000000",
    "x-ratelimit-remaining-tokens-month": "999999000",
    "x-ratelimit-tokens-query-cost": "1000",
    "content-type": "application/json",
}
OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "29000",
    "x-ratelimit-reset-tokens": "6m0s",
}


def test_the_tiers_are_those_of_the_specification() -> None:
    assert MISTRAL_TIERS["hobbyist"] == UpstreamTerms(
        requests_per_minute=60, tokens_per_minute=100_000
    )
    assert MISTRAL_TIERS["standard"] == UpstreamTerms(
        requests_per_minute=500, tokens_per_minute=1_000_000
    )
    assert MISTRAL_TIERS["enterprise"].is_empty


def test_terms_of_nothing_are_refused_in_configuration() -> None:
    for text in (b'{"requests_per_minute":0}', b'{"tokens_per_minute":-1}', b'{"rpm":1}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=UpstreamTerms)


def test_mistral_headers() -> None:
    assert standings(MISTRAL) == [
        Standing(Unit.REQUESTS, MINUTE_US, 60, 58),
        Standing(Unit.TOKENS, MINUTE_US, 100_000, 99_000),
    ]


def test_openai_headers() -> None:
    assert standings(OPENAI) == [
        Standing(Unit.REQUESTS, MINUTE_US, 500, 499, 120_000),
        Standing(Unit.TOKENS, MINUTE_US, 30_000, 29_000, 360 * SECOND_US),
    ]


def test_anthropics_headers_tell_of_requests_alone() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:00Z",
        "anthropic-ratelimit-tokens-limit": "50000",
        "anthropic-ratelimit-tokens-remaining": "49000",
        "anthropic-ratelimit-tokens-reset": "2026-11-21T12:00:00Z",
    }
    assert standings(headers) == [Standing(Unit.REQUESTS, MINUTE_US, 50, 49)]


def test_shorter_periods_are_limits_of_their_own() -> None:
    headers = {"x-ratelimit-limit-req-second": "1", "x-ratelimit-limit-req-10-second": "6"}
    assert standings(headers) == [
        Standing(Unit.REQUESTS, 10 * SECOND_US, 6),
        Standing(Unit.REQUESTS, SECOND_US, 1),
    ]


@pytest.mark.parametrize(
    "said", ["", " ", "-1", "+5", "0", "1.5", "1e3", "nan", "∞", "٣", "9" * 14, "9" * 400, "6 0"]
)
def test_nonsense_is_silence(said: str) -> None:
    assert standings({"x-ratelimit-limit-req-minute": said}) == []
    headers = {"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": said}
    expected = 0 if said == "0" else None
    assert standings(headers) == [Standing(Unit.REQUESTS, MINUTE_US, 5, expected)]


def test_more_left_than_allowed_is_nonsense() -> None:
    headers = {"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "6"}
    assert standings(headers) == [Standing(Unit.REQUESTS, MINUTE_US, 5, None)]


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("6m0s", 360 * SECOND_US),
        ("1s", SECOND_US),
        ("20ms", 20_000),
        ("1m26.4s", 86_400_000),
        ("1h2m3s4ms", 3_723_004_000),
        ("2d", 172_800 * SECOND_US),
        ("59.5", 59_500_000),
        ("0", 0),
        ("0s", 0),
        (" 1S ", SECOND_US),
        *[(bad, None) for bad in ("", " ", "s", "-1s", "1x", "1..5s", ".", "1s!", "9" * 30, "١s")],
        (None, None),
        ("9" * 33, None),
        ("367d", None),
    ],
)
def test_resets(text: str | None, expected_us: int | None) -> None:
    assert reset_us(text) == expected_us


def wall_us(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * SECOND_US  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ((2026, 11, 21, 3, 4), (2026, 12, 1)),
        ((2026, 12, 31, 23, 59, 59), (2027, 1, 1)),
        ((2028, 2, 29), (2028, 3, 1)),
        ((2026, 11, 1), (2026, 12, 1)),
    ],
)
def test_an_exhausted_month_is_a_bar_until_its_end_or_until_it_is_worth_asking_again(
    now: tuple[int, ...], end: tuple[int, ...]
) -> None:
    bar = bar_of({"x-ratelimit-remaining-tokens-month": "0"}, wall_us(*now))
    assert bar is not None
    assert bar.for_us == min(wall_us(*end) - wall_us(*now), MONTH_LOOK_US)
    assert "month" in bar.reason


def test_no_allowance_is_a_bar_until_it_is_worth_asking_again() -> None:
    bar = bar_of({"x-ratelimit-limit-req-minute": "0"}, 0)
    assert bar is not None
    assert bar.for_us == ZERO_ALLOWANCE_US == 600 * SECOND_US


def test_other_headers_bar_nothing() -> None:
    assert bar_of(MISTRAL, 0) is None
    assert bar_of({"x-ratelimit-remaining-req-minute": "0"}, 0) is None
    assert bar_of({"x-ratelimit-limit-req-minute": "none"}, 0) is None


def test_a_window_admits_its_limit_and_then_waits_exactly() -> None:
    window = Window(3)
    for _ in range(3):
        assert window.take_now(1, NOW_US) is not None
    assert window.take_now(1, NOW_US) is None
    assert window.wait_us(1, NOW_US) == FORGOTTEN_US
    assert window.wait_us(1, NOW_US + FORGOTTEN_US - 1) == 1
    assert window.take_now(3, NOW_US + FORGOTTEN_US) is not None


def test_no_minute_however_cut_holds_more_than_the_limit() -> None:
    """The control: a bucket that leaks admits nearly twice as many."""
    window, sent = Window(60), []
    for now_us in range(NOW_US, NOW_US + 5 * MINUTE_US, 50_000):
        if window.take_now(1, now_us) is not None:
            sent.append(now_us)
    for start_us in sent:
        assert sum(start_us <= at < start_us + MINUTE_US for at in sent) <= 60
    assert len(sent) == 5 * 60


def test_more_than_the_limit_goes_alone() -> None:
    window = Window(100)
    window.take(1, NOW_US)
    assert window.take_now(500, NOW_US) is None
    alone_us = NOW_US + window.wait_us(500, NOW_US)
    assert window.take_now(500, alone_us) is not None
    assert window.wait_us(1, alone_us) > MINUTE_US


def test_what_was_not_used_never_counted() -> None:
    window = Window(100)
    _, mark, _ = window.take(100, NOW_US)
    later_us = NOW_US + 30 * SECOND_US
    window.correct(mark, -60, later_us)
    assert window.left(later_us) == 60
    window.correct(mark, -10, NOW_US + FORGOTTEN_US)
    assert window.left(NOW_US + FORGOTTEN_US) == 100


def test_what_was_used_beyond_counts_from_when_it_is_known() -> None:
    window = Window(100)
    _, mark, _ = window.take(50, NOW_US)
    later_us = NOW_US + 30 * SECOND_US
    window.correct(mark, 30, later_us)
    assert window.left(later_us) == 20
    assert window.left(NOW_US + FORGOTTEN_US) == 70
    assert window.left(later_us + FORGOTTEN_US) == 100


def limits(requests: int | None = None, tokens: int | None = None) -> UpstreamLimits:
    return UpstreamLimits(UpstreamTerms(requests_per_minute=requests, tokens_per_minute=tokens))


def said(limit: int, remaining: int | None, unit: Unit = Unit.REQUESTS) -> list[Standing]:
    return [Standing(unit, MINUTE_US, limit, remaining)]


def test_all_limits_are_taken_together_or_none() -> None:
    both = limits(10, 100)
    assert both.take_now(80, NOW_US) is not None
    assert both.take_now(30, NOW_US) is None
    assert [window.left(NOW_US) for window in both.windows] == [9, 20]


def test_a_lower_word_of_the_provider_is_believed() -> None:
    upstream = limits(60)
    taken = upstream.take_now(1, NOW_US)
    upstream.hear(said(60, 9), taken, NOW_US + SECOND_US)
    assert upstream.windows[0].left(NOW_US + SECOND_US) == 9
    assert upstream.windows[0].left(NOW_US + FORGOTTEN_US) == 60


def test_a_higher_word_changes_nothing() -> None:
    """It had not yet seen what is on its way."""
    upstream = limits(60)
    first = upstream.take_now(1, NOW_US)
    for _ in range(29):
        upstream.take_now(1, NOW_US)
    upstream.hear(said(60, 59), first, NOW_US + SECOND_US)
    assert upstream.windows[0].left(NOW_US + SECOND_US) == 30


def test_requests_seen_out_of_order_are_not_taken_for_others() -> None:
    upstream = limits(60)
    taken = [upstream.take_now(1, NOW_US + number) for number in range(30)]
    for number, one in enumerate(reversed(taken)):
        upstream.hear(said(60, 59 - number), one, NOW_US + SECOND_US)
    assert upstream.windows[0].left(NOW_US + SECOND_US) == 30


def test_a_late_answer_says_nothing_of_now() -> None:
    upstream = limits(60)
    taken = [upstream.take_now(1, NOW_US) for _ in range(60)]
    late_us = NOW_US + 90 * SECOND_US
    upstream.hear(said(60, 0), taken[0], late_us)
    assert upstream.windows[0].left(late_us) == 60


def test_others_of_an_ended_period_are_forgotten_with_the_next_report() -> None:
    upstream = limits(60)
    upstream.hear(said(60, 10), upstream.take_now(1, NOW_US), NOW_US)
    later_us = NOW_US + 10 * SECOND_US
    upstream.hear(said(60, 58), upstream.take_now(1, later_us), later_us)
    assert upstream.windows[0].left(later_us) == 58


def test_a_reset_says_when_others_no_longer_count() -> None:
    upstream = limits(60)
    taken = upstream.take_now(1, NOW_US)
    upstream.hear([Standing(Unit.REQUESTS, MINUTE_US, 60, 0, 5 * SECOND_US)], taken, NOW_US)
    assert upstream.wait_us(0, NOW_US) == 5 * SECOND_US + TRAVEL_US


def test_another_limit_is_adopted() -> None:
    upstream = limits(60)
    upstream.hear(said(500, None), None, NOW_US)
    upstream.hear(said(1_000, 990, Unit.TOKENS), None, NOW_US)
    assert upstream.terms == UpstreamTerms(requests_per_minute=500, tokens_per_minute=1_000)


def test_of_a_ceiling_and_the_providers_own_limit_the_lower_is_told() -> None:
    upstream = UpstreamLimits(UpstreamTerms(requests_per_minute=5, is_ceiling=True))
    own = Standing(Unit.REQUESTS, MINUTE_US, 100)
    upstream.hear([own, Standing(Unit.TOKENS, MINUTE_US, 1000)], None, 0)
    assert upstream.take_now(300, 0) is not None
    assert upstream.left(0) == [
        Standing(Unit.REQUESTS, MINUTE_US, 5, 4),
        Standing(Unit.TOKENS, MINUTE_US, 1000, 700),
    ]
    upstream.hear([Standing(Unit.REQUESTS, MINUTE_US, 100, 2)], None, 0)
    assert upstream.left(0)[0] == Standing(Unit.REQUESTS, MINUTE_US, 100, 2)
    assert upstream.left(2 * MINUTE_US)[0].remaining == 5


def test_a_ceiling_holds_beside_the_word_of_the_provider() -> None:
    upstream = UpstreamLimits(UpstreamTerms(requests_per_minute=5, is_ceiling=True))
    upstream.hear(said(500, 400), None, NOW_US)
    assert upstream.terms.requests_per_minute == 5
    gone = [upstream.take_now(1, NOW_US) for _ in range(9)]
    assert sum(one is not None for one in gone) == 5
    upstream.set_terms(UpstreamTerms())
    assert upstream.terms.requests_per_minute == 500


def test_a_pause_closes_and_the_longer_one_stands() -> None:
    upstream = limits()
    upstream.pause(10 * SECOND_US, NOW_US)
    upstream.pause(2 * SECOND_US, NOW_US)
    assert upstream.take_now(1, NOW_US + 10 * SECOND_US - 1) is None
    assert upstream.take_now(1, NOW_US + 10 * SECOND_US) is not None


def test_refusals_without_a_word_double_the_pause_until_an_answer_comes() -> None:
    upstream, now_us, pauses = limits(), NOW_US, []
    for _ in range(9):
        upstream.pause(None, now_us)
        upstream.pause(None, now_us)  # one that was sent before the pause began
        pauses.append(upstream.closed_until_us - now_us)
        now_us = upstream.closed_until_us
    assert [pause // SECOND_US for pause in pauses] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses[-1] == PAUSE_MAX_US
    upstream.answered()
    upstream.pause(None, now_us)
    assert upstream.closed_until_us - now_us == SECOND_US


def test_those_who_wait_go_evenly() -> None:
    upstream = limits(60)
    upstream.take_turn(10, NOW_US)
    assert upstream.turn_us(10, NOW_US) == SECOND_US
    assert upstream.take_now(10, NOW_US) is not None


def test_a_wait_is_foretold_from_how_many_go_before() -> None:
    upstream = limits(60)
    assert upstream.expected_us(0, 0, 0, 10, NOW_US) == 0
    upstream.take_turn(10, NOW_US)
    assert upstream.expected_us(4, 9, 90, 10, NOW_US) == 5 * SECOND_US


def test_tokens_not_used_bring_the_next_turn_forward() -> None:
    upstream = limits(tokens=6_000)
    taken = upstream.take_turn(1_000, NOW_US)
    assert upstream.turn_us(1_000, NOW_US) == 10 * SECOND_US
    upstream.correct(taken, 100, NOW_US)
    assert upstream.turn_us(1_000, NOW_US) == SECOND_US


def test_after_a_pause_nobody_rushes() -> None:
    for upstream, gap_us in ((limits(), CAREFUL_GAP_US), (limits(60), SECOND_US)):
        upstream.pause(SECOND_US, NOW_US)
        now_us = NOW_US + SECOND_US
        assert upstream.turn_us(1, now_us) == 0
        upstream.take_turn(1, now_us)
        assert upstream.turn_us(1, now_us) == gap_us


def test_a_request_that_was_never_sent_takes_nothing() -> None:
    upstream = limits(10, 100)
    upstream.give_back(upstream.take_turn(60, NOW_US), NOW_US)
    assert [window.left(NOW_US) for window in upstream.windows] == [10, 100]
    assert upstream.turn_us(60, NOW_US) == 0


def test_what_is_forgotten_no_longer_limits() -> None:
    upstream = limits(1)
    upstream.take_now(1, NOW_US)
    upstream.forget()
    assert upstream.take_now(1, NOW_US) is not None
    assert upstream.terms.is_empty


def test_what_is_kept_for_others_is_left_free_and_the_wait_for_more_is_exact() -> None:
    upstream = limits(80)
    for _ in range(76):
        assert upstream.take_now(1, NOW_US, 3 * SECOND_US) is not None
    assert upstream.take_now(1, NOW_US, 3 * SECOND_US) is None
    wait_us = upstream.wait_us(1, NOW_US, 3 * SECOND_US)
    assert upstream.take_now(1, NOW_US + wait_us - 1, 3 * SECOND_US) is None
    assert upstream.take_now(1, NOW_US) is not None
    assert upstream.take_now(1, NOW_US + wait_us, 3 * SECOND_US) is not None
    few = limits(7)
    assert all(few.take_now(1, NOW_US, MINUTE_US // 8) for _ in range(7))
