"""How a simulator behaves: one frozen value, checked when made."""

from math import inf
from typing import Literal

from msgspec import Struct

from windvane.simulator.fault import FaultRule


class SimulatorConfig(Struct, frozen=True, kw_only=True):
    """Settings of a simulator; the defaults answer at once, without limits or faults. A limit of 0
    refuses every request.

    `tokens_per_s` 0 means no delay. `jitter` is the deviation of the logarithm of the time to the
    first token. `api_keys` None accepts any key. `abort_billing` says what a client that leaves is
    charged: the tokens generated so far, or the whole answer. `price_date` fixes the day whose
    prices the bill uses; None is today.
    """

    seed: int = 7
    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0
    jitter: float = 0.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    faults: tuple[FaultRule, ...] = ()
    api_keys: frozenset[str] | None = None
    strict: bool = True
    abort_billing: Literal["stop", "run_to_end"] = "stop"
    chunk_tokens: int = 1
    price_date: str | None = None

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is 1 or more, not {self.chunk_tokens}")
        for name in ("ttft_ms", "tokens_per_s", "jitter"):
            if not 0 <= (value := getattr(self, name)) < inf:
                raise ValueError(f"{name} is 0 or more, not {value}")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ValueError(f"{name} is 0 or more, not {value}")
        if self.abort_billing not in {"stop", "run_to_end"}:
            raise ValueError(f"abort_billing is 'stop' or 'run_to_end', not {self.abort_billing!r}")
