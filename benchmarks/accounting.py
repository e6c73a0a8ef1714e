"""What it costs to know who asks, to hold limits and money, and to write both down.

Auth, limits, hold, journal and settling have no switch: every request goes through them. So two
gateways stand in one process, one whole and one with these steps taken out, and answer the same calls in
turn. Their sockets are not real, which keeps the kernel's part, the same for both, out of a small
difference. CPU is that of the thread that serves; the ledger is written by another, a quarter of a second
later and in groups, and what that takes of a call is told beside it.

The driver runs it as a process of its own: ``python -m benchmarks.accounting``. Whatever else a machine
does can only add to a round, so the best of many rounds is taken of each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import uvicorn
import uvloop
from uvicorn.server import ServerState

from benchmarks import contenders, payloads
from benchmarks.upstream import write_answers
from windvane import assembly
from windvane.config import load_config
from windvane.core.chat import Completion
from windvane.core.deployment import Deployment
from windvane.core.exchange import Attempt, AttemptState, Exchange
from windvane.core.ledger import OK, LedgerEntry
from windvane.core.limits import RateLease
from windvane.core.money import ZERO
from windvane.core.principal import Principal, scope
from windvane.core.routing.decision import Candidate
from windvane.core.usage import Certainty
from windvane.engine import engine
from windvane.engine.admission import Admission
from windvane.engine.bounding import Bound
from windvane.engine.settlement import Settlement
from windvane.gateway.app import Gateway
from windvane.gateway.memory import settle_memory
from windvane.gateway.server import GuardedProtocol, ServerLimits, make_server
from windvane.stores.sqlite.ledger import GROUP_S
from windvane.telemetry.logs import RequestLog
from windvane.telemetry.metrics import Metrics

TIMEOUT_S = 120
CONNECTIONS = 8
WARM_UP_CALLS = 600
ROUNDS = 8
CALLS = 200
"""In a round."""
NOWHERE = 9
"""A port nobody listens on: nothing is sent to it."""
WRITER_S = GROUP_S + 0.1
"""Until the thread that writes the ledger has caught up."""


@dataclass(frozen=True, slots=True)
class Share:
    """CPU of a call in microseconds, as the best round had it: of the whole gateway, of the other, and of
    the thread that writes the whole one's ledger."""

    whole_us: float
    without_us: float
    ledger_us: float

    @property
    def added_us(self) -> float:
        """What the steps cost that one of them does not have."""
        return self.whole_us - self.without_us


def measure() -> Share:
    """Measure in a fresh interpreter."""
    printed = contenders.run_python("-m", "benchmarks.accounting", timeout_s=TIMEOUT_S)
    return Share(**json.loads(printed))


class _NobodyAsked:
    """A keyring with one caller, whatever is shown."""

    is_empty = False

    def __init__(self, **_: object) -> None:
        self._caller = Principal(key_id="somebody")

    def digest_of(self, bearer: str) -> bytes:
        return b""

    def find(self, bearer: str, digest: bytes) -> Principal:
        return self._caller

    def made_of(self, digest: bytes) -> None:
        return None


class _NoAdmission(Admission):
    """Takes nothing of any rate."""

    def gate(self, exchange: Exchange) -> None:
        pass

    def take_tokens(self, exchange: Exchange, now_us: int | None = None) -> None:
        pass

    def take_for_attempt(self, exchange: Exchange, model: str, tokens: int) -> RateLease | None:
        return None

    def end(self, exchange: Exchange) -> None:
        pass


BOUND_TO_NOTHING = Bound(
    hold_nano_usd=ZERO, scopes=(scope("model", "none"),), at_us=0, price=None, resolved_model=""
)


def _bound_to_nothing(exchange: Exchange, deployment: Deployment) -> Bound:
    del exchange, deployment
    return BOUND_TO_NOTHING


