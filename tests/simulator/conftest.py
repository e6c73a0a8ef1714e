"""A simulator per test, and a client that speaks to it in plain bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from windvane.simulator import Simulator, SimulatorConfig

TIMEOUT_S = 60
"""Far more than it takes; what does not come would not in an hour."""


@dataclass
class Said:
    """What came back over one connection, until it was closed or the body was whole."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes = b""
    was_reset: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]

    @property
    def text(self) -> str:
        """The text of a chat answer, streamed or not."""
        if not self.body.startswith(b"data: "):
            return str(self.json["choices"][0]["message"]["content"])
        deltas = [c["delta"] for e in self.events for c in e["choices"] if c["index"] == 0]
        return "".join(d["content"] for d in deltas if isinstance(d.get("content"), str))


Start = Callable[..., Awaitable[Simulator]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start simulators with the given settings; all are stopped after the test."""
    running: list[Simulator] = []

    async def start_one(**settings: Any) -> Simulator:
        simulator = Simulator(SimulatorConfig(**settings))
        await simulator.start()
        running.append(simulator)
        return simulator

    yield start_one
    for simulator in running:
        await simulator.stop()


async def until(happened: Callable[[], Any]) -> None:
    """Wait for what the simulator does by itself, and tells nobody."""
    async with asyncio.timeout(TIMEOUT_S):
        while not happened():
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def ask() -> Callable[..., Awaitable[Said]]:
    """Send one request on a connection of its own and read the answer to its end."""
    return send


async def send(
    simulator: Simulator,
    body: Any = None,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    key: str | None = "test-key",
    headers: tuple[tuple[str, str], ...] = (),
    leave_after: int | None = None,
    leave_when: Callable[[], Any] | None = None,
    quiet_s: float | None = None,
) -> Said:
    """Send one request, and read to the end, or leave before it.

    The caller leaves after so many bytes, when something has happened, or when nothing has come for so
    long since the simulator had the request.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
    lines = [f"{method} {path} HTTP/1.1", "host: simulator", f"content-length: {len(data)}"]
    lines += ["connection: close", "content-type: application/json"]
    lines += [f"authorization: Bearer {key}"] if key else []
    lines += [f"{name}: {value}" for name, value in headers]
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    had = len(simulator.tape)
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    if quiet_s is not None:
        await until(lambda: len(simulator.tape) > had)
    said = Said()
    try:
        if leave_when is not None:
            await until(leave_when)
            leave_after = 0
        while leave_after is None or len(said.raw) < leave_after:
            reading = asyncio.ensure_future(reader.read(65536))
            if not (await asyncio.wait((reading,), timeout=quiet_s or TIMEOUT_S))[0]:
                reading.cancel()
                break
            if not (piece := reading.result()):
                break
            said.raw += piece
    except ConnectionError:
        said.was_reset = True
    writer.transport.abort()
    _parse(said)
    return said


def _parse(said: Said) -> None:
    head, _, body = said.raw.partition(b"\r\n\r\n")
    if not head:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    said.status = int(first.split()[1])
    said.headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
    said.body = _dechunked(body) if said.header("transfer-encoding") == "chunked" else body


def _dechunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole += rest[:length]
        body = rest[length + 2 :]
        if not length:
            break
    return whole


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A chat request body with one user message."""
    return {
        "model": "mistral-small-latest",
        "messages": [{"role": "user", "content": text}],
        **more,
    }


@pytest.fixture(name="chat")
def chat_fixture() -> Callable[..., dict[str, Any]]:
    """Make a chat body."""
    return chat
