"""Budgets in memory: every grant is one step of the loop, so none can be seen half.

What is spent at the start comes from the ledger, holds that a dead process left among it. Accounts
are made when they are first needed, and for a new period with nothing spent. Those of the last days that
the clock has shown are kept, whichever those are: a clock that jumps, ahead or back, and returns finds
what it left. How far back what was spent is known is remembered; what comes before counts as of then.

A row of scopes has a *purse*: its accounts, and what befell all of them alike and is not *written up* in
each yet. No account can have lost more than all together since it was last looked at; so what was found
free, less all that was taken since, is free still, and most holds and settlements are noted in the purse
alone. Before anyone looks at an account, everything is written up.
"""

from collections.abc import Mapping, Sequence

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

Opening = Mapping[tuple[Period, int], Mapping[Scope, int]]
"""What each scope had spent at the opening, by period and its beginning: in every period after which
anything was spent, future ones included."""

DAYS_KEPT = 3
"""So many days that the clock has shown are remembered."""
FOUND_MAX = 10_000
"""Above this many, what was found is looked for anew: scopes may be named by callers."""


UNKNOWN = -NEVER
"""How far it is to a limit or a mark, before it is looked at: below every sum, so that it will be."""


class _Purse:
    """The accounts of a row of scopes. What was given back to each, less what was held, and what it cost
    are not written up yet."""

    __slots__ = (
        "accounts",
        "back",
        "cost",
        "free_until",
        "half_until",
        "is_written",
        "mark_until",
        "scopes",
    )

    def __init__(self, scopes: tuple[Scope, ...], accounts: tuple[Account, ...]) -> None:
        self.scopes = scopes
        self.accounts = accounts
        self.back = 0
        self.cost = 0
        self.is_written = True
        self.free_until: int | None = UNKNOWN
        """What may be taken in all before an account has nothing free; None without a limit."""
        self.half_until = UNKNOWN
        """The same, before half of a limit is used."""
        self.mark_until = UNKNOWN
        """What may be spent in all before an account comes to its mark."""

    def write_up(self) -> None:
        settle(self.accounts, self.back, self.cost)
        self.back = self.cost = 0
        self.is_written = True


_Hold = tuple[_Purse, int, int]
"""In which purse, how much, and since when."""


