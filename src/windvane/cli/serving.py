"""Running the gateway from the command line: one loop, one engine, one server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import click
import uvloop

from windvane.assembly import build_engine
from windvane.config import Config, ConfigError
from windvane.config.resolve import is_loopback
from windvane.gateway.app import Gateway
from windvane.gateway.server import ServerLimits, make_server, serve_until_stopped
from windvane.telemetry.logs import RequestLog, configure
from windvane.telemetry.metrics import Metrics

Announce = Callable[[str], None]
Beside = Callable[[Config], AbstractAsyncContextManager[Config]]
"""What runs beside the gateway for as long as it does, and may change its configuration."""


def refuse_unsafe(config: Config) -> None:
    """Exit rather than serve strangers for free."""
    if not is_loopback(config.host) and config.auth.is_open and not config.insecure:
        raise click.ClickException(
            f"refusing to listen on {config.host} without a key: anyone who reaches it could spend."
            " Set ALLOWED_API_KEYS, or say --insecure"
        )


def run(config: Config, announce: Announce, beside: Beside = nullcontext) -> None:
    """Serve until stopped. Exits with status 1, and a reason, when it cannot start."""
    configure(config.log.level, config.log.format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, announce, beside))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    except (RuntimeError, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from error
    except KeyboardInterrupt:
        return


async def _serve(config: Config, announce: Announce, beside: Beside) -> None:
    async with beside(config) as settled, _engine_of(settled) as (gateway, limits):
        server = make_server(gateway, host=settled.host, port=settled.port, limits=limits)
        gateway.stops_when(lambda: server.should_exit)
        try:
            await serve_until_stopped(server, announce)
        except OSError as error:
            raise click.ClickException(
                f"cannot listen on {settled.host}:{settled.port} ({error.strerror}); choose another"
                " with --port or --host"
            ) from error


@asynccontextmanager
async def _engine_of(config: Config) -> AsyncIterator[tuple[Gateway, ServerLimits]]:
    metrics = Metrics()
    engine = build_engine(config, (metrics, RequestLog()))
    limits = ServerLimits(
        head_timeout_s=config.limits.head_timeout_s,
        connections_max=config.limits.connections_max,
        body_timeout_s=config.limits.body_timeout_s,
        new_request_id=engine.new_request_id,
    )
    try:
        yield Gateway(engine, config, metrics), limits
    finally:
        await engine.aclose()
