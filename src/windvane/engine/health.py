"""What the engine remembers of each deployment: its breaker and its last error."""

from collections import Counter

import msgspec

from windvane.core import breaker
from windvane.core.breaker import Breaker
from windvane.core.deployment import Deployment
from windvane.core.faults import Fault, Source


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's health at one moment. `last_error_at_us` is UTC."""

    breaker: Breaker = breaker.CLOSED
    requests: int = 0
    failures: int = 0
    last_error: str | None = None
    last_error_at_us: int | None = None


class HealthBook:
    """Breakers and errors by deployment id."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self.is_all_well = True
        """Whether no breaker has anything to say."""
        self._requests: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._errors: dict[str, tuple[str, int]] = {}

    def is_available(self, deployment: Deployment, now_s: float) -> bool:
        known = self._breakers.get(deployment.id)
        return known is None or breaker.admits(known, now_s)

    def sent(self, deployment: Deployment, now_s: float) -> None:
        name = deployment.id
        self._requests[name] += 1
        if not self.is_all_well and name in self._breakers:
            self._breakers[name] = breaker.admitted(self._breakers[name], now_s)

    def succeeded(self, deployment: Deployment) -> None:
        if not self.is_all_well:
            self._put(deployment, breaker.CLOSED)

    def failed(self, deployment: Deployment, fault: Fault, now_s: float, now_us: int) -> None:
        known = self._breakers.get(deployment.id, breaker.CLOSED)
        self._put(deployment, breaker.failed(known, fault, now_s))
        if fault.source is Source.UPSTREAM:
            # The provider's own words stay out: they may quote one caller's prompt to another.
            said = f"{fault.kind.value} ({fault.upstream_status or 'no answer'})"
            self._failures[deployment.id] += 1
            self._errors[deployment.id] = (said, now_us)

    def released(self, deployment: Deployment) -> None:
        """The attempt ended without telling anything of health."""
        known = self._breakers.get(deployment.id)
        if known is not None:
            self._put(deployment, breaker.released(known))

    def _put(self, deployment: Deployment, state: Breaker) -> None:
        """Remember a breaker that is not at rest; forget one that is."""
        if state == breaker.CLOSED:
            self._breakers.pop(deployment.id, None)
        else:
            self._breakers[deployment.id] = state
        self.is_all_well = not self._breakers

    def of(self, deployment: Deployment) -> Health:
        message, at_us = self._errors.get(deployment.id, (None, None))
        return Health(
            breaker=self._breakers.get(deployment.id, breaker.CLOSED),
            requests=self._requests[deployment.id],
            failures=self._failures[deployment.id],
            last_error=message,
            last_error_at_us=at_us,
        )
