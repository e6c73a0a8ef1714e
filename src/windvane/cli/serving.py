"""Running the gateway from the command line: one loop, one engine, one server."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import NamedTuple

import click
import uvloop

from windvane.assembly import IN_MEMORY, open_engine, today
from windvane.cli.configuration import ADDRESS_FILE
from windvane.config import Config, ConfigError
from windvane.config.resolve import is_loopback
from windvane.config.routes import notes_of
from windvane.core.faults import WindvaneError
from windvane.engine.engine import Engine
from windvane.gateway.app import Gateway, audit_path
from windvane.gateway.reloading import Reload, Reloaded
from windvane.gateway.server import ServerLimits, make_server, serve_until_stopped
from windvane.system import SystemClock, allow_open_files
from windvane.telemetry.audit import AuditTrail
from windvane.telemetry.logs import RequestLog, configure
from windvane.telemetry.metrics import Metrics

_log = logging.getLogger("windvane.config")

FILES_OF_A_CALL = 2
"""The caller's connection, and the provider's."""
OWN_FILES = 256
"""Ledger, journal, cache, log, and what is open for a moment."""

Announce = Callable[[str, int | None], None]
"""Told the address, and how many keys work, once requests are taken; None when none is asked for."""
Beside = Callable[[Config], AbstractAsyncContextManager[Config]]
"""What runs beside the gateway for as long as it does, and may change its configuration."""


def _refuse_unsafe(config: Config, engine: Engine) -> None:
    """Exit rather than serve strangers: for free, or, with passthrough, with keys that may be anybody's."""
    if engine.keyring.is_empty and not is_loopback(config.host) and not config.insecure:
        raise click.ClickException(
            f"refusing to listen on {config.host} without a key: anyone who reaches it could spend."
            " Set ALLOWED_API_KEYS, make one with `windvane keys create`, or say --insecure"
        )


class Source(NamedTuple):
    """Where the configuration is from: as it was read at the start, and how to read it again."""

    started_with: Config
    read: Callable[[], Config]


def run(
    config: Config,
    announce: Announce,
    beside: Beside = nullcontext,
    source: Source | None = None,
) -> None:
    """Serve until stopped. Exits with status 1, and a reason, when it cannot start."""
    configure(config.log.level, config.log.format)
    allow_open_files(FILES_OF_A_CALL * config.limits.connections_max + OWN_FILES)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, announce, beside, source))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    except (RuntimeError, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from error
    except KeyboardInterrupt:
        return


async def _serve(config: Config, announce: Announce, beside: Beside, source: Source | None) -> None:
    async with (
        beside(config) as settled,
        _engine_of(settled, source) as (engine, gateway, limits),
    ):

        def on_ready(address: str) -> None:
            _leave_address(settled, address)
            announce(address, _count_keys(engine))

        server = make_server(gateway, host=settled.host, port=settled.port, limits=limits)
        gateway.stops_when(lambda: server.should_exit)
        try:
            await serve_until_stopped(server, on_ready)
        except OSError as error:
            raise click.ClickException(
                f"cannot listen on {settled.host}:{settled.port} ({error.strerror}); choose another"
                " with --port or --host (of make: PORT=, HOST=)"
            ) from error


def _leave_address(config: Config, address: str) -> None:
    """Note where this gateway listens beside its ledger, for the commands that ask it."""
    if config.data_dir != IN_MEMORY:
        with suppress(OSError):  # without it, they go by the configuration
            path = Path(config.data_dir) / ADDRESS_FILE
            path.touch(mode=0o600)
            path.chmod(0o600)
            path.write_text(address)


def _count_keys(engine: Engine) -> int | None:
    """Keys that work now, the configuration's and those that were made; None when there has never been
    one: a gateway whose keys have all ended is not open."""
    if engine.keyring.is_empty:
        return None
    now_us = SystemClock().wall_us()
    made = sum(key.is_live(now_us) for key in engine.keyring.keys)
    return len(engine.keyring.fixed) + made


@contextmanager
def _reloading_on_hangup(reload: Reload, trail: AuditTrail) -> Iterator[None]:
    """SIGHUP reads the configuration again; from a terminal's end it ends the process, as ever."""
    if sys.stdin is not None and sys.stdin.isatty():
        yield
        return
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def read_again() -> None:
        outcome = "failed"
        try:
            outcome = _told_of(await reload())
        except ConfigError as error:
            outcome = f"refused ({'; '.join(map(str, error.problems))})"
        except WindvaneError as error:
            outcome = f"refused ({error.fault.message})"
        finally:
            trail.record(
                who="SIGHUP", what="reload_configuration", subject="configuration", outcome=outcome
            )

    def begin() -> None:
        task = loop.create_task(read_again())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _told_of(done: Reloaded) -> str:
    changed = ", ".join((*done.budgets, *done.rates)) or "nothing changes"
    later = f"; not used before a restart: {', '.join(done.needs_restart)}"
    return f"done ({changed}{later if done.needs_restart else ''})"


@asynccontextmanager
async def _engine_of(
    config: Config, source: Source | None
) -> AsyncIterator[tuple[Engine, Gateway, ServerLimits]]:
    metrics = Metrics()
    engine = await open_engine(config, (metrics, RequestLog()))
    limits = ServerLimits(
        head_timeout_s=config.limits.head_timeout_s,
        connections_max=config.limits.connections_max,
        body_timeout_s=config.limits.body_timeout_s,
        unready_s=config.limits.unready_s,
        grace_s=config.limits.grace_s,
        new_request_id=engine.new_request_id,
    )
    try:
        _refuse_unsafe(config, engine)
        for note in notes_of(config, engine.snapshot, today(SystemClock())):
            _log.warning("%s", note)
        trail = AuditTrail(audit_path(config), SystemClock())
        if source is None:
            yield engine, Gateway(engine, config, metrics, trail), limits
            return
        reload = Reload(engine, SystemClock(), *source)
        with _reloading_on_hangup(reload, trail):
            yield engine, Gateway(engine, config, metrics, trail, reload), limits
    finally:
        await engine.aclose()
