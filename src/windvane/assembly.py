"""The composition root: configuration in, a running engine out.

The only place that knows both the ports and their adapters.
"""

import logging
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from windvane import system
from windvane.config import ConfigError
from windvane.config.accounts import check_apart
from windvane.config.check import Problem
from windvane.config.resolve import resolve
from windvane.config.schema import Config
from windvane.core.budgets import BudgetTable, Period, bounds
from windvane.core.keys import ADMIN_PREFIX
from windvane.core.limits import RateTable
from windvane.core.principal import GLOBAL, SCOPE_KINDS, Scope
from windvane.engine.engine import Engine
from windvane.engine.keyring import KeyDesk, Keyring, key_digest, tables_of
from windvane.engine.snapshot import Snapshot
from windvane.engine.upkeep import Retention
from windvane.ports.clock import Clock
from windvane.ports.observer import Observer
from windvane.ports.stores import FlightLeases, InvalidationStore, Journal, KeyStore, LedgerStore
from windvane.stores.memory import MemoryBudgets, MemoryKeys, MemoryLedger, MemoryLimits
from windvane.stores.memory.cache import MemoryCache
from windvane.stores.memory.invalidations import MemoryInvalidations
from windvane.stores.redis import RedisStores, check_address, open_redis
from windvane.stores.revoked import RevokedFile
from windvane.stores.sqlite import SqliteLedger
from windvane.stores.sqlite.cache import SqliteCache
from windvane.stores.tiers import TieredCache
from windvane.stores.told import ToldFile
from windvane.telemetry.alerts import AlertLog, Webhook
from windvane.transport.http1 import Http1Transport

IN_MEMORY = ":memory:"
"""The `data_dir` that keeps nothing."""
PEPPER_FILE = "pepper"
CACHE_FILE = "cache.db"
OWED_FILE = "redis.owed"
"""Invalidations that Redis could not be told of yet."""
REVOKED_FILE = "keys.owed"
"""Keys whose revocation the ledger could not be told of yet."""
TOLD_FILE = "alerts.jsonl"
ADMIN_FILE = "admin.key"
"""The key of whoever may read the data folder: the command line administers a running gateway by it."""

_log = logging.getLogger("windvane.keys")


def snapshot_of(config: Config, clock: Clock | None = None) -> Snapshot:
    """Resolve `config` as of today, for looking at: its pepper is no gateway's. Raises ConfigError
    with every problem found."""
    clock = clock or system.SystemClock()
    return resolve(config, pepper=system.new_secret(), day=today(clock))


def check(config: Config) -> Snapshot:
    """The snapshot of what can be opened. Raises ConfigError with every problem found, those included
    that are met only when the stores are opened."""
    problems = list[Problem]()
    if config.cache.scope is not None and config.cache.redis is not None:
        try:
            check_address(config.cache.redis)
        except (ValueError, RuntimeError) as error:
            problems.append(Problem("cache.redis", str(error)))
    try:
        snapshot = snapshot_of(config)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems], "the configuration") from error
    if problems:
        raise ConfigError(problems, "the configuration")
    return snapshot


def today(clock: Clock) -> date:
    return datetime.fromtimestamp(clock.wall_us() / 1_000_000, UTC).date()


async def open_engine(config: Config, observers: tuple[Observer, ...] = ()) -> Engine:
    """An engine on the real clock, network and disk. Close it in the loop that opened it.

    Raises ConfigError, and RuntimeError when the ledger cannot be opened: another process has it,
    it is damaged, or a newer version wrote it.
    """
    clock = system.SystemClock()
    resolve(config, pepper=b"", day=today(clock))  # a wrong configuration must touch no file
    ledger: MemoryLedger | SqliteLedger
    keys: KeyStore
    folder = Path(config.data_dir)
    pepper, local_admin = system.new_secret(), None
    if config.data_dir == IN_MEMORY:
        ledger, keys = MemoryLedger(), MemoryKeys()
        journal: Journal = ledger
    else:
        ledger = keys = SqliteLedger(folder)
        journal = ledger.journal
        pepper = _pepper(config, folder)
        local_admin = key_digest(pepper, _local_admin_key(folder))
    try:
        return await _assemble(config, pepper, local_admin, ledger, journal, keys, clock, observers)
    except BaseException:
        await ledger.aclose()
        raise


async def _assemble(
    config: Config,
    pepper: bytes,
    local_admin: bytes | None,
    ledger: LedgerStore,
    journal: Journal,
    keys: KeyStore,
    clock: Clock,
    observers: tuple[Observer, ...],
) -> Engine:
    made = await keys.keys()
    check_apart(config, made)
    snapshot = resolve(config, pepper=pepper, day=today(clock))
    keyring = Keyring(
        pepper=pepper,
        fixed=snapshot.keys,
        made=made,
        roll=system.roll,
        clock=clock,
        local_admin=local_admin,
    )
    configured = BudgetTable(snapshot.budgets), RateTable(snapshot.rates)
    budget_table, rate_table = tables_of(made, *configured)
    budgets = await open_budgets(budget_table, ledger, clock.wall_us())
    limits = MemoryLimits(rate_table)
    desk = KeyDesk(
        keyring=keyring,
        store=keys,
        ledger=ledger,
        budgets=budgets,
        limits=limits,
        configured=configured,
        clock=clock,
        note=_revoked_file(config),
    )
    transport = Http1Transport()
    kept = await _open_cache(config, clock)
    beside: list[Webhook | Retention | RedisStores] = [*kept.beside]
    if config.alerts.webhook is not None:
        webhook = Webhook(config.alerts.webhook, transport)
        beside.append(webhook)
        observers = (*observers, webhook)
    if config.ledger.retention_days is not None:
        beside.append(Retention(ledger, clock, config.ledger.retention_days))
    await desk.resume()
    _tell_named_twice(config, keyring)
    return Engine(
        snapshot=snapshot,
        cache=kept.cache,
        invalidations=kept.invalidations,
        leases=kept.leases,
        told=_told_file(config, clock),
        transport=transport,
        journal=journal,
        ledger=ledger,
        budgets=budgets,
        limits=limits,
        keyring=keyring,
        desk=desk,
        clock=clock,
        ids=system.SystemIds(),
        rng=system.new_rng(),
        observers=(*observers, AlertLog()),
        beside=tuple(beside),
    )


