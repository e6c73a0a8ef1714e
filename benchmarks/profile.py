"""Where the time goes: drive the application in process and print its dearest functions.

``python -m benchmarks profile --app MODULE:FACTORY`` calls the factory (or takes the ASGI
application itself), sends chat calls through it with no socket in front, and prints the functions
with the most time of their own. The upstream is the benchmark's, so the outgoing client is in the
picture; the server's parsing is not, and cProfile makes small functions look dear. Use it to find
a place, and ``python -m benchmarks`` to know what a change there brought.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import importlib
import inspect
import os
import pstats
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks import contenders, payloads, stage
from benchmarks.event_loop import run

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

CALLS = 2_000
WARM_UP_CALLS = 50
ROWS = 30


def main(arguments: list[str]) -> int:
    """Profile the application that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description=__doc__)
    parser.add_argument("--app", required=True, metavar="MODULE:FACTORY")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args(arguments)
    with stage.opened() as opened:
        recipe = contenders.windvane(opened.folder, opened.upstream.port)
        os.environ.update(recipe.env)
        os.environ["WINDVANE_CONFIG"] = str(opened.folder / "windvane.yaml")
        profiler = cProfile.Profile()
        run(_profile(_application(options.app), options.calls, profiler))
    pstats.Stats(profiler).sort_stats("tottime").print_stats(options.rows)
    return 0


def _application(name: str) -> Application:
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    is_factory = not inspect.signature(found).parameters
    return found() if is_factory else found  # type: ignore[no-any-return]


async def _profile(app: Application, calls: int, profiler: cProfile.Profile) -> None:
    """Start the application, warm it up, and profile the calls."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    started: asyncio.Queue[Message] = asyncio.Queue()
    await inbox.put({"type": "lifespan.startup"})
    async with asyncio.TaskGroup() as group:
        group.create_task(_lifespan(app, inbox, started))
        await _expect(started, "lifespan.startup.complete")
        number = payloads.first_number()
        request = payloads.chat(
            body_bytes=payloads.SMALL_BYTES, is_stream=False, headers={}, port=0
        )
        for index in range(WARM_UP_CALLS):
            await _call(app, request.numbered(number + index))
        profiler.enable()
        for index in range(WARM_UP_CALLS, WARM_UP_CALLS + calls):
            await _call(app, request.numbered(number + index))
        profiler.disable()
        await inbox.put({"type": "lifespan.shutdown"})


async def _lifespan(
    app: Application, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]
) -> None:
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    await app(scope, inbox.get, outbox.put)


async def _expect(messages: asyncio.Queue[Message], kind: str) -> None:
    message = await messages.get()
    if message["type"] != kind:
        raise RuntimeError(f"the application did not start: {message}")


async def _call(app: Application, request: bytes) -> None:
    """Send one chat call; anything but 200 ends the profile."""
    body = request.partition(b"\r\n\r\n")[2]
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> Message:
        for part in parts:
            return part
        await asyncio.Event().wait()
        raise AssertionError("the client of a profile never leaves")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(_scope(len(body)), receive, send)
    if statuses != [200]:
        raise RuntimeError(f"the application answered {statuses}")


def _scope(body_bytes: int) -> Message:
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(body_bytes),
        **{name.lower(): value for name, value in contenders.BEARER.items()},
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": payloads.PATH,
        "raw_path": payloads.PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
