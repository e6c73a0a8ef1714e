"""Scenarios that read as a script: `>>` what happens, `<<` what must follow.

    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> status(429, retry_after=2)
        << Settled("exact", "rate_limited", cost=0)
        << Slept(2.0)
        << Sent("one/small")
        >> answer("Hello")
        << Settled("exact", "ok")
        << Said("Hello")
    ).run()

All that follows must be written down, in order; only a provider's connection closing early (`HungUp`)
may be left out. Virtual time passes while an expectation waits. At the end the auditor checks the
books, and nobody may still be waiting. The idea is mitmproxy's `Playbook`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from windvane.config.schema import Config
from windvane.core.chat import Completion
from windvane.core.events import AttemptSettled, BudgetReached, Event, HoldExceeded
from windvane.core.exchange import Exchange
from windvane.core.faults import WindvaneError
from windvane.ports.observer import EVERYTHING, Observer
from windvane.testing import answers
from windvane.testing.answers import Part
from windvane.testing.loop import Deadlock, run_virtual
from windvane.testing.stage import Stage
from windvane.testing.upstream import Call

AT_ONCE_S = 1e-6
"""Long enough on virtual time for all that is ready to run."""
PRECISION_S = 0.03
"""Deadlines may be late by a little; see `engine.watchdog`."""
INPUT_TOKENS = 9


class Fact(msgspec.Struct, frozen=True):
    """Something that followed. A field left out is a field that does not matter."""

    def is_met_by(self, other: "Fact") -> bool:
        if type(self) is not type(other):
            return False
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return all(wanted is UNSET or wanted == found for wanted, found in pairs)


class Connecting(Fact, frozen=True):
    """A connection to a deployment is being made; see `slow_network`."""

    deployment: str


class Sent(Fact, frozen=True):
    """A request reached a deployment."""

    deployment: str


class HungUp(Fact, frozen=True):
    """A deployment's connection was closed before its answer was whole."""

    deployment: str


class Settled(Fact, frozen=True):
    certainty: str
    outcome: str
    cost: int | UnsetType | None = UNSET
    output_tokens: int | UnsetType = UNSET


class Said(Fact, frozen=True):
    """The caller was given words: a whole answer's, or those of one read of a stream."""

    text: str


class Finished(Fact, frozen=True):
    """The caller's stream came to its good end."""


class Failed(Fact, frozen=True):
    """The caller was told of a fault."""

    kind: str
    status: int | UnsetType = UNSET


class Left(Fact, frozen=True):
    """The caller went away, and the engine let it go."""


class Reached(Fact, frozen=True):
    """Observers were told that a budget has reached a share of its limit, in thousandths."""

    scope: str
    permille: int


class Breached(Fact, frozen=True):
    """Observers were told that a provider billed more than was held."""


class Slept(msgspec.Struct, frozen=True):
    """Nothing happened for so long, or for as long as lies between the two."""

    least_s: float
    most_s: float | None = None


class Happening(msgspec.Struct, frozen=True):
    """What happens, and how to say it."""

    text: str
    act: "Callable[[Play], Awaitable[None]]"