class _NoSettlement(Settlement):
    """Holds nothing, writes nothing down, and works out no price."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.bound = _bound_to_nothing

    def reserve(
        self, exchange: Exchange, candidate: Candidate, bound: Bound, lease: RateLease | None = None
    ) -> Attempt:
        attempt = Attempt(
            id="", number=1, deployment=candidate.deployment, hold=NOTHING_HELD, started_s=0.0
        )
        exchange.attempts = [attempt]
        return attempt

    def settle_answered(
        self, exchange: Exchange, attempt: Attempt, answer: Completion, outcome: str = OK
    ) -> None:
        attempt.become(AttemptState.SETTLED)
        attempt.usage = answer.usage


NOTHING_HELD = LedgerEntry(
    "", "", 1, 0, "", None, (), None, "", "", "", "", "", "", False, Certainty.EXACT, ZERO, ZERO, OK
)
TAKEN_OUT = (
    mock.patch.object(assembly, "Keyring", _NobodyAsked),
    mock.patch.object(engine, "Admission", _NoAdmission),
    mock.patch.object(engine, "Settlement", _NoSettlement),
)


class _Wire(asyncio.Transport):
    """One end of a connection that is not there."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._protocol: asyncio.BaseProtocol | None = None

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _Provider(_Wire):
    """Answers all that is written to it with the same words."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer = answer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        protocol = cast("asyncio.Protocol", self.get_protocol())
        asyncio.get_running_loop().call_soon(protocol.data_received, self._answer)


class _Caller(_Wire):
    """Sends its next call when the one before is answered, until all are."""

    def __init__(self, load: _Load) -> None:
        super().__init__()
        self._load = load

    def ask(self) -> None:
        call = self._load.next_call()
        if call is not None:
            cast("asyncio.Protocol", self.get_protocol()).data_received(call)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not bytes(data[:12]) == b"HTTP/1.1 200":
            raise RuntimeError(f"not answered: {bytes(data)!r}")
        self._load.count_answer()
        asyncio.get_running_loop().call_soon(self.ask)


class _Load:
    """Callers beside one another, who share out a number of calls."""

    def __init__(self, request: payloads.Request) -> None:
        self._request = request
        self._number = payloads.first_number()
        self._unsent = self._unanswered = 0
        self._done: asyncio.Future[None] | None = None
        self.callers = [_Caller(self) for _ in range(CONNECTIONS)]

    async def run(self, calls: int) -> None:
        self._unsent = self._unanswered = calls
        self._done = asyncio.get_running_loop().create_future()
        for caller in self.callers:
            caller.ask()
        await self._done

    def next_call(self) -> bytes | None:
        if not self._unsent:
            return None
        self._unsent -= 1
        self._number += 1
        return self._request.numbered(self._number)

    def count_answer(self) -> None:
        self._unanswered -= 1
        if not self._unanswered and self._done is not None:
            self._done.set_result(None)


class _Loop(uvloop.Loop):
    """A loop whose connections to providers are not there."""

    answer = write_answers().completion

    async def create_connection(self, protocol_factory, *_, **__):  # type: ignore[no-untyped-def]
        protocol, provider = protocol_factory(), _Provider(self.answer)
        provider.set_protocol(protocol)
        protocol.connection_made(provider)
        return provider, protocol


async def _gateway(folder: Path) -> tuple[engine.Engine, _Load]:
    """A gateway as it is served, and callers connected to it."""
    folder.mkdir()
    configuration = folder / "windvane.yaml"
    configuration.write_text(
        f"providers:\n  mistral:\n    api_base: http://127.0.0.1:{NOWHERE}/v1\n"
        + contenders.LIMITS % {"key": contenders.KEY}
    )
    said = {
        "MISTRAL_API_KEY": "bench",
        "WINDVANE_CONFIG": str(configuration),
        "WINDVANE_DATA_DIR": str(folder / "data"),
    }
    config, metrics = load_config(said, None), Metrics()
    opened = await assembly.open_engine(config, (metrics, RequestLog()))
    limits = ServerLimits(
        head_timeout_s=10.0, connections_max=100, new_request_id=opened.new_request_id
    )
    server = make_server(Gateway(opened, config, metrics), host="", port=0, limits=limits)
    load = _Load(
        payloads.chat(
            body_bytes=payloads.SMALL_BYTES, is_stream=False, headers=contenders.BEARER, port=8000
        )
    )
    for caller in load.callers:
        _connect(caller, server.config)
    return opened, load


def _connect(caller: _Caller, config: uvicorn.Config) -> None:
    if not config.loaded:
        config.load()
    made = cast("type[GuardedProtocol]", config.http_protocol_class)
    protocol = made(config, ServerState(), {}, asyncio.get_running_loop())
    caller.set_protocol(protocol)
    protocol.connection_made(caller)


async def _take_turns(folder: Path) -> Share:
    whole, whole_load = await _gateway(folder / "whole")
    with TAKEN_OUT[0], TAKEN_OUT[1], TAKEN_OUT[2]:
        without, without_load = await _gateway(folder / "without")
    for load in (whole_load, without_load):
        await load.run(WARM_UP_CALLS)
    settle_memory()
    rounds = [(await _cpu_us(whole_load), await _cpu_us(without_load)) for _ in range(ROUNDS)]
    await whole.aclose()
    await without.aclose()
    return Share(
        min(serving for (serving, _), _ in rounds),
        min(serving for _, (serving, _) in rounds),
        min(others for (_, others), _ in rounds),
    )


async def _cpu_us(load: _Load) -> tuple[float, float]:
    """Of a call: of the thread that serves, and of the others."""
    begun_s, serving_begun_s = time.process_time(), time.thread_time()
    await load.run(CALLS)
    await asyncio.sleep(WRITER_S)
    serving_s = time.thread_time() - serving_begun_s
    others_s = time.process_time() - begun_s - serving_s
    return serving_s / CALLS * 1e6, others_s / CALLS * 1e6


def main() -> int:
    """Measure, and print as JSON."""
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=_Loop) as runner,
    ):
        share = runner.run(_take_turns(Path(folder)))
    print(json.dumps(asdict(share)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
