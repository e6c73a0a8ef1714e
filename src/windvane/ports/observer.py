"""Who is told what happened."""

from typing import Protocol

from windvane.core.events import Event


class Observer(Protocol):
    """Takes events. It must be quick, must not raise, and decides nothing."""

    def on(self, event: Event) -> None: ...
