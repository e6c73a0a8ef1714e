"""Budgets in memory: every grant is one step of the loop, so none can be seen half.

What is spent at the start comes from the ledger, holds that a dead process left among it. Accounts
are made when they are first needed, and for a new period with nothing spent. The last few of a scope
are kept: when the clock is set back over midnight, the day before is paid from again. How far back
what was spent is known is remembered; what comes before counts as of then.

No account can have lost more than all together since it was last looked at. So what was found free, less
all that was taken since, is free still, and most requests need not look at each account again.
"""

from collections.abc import Mapping, Sequence

import msgspec

from windvane.core.budgets import (
    HALF_PERMILLE,
    NEVER,
    US_PER_DAY,
    Account,
    BudgetTable,
    Period,
    Standing,
    bounds,
    hold,
    is_any_used,
    settle,
    standing_of,
    tightest,
)
from windvane.core.principal import Scope

Opening = Mapping[Period, Mapping[Scope, int]]
"""What was spent in the period around the opening, by period and scope."""

PERIODS_KEPT = 3
"""Accounts of one scope and kind of period: this one, the one before, and one the clock came from."""
FOUND_MAX = 10_000
"""Above this many, what was found is looked for anew: scopes may be named by callers."""


class _Hold(msgspec.Struct):
    """Who holds how much, and since when."""

    scopes: tuple[Scope, ...]
    accounts: tuple[Account, ...]
    amount: int
    at_us: int


