"""Who is told what happened."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

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

Listener = Callable[[Any], None]
"""Takes events of one kind."""


class Observer(Protocol):
    """Takes events. It must be quick, must not raise, and decides nothing. To be inherited from."""

    @property
    def hears(self) -> Kinds:
        """The kinds of events it is told of: most happen with every request, and most are for few."""
        ...

    def on(self, event: Event) -> None: ...

    def listener(self, kind: type[Event]) -> Listener:
        """What takes events of this kind alone: who has a way for each need not look which it is."""
        del kind
        return self.on


def hearing(observers: Sequence[Observer], kind: type[Event]) -> tuple[Listener, ...]:
    """What takes events of this kind, of those who are told of them."""
    return tuple(observer.listener(kind) for observer in observers if kind in observer.hears)