class Play(Observer):
    """One run of a playbook: the stage, the callers, and the facts as they come."""

    hears = EVERYTHING

    def __init__(self, config: Config | None) -> None:
        self.stage = Stage(
            config,
            on_sent=self._sent,
            on_closed=self._closed,
            on_connecting=self._connecting,
            observers=(self,),
        )
        self.connects_at_once = True
        self.callers: list[asyncio.Task[None]] = []
        self.facts: asyncio.Queue[tuple[float, Fact]] = asyncio.Queue()
        self.exchanges: list[Exchange] = []
        self._loop = asyncio.get_running_loop()
        self._first: tuple[float, Fact] | None = None
        self._last_s = 0.0

    def _tell(self, fact: Fact) -> None:
        self.facts.put_nowait((self._loop.time(), fact))

    def _connecting(self, call: Call) -> None:
        if not self.connects_at_once:
            call.is_connecting = True
            self._tell(Connecting(call.deployment))

    def _sent(self, call: Call) -> None:
        call.input_tokens = INPUT_TOKENS
        self._tell(Sent(call.deployment))

    def _closed(self, call: Call) -> None:
        if not call.is_whole:
            self._tell(HungUp(call.deployment))

    def on(self, event: Event) -> None:
        match event:
            case AttemptSettled(entry=entry):
                cost, tokens = entry.cost_nano_usd, entry.output_tokens
                self._tell(Settled(entry.certainty, entry.outcome, cost, tokens))
            case BudgetReached():
                self._tell(Reached(event.standing.scope, event.permille))
            case HoldExceeded():
                self._tell(Breached())

    async def call_in(self, exchange: Exchange) -> None:
        """A caller: asks, listens to the end, and tells what it got."""
        try:
            answer = await self.stage.engine.handle(exchange)
            if isinstance(answer, Completion):
                self._tell(Said(answer.choices[0].message.content or ""))
                return
            try:
                async for chunks in answer:
                    self.stage.auditor.delivered(exchange.id)
                    pieces = [piece for chunk in chunks for piece in chunk.choices]
                    if text := "".join(piece.content or "" for piece in pieces):
                        self._tell(Said(text))
            finally:
                await answer.aclose()
            self._tell(Finished())
        except WindvaneError as error:
            self._tell(Failed(error.fault.kind, error.fault.status))
        except asyncio.CancelledError:
            self._tell(Left())

    def play(self, *parts: Part, at: str | None = None) -> None:
        """Let the newest open call (of the deployment `at`) get `parts` for an answer."""
        calls = [call for call in self.stage.transport.open_calls if at in (None, call.deployment)]
        assert calls, "no provider is being asked"
        is_of_connecting = isinstance(parts[0], answers.Connects | answers.Refuses)
        how = "is" if calls[-1].is_connecting else "is not"
        assert calls[-1].is_connecting == is_of_connecting, f"a connection {how} still being made"
        calls[-1].play([(0.0, part) for part in parts])

    async def happen(self, happening: Happening) -> None:
        await happening.act(self)
        await asyncio.sleep(AT_ONCE_S)
        self._last_s = self._loop.time()

    async def expect(self, wanted: Fact | Slept) -> None:
        at_s, found = self._first or await self.facts.get()
        self._first = at_s, found
        if isinstance(wanted, Slept):
            least_s = wanted.least_s - PRECISION_S
            most_s = (wanted.most_s or wanted.least_s) + PRECISION_S
            passed_s = at_s - self._last_s
            assert least_s <= passed_s <= most_s, f"{passed_s:.3f} s passed, then {found}"
            self._last_s = at_s
            return
        while isinstance(found, HungUp) and not isinstance(wanted, HungUp):
            at_s, found = await self.facts.get()
        self._first = None
        self._last_s = at_s
        assert wanted.is_met_by(found), f"instead: {found}"

    async def end(self) -> None:
        """Nothing more may follow."""
        await asyncio.sleep(AT_ONCE_S)
        more = [self._first[1]] if self._first else []
        while not self.facts.empty():
            more.append(self.facts.get_nowait()[1])
        more = [fact for fact in more if not isinstance(fact, HungUp)]
        assert not more, f"and then, not in the script: {more}"
        assert all(caller.done() for caller in self.callers), "a caller still waits"
        await self.stage.close()


class Playbook:
    """A script, and the stage it is played on. `run` raises AssertionError where they part."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config
        self._lines: list[Happening | Fact | Slept] = []

    def __rshift__(self, happening: Happening) -> Self:
        self._lines.append(happening)
        return self

    def __lshift__(self, wanted: Fact | Slept) -> Self:
        self._lines.append(wanted)
        return self

    def run(self) -> Play:
        """Play it. What was played is returned, for a closer look."""
        place = 0

        async def main() -> Play:
            nonlocal place
            play = Play(self._config)
            for place, line in enumerate(self._lines):  # noqa: B007 - told when it fails
                if isinstance(line, Happening):
                    await play.happen(line)
                else:
                    await play.expect(line)
            await play.end()
            return play

        try:
            return run_virtual(main())
        except (AssertionError, Deadlock) as error:
            raise AssertionError(f"{self._script(place)}\n  {error}") from error

    def _script(self, place: int) -> str:
        return "\n".join(
            f"  >> {line.text}" if isinstance(line, Happening) else f"  << {line}"
            for line in self._lines[: place + 1]
        )


def _playing(text: str, *parts: Part, at: str | None = None) -> Happening:
    async def act(play: Play) -> None:
        play.play(*parts, at=at)

    return Happening(text, act)


def ask(
    model: str,
    text: str = "Hello?",
    *,
    key: str | None = None,
    headers: dict[bytes, bytes] | None = None,
    **fields: object,
) -> Happening:
    """A caller asks `model`; further fields are the request's own, `stream=True` for one."""

    async def act(play: Play) -> None:
        exchange = play.stage.accept(model, text, key=key, headers=headers, fields=fields)
        play.exchanges.append(exchange)
        play.callers.append(asyncio.get_running_loop().create_task(play.call_in(exchange)))

    return Happening(f"ask({model!r})", act)


