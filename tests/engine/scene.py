"""A scene for what the cache does: an engine that has one, a provider that echoes, and callers.

The provider says the question back, with the number of its call: `"why #1"`. So an answer tells which
question it was given to, and by which call. A stream says it in three pieces: `why`, ` #1`, and its end.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from windvane.client.mistral import _Counts
from windvane.config.schema import CacheConfig, Config
from windvane.core.chat import Chunk, Completion
from windvane.core.events import ExchangeEnded
from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import Fault, WindvaneError
from windvane.core.ledger import LedgerEntry
from windvane.core.usage_report import UsageQuery
from windvane.ports.stores import FlightLeases
from windvane.telemetry.metrics import Metrics
from windvane.testing import Call, Stage, run_virtual
from windvane.testing.answers import (
    DONE,
    Ends,
    Piece,
    Script,
    chunk,
    completion,
    event_head,
    json_head,
)
from windvane.testing.stage import two_providers

HEAD_S, PIECE_S = 1.0, 0.5
WHOLE_S = HEAD_S + 3 * PIECE_S
"""When a stream of the echo ends; a whole answer comes after `HEAD_S`."""
COST = 9 * 150 + 2 * 600
"""Nine tokens of question and two of answer, asked of `small`."""
AT_ONCE_S = 1e-6

ScriptOf = Callable[[Call], Script]


def question_of(call: Call) -> str:
    messages: Any = call.body["messages"]
    return str(messages[-1]["content"])


def echo(call: Call, usage: tuple[int, int] | None = (9, 2), **more: Any) -> Script:
    """The usual answer."""
    call.input_tokens = 9
    words = [question_of(call), f" #{call.number}"]
    finish = more.get("finish", "stop")
    if not call.is_stream:
        body = completion("".join(words), usage, finish=finish)
        return [(HEAD_S, json_head()), (0, Piece(data=body, output_tokens=2)), (0, Ends())]
    pieces = [(PIECE_S, Piece(data=chunk(word), output_tokens=1)) for word in words]
    end = chunk(finish=finish, usage=usage)
    last = [(PIECE_S, Piece(data=end)), (0.0, Piece(data=DONE)), (0.0, Ends())]
    return [(HEAD_S, event_head()), *pieces, *last]


def says(**fields: Any) -> ScriptOf:
    """A whole answer whose message is made of `fields`; `finish`, `usage` and `delay_s` are its own."""
    finish, usage = fields.pop("finish", "stop"), fields.pop("usage", (9, 2))
    delay_s = fields.pop("delay_s", HEAD_S)

    def script(call: Call) -> Script:
        call.input_tokens = 9
        body = msgspec.json.decode(completion("", usage, finish=finish))
        body["choices"][0]["message"] = {"role": "assistant", "content": None, **fields}
        data = msgspec.json.encode(body)
        return [(delay_s, json_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]

    return script


def fails(code: int = 400, delay_s: float = HEAD_S) -> ScriptOf:
    return lambda _: [(delay_s, json_head(code)), (0, Piece(data=b"{}")), (0, Ends())]


class Got(msgspec.Struct, kw_only=True):
    """What a caller got, and when (seconds since the beginning)."""

    exchange: Exchange
    asked: str
    """The question: an exchange lets go of it when a stream has begun."""
    text: str = ""
    id: str = ""
    completion: Completion | None = None
    chunks: list[Chunk] = []
    heard: list[tuple[float, str]] = []
    usage: Any = None
    fault: Fault | None = None
    at_s: float = 0.0

    @property
    def how(self) -> str:
        return self.exchange.cache_status


class Scene:
    """The stage of one test. `scripts` are played one a call; when there are none, the echo is."""

    def __init__(
        self,
        *,
        config: Config | None = None,
        leases: FlightLeases | None = None,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        **cache: Any,
    ) -> None:
        rules = CacheConfig(**{"scope": "key", **cache})
        config = config or two_providers()
        config = msgspec.structs.replace(config, cache=rules, **(settings or {}))
        self.metrics, self.counts = Metrics(), _Counts()
        self.stage = Stage(
            config,
            seed=seed,
            on_connecting=self._asked,
            leases=leases,
            observers=(self.metrics, self.counts),
        )
        self.engine = self.stage.engine
        self.scripts: list[ScriptOf] = []
        self.asked: list[Exchange] = []
        self._loop = asyncio.get_running_loop()

    @property
    def calls(self) -> list[Call]:
        return self.stage.transport.calls

    @property
    def entries(self) -> list[LedgerEntry]:
        return list(self.stage.auditor.settlements.values())

    @property
    def kept(self) -> int:
        return len(self.stage.cache.kept)

    def ended(self, exchange: Exchange) -> ExchangeEnded:
        return self.stage.auditor.ended[exchange.id]

    def now_s(self) -> float:
        return round(self._loop.time(), 3)

    def _asked(self, call: Call) -> None:
        # A refresh in the background is nobody's request: this is where it is first seen.
        self.stage.auditor.begun(call.attempt_id.rpartition("-")[0])
        script = self.scripts.pop(0) if self.scripts else echo
        call.play(script(call))

    def accept(self, text: str, model: str = "auto", **fields: Any) -> Exchange:
        """`key`, `says` (its `Cache-Control`), `headers` and `dialect` are the caller's own."""
        key, said = fields.pop("key", None), fields.pop("says", None)
        headers, dialect = fields.pop("headers", {}), fields.pop("dialect", "openai")
        exchange = self.stage.accept(model, text, **fields)
        exchange.headers = dict(headers)
        if said is not None:
            exchange.headers[b"cache-control"] = said.encode()
        if key is not None:
            exchange.credentials = Credentials(bearer=key)
        exchange.dialect = dialect
        self.asked.append(exchange)
        return exchange

    async def ask(self, text: str, model: str = "auto", **fields: Any) -> Got:
        """A caller who listens to the end."""
        pause_s = fields.pop("pause_s", 0.0)
        return await self.listen(self.accept(text, model, **fields), pause_s)

    def start(self, text: str, model: str = "auto", **fields: Any) -> asyncio.Task[Got]:
        """The same, in a task; it has not begun when this returns."""
        return self._loop.create_task(self.ask(text, model, **fields))

    async def listen(self, exchange: Exchange, pause_s: float = 0.0) -> Got:
        got = Got(exchange=exchange, asked=str(exchange.request.messages[-1].content))
        try:
            answer = await self.engine.handle(exchange)
            if isinstance(answer, Completion):
                got.completion, got.id, got.usage = answer, answer.id, answer.usage
                got.text = answer.choices[0].message.content or ""
            else:
                try:
                    async for chunks in answer:
                        self.stage.auditor.delivered(exchange.id)
                        got.chunks += chunks
                        text = "".join(
                            piece.content or "" for each in chunks for piece in each.choices
                        )
                        got.heard.append((self.now_s(), text))
                        got.text += text
                        got.id = chunks[0].id
                        if pause_s:
                            await asyncio.sleep(pause_s)
                    got.usage = answer.usage
                finally:
                    await answer.aclose()
        except WindvaneError as error:
            got.fault = error.fault
        got.at_s = self.now_s()
        return got

    async def rest(self, seconds: float = AT_ONCE_S) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Hold everything to the auditor's rules, and see that nothing is left."""
        await asyncio.sleep(AT_ONCE_S)
        sharing = self.engine._sharing
        assert not sharing.flights.count, "a flight is left"
        await self.stage.close()
        assert not sharing.flights._flights
        assert not sharing._lookouts._waiting, "somebody looks still"
        assert not sharing._watch.dogs, "a watchdog was not stopped"
        assert not self.engine._dispatch.watch.dogs, "a watchdog was not stopped"
        await self._check_sums()

    async def _check_sums(self) -> None:
        """Each request that was let in is on the ledger, and all who count them count the same."""
        first = {entry.request_id: entry for entry in self.entries if entry.number == 1}
        lookups, refused = Counter[str](), 0
        for exchange in self.asked:
            event, entry = self.ended(exchange), first.get(exchange.id)
            if entry is None:
                assert event.fault is not None, f"{exchange.id} is not on the ledger"
                assert (event.attempts, event.counted_as) == (0, "bypass")
                refused += 1
            else:
                assert entry.cache_status == event.counted_as
                lookups[event.counted_as] += 1
        assert set(lookups) <= {"hit", "miss", "joined", "bypass"}
        (whole,) = await self.stage.ledger.usage(UsageQuery())
        sums = whole.totals
        assert not await self.stage.ledger.verify()
        on_ledger = {
            "hit": sums.cache_hits,
            "joined": sums.cache_joins,
            "miss": sums.cache_misses,
            "bypass": sums.cache_bypasses,
        }
        assert on_ledger == {name: lookups[name] for name in on_ledger}
        assert sum(on_ledger.values()) == sums.requests == len(self.asked) - refused
        told, stats = self.metrics.totals(), self.counts.stats()
        counted = Counter(self.metrics.cache_lookups())
        counted["bypass"] -= refused
        assert counted == Counter(on_ledger), "the metrics have other sums than the ledger"
        assert told["requests_total"] == stats["requests"] == len(self.asked)
        assert told["attempts_total"] == sums.attempts
        assert [stats[name] for name in ("cache_hits", "cache_joins", "cache_misses")] == [
            sums.cache_hits, sums.cache_joins, sums.cache_misses,
        ]  # fmt: skip
        assert stats["cache_bypasses"] == sums.cache_bypasses + refused
        assert told["saved_tokens_total"] == stats["saved_tokens"] == sums.saved_tokens
        assert told["saved_nano_usd_total"] == stats["saved_cost_nano_usd"] == sums.saved_nano_usd
        assert told["saved_seconds_total"] == stats["saved_seconds"] == sums.saved_us / 1e6


def plays(**settings: Any) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[], None]]:
    """A test that is played on a scene of its own, on virtual time."""

    def test_of(script: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            async def main() -> None:
                scene = Scene(**settings)
                await script(scene)
                await scene.close()

            run_virtual(main())

        test.__name__, test.__doc__ = script.__name__, script.__doc__
        test.__module__, test.__qualname__ = script.__module__, script.__qualname__
        return test

    return test_of


def outcomes(entries: list[LedgerEntry]) -> Iterator[tuple[str, int | None, int | None]]:
    for entry in entries:
        yield entry.outcome, entry.cost_nano_usd, entry.saved_nano_usd
