"""A gateway beside a simulated provider, in a thread, for tests that speak to it in plain bytes.

Unlike the SDKs' own fixture this one is made to order: keys, limits and folder differ from file to
file, and the loop it runs on can be looked into.
"""

import asyncio
import http.client
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import uvloop

from windvane.assembly import IN_MEMORY, open_engine
from windvane.config import Config
from windvane.config.schema import LimitsConfig, ProviderConfig
from windvane.core.events import AttemptSettled, Event, ExchangeEnded, RequestEnded
from windvane.core.retry import RetryPolicy
from windvane.core.usage_report import UsageQuery
from windvane.engine.engine import Engine
from windvane.gateway.app import Gateway
from windvane.gateway.reloading import Reload
from windvane.gateway.server import ServerLimits, make_server
from windvane.ports.observer import EVERYTHING, Observer
from windvane.simulator import Simulator, SimulatorConfig
from windvane.system import SystemClock
from windvane.telemetry.logs import RequestLog
from windvane.telemetry.metrics import Metrics

WAIT_S = 30.0
ROUNDS_MAX = 50
"""Of the event loop, from a timer to what comes with it; counted, since a busy machine takes long over
each."""
MODEL = "mistral-small-latest"
ONE_TRY = RetryPolicy(attempts_max=1, attempts_per_deployment_max=1)


class Seen(Observer):
    """An observer that keeps everything it is told."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self.ended: list[ExchangeEnded] = []
        self.others: list[RequestEnded] = []
        self.settled: list[AttemptSettled] = []

    def on(self, event: Event) -> None:
        if isinstance(event, ExchangeEnded):
            self.ended.append(event)
        elif isinstance(event, RequestEnded):
            self.others.append(event)
        elif isinstance(event, AttemptSettled):
            self.settled.append(event)


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


@dataclass
class Served:
    """The running pair."""

    port: int
    sim: Simulator
    engine: Engine
    app: Gateway
    seen: Seen
    loop: asyncio.AbstractEventLoop
    config: Config
    stop: Callable[[], None]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        body: Any = None,
        *,
        path: str = "/v1/chat/completions",
        method: str | None = None,
        **headers: str,
    ) -> Reply:
        """One request on a connection of its own. Headers are spelt with underscores."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        told = {"content-type": "application/json"} if data is not None else {}
        told |= self.headers
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            verb = method or ("GET" if data is None else "POST")
            connection.request(verb, path, data, {k: v for k, v in told.items() if v})
            answer = connection.getresponse()
            shown = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, shown, answer.read())
        finally:
            connection.close()

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def talk(self, *pieces: bytes) -> bytes:
        """Send bytes as they are; return all that comes until the other side closes or rests."""
        with self.open() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return read_all(connection)

    def task_count(self) -> int:
        """Tasks alive on the server's loop."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(WAIT_S)

    def totals(self) -> Any:
        async def read() -> Any:
            (whole,) = await self.engine.ledger.usage(UsageQuery())
            return whole.totals

        return asyncio.run_coroutine_threadsafe(read(), self.loop).result(WAIT_S)

    def until(self, happened: Callable[[], bool], what: str = "it") -> None:
        end = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < end, f"{what} did not happen in time"
            time.sleep(0.005)

    def soon(self, happened: Callable[[], bool], within_s: float, what: str = "it") -> None:
        """What both ends do by themselves has happened when a timer of theirs has rung; a busy machine
        holds up the timer alike."""

        async def look() -> bool:
            rung = asyncio.Event()
            timer = self.loop.call_later(within_s, rung.set)
            rounds = 0
            while not happened() and rounds < ROUNDS_MAX:
                rounds += rung.is_set()
                await asyncio.sleep(0 if rung.is_set() else 0.002)
            timer.cancel()
            return happened()

        looking = asyncio.run_coroutine_threadsafe(look(), self.loop)
        assert looking.result(WAIT_S), f"{what} was not within {within_s} s"


def read_all(connection: socket.socket, rest_s: float = WAIT_S) -> bytes:
    """Everything until the connection is closed, or nothing has come for `rest_s`."""
    connection.settimeout(rest_s)
    came = b""
    try:
        while piece := connection.recv(65536):
            came += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return came


def chat(text: str = "Say wind.", **more: Any) -> dict[str, Any]:
    """A valid chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def raw_request(
    body: bytes, *lines: str, method: str = "POST", path: str = "/v1/chat/completions"
) -> bytes:
    """A request as bytes, with a length."""
    head = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    head += [f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


@contextmanager
def serving(simulator: SimulatorConfig | None = None, **settings: Any) -> Iterator[Served]:
    """Run the pair with these settings of `Config`."""
    ready: queue.SimpleQueue[Served | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(ready, stop, simulator or SimulatorConfig(), settings), daemon=True
    )
    thread.start()
    started = ready.get(timeout=WAIT_S)
    if isinstance(started, BaseException):
        raise started
    try:
        yield started
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def _run(
    ready: "queue.SimpleQueue[Served | BaseException]",
    stop: threading.Event,
    simulator: SimulatorConfig,
    settings: dict[str, Any],
) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(ready, stop, simulator, settings))
    except BaseException as error:
        ready.put(error)
        raise


async def _serve(
    ready: "queue.SimpleQueue[Served | BaseException]",
    stop: threading.Event,
    simulator: SimulatorConfig,
    settings: dict[str, Any],
) -> None:
    sim = Simulator(simulator)
    await sim.start()
    config = config_for(sim.url, **settings)
    metrics, seen = Metrics(), Seen()
    engine = await open_engine(config, (metrics, RequestLog(), seen))
    limits = ServerLimits(
        head_timeout_s=config.limits.head_timeout_s,
        connections_max=config.limits.connections_max,
        body_timeout_s=config.limits.body_timeout_s,
    )
    reload = Reload(engine, SystemClock(), config, lambda: config)
    app = Gateway(engine, config, metrics, reload=reload)
    server = make_server(app, host="127.0.0.1", port=0, limits=limits)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    task = asyncio.ensure_future(server.serve())
    while not server.started and not task.done():
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    ready.put(Served(port, sim, engine, app, seen, asyncio.get_running_loop(), config, stop.set))
    while not stop.is_set() and not task.done():
        await asyncio.sleep(0.02)
    server.should_exit = True
    server.force_exit = True
    await task
    await engine.aclose()
    await sim.stop()


def config_for(
    sim_url: str,
    provider_key: str = "simulated",
    abort_billing: Literal["stop", "run_to_end"] = "stop",
    **settings: Any,
) -> Config:
    paths = {"mistral": "v1", "openai": "openai/v1", "anthropic": "anthropic/v1"}
    config = Config(
        data_dir=IN_MEMORY,
        providers={
            name: ProviderConfig(
                api_base=f"{sim_url}/{path}", api_key=provider_key, abort_billing=abort_billing
            )
            for name, path in paths.items()
        },
        limits=LimitsConfig(body_bytes_max=256 * 1024),
        retry=ONE_TRY,
    )
    return msgspec.structs.replace(config, **settings)