def _revoked_file(config: Config) -> RevokedFile | None:
    if config.data_dir == IN_MEMORY:
        return None
    return RevokedFile(Path(config.data_dir) / REVOKED_FILE)


def _told_file(config: Config, clock: Clock) -> ToldFile | None:
    if config.data_dir == IN_MEMORY:
        return None
    return ToldFile(Path(config.data_dir) / TOLD_FILE, clock.wall_us())


def _tell_named_twice(config: Config, keyring: Keyring) -> None:
    """Say which secrets of the configuration are those of keys that were made."""
    secrets = [(f"auth.keys[{n}]", spec.key) for n, spec in enumerate(config.auth.keys)]
    if config.auth.admin_key is not None:
        secrets.append(("auth.admin_key", config.auth.admin_key))
    for place, secret in secrets:
        digest = keyring.digest_of(secret)
        made = keyring.made_of(digest)
        if made is None:
            continue
        then = "and known as that one, with its terms, until it is revoked or replaced"
        if keyring.find(secret, digest) is None:
            then = "and refused: it is revoked, replaced or expired"
        _log.warning(
            "%s (those of ALLOWED_API_KEYS come last) is a secret of the key %s (%s), %s. Take it out of"
            " the configuration",
            place,
            made.terms.name,
            made.id,
            then,
        )


class _Kept(NamedTuple):
    """The cache and what belongs to it. All None when nothing is to be kept."""

    cache: TieredCache | None = None
    invalidations: InvalidationStore | None = None
    leases: FlightLeases | None = None
    beside: tuple[RedisStores, ...] = ()


async def _open_cache(config: Config, clock: Clock) -> _Kept:
    """The cache, from what is nearest to what is shared.

    Raises ConfigError for an address that is none, and without the package for it.
    """
    said = config.cache
    if said.scope is None:
        return _Kept()
    memory = MemoryCache(
        said.memory_bytes_max,
        monotonic_s=clock.monotonic_s,
        rng=system.new_rng(),
        entry_bytes_max=said.entry_bytes_max,
        entries_max=said.memory_entries_max,
    )
    folder = Path(config.data_dir)
    if said.redis is not None:
        try:
            shared = open_redis(
                said.redis,
                monotonic_s=clock.monotonic_s,
                rng=system.new_rng(),
                owed_file=None if config.data_dir == IN_MEMORY else folder / OWED_FILE,
            )
        except (ValueError, RuntimeError) as error:
            raise ConfigError([Problem("cache.redis", str(error))], "the configuration") from error
        await shared.start()
        said_so = said.memory_without_redis
        is_believed = None if said_so else lambda: shared.invalidations.has_heard
        cache = TieredCache(memory, (shared.cache,), is_believed=is_believed)
        return _Kept(cache, shared.invalidations, shared.leases, (shared,))
    if said.disk and config.data_dir != IN_MEMORY:
        disk = SqliteCache(
            folder / CACHE_FILE,
            bytes_max=said.disk_bytes_max,
            entries_max=said.disk_entries_max,
            wall_us=clock.wall_us,
            monotonic_s=clock.monotonic_s,
        )
        await disk.invalidations.start()
        return _Kept(TieredCache(memory, (disk,)), disk.invalidations)
    return _Kept(TieredCache(memory), MemoryInvalidations())


async def open_budgets(table: BudgetTable, ledger: LedgerStore, now_us: int) -> MemoryBudgets:
    """Budgets with what the ledger says was spent in the periods around now, and in all that it has
    anything of from then on, or from its latest day: the clock may be behind or ahead now, and be put
    right later."""
    opening: dict[tuple[Period, int], dict[Scope, int]] = {}
    known_since_us = now_us
    if not table.is_empty:
        kinds = {name.partition(":")[0] for name in table.terms}
        moments = (now_us, *await ledger.days_since(now_us))
        known_since_us = min(moments)
        for period in Period:
            for since_us, until_us in {bounds(period, moment) for moment in moments}:
                spent = opening[period, since_us] = {}
                for kind in (GLOBAL, *SCOPE_KINDS):
                    if kind in kinds:
                        spent |= await ledger.spent_by(kind, since_us, until_us)
    return MemoryBudgets(table, opening, known_since_us)


def _pepper(config: Config, folder: Path) -> bytes:
    """The secret that digests of keys are made with: configured, or kept beside the ledger."""
    if config.auth.pepper is not None:
        return config.auth.pepper.encode()[:64]
    return bytes.fromhex(_kept(folder / PEPPER_FILE, system.new_secret().hex()))


def _local_admin_key(folder: Path) -> str:
    return _kept(folder / ADMIN_FILE, f"{ADMIN_PREFIX}{system.new_secret().hex()}")


def _kept(path: Path, fresh: str) -> str:
    """The secret in a file that only its owner may read; made with `fresh` when there is none."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(fresh)
            out.flush()
            os.fsync(file)
        draft.rename(path)
    kept = path.read_text().strip()
    if not kept:
        raise RuntimeError(f"{path} is empty: restore it from a backup")
    return kept


def in_memory(config: Config) -> Config:
    """The same configuration, keeping nothing on disk."""
    return msgspec.structs.replace(config, data_dir=IN_MEMORY)
