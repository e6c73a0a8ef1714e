"""Reading the configuration again while the gateway runs: its budgets and rates hold at once.

Laws: the whole configuration is checked before anything changes, and all its problems are told; what
needs a restart is told too, and left as it is; what was spent stays spent.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from windvane.config import Config, ConfigError
from windvane.config.check import Problem
from windvane.config.resolve import resolve
from windvane.config.schema import AuthConfig
from windvane.core.principal import SCOPE_KINDS, Scope, scope
from windvane.engine.engine import Engine
from windvane.engine.snapshot import Snapshot
from windvane.ports.clock import Clock

RELOADED = ("budgets", "rates")
"""Sections that hold at once; what `auth.keys` says of budgets and rates is theirs too."""
US_PER_S = 1_000_000


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload has done: the scopes whose budget or rates are other ones now, and the sections
    that differ from what the gateway was started with, and are not used before a restart."""

    budgets: tuple[Scope, ...]
    rates: tuple[Scope, ...]
    needs_restart: tuple[str, ...]


class Reload:
    """Call it to read the configuration again by `read`. `started_with` is what it was at the start."""

    def __init__(
        self, engine: Engine, clock: Clock, started_with: Config, read: Callable[[], Config]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._started_with = started_with
        self._read = read
        self._turn = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Raises ConfigError, having changed nothing, for a configuration that cannot be used."""
        async with self._turn:
            config = self._read()
            before = self._engine.snapshot
            today = datetime.fromtimestamp(self._clock.wall_us() // US_PER_S, UTC).date()
            after = resolve(config, pepper=before.key_pepper, day=today, running=before.deployments)
            if problems := _newly_limited_kinds(before, after):
                raise ConfigError(problems, "the configuration")
            await self._engine.desk.configure(after.budgets, after.rates)
            self._engine.snapshot = msgspec.structs.replace(
                self._engine.snapshot,
                budgets=after.budgets,
                rates=after.rates,
                version=before.version + 1,
            )
        return Reloaded(
            budgets=_changed(before.budgets, after.budgets),
            rates=_changed(before.rates, after.rates),
            needs_restart=tuple(_sections_that_differ(self._started_with, config)),
        )


def _newly_limited_kinds(before: Snapshot, after: Snapshot) -> list[Problem]:
    """Limits of kinds for a period that had none: what each one of the kind has spent is not known."""
    problems = []
    for kind in SCOPE_KINDS:
        name = scope(kind, "*")
        old, new = before.budgets.get(name), after.budgets.get(name)
        limited = {period for period, _ in old.limits()} if old is not None else set()
        for period, _ in new.limits() if new is not None else ():
            if period not in limited:
                what = "a kind that had no such limit can get one by a restart alone"
                problems.append(Problem(f"budgets.{name}.{period}", what))
    return problems


def _changed(before: Mapping[Scope, object], after: Mapping[Scope, object]) -> tuple[Scope, ...]:
    names = sorted(before.keys() | after.keys())
    return tuple(name for name in names if before.get(name) != after.get(name))


def _sections_that_differ(before: Config, after: Config) -> list[str]:
    return [
        field.name
        for field in msgspec.structs.fields(Config)
        if field.name not in RELOADED
        and _without_terms(getattr(before, field.name))
        != _without_terms(getattr(after, field.name))
    ]


def _without_terms(section: object) -> object:
    """A section without the budgets and rates of its keys, which hold at once."""
    if not isinstance(section, AuthConfig):
        return section
    plain = tuple(msgspec.structs.replace(key, budget=None, rates=None) for key in section.keys)
    return msgspec.structs.replace(section, keys=plain)
