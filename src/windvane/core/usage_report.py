"""Questions about usage, and their answers: the one form behind every number that is shown.

Headers, `/user/stats`, `/admin/usage`, `windvane usage` and CSV all ask this way, so that no two of
them can say different things. Days are UTC days.
"""

from datetime import date

import msgspec

from windvane.core.ledger import Totals

US_PER_S = 1_000_000

DIMENSIONS = ("day", "key", "team", "user", "tag", "model", "provider", "route")
"""What usage may be grouped and filtered by. `model` is the resolved id. An attempt with several
tags counts under each: groups by tag do not add up to the whole; all others do."""


def seconds(microseconds: int) -> float:
    """Time as reports show it."""
    return microseconds / US_PER_S


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage: of the days `since` to `until`, both included, that match every filter.

    `by` are dimensions, in the order of the columns. An empty text as a filter stands for attempts
    that have none (no team, no user).
    """

    since: date | None = None
    until: date | None = None
    by: tuple[str, ...] = ()
    filters: dict[str, str] = {}

    def check(self) -> None:
        """Raise ValueError, naming what is wrong, for a dimension that is not one."""
        for name in (*self.by, *self.filters):
            if name not in DIMENSIONS:
                raise ValueError(f"no such dimension: {name!r}; one of {', '.join(DIMENSIONS)}")
        if len(set(self.by)) != len(self.by):
            raise ValueError("the same dimension is there twice")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("the first day is after the last one")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Sums that are not those of their entries: what is `kept`, and what was `found` by adding up again.

    `place` is a UTC day since 1970, then key, team, user, tags, provider, model and route.
    """

    place: tuple[int, str, str, str, str, str, str, str]
    kept: Totals
    found: Totals


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group, by the dimensions asked for (`""`: has none), and its sums."""

    group: tuple[str, ...]
    totals: Totals
