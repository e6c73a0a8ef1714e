"""A gateway and a simulated provider on real sockets, in a thread of their own, for a whole run.

The tests' clients are the vendors' own, unchanged; the simulator beside the gateway can be asked
what it was sent and what it billed. After each test nothing may have been sent that a provider
refuses, unless the test asked for the refusal by word.
"""

import asyncio
import gc
import json
import queue
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest
import uvloop
from mistralai.client import Mistral

from windvane.assembly import IN_MEMORY, open_engine
from windvane.config import Config
from windvane.config.schema import AuthConfig, KeyConfig, LimitsConfig, ProviderConfig
from windvane.core.events import ExchangeEnded
from windvane.core.retry import RetryPolicy
from windvane.engine.engine import Engine
from windvane.gateway.app import Gateway
from windvane.gateway.server import ServerLimits, make_server, serve_until_stopped
from windvane.ports.observer import EVERYTHING, Observer
from windvane.simulator import Simulator, SimulatorConfig
from windvane.telemetry.metrics import Metrics

KEY = "sk-surface-tests"
WAIT_S = 30.0
BODY_BYTES_MAX = 1024 * 1024
RETRY = RetryPolicy(
    attempts_max=3,
    attempts_per_deployment_max=2,
    backoff_base_s=0.001,
    backoff_max_s=0.01,
    wait_max_s=0.05,
)
"""Two quick tries at one model. A longer wait than `wait_max_s` is the caller's to make."""
REFUSED = (400, 422)
TLS = ssl.create_default_context()
"""Shared, for speed: each SDK would read the certificates anew for every client."""


class Ended(Observer):
    """An observer: the exchanges that are over, in order."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[ExchangeEnded] = queue.SimpleQueue()

    def on(self, event: object) -> None:
        if isinstance(event, ExchangeEnded):
            self._ended.put(event)

    def next(self) -> ExchangeEnded:
        """The next exchange's end. Raises queue.Empty when there is none in time."""
        return self._ended.get(timeout=WAIT_S)

    def forget(self) -> None:
        while not self._ended.empty():
            self._ended.get_nowait()


@dataclass
class Surface:
    """The running pair, and what may be asked of it."""

    url: str
    sim: Simulator
    engine: Engine
    metrics: Metrics
    ended: Ended
    key: str = KEY
    body_bytes_max: int = BODY_BYTES_MAX
    _seen: int = field(default=0)

    def sent(self) -> list[dict[str, Any]]:
        """The chat bodies the providers were sent during this test, oldest first."""
        return [json.loads(entry.body) for entry in self.sim.tape[self._seen :]]

    def refusals(self) -> list[tuple[str, int | None, bytes]]:
        """What the providers refused during this test although no word asked for it."""
        return [
            (entry.target, entry.status, entry.body)
            for entry in self.sim.tape[self._seen :]
            if entry.status in REFUSED and not entry.faults
        ]

    def begin_test(self) -> None:
        self._seen = len(self.sim.tape)
        self.ended.forget()
        # A refusal that one test provoked must not make the next one wait.
        self.engine.room.forget()

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for what the simulator notes on its own thread and tells nobody."""
        end = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.002)


@pytest.fixture(scope="session")
def surface() -> Iterator[Surface]:
    """Gateway and simulator, running until the last test is over."""
    before = gc.get_threshold()
    ready: queue.SimpleQueue[Surface | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(ready, stop), name="surface", daemon=True)
    thread.start()
    started = ready.get(timeout=WAIT_S)
    if isinstance(started, BaseException):
        raise started
    try:
        yield started
        assert started.sim.violations == []
    finally:
        stop.set()
        thread.join(WAIT_S)
        gc.unfreeze()
        gc.set_threshold(*before)
    assert not thread.is_alive()


def _run(ready: "queue.SimpleQueue[Surface | BaseException]", stop: threading.Event) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(ready, stop))
    except BaseException as error:
        ready.put(error)
        raise


async def _serve(ready: "queue.SimpleQueue[Surface]", stop: threading.Event) -> None:
    sim = Simulator(SimulatorConfig())
    await sim.start()
    config = config_for(sim.url)
    metrics, ended = Metrics(), Ended()
    engine = await open_engine(config, (metrics, ended))
    limits = ServerLimits(
        head_timeout_s=config.limits.head_timeout_s,
        connections_max=config.limits.connections_max,
    )
    server = make_server(Gateway(engine, config, metrics), host="127.0.0.1", port=0, limits=limits)

    def announce(url: str) -> None:
        ready.put(Surface(url, sim, engine, metrics, ended))

    async def stop_when_told() -> None:
        await asyncio.to_thread(stop.wait)
        server.should_exit = True

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stop_when_told())
            await serve_until_stopped(server, announce)
    finally:
        await engine.aclose()
        await sim.stop()


def config_for(sim_url: str) -> Config:
    return Config(
        data_dir=IN_MEMORY,
        providers={
            "mistral": ProviderConfig(api_base=f"{sim_url}/v1", api_key="simulated"),
            "openai": ProviderConfig(api_base=f"{sim_url}/openai/v1", api_key="simulated"),
        },
        auth=AuthConfig(keys=(KeyConfig(key=KEY, name="surface"),)),
        limits=LimitsConfig(body_bytes_max=BODY_BYTES_MAX),
        retry=RETRY,
    )


@pytest.fixture(autouse=True)
def nothing_is_sent_to_be_refused(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test that talks to the gateway also tests what the gateway sends on."""
    if "surface" not in request.fixturenames:
        yield
        return
    running: Surface = request.getfixturevalue("surface")
    running.begin_test()
    yield
    assert running.refusals() == []
    assert running.sim.violations == []


