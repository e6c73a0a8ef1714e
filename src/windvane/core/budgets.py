"""Budgets: how much may be spent in a period, and the arithmetic that never lets more be.

The worst case of an attempt is *held* in every account that applies, together or in none, before its
first byte goes out; when the attempt is over, the hold gives way to what it cost. Since
`spent + held <= limit` when a hold is granted, and a cost is at most its hold, `spent` cannot pass
`limit`, however many requests run at once.

Periods are UTC days and months, and for ever. The moment of admission decides the period: an attempt
that began before midnight is paid from the old day, even when it ends in the new one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from windvane.core.money import NanoUsd
from windvane.core.principal import Scope
from windvane.core.terms import TermsTable

US_PER_S = 1_000_000
US_PER_DAY = 86_400 * US_PER_S


class Period(StrEnum):
    DAILY = "daily"
    MONTHLY = "monthly"
    TOTAL = "total"


class BudgetTerms(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one scope, in nano-dollars; None is no limit."""

    daily: NanoUsd | None = None
    monthly: NanoUsd | None = None
    total: NanoUsd | None = None

    @property
    def is_empty(self) -> bool:
        return self.daily is None and self.monthly is None and self.total is None

    def limits(self) -> list[tuple[Period, NanoUsd]]:
        """The limits that are set."""
        said = (
            (Period.DAILY, self.daily),
            (Period.MONTHLY, self.monthly),
            (Period.TOTAL, self.total),
        )
        return [(period, limit) for period, limit in said if limit is not None]


def bounds(period: Period, at_us: int) -> tuple[int, int | None]:
    """When the period around `at_us` begins, and when it ends (None: never). UTC microseconds."""
    if period is Period.TOTAL:
        return 0, None
    if period is Period.DAILY:
        start = at_us - at_us % US_PER_DAY
        return start, start + US_PER_DAY
    moment = datetime.fromtimestamp(at_us // US_PER_S, UTC)
    first = moment.replace(day=1, hour=0, minute=0, second=0)
    is_december = first.month == 12
    following = first.replace(
        year=first.year + is_december, month=1 if is_december else first.month + 1
    )
    return int(first.timestamp()) * US_PER_S, int(following.timestamp()) * US_PER_S


HALF_PERMILLE = 500
NEVER = 1 << 66
"""More than any amount there can be."""


class Account:
    """What a scope may spend in one period, has spent, and has held.

    `limit` is None while an account is only watched. `free` is what may still be held: the one number
    that holds are measured by, and what they change. At `mark` spent, the account is worth a look by
    whoever tells of shares.
    """

    __slots__ = (
        "_limit",
        "_spent",
        "alerted_permille",
        "ends_at_us",
        "free",
        "half",
        "mark",
        "period",
        "scope",
        "starts_at_us",
    )

    def __init__(
        self, scope: Scope, period: Period, at_us: int, limit: int | None, spent: int = 0
    ) -> None:
        self.scope = scope
        self.period = period
        self.starts_at_us, self.ends_at_us = bounds(period, at_us)
        self._limit: int | None = None
        self.free = NEVER - spent
        self.limit = limit
        self._spent = spent
        self.mark = 0
        self.alerted_permille = 0
        """The highest share of the limit that has been told of."""

    @property
    def limit(self) -> int | None:
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.free += _ceiling(limit) - _ceiling(self._limit)
        self._limit = limit
        self.half = -NEVER if limit is None else limit // 2

    @property
    def used(self) -> int:
        """What is spent and what is held."""
        return _ceiling(self._limit) - self.free

    @property
    def spent(self) -> int:
        return self._spent

    @spent.setter
    def spent(self, spent: int) -> None:
        self.free -= spent - self._spent
        self._spent = spent

    @property
    def held(self) -> int:
        return self.used - self._spent

    @held.setter
    def held(self, held: int) -> None:
        self.free -= held - self.held

    @property
    def left(self) -> int | None:
        """What a new hold may take at most; None without a limit. Never negative."""
        return None if self._limit is None else max(self.free, 0)

    def covers(self, at_us: int) -> bool:
        """Whether this account's period has not ended by `at_us`."""
        return self.ends_at_us is None or at_us < self.ends_at_us

    def set_limit(self, limit: int | None) -> None:
        """From now this limit. What was told of the old one's end may have to be told again."""
        if limit != self.limit:
            self.limit = limit
            self.mark = 0
            if limit:
                self.alerted_permille = min(self.alerted_permille, self.spent * 1000 // limit)

    def __repr__(self) -> str:
        return f"Account({self.scope} {self.period}: {self.spent} + {self.held} of {self.limit})"


def _ceiling(limit: int | None) -> int:
    return NEVER if limit is None else limit


def hold(accounts: Sequence[Account], amount: int) -> Account | None:
    """Hold `amount` in all accounts, or in none: then the one that refused is returned."""
    for account in accounts:
        account.free = free = account.free - amount
        if free < 0:
            for held in accounts:
                held.free += amount
                if held is account:
                    break
            return account
    return None


def settle(accounts: Sequence[Account], held: int, cost: int) -> list[Account]:
    """End a hold: what was held is free again, and what it cost is spent.

    Returns the accounts that have come to their mark.
    """
    back, marked = held - cost, []
    for account in accounts:
        account.free += back
        # Past the property, which would set `free` again.
        spent = account._spent = account._spent + cost  # noqa: SLF001
        if spent >= account.mark:
            marked.append(account)
    return marked


def tightest(accounts: Sequence[Account]) -> Account | None:
    """The account with the least left; None when none has a limit."""
    found, least = None, NEVER >> 1
    for account in accounts:
        if (free := account.free) < least:
            found, least = account, free
    return found


def is_any_used(accounts: Sequence[Account], permille: int) -> bool:
    """Whether so many thousandths of a limit are spent or held; a limit of zero is used up."""
    for account in accounts:
        if account.free <= account.half:
            break
    else:
        # Below half of its limit, which is where most are, it need not be worked out.
        if permille > HALF_PERMILLE:
            return False
    return any(_is_used(account, permille) for account in accounts)


def _is_used(account: Account, permille: int) -> bool:
    limit = account.limit
    if not limit:
        return limit == 0 and permille <= 1000
    return account.used * 1000 >= limit * permille


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How an account stands at one moment. Amounts in nano-dollars, times in UTC microseconds."""

    scope: Scope
    period: Period
    limit_nano_usd: int
    spent_nano_usd: int
    held_nano_usd: int
    starts_at_us: int
    renews_at_us: int | None

    @property
    def left_nano_usd(self) -> int:
        return max(self.limit_nano_usd - self.spent_nano_usd - self.held_nano_usd, 0)

    @property
    def used_permille(self) -> int:
        """Thousandths of the limit that are spent or held; a limit of zero is used up."""
        if self.limit_nano_usd == 0:
            return 1000
        return (self.spent_nano_usd + self.held_nano_usd) * 1000 // self.limit_nano_usd


def standing_of(account: Account) -> Standing:
    """The account as it stands. It must have a limit."""
    assert account.limit is not None
    return Standing(
        scope=account.scope,
        period=account.period,
        limit_nano_usd=account.limit,
        spent_nano_usd=account.spent,
        held_nano_usd=account.held,
        starts_at_us=account.starts_at_us,
        renews_at_us=account.ends_at_us,
    )


class BudgetTable(TermsTable[BudgetTerms]):
    """Which terms apply to which scope: its own, and those of its kind (`user:*`). Immutable."""
