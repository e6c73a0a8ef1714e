"""Real processes, real sockets, and the auditor that holds the ledger against the bill.

A gateway here is `python -m windvane serve` in a process of its own, so that it can be killed; the
simulator beside it is the provider, and its bill the truth. The client is plain bytes over asyncio
streams: it must be able to leave in the middle.
"""

import asyncio
import ctypes
import json
import os
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from windvane.simulator import Simulator, SimulatorConfig

START_S = 60.0
"""Seconds a process may take to start: the machine may be busy."""
STOP_S = 90.0
CALL_S = 120.0
NANO_PER_USD = 1_000_000_000
ANSWERED = ("hit", "joined", "ok", "low_quality")
"""A poor answer stands when no stronger model gave a better one."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

_COST_AT_END = re.compile(rb'"cost_nano_usd":(\d+)')
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass
class Said:
    """What came back of one call, whole or not."""

    sent_at: float = 0.0
    left_at: float | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def is_acknowledged(self) -> bool:
        """The caller has its whole answer, and knows what it cost."""
        ended = b"data: [DONE]" in self.body if self.is_stream else True
        return self.is_whole and self.status == 200 and ended

    @property
    def cost_nano_usd(self) -> int:
        if self.is_stream:
            return int(_COST_AT_END.findall(self.body)[-1])
        return int(Decimal(self.headers["x-router-cost-usd"]) * NANO_PER_USD)


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A chat request with one user message."""
    message = {"role": "user", "content": text}
    return {"model": "mistral-small-latest", "messages": [message], **more}


async def call(
    port: int,
    body: dict[str, Any] | None,
    *,
    path: str = "/v1/chat/completions",
    headers: tuple[tuple[str, str], ...] = (),
    leave: asyncio.Event | None = None,
    leave_after_bytes: int | None = None,
    began: asyncio.Event | None = None,
    timeout_s: float = CALL_S,
) -> Said:
    """Send one request on a connection of its own and read to the end, or leave before it.

    `leave` makes the caller go when it is set, `leave_after_bytes` when so much has come. A
    connection that breaks is an answer that is not whole; an answer that never comes is an error.
    `began` is set when some of it has come.
    """
    data = json.dumps(body).encode() if body is not None else b""
    method = "GET" if body is None else "POST"
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "connection: close"]
    lines += ["content-type: application/json", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    said = Said(sent_at=time.time())
    raw = bytearray()
    writer: asyncio.StreamWriter | None = None
    leaving = asyncio.ensure_future(leave.wait()) if leave is not None else None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write("\r\n".join([*lines, "", ""]).encode() + data)
            while leave_after_bytes is None or len(raw) < leave_after_bytes:
                piece = await _read_or_leave(reader, leaving)
                if not piece:
                    break
                raw += piece
                if began is not None:
                    began.set()
    except ConnectionError:
        pass
    finally:
        if leaving is not None:
            leaving.cancel()
        if writer is not None:
            said.left_at = time.time()
            writer.transport.abort()
    _parse(said, bytes(raw))
    return said


async def _read_or_leave(
    reader: asyncio.StreamReader, leaving: "asyncio.Future[Any] | None"
) -> bytes:
    if leaving is None:
        return await reader.read(65_536)
    reading = asyncio.ensure_future(reader.read(65_536))
    await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
    if reading.done():
        return reading.result()
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    return b""


def _parse(said: Said, raw: bytes) -> None:
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    said.status = int(first.split()[1])
    said.headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
    }
    if said.headers.get("transfer-encoding") == "chunked":
        said.body, said.is_whole = _dechunk(body)
    else:
        said.body = body
        said.is_whole = len(body) == int(said.headers.get("content-length", "-1"))


def _dechunk(data: bytes) -> tuple[bytes, bool]:
    """The body so far, and whether its last chunk has come."""
    pieces, place = [], 0
    while (line_end := data.find(b"\r\n", place)) >= 0:
        size = int(data[place:line_end], 16)
        if size == 0:
            return b"".join(pieces), data.endswith(b"\r\n\r\n")
        pieces.append(data[line_end + 2 : line_end + 2 + size])
        place = line_end + 2 + size + 2
    return b"".join(pieces), False


class Child:
    """A windvane process of ours; ended by its own id, whatever happens."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """SIGKILL: nothing of the process runs after this."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def stop(self) -> None:
        """SIGTERM: it ends by itself, and in order."""
        self.tell(signal.SIGTERM)
        await self.ended()

    async def ended(self) -> None:
        """Wait until it has, well."""
        async with asyncio.timeout(STOP_S):
            assert await self._process.wait() == 0

    async def end(self) -> None:
        if self._process.returncode is None:
            await self.kill()

    @property
    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