class MemoryBudgets:
    """Implements `BudgetStore`. `opening` is all that was spent in the periods around `known_since_us`
    and later."""

    def __init__(
        self, table: BudgetTable, opening: Opening | None = None, known_since_us: int = 0
    ) -> None:
        self.table = table
        self._opening = {place: dict(spent) for place, spent in (opening or {}).items()}
        self._forgotten_us = known_since_us
        self._days_us: list[int] = []
        """When the last days began that the clock has shown, in the order in which it did."""
        self._accounts: dict[tuple[Scope, Period], list[Account]] = {}
        self._known_since_us: dict[tuple[Scope, Period], int] = {}
        self._holds: dict[str, _Hold] = {}
        self._found: dict[tuple[Scope, ...], _Purse] = {}
        self._found_from_us = 0
        self._found_until_us = 0
        self._unwritten: list[_Purse] = []
        self._taken = 0
        """All that was ever taken from accounts; what was given back is not looked at."""
        self._spent = 0
        """All that was ever spent of them."""

    def accounts(self, scopes: tuple[Scope, ...], at_us: int) -> tuple[Account, ...]:
        purse = self._purse(scopes, at_us)
        self._write_up()
        return purse.accounts

    def _purse(self, scopes: tuple[Scope, ...], at_us: int) -> _Purse:
        if not self._found_from_us <= at_us < self._found_until_us:
            self._turn_to_day_of(at_us)
        purse = self._found.get(scopes)
        if purse is None:
            if len(self._found) >= FOUND_MAX:
                self._forget_found()
            purse = self._found[scopes] = _Purse(scopes, self._find(scopes, at_us))
        return purse

    def _write_up(self) -> None:
        for purse in self._unwritten:
            purse.write_up()
        self._unwritten.clear()

    def room(self, scopes: tuple[Scope, ...], at_us: int, wanted: int = 0) -> int | None:
        purse = self._found.get(scopes)
        if purse is None or not self._found_from_us <= at_us < self._found_until_us:
            purse = self._purse(scopes, at_us)
        until = purse.free_until
        if until is not None and until - self._taken < wanted:
            until = self._measure(purse)
        return None if until is None else until - self._taken

    def _measure(self, purse: _Purse) -> int | None:
        """What may be taken in all before one of these accounts has nothing free."""
        self._write_up()
        account = tightest(purse.accounts)
        until = purse.free_until = None if account is None else account.free + self._taken
        return until

    def is_used(self, scopes: tuple[Scope, ...], at_us: int, permille: int) -> bool:
        purse = self._purse(scopes, at_us)
        if permille > HALF_PERMILLE and purse.half_until > self._taken:
            return False
        self._write_up()
        above_half = min((account.free - account.half for account in purse.accounts), default=NEVER)
        purse.half_until = above_half + self._taken
        return is_any_used(purse.accounts, permille)

    def _forget_found(self) -> None:
        for purse in self._found.values():
            # There may be holds in it yet, and where limits change marks are set anew.
            purse.mark_until = UNKNOWN
        self._found.clear()

    def _turn_to_day_of(self, at_us: int) -> None:
        """All periods begin and end with a day: within one, what was found stays."""
        self._forget_found()
        self._found_from_us = at_us - at_us % US_PER_DAY
        self._found_until_us = self._found_from_us + US_PER_DAY
        self._days_us = [*self._days_us[1 - DAYS_KEPT :], self._found_from_us]
        self._forget_old(at_us - US_PER_DAY)

    def _forget_old(self, before_us: int) -> None:
        """Drop the accounts of periods that ended before this, but not those of the day the clock came
        from, or later: it may go back there. If it had jumped to that day, it may to the one before."""
        first, *days = self._days_us
        if len(days) < DAYS_KEPT - 1 or days[0] != first + US_PER_DAY:
            days.append(first)
        for place, kept in list(self._accounts.items()):
            known_since_us = self._known_since_us[place]
            for account in kept:
                end_us = account.ends_at_us
                if end_us is None or end_us > before_us:
                    break
                if any(account.starts_at_us <= day_us < end_us for day_us in days):
                    break
                known_since_us = max(known_since_us, end_us)
            if known_since_us != self._known_since_us[place]:
                self._forget_before(place, known_since_us)

    def _forget_before(self, place: tuple[Scope, Period], since_us: int) -> None:
        """Of this place, nothing is known from now of what was before."""
        self._forgotten_us = max(self._forgotten_us, since_us)
        kept = [each for each in self._accounts[place] if (each.ends_at_us or NEVER) > since_us]
        if kept:
            self._accounts[place] = kept
            self._known_since_us[place] = since_us
        else:
            del self._accounts[place]
            del self._known_since_us[place]

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
            spent = self._opening.get((period, bounds(period, at_us)[0]), {}).get(scope, 0)
            account = Account(scope, period, at_us, limit, spent)
            self._keep(account, self._forgotten_us)
        return account

    def _keep(self, account: Account, since_us: int) -> None:
        place = account.scope, account.period
        kept = self._accounts.setdefault(place, [])
        self._known_since_us.setdefault(place, since_us)
        kept.append(account)
        kept.sort(key=lambda each: each.starts_at_us)

    def hold(
        self, attempt_id: str, scopes: tuple[Scope, ...], amount: int, at_us: int
    ) -> Account | None:
        # Nearly always it was found before, this day: then no call is made for it.
        purse = self._found.get(scopes)
        if purse is None or not self._found_from_us <= at_us < self._found_until_us:
            purse = self._purse(scopes, at_us)
        assert attempt_id not in self._holds, f"{attempt_id} is held twice"
        if purse.accounts:
            until = purse.free_until
            if until is None or until - self._taken >= amount:
                purse.back -= amount
                if purse.is_written:
                    self._begin_note(purse)
            else:
                self._write_up()
                if (refusing := hold(purse.accounts, amount)) is not None:
                    return refusing
            self._taken += amount
        self._holds[attempt_id] = purse, amount, at_us
        return None

    def settle(self, attempt_id: str, cost: int) -> Sequence[Account]:
        try:
            purse, amount, _ = self._holds.pop(attempt_id)
        except KeyError:
            return ()
        if not purse.accounts:
            return ()
        if cost > amount:
            self._taken += cost - amount
        self._spent += cost
        if self._spent < purse.mark_until:
            purse.back += amount
            purse.cost += cost
            if purse.is_written:
                self._begin_note(purse)
            return ()
        self._write_up()
        marked = settle(purse.accounts, amount, cost)
        # A purse that was forgotten would not hear of marks that are set anew.
        if not marked and self._found.get(purse.scopes) is purse:
            nearest = min(account.mark - account.spent for account in purse.accounts)
            purse.mark_until = self._spent + nearest
        return marked

    def _begin_note(self, purse: _Purse) -> None:
        """What is in a purse is to be written up in its accounts from now."""
        purse.is_written = False
        self._unwritten.append(purse)

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
        for attempt_id, (purse, amount, since_us) in self._holds.items():
            if scope in purse.scopes and since_us >= account.starts_at_us:
                watched = _Purse(purse.scopes, (*purse.accounts, account))
                self._holds[attempt_id] = watched, amount, since_us
                account.held += amount
        self._forget_found()
        return account

    @property
    def days_shown_us(self) -> Sequence[int]:
        return tuple(self._days_us)

    def recall(self, scope: Scope, period: Period, since_us: int, spent: int) -> None:
        place = scope, period
        if any(each.starts_at_us == since_us for each in self._accounts.get(place, ())):
            return
        self._opening.setdefault((period, since_us), {})[scope] = spent
        if place in self._known_since_us:
            self._known_since_us[place] = min(self._known_since_us[place], since_us)

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
        self._write_up()
        for (scope, period), kept in self._accounts.items():
            terms = table.of(scope)
            limit = None if terms is None else dict(terms.limits()).get(period)
            for account in kept:
                account.set_limit(limit)
        self._forget_found()

    def standings(self, at_us: int) -> Sequence[Standing]:
        self._write_up()
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