def leaves(caller: int = -1) -> Happening:
    """A caller goes away: the last to come, unless told."""

    async def act(play: Play) -> None:
        play.callers[caller].cancel()

    return Happening("leaves()", act)


def passes(seconds: float) -> Happening:
    async def act(_: Play) -> None:
        await asyncio.sleep(seconds)

    return Happening(f"passes({seconds})", act)


def jumps(seconds: float) -> Happening:
    """The wall clock is set."""

    async def act(play: Play) -> None:
        play.stage.clock.jump(seconds)

    return Happening(f"jumps({seconds})", act)


def status(
    code: int, body: bytes | None = None, *, at: str | None = None, **headers: object
) -> Happening:
    """The provider answers with an error; `retry_after=2` is a header."""
    texts = {name: str(value) for name, value in headers.items()}
    said = answers.error_body() if body is None else body
    parts = answers.json_head(code, **texts), answers.Piece(data=said), answers.Ends()
    return _playing(f"status({code})", *parts, at=at)


def answer(text: str | None, *, is_counted: bool = True, at: str | None = None) -> Happening:
    """The provider answers whole, with usage unless told otherwise: a token a word."""
    tokens = len((text or "").split())
    body = answers.completion(text, (INPUT_TOKENS, tokens) if is_counted else None)
    piece = answers.Piece(data=body, output_tokens=tokens)
    return _playing(f"answer({text!r})", answers.json_head(), piece, answers.Ends(), at=at)


def opens(*, at: str | None = None) -> Happening:
    """The provider opens a stream."""
    return _playing("opens()", answers.event_head(), at=at)


def head(code: int = 200, *, at: str | None = None, **headers: str) -> Happening:
    """The provider sends a head, and no body yet."""
    return _playing(f"head({code})", answers.json_head(code, **headers), at=at)


def says(*texts: str, at: str | None = None) -> Happening:
    """The provider streams pieces of text, a token each, in one go."""
    data = b"".join(answers.chunk(text) for text in texts)
    return _playing(f"says{texts}", answers.Piece(data=data, output_tokens=len(texts)), at=at)


def finishes(reason: str = "stop", *, output_tokens: int | None = None) -> Happening:
    """The provider streams the finish reason, with usage when it is given."""
    usage = None if output_tokens is None else (INPUT_TOKENS, output_tokens)
    return sends(answers.chunk(finish=reason, usage=usage))


def done() -> Happening:
    """The provider's end-of-stream marker."""
    return sends(answers.DONE)


def sends(data: bytes, *, output_tokens: int = 0, at: str | None = None) -> Happening:
    """The provider sends these bytes, which took it so many tokens."""
    piece = answers.Piece(data=data, output_tokens=output_tokens)
    return _playing(f"sends({data[:40]!r})", piece, at=at)


def ends(*, at: str | None = None) -> Happening:
    """The provider's body ends."""
    return _playing("ends()", answers.Ends(), at=at)


def breaks(*, at: str | None = None) -> Happening:
    """The provider's connection breaks."""
    return _playing("breaks()", answers.Breaks(), at=at)


def slow_network() -> Happening:
    """From here on, nobody is connected to before the script says so: `connects()`, or `refuses()`."""

    async def act(play: Play) -> None:
        play.connects_at_once = False

    return Happening("slow_network()", act)


def connects(*, at: str | None = None) -> Happening:
    """The connection is made, in a slow network."""
    return _playing("connects()", answers.Connects(), at=at)


def refuses(*, at: str | None = None) -> Happening:
    """The provider does not take the connection, in a slow network."""
    return _playing("refuses()", answers.Refuses(), at=at)