async def start_child(arguments: list[str], environment: dict[str, str], log: Path) -> Child:
    """Start `python -m windvane ...` and wait until it says where it listens."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "windvane", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            preexec_fn=_die_with_parent,
        )
    try:
        async with asyncio.timeout(START_S):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
        found = _ADDRESS.search(line)
        assert found, f"it did not start: {line!r}; {log.read_text()[-2000:]}"
        return Child(process, int(found[1]))
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise


def _die_with_parent() -> None:
    """Have the kernel kill this child when the tests die: nobody else would."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class World:
    """One simulator address, and gateways in front of it that share one data folder."""

    def __init__(
        self, folder: Path, simulator_port: int, retry: dict[str, Any], **more: Any
    ) -> None:
        self.folder = folder
        self.simulator_port = simulator_port
        self.data = folder / "data"
        self.log = folder / "gateway.log"
        base = f"http://127.0.0.1:{simulator_port}"
        config = {
            "providers": {
                "mistral": {"api_base": f"{base}/v1"},
                "openai": {"api_base": f"{base}/openai/v1", "api_key": "simulated"},
            },
            "retry": retry,
            "log": {"level": "warning"},
            **more,
        }
        # JSON is YAML.
        (folder / "windvane.yaml").write_text(json.dumps(config))

    async def gateway(self) -> Child:
        return await start_child(
            ["serve", "--config", str(self.folder / "windvane.yaml"), "--port", "0"],
            {"MISTRAL_API_KEY": "simulated", "WINDVANE_DATA_DIR": str(self.data)},
            self.log,
        )

    def ledger(self) -> list[dict[str, Any]]:
        """All rows, read by a connection that cannot write."""
        connection = sqlite3.connect(f"file:{self.data / 'ledger.db'}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            return [dict(row) for row in connection.execute("SELECT * FROM ledger")]
        finally:
            connection.close()

    async def bill(self) -> list[dict[str, Any]]:
        said = await call(self.simulator_port, None, path="/_sim/bill")
        return list(json.loads(said.body)["rows"])

    async def quiet(self, timeout_s: float = 60.0) -> None:
        """Wait until the simulator has seen everybody leave but the one who asks."""
        async with asyncio.timeout(timeout_s):
            while True:
                said = await call(self.simulator_port, None, path="/_sim/stats")
                if json.loads(said.body)["open_connections"] <= 1:
                    return
                await asyncio.sleep(0.01)


def audit(
    ledger: list[dict[str, Any]], bill: list[dict[str, Any]], acknowledged: dict[str, int]
) -> list[str]:
    """Everything that is wrong with `ledger`, held against the provider's own `bill`."""
    wrong = []
    rows = {row["attempt_id"]: row for row in ledger}
    by_request: dict[str, list[dict[str, Any]]] = {}
    for row in ledger:
        by_request.setdefault(row["request_id"], []).append(row)
    if len(rows) != len(ledger):
        wrong.append("an attempt is on the ledger twice")
    charges = Counter(row["attempt"] for row in bill if row["nano_usd"])
    wrong += [
        f"{attempt} was billed {times} times" for attempt, times in charges.items() if times > 1
    ]
    for billed in bill:
        row = rows.get(billed["attempt"])
        if row is None:
            wrong.append(f"{billed['attempt']} was billed and is not on the ledger: {billed}")
        elif row["certainty"] == "exact" and row["cost_nano_usd"] != billed["nano_usd"]:
            wrong.append(f"exact, and not the bill: {row} {billed}")
        elif row["cost_nano_usd"] < billed["nano_usd"]:
            wrong.append(f"{row['certainty']}, and below the bill: {row} {billed}")
    for request_id, cost in acknowledged.items():
        of_request = by_request.get(request_id, [])
        if sum(row["cost_nano_usd"] for row in of_request) != cost:
            wrong.append(f"{request_id} was answered at {cost}; the ledger has {of_request}")
        if of_request and not any(row["outcome"] in ANSWERED for row in of_request):
            wrong.append(f"{request_id} was answered and no attempt is: {of_request}")
    for request_id, of_request in by_request.items():
        numbers = sorted(row["number"] for row in of_request)
        if numbers != list(range(1, len(numbers) + 1)):
            wrong.append(f"{request_id} has attempts {numbers}")
    spent = sum(row["cost_nano_usd"] for row in ledger)
    charged = sum(row["nano_usd"] for row in bill)
    if spent < charged:
        wrong.append(f"the ledger has {spent}, the provider charges {charged}")
    return wrong


@pytest.fixture(name="chat")
def chat_fixture() -> Callable[..., dict[str, Any]]:
    return chat


@pytest.fixture(name="call")
def call_fixture() -> Callable[..., Any]:
    return call


@pytest.fixture(name="audit")
def audit_fixture() -> Callable[..., list[str]]:
    return audit


WorldMaker = Callable[..., Any]


@pytest.fixture
def world(tmp_path: Path) -> WorldMaker:
    """`async with world(name, ttft_ms=.., tokens_per_s=..)`: a simulator process and its gateways.

    With `simulator`, one already running in this process is the provider instead. `config` is more of
    the gateway's configuration.
    """

    @asynccontextmanager
    async def make(
        name: str = "world",
        *,
        simulator: Simulator | None = None,
        retry: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **settings: float,
    ) -> AsyncIterator[World]:
        folder = tmp_path / name
        folder.mkdir()
        async with AsyncExitStack() as stack:
            if simulator is None:
                arguments = ["simulator", "--port", "0"]
                for option, value in settings.items():
                    arguments += [f"--{option.replace('_', '-')}", str(value)]
                child = await start_child(arguments, {}, folder / "simulator.log")
                stack.push_async_callback(child.end)
                port = child.port
            else:
                port = simulator.port
            yield World(folder, port, retry or {"backoff_base_s": 0.01}, **(config or {}))

    return make


@pytest.fixture
async def children() -> AsyncIterator[AsyncExitStack]:
    """A stack that ends what is pushed on it."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def simulate() -> AsyncIterator[Callable[..., Any]]:
    """Start simulators in this process, whose tape can be read; stopped after the test."""
    running: list[Simulator] = []

    async def start(**settings: Any) -> Simulator:
        simulator = Simulator(SimulatorConfig(**settings))
        await simulator.start()
        running.append(simulator)
        return simulator

    yield start
    for simulator in running:
        await simulator.stop()
