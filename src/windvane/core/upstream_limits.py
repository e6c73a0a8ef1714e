"""What a provider allows: known from its tier, learned from its answers, counted here.

A provider counts per workspace: all keys and models that share one share these limits. It does not say
how its minute is cut, so the promise kept here is the one that satisfies every way of cutting it:
never more than the limit in *any* period, by what was used in the end. Our own limits are GCRA
(`core.limits`), which is smoother, but admits up to twice the limit in some minutes: a provider would
refuse the second half.

Whoever finds room goes at once, but those who had to wait go evenly, not a minute's worth together: else
all who come after would wait for the minute to end, whatever their turn and priority, each minute anew.

Units are requests and tokens; times are integer microseconds of a monotonic clock, `now_us`.
"""

import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US

SLOTS = 600
"""Of a period: what is used within one is kept as one sum, and forgotten with its last."""

TRAVEL_US = 250_000
"""A request counts when it arrives: two sent a minute apart may arrive a little less than that apart.
Never more than a fortieth of the period."""

UNITS_MAX = 10**12
"""A larger number in a header is nonsense."""

PAUSE_FIRST_US = 1 * SECOND_US
PAUSE_MAX_US = 60 * SECOND_US
"""How long to pause after a refusal that does not say: doubled with each in a row."""

CAREFUL_US = MINUTE_US
CAREFUL_GAP_US = 20_000
"""So long after a pause there is at least so much between two who waited: what was believed of the
limit has just been refuted."""

ZERO_ALLOWANCE_US = 600 * SECOND_US
"""How long a model without allowance is left alone: somebody may grant one."""

MONTH_LOOK_US = 3_600 * SECOND_US
"""How often an exhausted month is looked at: a larger plan may have been bought."""

LONGEST_US = 366 * 24 * 3600 * SECOND_US


class UpstreamTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one workspace may use; None is not limited, or not known.

    The provider's own word replaces it. `is_ceiling`: it holds beside whatever the provider says, for a
    gateway that is to use a part of its workspace only.
    """

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    requests_per_second: Annotated[int, Meta(ge=1)] | None = None
    is_ceiling: bool = False

    @property
    def is_empty(self) -> bool:
        return (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.requests_per_second is None
        )


_NO_TERMS = UpstreamTerms()

MISTRAL_TIERS: dict[str, UpstreamTerms] = {
    # SPEC L2; "enterprise" is by contract: configured, or learned from the headers.
    "hobbyist": UpstreamTerms(requests_per_minute=60, tokens_per_minute=100_000),
    "standard": UpstreamTerms(requests_per_minute=500, tokens_per_minute=1_000_000),
    "enterprise": _NO_TERMS,
}


class Unit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"


class Standing(msgspec.Struct, frozen=True):
    """What an answer's headers say of one limit. `resets_us`: in how long all of it is free again."""

    unit: Unit
    period_us: int
    limit: int
    remaining: int | None = None
    resets_us: int | None = None


