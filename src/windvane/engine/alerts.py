"""Telling of budgets that near their end, once for each share of each period."""

from collections.abc import Sequence

from windvane.core.budgets import Account, standing_of
from windvane.core.events import BudgetReached, HoldExceeded
from windvane.core.ledger import LedgerEntry
from windvane.ports.observer import Observer

ALERT_AT_PERMILLE = (500, 800, 1000)
USED_UP = 1000
NEARLY_PERMILLE = 900


class BudgetAlerts:
    """Looks at the accounts of each settlement. Comparing is all it costs in the usual case."""

    def __init__(self, observers: tuple[Observer, ...], at_permille: tuple[int, ...]) -> None:
        self._observers = observers
        self._at_permille = at_permille
        self._first_permille = min(at_permille, default=USED_UP + 1)

    def look(self, accounts: Sequence[Account], entry: LedgerEntry) -> None:
        """Tell of shares that were reached, and of a cost above its hold."""
        for account in accounts:
            if account.limit:
                used = account.spent * 1000 // account.limit
                if used >= self._first_permille and used > account.alerted_permille:
                    self._tell_share(account, used, entry.started_at_us)
        cost, held = entry.cost_nano_usd, entry.hold_nano_usd
        if cost is not None and held is not None and cost > held:
            for observer in self._observers:
                observer.on(HoldExceeded(entry=entry))

    def refused(self, account: Account, at_us: int) -> None:
        """A budget that is nearly spent and refuses is used up, whatever small change is left in it.
        One that refuses a single dear request is not."""
        assert account.limit is not None
        if account.spent * 1000 >= account.limit * NEARLY_PERMILLE:
            self._tell_share(account, USED_UP, at_us)

    def _tell_share(self, account: Account, used: int, at_us: int) -> None:
        reached = max((share for share in self._at_permille if share <= used), default=0)
        if reached > account.alerted_permille:
            account.alerted_permille = reached
            event = BudgetReached(standing=standing_of(account), permille=reached, at_us=at_us)
            for observer in self._observers:
                observer.on(event)
