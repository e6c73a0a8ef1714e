"""Telling of budgets that near their end, once for each share of each period.

An account's `mark` is what must be spent of it before there is something to tell: until then a settlement
costs a comparison.
"""

from collections.abc import Sequence

from windvane.core.budgets import NEVER, Account, standing_of
from windvane.core.events import BudgetReached
from windvane.ports.observer import Observer, hearing
from windvane.ports.stores import ToldBook

USED_UP = 1000
NEARLY_PERMILLE = 900


class BudgetAlerts:
    """Looks at the accounts that have come to their mark, and sets the next one."""

    def __init__(
        self,
        observers: tuple[Observer, ...],
        at_permille: tuple[int, ...],
        told: ToldBook | None = None,
    ) -> None:
        self._tell_reached = hearing(observers, BudgetReached)
        self._at_permille = at_permille
        self._told = told

    def look(self, accounts: Sequence[Account], at_us: int) -> None:
        """Tell of shares that were reached."""
        for account in accounts:
            if account.limit:
                self._tell_share(account, account.spent * 1000 // account.limit, at_us)
            account.mark = self._next_mark(account)

    def refused(self, account: Account, at_us: int) -> None:
        """A budget that is nearly spent and refuses is used up, whatever small change is left in it.
        One that refuses a single dear request is not."""
        assert account.limit is not None
        if account.spent * 1000 >= account.limit * NEARLY_PERMILLE:
            self._tell_share(account, USED_UP, at_us)

    def _next_mark(self, account: Account) -> int:
        limit, told = account.limit, account.alerted_permille
        if not limit:
            return NEVER
        return min(
            (-(-limit * share // 1000) for share in self._at_permille if share > told),
            default=NEVER,
        )

    def _tell_share(self, account: Account, used: int, at_us: int) -> None:
        reached = max((share for share in self._at_permille if share <= used), default=0)
        if self._told is not None and reached > account.alerted_permille:
            account.alerted_permille = max(account.alerted_permille, self._told.of(account))
        if reached > account.alerted_permille:
            account.alerted_permille = reached
            if self._told is not None:
                self._told.note(account, reached)
            event = BudgetReached(standing=standing_of(account), permille=reached, at_us=at_us)
            for tell in self._tell_reached:
                tell(event)