class OpenAICaller:
    """The OpenAI SDK in one of its two manners, behind one set of verbs."""

    def __init__(self, surface: Surface, is_async: bool, **options: Any) -> None:
        options = {"api_key": surface.key, "max_retries": 0, **options}
        if is_async:
            options["http_client"] = openai.DefaultAsyncHttpxClient(verify=TLS)
            self.client: Any = openai.AsyncOpenAI(base_url=f"{surface.url}/v1", **options)
        else:
            options["http_client"] = openai.DefaultHttpxClient(verify=TLS)
            self.client = openai.OpenAI(base_url=f"{surface.url}/v1", **options)
        self.is_async = is_async

    async def create(self, **asked: Any) -> Any:
        return await self._settled(self.client.chat.completions.create(**asked))

    async def parse(self, **asked: Any) -> Any:
        return await self._settled(self.client.chat.completions.parse(**asked))

    async def stream(self, **asked: Any) -> list[Any]:
        chunks = await self.create(stream=True, **asked)
        return [chunk async for chunk in chunks] if self.is_async else list(chunks)

    async def helper(self, **asked: Any) -> tuple[list[Any], Any]:
        """The SDK's own stream accumulator: its events, and the completion it makes of them."""
        if self.is_async:
            async with self.client.chat.completions.stream(**asked) as stream:
                return [event async for event in stream], await stream.get_final_completion()
        with self.client.chat.completions.stream(**asked) as stream:
            return list(stream), stream.get_final_completion()

    async def models(self) -> list[Any]:
        found = self.client.models.list()
        return [model async for model in found] if self.is_async else list(found)

    async def model(self, name: str) -> Any:
        return await self._settled(self.client.models.retrieve(name))

    async def _settled(self, value: Any) -> Any:
        return await value if self.is_async else value

    async def close(self) -> None:
        await self._settled(self.client.close())


class MistralCaller:
    """The Mistral SDK in one of its two manners, behind one set of verbs."""

    def __init__(self, surface: Surface, is_async: bool, **options: Any) -> None:
        self._sync = httpx2.Client(verify=TLS, follow_redirects=True)
        self._async = httpx2.AsyncClient(verify=TLS, follow_redirects=True)
        self.client: Any = Mistral(
            server_url=surface.url,
            api_key=surface.key,
            client=self._sync,
            async_client=self._async,
            **options,
        )
        self.is_async = is_async

    async def complete(self, **asked: Any) -> Any:
        if self.is_async:
            return await self.client.chat.complete_async(**asked)
        return self.client.chat.complete(**asked)

    async def parse(self, form: type, **asked: Any) -> Any:
        if self.is_async:
            return await self.client.chat.parse_async(form, **asked)
        return self.client.chat.parse(form, **asked)

    async def stream(self, **asked: Any) -> list[Any]:
        if self.is_async:
            async with await self.client.chat.stream_async(**asked) as events:
                return [event.data async for event in events]
        with self.client.chat.stream(**asked) as events:
            return [event.data for event in events]

    async def models(self) -> list[Any]:
        if self.is_async:
            return list((await self.client.models.list_async()).data)
        return list(self.client.models.list().data)

    async def model(self, name: str) -> Any:
        if self.is_async:
            return await self.client.models.retrieve_async(model_id=name)
        return self.client.models.retrieve(model_id=name)

    async def close(self) -> None:
        self._sync.close()
        await self._async.aclose()


@pytest.fixture(params=["sync", "async"])
async def openai_caller(
    surface: Surface, request: pytest.FixtureRequest
) -> AsyncIterator[OpenAICaller]:
    caller = OpenAICaller(surface, request.param == "async")
    yield caller
    await caller.close()


@pytest.fixture(params=["sync", "async"])
async def mistral_caller(
    surface: Surface, request: pytest.FixtureRequest
) -> AsyncIterator[MistralCaller]:
    caller = MistralCaller(surface, request.param == "async")
    yield caller
    await caller.close()