_HEADERS: tuple[tuple[Unit, int, str, str, str], ...] = (
    # Mistral: captured answers (api-facts); it sends no reset, others' parsers expect this one.
    (
        Unit.REQUESTS,
        MINUTE_US,
        "x-ratelimit-limit-req-minute",
        "x-ratelimit-remaining-req-minute",
        "x-ratelimit-reset-req-minute",
    ),
    (
        Unit.TOKENS,
        MINUTE_US,
        "x-ratelimit-limit-tokens-minute",
        "x-ratelimit-remaining-tokens-minute",
        "x-ratelimit-reset-tokens-minute",
    ),
    (
        Unit.REQUESTS,
        10 * SECOND_US,
        "x-ratelimit-limit-req-10-second",
        "x-ratelimit-remaining-req-10-second",
        "x-ratelimit-reset-req-10-second",
    ),
    (
        Unit.REQUESTS,
        SECOND_US,
        "x-ratelimit-limit-req-second",
        "x-ratelimit-remaining-req-second",
        "x-ratelimit-reset-req-second",
    ),
    # OpenAI and those compatible with it.
    (
        Unit.REQUESTS,
        MINUTE_US,
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    (
        Unit.TOKENS,
        MINUTE_US,
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ),
    # Anthropic. Its limits of tokens leave out what is read from the prompt cache, which is not known
    # before the answer: to count all would hold back what it allows. Its resets are times of day, and
    # count as silence: a minute is what they come to.
    (
        Unit.REQUESTS,
        MINUTE_US,
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
)
_LIMITS_SAID = frozenset(limit_name for _, _, limit_name, _, _ in _HEADERS)


def standings(headers: Mapping[str, str]) -> list[Standing]:
    """What the headers say of limits, names in lower case. Nonsense counts as silence, and so does a
    limit of 0: that is a bar (`bar_of`), not a rate."""
    if _LIMITS_SAID.isdisjoint(headers.keys()):
        return []
    found: list[Standing] = []
    for unit, period_us, limit_name, remaining_name, reset_name in _HEADERS:
        said = headers.get(limit_name)
        if said is None:
            continue
        limit = _count(said)
        if limit:
            remaining = _count(headers.get(remaining_name))
            if remaining is not None and remaining > limit:
                remaining = None
            found.append(
                Standing(unit, period_us, limit, remaining, reset_us(headers.get(reset_name)))
            )
    return found


def _count(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 13:
        return None
    units = int(text)
    return units if units <= UNITS_MAX else None


_SUFFIXES_US = {
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")


def reset_us(text: str | None) -> int | None:
    """A duration as OpenAI writes it (`6m0s`, `1.5s`, `20ms`), or plain seconds; None for nonsense."""
    rest = (text or "").strip().lower()
    if not 0 < len(rest) <= 32 or not rest.isascii():
        return None
    if rest[-1].isdigit():
        rest += "s"
    total = 0.0
    while rest:
        part = _PART.match(rest)
        if part is None:
            return None
        total += float(part[1]) * _SUFFIXES_US[part[2]]
        rest = rest[part.end() :]
    return int(total) if total <= LONGEST_US else None


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that no short wait mends: why, and for how long it is left alone."""

    reason: str
    for_us: int


def bar_of(headers: Mapping[str, str], wall_us: int) -> Bar | None:
    """The bar that a refusal's headers stand for, if they do. `wall_us` is UTC, for the month's end.

    Only for refusals: an answer proves that there was an allowance.
    """
    if _count(headers.get("x-ratelimit-limit-req-minute")) == 0:
        return Bar(reason="this key has no allowance for the model", for_us=ZERO_ALLOWANCE_US)
    if _count(headers.get("x-ratelimit-remaining-tokens-month")) == 0:
        for_us = min(until_month_end_us(wall_us), MONTH_LOOK_US)
        return Bar(reason="this month's tokens are used up", for_us=for_us)
    return None


def until_month_end_us(wall_us: int) -> int:
    """How long until the next month begins, in UTC."""
    day = datetime.fromtimestamp(wall_us // SECOND_US, tz=UTC)
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    begins_us = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * SECOND_US
    return begins_us - wall_us


class Used:
    """What was used of a window at one time. `ends_us` is when it no longer counts."""

    __slots__ = ("ends_us", "units")

    def __init__(self, ends_us: int, units: int) -> None:
        self.ends_us = ends_us
        self.units = units


class Window:
    """At most `limit` units in any `period_us`.

    `others` are units that the provider has counted and we have not sent: somebody else shares the
    workspace. `taken` counts all that was ever taken, given back or not: it tells what a
    report can have known of.
    """

    __slots__ = (
        "_last",
        "_others",
        "_others_end_us",
        "_others_heard_us",
        "_slot_end_us",
        "_slot_us",
        "_travel_us",
        "_used",
        "counts_tokens",
        "is_ceiling",
        "limit",
        "period_us",
        "taken",
        "unit",
        "used",
    )

    def __init__(
        self,
        limit: int,
        period_us: int = MINUTE_US,
        *,
        unit: Unit = Unit.REQUESTS,
        is_ceiling: bool = False,
    ) -> None:
        assert limit > 0, "a limit of nothing is a bar, not a window"
        self.unit = unit
        self.counts_tokens = unit is Unit.TOKENS
        self.is_ceiling = is_ceiling
        self.limit = limit
        self.period_us = period_us
        self.taken = 0
        self.used = 0
        self._slot_us = period_us // SLOTS
        self._travel_us = min(TRAVEL_US, period_us // 40)
        self._used: deque[Used] = deque()
        self._last = Used(0, 0)
        self._slot_end_us = 0
        self._others = 0
        self._others_end_us = 0
        self._others_heard_us = -1

    def take_now(self, units: int, now_us: int, kept_us: int = 0) -> "Share | None":
        """Use `units` if they may go now, and leave `kept_us` free: the units of so much of a minute.

        More than the limit may go when nothing else was used.
        """
        if self._used and self._used[0].ends_us <= now_us:
            self._forget(now_us)
        limit = self._limit(kept_us) if kept_us else self.limit
        over = self.used + units - limit if units < limit else self.used
        if over > 0 or (self._others and over + self.others(now_us) > 0):
            return None
        return self.take(units, now_us)

    def wait_us(self, units: int, now_us: int, kept_us: int = 0) -> int:
        """How long until `units` may go; exact, if nothing else is taken, heard or corrected."""
        self._forget(now_us)
        others = self.others(now_us)
        limit = self._limit(kept_us)
        over = self.used + others + min(units, limit) - limit
        if over <= 0:
            return 0
        is_counted = not others
        for one in self._used:
            if not is_counted and self._others_end_us <= one.ends_us:
                over -= others
                is_counted = True
                if over <= 0:
                    return self._others_end_us - now_us
            over -= one.units
            if over <= 0:
                return one.ends_us - now_us
        return self._others_end_us - now_us

    def left(self, now_us: int) -> int:
        """How many units may go now, one by one."""
        self._forget(now_us)
        return max(self.limit - self.used - self.others(now_us), 0)

    def others(self, now_us: int) -> int:
        """How many units of others' still count, as far as is known."""
        if self._others and self._others_end_us <= now_us:
            self._others = 0
        return self._others

    def take(self, units: int, now_us: int) -> "Share":
        """Use `units`. Returns what is needed to correct them, or to judge a report of what is left."""
        self.taken += units
        self.used = used = self.used + units
        if now_us < self._slot_end_us:
            last = self._last
            last.units += units
        else:
            slot_us = self._slot_us
            self._slot_end_us = end_us = now_us - now_us % slot_us + slot_us
            self._last = last = Used(end_us + self.period_us + self._travel_us, units)
            self._used.append(last)
        return self, last, used - self.taken

    def correct(self, mark: Used, units: int, now_us: int) -> None:
        """`units` more (or fewer, below 0) were used than taken; `mark` is where they are counted.

        Fewer count as never used; more count from now on, for they are news to the provider too.
        """
        if units > 0:
            self.take(units, now_us)
            return
        self._forget(now_us)
        if mark.ends_us > now_us:
            mark.units += units
            self.used += units

    def hear(self, remaining: int, *, known: int, sent_us: int, resets_us: int | None) -> None:
        """The provider says what remained when a request sent at `sent_us` came.

        `known` is all that it can have counted of ours by then: what it counted beyond that others
        used. A later report replaces an earlier one, for a period may have ended in between.
        """
        if sent_us < self._others_heard_us:
            return
        self._others_heard_us = sent_us
        self._others = max(self.limit - remaining - known, 0)
        counts_us = self.period_us if resets_us is None else min(resets_us, self.period_us)
        self._others_end_us = sent_us + counts_us + self._travel_us

    def _limit(self, kept_us: int) -> int:
        """What may be used if others are to find something. Of a limit of a few it is all."""
        return self.limit - min(-(-self.limit * kept_us // MINUTE_US), self.limit // 8)

    def _forget(self, now_us: int) -> None:
        used = self._used
        while used and used[0].ends_us <= now_us:
            self.used -= used.popleft().units


Share = tuple[Window, Used, int]
"""What one request took of one window: where it is counted, and what of ours the provider can have
counted, less all that was taken until then."""


class Taken:
    """What one request took of an upstream, to be corrected when its usage is known."""

    __slots__ = ("at_us", "gap_us", "shares", "tokens")

    def __init__(self, shares: list[Share], tokens: int, now_us: int) -> None:
        self.shares = shares
        self.tokens = tokens
        self.at_us = now_us
        self.gap_us = 0

    def known_of(self, window: Window) -> int | None:
        """What the provider can have counted of ours in `window`: all that counted when this was sent,
        and all since. None when the limit was not known then."""
        for of, _, offset in self.shares:
            if of is window:
                return offset + window.taken
        return None

    def give_back(self, now_us: int) -> None:
        """Nothing was sent."""
        for window, mark, _ in self.shares:
            window.correct(mark, -self.tokens if window.counts_tokens else -1, now_us)

    def correct(self, used_tokens: int, now_us: int) -> None:
        more = used_tokens - self.tokens
        self.tokens = used_tokens
        if more:
            for window, mark, _ in self.shares:
                if window.counts_tokens:
                    window.correct(mark, more, now_us)


class UpstreamLimits:
    """All limits of one upstream, and whether it has asked for a pause."""

    __slots__ = (
        "_careful_until_us",
        "_next_turn_us",
        "_pauses",
        "closed_until_us",
        "windows",
    )

    def __init__(self, terms: UpstreamTerms = _NO_TERMS) -> None:
        self.windows: list[Window] = []
        self.closed_until_us = 0
        self._next_turn_us = 0
        self._careful_until_us = 0
        self._pauses = 0
        self.set_terms(terms)

    def set_terms(self, terms: UpstreamTerms) -> None:
        """Adopt configured terms. What has been used counts on, and what was learned stays."""
        for unit, limit, period_us in (
            (Unit.REQUESTS, terms.requests_per_minute, MINUTE_US),
            (Unit.TOKENS, terms.tokens_per_minute, MINUTE_US),
            (Unit.REQUESTS, terms.requests_per_second, SECOND_US),
        ):
            ceiling = limit if terms.is_ceiling else None
            self._cap(unit, ceiling, period_us)
            if limit is not None and not terms.is_ceiling:
                self._adopt(unit, limit, period_us)

    def forget(self) -> None:
        """Nothing is known any more of what is allowed; a pause goes on."""
        self.windows.clear()

    @property
    def terms(self) -> UpstreamTerms:
        """What is believed to be allowed."""
        return UpstreamTerms(
            requests_per_minute=self._least(Unit.REQUESTS, MINUTE_US),
            tokens_per_minute=self._least(Unit.TOKENS, MINUTE_US),
            requests_per_second=self._least(Unit.REQUESTS, SECOND_US),
        )

    def left(self, now_us: int) -> list[Standing]:
        """What is left of each limit; where a ceiling and the provider's own are two, of the lower."""
        found: dict[tuple[Unit, int], Standing] = {}
        for one in self.windows:
            left = one.left(now_us)
            known = found.get((one.unit, one.period_us))
            if known is None or known.remaining is None or left < known.remaining:
                found[one.unit, one.period_us] = Standing(one.unit, one.period_us, one.limit, left)
        return list(found.values())

    def take_now(self, tokens: int, now_us: int, kept_us: int = 0) -> Taken | None:
        """Take for a request that needs not wait, if it leaves free what is kept for others; None when it
        must wait, and nothing is taken."""
        if self.closed_until_us > now_us:
            return None
        shares: list[Share] = []
        for window in self.windows:
            share = window.take_now(tokens if window.counts_tokens else 1, now_us, kept_us)
            if share is None:
                Taken(shares, tokens, now_us).give_back(now_us)
                return None
            shares.append(share)
        return Taken(shares, tokens, now_us)

    def wait_us(self, tokens: int, now_us: int, kept_us: int = 0) -> int:
        """How long until a request may go, if nobody waits."""
        wait = max(self.closed_until_us - now_us, 0)
        for window in self.windows:
            units = tokens if window.counts_tokens else 1
            wait = max(wait, window.wait_us(units, now_us, kept_us))
        return wait

    def turn_us(self, tokens: int, now_us: int, kept_us: int = 0) -> int:
        """How long until the next of those who wait may go."""
        return max(self.wait_us(tokens, now_us, kept_us), self._next_turn_us - now_us)

    def expected_us(
        self,
        ahead: int,
        waiting: int,
        waiting_tokens: int,
        tokens: int,
        now_us: int,
        kept_us: int = 0,
    ) -> int:
        """About how long one who came now would wait with `ahead` of the `waiting` before it.

        Exact when nobody waits, and nobody else comes.
        """
        wait = self.turn_us(tokens, now_us, kept_us)
        if not waiting:
            return wait
        each = waiting_tokens // waiting
        return max(self.turn_us(each, now_us, kept_us) + ahead * self.gap_us(each, now_us), wait)

    def gap_us(self, tokens: int, now_us: int) -> int:
        """The time a request is worth: the part of the period that it takes of its limit."""
        gap = CAREFUL_GAP_US if now_us < self._careful_until_us else 0
        for window in self.windows:
            units = tokens if window.counts_tokens else 1
            gap = max(gap, units * window.period_us // window.limit)
        return gap

    def take_turn(self, tokens: int, now_us: int) -> Taken:
        """One of those who waited goes."""
        shares = [
            window.take(tokens if window.counts_tokens else 1, now_us) for window in self.windows
        ]
        taken = Taken(shares, tokens, now_us)
        taken.gap_us = self.gap_us(tokens, now_us)
        self._next_turn_us = max(self._next_turn_us, now_us) + taken.gap_us
        return taken

    def correct(self, taken: Taken, used_tokens: int, now_us: int) -> None:
        """The usage of a request is known."""
        taken.correct(used_tokens, now_us)
        if taken.gap_us:
            gap = self.gap_us(used_tokens, now_us)
            self._next_turn_us -= max(taken.gap_us - gap, 0)
            taken.gap_us = 0

    def give_back(self, taken: Taken, now_us: int) -> None:
        """A request that was admitted was never sent."""
        taken.give_back(now_us)
        self._next_turn_us -= taken.gap_us
        taken.gap_us = 0

    def hear(self, said: list[Standing], taken: Taken | None, now_us: int) -> None:
        """Adopt the limits an answer's headers tell, and what they say is left of them."""
        for one in said:
            window = self._adopt(one.unit, one.limit, one.period_us)
            if one.remaining is None:
                continue
            known = taken.known_of(window) if taken is not None else None
            window.hear(
                one.remaining,
                known=known if known is not None else window.used,
                sent_us=taken.at_us if taken is not None else now_us,
                resets_us=one.resets_us,
            )

    def answered(self) -> None:
        """It served a request: the next refusal is the first again."""
        self._pauses = 0

    def pause(self, for_us: int | None, now_us: int) -> None:
        """It refused: nothing goes for so long. An earlier, longer pause stands."""
        if for_us is None:
            if self.closed_until_us > now_us:
                return  # refusals of requests sent before the pause began say nothing new
            for_us = min(PAUSE_FIRST_US << min(self._pauses, 6), PAUSE_MAX_US)
            self._pauses += 1
        self.closed_until_us = max(self.closed_until_us, now_us + for_us)
        self._careful_until_us = self.closed_until_us + CAREFUL_US

    def _adopt(self, unit: Unit, limit: int, period_us: int) -> Window:
        """The window of what the provider is believed to allow, of this limit from now."""
        window = self._find(unit, period_us, is_ceiling=False)
        if window is None:
            window = Window(limit, period_us, unit=unit)
            self.windows.append(window)
        window.limit = limit
        return window

    def _cap(self, unit: Unit, limit: int | None, period_us: int) -> None:
        """Set the ceiling, or take it away."""
        window = self._find(unit, period_us, is_ceiling=True)
        if limit is None:
            if window is not None:
                self.windows.remove(window)
        elif window is None:
            self.windows.append(Window(limit, period_us, unit=unit, is_ceiling=True))
        else:
            window.limit = limit

    def _find(self, unit: Unit, period_us: int, *, is_ceiling: bool) -> Window | None:
        for one in self.windows:
            if one.unit is unit and one.period_us == period_us and one.is_ceiling is is_ceiling:
                return one
        return None

    def _least(self, unit: Unit, period_us: int) -> int | None:
        limits = [
            one.limit for one in self.windows if one.unit is unit and one.period_us == period_us
        ]
        return min(limits, default=None)
