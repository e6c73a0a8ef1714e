"""Who is told what happened."""

from collections.abc import Sequence
from typing import Protocol

from windvane.core.events import (
    AttemptSettled,
    BudgetReached,
    Event,
    ExchangeEnded,
    HoldExceeded,
    RequestEnded,
)

Kinds = frozenset[
    type[AttemptSettled | ExchangeEnded | RequestEnded | BudgetReached | HoldExceeded]
]

EVERYTHING: Kinds = frozenset(
    (AttemptSettled, ExchangeEnded, RequestEnded, BudgetReached, HoldExceeded)
)


class Observer(Protocol):
    """Takes events. It must be quick, must not raise, and decides nothing."""

    @property
    def hears(self) -> Kinds:
        """The kinds of events it is told of: most happen with every request, and most are for few."""
        ...

    def on(self, event: Event) -> None: ...


def hearing(observers: Sequence[Observer], kind: type[Event]) -> tuple[Observer, ...]:
    """Those who are told of events of this kind."""
    return tuple(observer for observer in observers if kind in observer.hears)
