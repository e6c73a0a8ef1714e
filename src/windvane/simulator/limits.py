"""Requests and tokens per minute, per key, as the provider enforces them.

Windows are fixed: a key's minute begins with its first request and everything is forgotten when
it ends. A request costs its whole prompt and answer, known in advance here.
"""

from msgspec import Struct

from windvane.simulator.dialect import Allowance

WINDOW_S = 60.0
KEYS_MAX = 10_000
"""Keys remembered; when there are more, all minutes start anew."""
UNLIMITED = 1_000_000
"""What the headers claim when there is no limit."""


class _Minute(Struct, gc=False):
    began: float
    requests: int = 0
    tokens: int = 0


class Limits:
    """Counts what each key has used of its minute."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._is_limited = requests_per_minute is not None or tokens_per_minute is not None
        self._minutes: dict[str, _Minute] = {}

    def admit(self, key: str, cost_tokens: int, now: float) -> bool:
        """Count the request and return True, or return False and count nothing."""
        if not self._is_limited:
            return True
        minute = self._minute(key, now)
        if self._requests is not None and minute.requests + 1 > self._requests:
            return False
        if self._tokens is not None and minute.tokens + cost_tokens > self._tokens:
            return False
        minute.requests += 1
        minute.tokens += cost_tokens
        return True

    def allowance(self, key: str, now: float) -> Allowance:
        """Return what the key has left."""
        if not self._is_limited:
            return _NO_LIMIT
        minute = self._minute(key, now)
        requests = UNLIMITED if self._requests is None else self._requests
        tokens = UNLIMITED if self._tokens is None else self._tokens
        return Allowance(
            requests,
            max(0, requests - minute.requests),
            tokens,
            max(0, tokens - minute.tokens),
            minute.began + WINDOW_S - now,
        )

    def reset_hint_s(self, key: str, now: float) -> float | None:
        """Return when to come back, or None for a key that has no allowance at all."""
        if self._requests == 0 or self._tokens == 0:
            return None
        return self.allowance(key, now).resets_in_s

    def clear(self) -> None:
        """Start all minutes anew."""
        self._minutes.clear()

    def _minute(self, key: str, now: float) -> _Minute:
        minute = self._minutes.get(key)
        if minute is None or now >= minute.began + WINDOW_S:
            if len(self._minutes) >= KEYS_MAX:
                self._minutes.clear()
            minute = self._minutes[key] = _Minute(now)
        return minute


_NO_LIMIT = Allowance(UNLIMITED, UNLIMITED - 1, UNLIMITED, UNLIMITED - 1, 0.0)
