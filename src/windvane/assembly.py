"""The composition root: configuration in, a running engine out.

The only place that knows both the ports and their adapters.
"""

from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from windvane import system
from windvane.config.resolve import resolve
from windvane.config.schema import Config
from windvane.engine.engine import Engine
from windvane.engine.snapshot import Snapshot
from windvane.ports.clock import Clock
from windvane.ports.observer import Observer
from windvane.ports.stores import Journal
from windvane.stores.memory import MemoryLedger
from windvane.stores.sqlite import SqliteLedger
from windvane.transport.http1 import Http1Transport

IN_MEMORY = ":memory:"
"""The `data_dir` that keeps nothing."""


def snapshot_of(config: Config, clock: Clock | None = None) -> Snapshot:
    """Resolve `config` as of today. Raises ConfigError with every problem found."""
    clock = clock or system.SystemClock()
    return resolve(config, pepper=system.new_secret(), day=today(clock))


def today(clock: Clock) -> date:
    return datetime.fromtimestamp(clock.wall_us() / 1_000_000, UTC).date()


def build_engine(config: Config, observers: tuple[Observer, ...] = ()) -> Engine:
    """An engine on the real clock, network and disk. Call it inside the loop that will run it.

    Raises ConfigError, and RuntimeError when another process has the ledger open.
    """
    clock = system.SystemClock()
    rng = system.new_rng()
    snapshot = snapshot_of(config, clock)
    ledger: MemoryLedger | SqliteLedger
    if config.data_dir == IN_MEMORY:
        ledger = MemoryLedger()
        journal: Journal = ledger
    else:
        ledger = SqliteLedger(Path(config.data_dir))
        journal = ledger.journal
    return Engine(
        snapshot=snapshot,
        transport=Http1Transport(),
        journal=journal,
        ledger=ledger,
        clock=clock,
        ids=system.SystemIds(),
        rng=rng,
        observers=observers,
    )


def in_memory(config: Config) -> Config:
    """The same configuration, keeping nothing on disk."""
    return msgspec.structs.replace(config, data_dir=IN_MEMORY)