class MemoryBudgets:
    """Implements `BudgetStore`. `opening` is what was spent as of `opened_at_us`."""

    def __init__(
        self, table: BudgetTable, opening: Opening | None = None, opened_at_us: int = 0
    ) -> None:
        self.table = table
        self._opening = opening or {}
        self._opened_at_us = opened_at_us
        self._forgotten_us = opened_at_us
        self._accounts: dict[tuple[Scope, Period], list[Account]] = {}
        self._known_since_us: dict[tuple[Scope, Period], int] = {}
        self._holds: dict[str, _Hold] = {}
        self._found: dict[tuple[Scope, ...], tuple[Account, ...]] = {}
        self._found_from_us = 0
        self._found_until_us = 0
        self._taken = 0
        """All that was ever taken from accounts; what was given back is not looked at."""
        self._free_until: dict[tuple[Scope, ...], int | None] = {}
        """By how much `_taken` must be for any of these accounts to have nothing free; None for those
        without a limit."""
        self._half_until: dict[tuple[Scope, ...], int] = {}
        """The same, for half of a limit to be used."""

    def accounts(self, scopes: tuple[Scope, ...], at_us: int) -> tuple[Account, ...]:
        if not self._found_from_us <= at_us < self._found_until_us:
            self._turn_to_day_of(at_us)
        found = self._found.get(scopes)
        if found is None:
            if len(self._found) >= FOUND_MAX:
                self._forget_found()
            found = self._found[scopes] = self._find(scopes, at_us)
        return found

    def room(self, scopes: tuple[Scope, ...], at_us: int, wanted: int = 0) -> int | None:
        if not self._found_from_us <= at_us < self._found_until_us:
            self._turn_to_day_of(at_us)
        try:
            until = self._free_until[scopes]
        except KeyError:
            until = self._measure(scopes, at_us)
        if until is None:
            return None
        if (room := until - self._taken) >= wanted:
            return room
        until = self._measure(scopes, at_us)
        return None if until is None else until - self._taken

    def _measure(self, scopes: tuple[Scope, ...], at_us: int) -> int | None:
        account = tightest(self.accounts(scopes, at_us))
        until = self._free_until[scopes] = None if account is None else account.free + self._taken
        return until

    def is_used(self, scopes: tuple[Scope, ...], at_us: int, permille: int) -> bool:
        if not self._found_from_us <= at_us < self._found_until_us:
            self._turn_to_day_of(at_us)
        if permille > HALF_PERMILLE and self._half_until.get(scopes, 0) > self._taken:
            return False
        accounts = self.accounts(scopes, at_us)
        above_half = min((account.free - account.half for account in accounts), default=NEVER)
        self._half_until[scopes] = above_half + self._taken
        return is_any_used(accounts, permille)

    def _forget_found(self) -> None:
        self._found.clear()
        self._free_until.clear()
        self._half_until.clear()

    def _turn_to_day_of(self, at_us: int) -> None:
        """All periods begin and end with a day: within one, what was found stays."""
        is_later = at_us >= self._found_until_us
        self._forget_found()
        self._found_from_us = at_us - at_us % US_PER_DAY
        self._found_until_us = self._found_from_us + US_PER_DAY
        if is_later:
            self._forget_old(at_us)

    def _forget_old(self, at_us: int) -> None:
        """Drop the accounts of scopes whose last period ended more than a day ago."""
        before_us = at_us - US_PER_DAY
        old = [
            place
            for place, kept in self._accounts.items()
            if (end := kept[-1].ends_at_us) is not None and end <= before_us
        ]
        for place in old:
            del self._accounts[place]
            del self._known_since_us[place]
        self._forgotten_us = max(self._forgotten_us, before_us)

    def _find(self, scopes: tuple[Scope, ...], at_us: int) -> tuple[Account, ...]:
        found = []
        for scope in dict.fromkeys(scopes):
            terms = self.table.of(scope)
            limits = {} if terms is None else dict(terms.limits())
            for period in Period:
                limit = limits.get(period)
                if limit is not None:
                    found.append(self._account(scope, period, limit, at_us))
                elif (watched := self._known(scope, period, at_us)) is not None:
                    found.append(watched)
        return tuple(found)

    def _known(self, scope: Scope, period: Period, at_us: int) -> Account | None:
        """The account of that moment, when there is one."""
        place = scope, period
        at_us = max(at_us, self._known_since_us.get(place, at_us))
        for account in reversed(self._accounts.get(place, ())):
            if account.starts_at_us <= at_us:
                return account if account.covers(at_us) else None
        return None

    def _account(self, scope: Scope, period: Period, limit: int, at_us: int) -> Account:
        account = self._known(scope, period, at_us)
        if account is None:
            at_us = max(at_us, self._known_since_us.get((scope, period), self._forgotten_us))
            spent = 0
            if bounds(period, at_us)[0] <= self._opened_at_us:
                spent = self._opening.get(period, {}).get(scope, 0)
            account = Account(scope, period, at_us, limit, spent)
            self._keep(account, self._forgotten_us)
        return account

    def _keep(self, account: Account, since_us: int) -> None:
        place = account.scope, account.period
        kept = self._accounts.setdefault(place, [])
        self._known_since_us.setdefault(place, since_us)
        kept.append(account)
        kept.sort(key=lambda each: each.starts_at_us)
        if len(kept) > PERIODS_KEPT:
            del kept[0]
            self._known_since_us[place] = kept[0].starts_at_us

    def hold(
        self, attempt_id: str, scopes: tuple[Scope, ...], amount: int, at_us: int
    ) -> Account | None:
        accounts = self.accounts(scopes, at_us)
        assert attempt_id not in self._holds, f"{attempt_id} is held twice"
        if accounts and (refusing := hold(accounts, amount)) is not None:
            return refusing
        self._taken += amount
        self._holds[attempt_id] = _Hold(scopes, accounts, amount, at_us)
        return None

    def settle(self, attempt_id: str, cost: int) -> Sequence[Account]:
        held = self._holds.pop(attempt_id, None)
        if held is None or not held.accounts:
            return ()
        if cost > held.amount:
            self._taken += cost - held.amount
        return settle(held.accounts, held.amount, cost)

    @property
    def open_holds(self) -> int:
        return len(self._holds)

    def watch(self, scope: Scope, period: Period, at_us: int) -> Account | None:
        """Begin to count what `scope` spends in this period, what is in flight included; None when
        it is counted already. What was spent before is the caller's to add to the account, or to
        `unwatch` it."""
        self.accounts((scope,), at_us)
        known = self._known(scope, period, at_us)
        if known is not None:
            if known.limit is None:
                # Without a limit no earlier period was counted, had the clock been set back to one.
                self._known_since_us[scope, period] = known.starts_at_us
            return None
        account = Account(scope, period, at_us, None)
        self._keep(account, account.starts_at_us)
        self._known_since_us[scope, period] = account.starts_at_us
        for held in self._holds.values():
            if scope in held.scopes and held.at_us >= account.starts_at_us:
                held.accounts = (*held.accounts, account)
                account.held += held.amount
        self._forget_found()
        return account

    def unwatch(self, account: Account) -> None:
        """Count no more: what was spent before could not be learned."""
        place = (account.scope, account.period)
        kept = [each for each in self._accounts.get(place, ()) if each is not account]
        if kept:
            self._accounts[place] = kept
        else:
            self._accounts.pop(place, None)
            self._known_since_us.pop(place, None)
        self._forget_found()

    def change(self, table: BudgetTable) -> None:
        """From now, `table` says what may be spent. Accounts keep what they have counted."""
        self.table = table
        for (scope, period), kept in self._accounts.items():
            terms = table.of(scope)
            limit = None if terms is None else dict(terms.limits()).get(period)
            for account in kept:
                account.set_limit(limit)
        self._forget_found()

    def standings(self, at_us: int) -> Sequence[Standing]:
        # Scopes named one by one have an account before they are first used.
        for scope in self.table.terms:
            if not scope.endswith(":*"):
                self.accounts((scope,), at_us)
        now = (self._known(scope, period, at_us) for scope, period in self._accounts)
        return [
            standing_of(account)
            for account in now
            if account is not None and account.limit is not None
        ]
