"""The admin API of a gateway that does not run: opened on its data folder for one question.

The stores are opened as the gateway opens them, so nothing is said or kept otherwise than it would;
nothing listens, no provider is asked, and what a running gateway does now and then is left to it.
"""

import asyncio
from pathlib import Path

import click
import msgspec

from windvane.assembly import ADMIN_FILE, open_engine
from windvane.config import Config, ConfigError
from windvane.config.schema import AlertsConfig
from windvane.gateway.app import Gateway, audit_path
from windvane.gateway.data_plane.asgi import HeaderList, Message
from windvane.system import SystemClock, user_name
from windvane.telemetry.audit import COMMAND_LINE, AuditTrail
from windvane.telemetry.metrics import Metrics


def ask_folder(
    config: Config, method: str, path: str, query: str, body: bytes | None
) -> tuple[int, bytes]:
    """One question's status and answer. Exits with status 1 when the folder cannot be opened."""
    try:
        return asyncio.run(_ask(_quiet(config), method, path, query, body))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    except (RuntimeError, OSError) as error:
        raise click.ClickException(f"cannot open {config.data_dir}: {error}") from error


def _quiet(config: Config) -> Config:
    """Without what is done beside serving."""
    return msgspec.structs.replace(
        config,
        alerts=AlertsConfig(),
        ledger=msgspec.structs.replace(config.ledger, retention_days=None),
    )


async def _ask(
    config: Config, method: str, path: str, query: str, body: bytes | None
) -> tuple[int, bytes]:
    engine = await open_engine(config)
    try:
        trail = AuditTrail(
            audit_path(config), SystemClock(), through=COMMAND_LINE, user=user_name()
        )
        gateway = Gateway(engine, config, Metrics(), trail)
        key = (Path(config.data_dir) / ADMIN_FILE).read_text().strip()
        return await _call(gateway, method, path, query, body or b"", key)
    finally:
        await engine.aclose()


async def _call(
    gateway: Gateway, method: str, path: str, query: str, body: bytes, key: str
) -> tuple[int, bytes]:
    """One request to an ASGI application, without a network."""
    headers: HeaderList = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + key.encode()),
        (b"content-type", b"application/json"),
    ]
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    status, pieces = 500, []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            assert isinstance(message["status"], int)
            status = message["status"]
        else:
            piece = message.get("body", b"")
            assert isinstance(piece, bytes)
            pieces.append(piece)

    await gateway(scope, receive, send)
    return status, b"".join(pieces)
