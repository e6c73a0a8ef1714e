"""A caller may leave at any wait there is: the books are right each time, and nothing is left behind."""

from collections.abc import Callable, Iterator
from itertools import count

import msgspec
import pytest

from windvane.core.chat import Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import WindvaneError
from windvane.engine.watchdog import SHUTTING_DOWN
from windvane.testing import Call, Moment, Stage, cancelled_at, run_virtual
from windvane.testing.answers import (
    DONE,
    Breaks,
    Connects,
    Ends,
    Piece,
    Refuses,
    Script,
    chunk,
    completion,
    event_head,
    json_head,
)

WAITS_MAX = 60

Scripts = Callable[[], Iterator[Script]]


def whole(text: str = "one two") -> Script:
    body = Piece(data=completion(text, (9, len(text.split()))), output_tokens=len(text.split()))
    return [(0.1, json_head()), (0.1, body), (0.1, Ends())]


def streamed(*texts: str) -> Script:
    words = [(0.1, Piece(data=chunk(text), output_tokens=1)) for text in texts]
    last = chunk(finish="stop", usage=(9, len(texts)))
    end = [(0.1, Piece(data=last)), (0.1, Piece(data=DONE)), (0.01, Ends())]
    return [(0.1, event_head()), *words, *end]


def refused() -> Script:
    return [(0.1, Refuses())]


def slowly(script: Script) -> Script:
    return [(0.1, Connects()), *script]


def status(code: int, **headers: str) -> Script:
    return [(0.1, json_head(code, **headers)), (0.1, Piece(data=b"{}")), (0.1, Ends())]


CASES: dict[str, tuple[bool, list[Script]]] = {
    "a plain answer": (False, [whole()]),
    "a retry": (False, [status(429, retry_after="2"), whole()]),
    "a failover": (False, [status(401), whole()]),
    "a connection that takes its time": (False, [slowly(whole())]),
    "a stream after a slow connection": (True, [slowly(streamed("one ", "two"))]),
    "a refused connection": (False, [refused(), refused(), whole()]),
    "a stronger model": (False, [whole(""), whole()]),
    "a stronger model that fails": (False, [whole(""), status(503)]),
    "a stream": (True, [streamed("one ", "two")]),
    "a stream after a retry": (True, [status(503), streamed("one ", "two")]),
    "a stronger stream": (True, [streamed(), streamed("one ", "two")]),
    "a stronger stream that fails": (True, [streamed(), status(503)]),
    "a stream that breaks": (True, [[*list(streamed("one ", "two"))[:3], (0.1, Breaks())]]),
    "a body that does not end": (True, [list(streamed("one ", "two"))[:-1]]),
    "a silence": (True, [list(streamed("one ", "two"))[:2]]),
}


async def listen(stage: Stage, exchange: Exchange) -> None:
    """A caller as the gateway is one: whatever happens, the stream is closed."""
    try:
        answer = await stage.engine.handle(exchange)
        if isinstance(answer, Completion):
            return
        try:
            async for _ in answer:
                stage.auditor.delivered(exchange.id)
        finally:
            await answer.aclose()
    except WindvaneError:
        return


def asked(scripts: list[Script], is_stream: bool) -> tuple[Stage, Exchange]:
    """A request, and providers that play these one after the other."""
    rest = iter(scripts)

    def play(call: Call) -> None:
        call.input_tokens = 9
        call.play(next(rest))

    stage = Stage(on_connecting=play)
    exchange = stage.accept("auto", "Hello?", stream=is_stream)
    return stage, exchange


async def leave_at(k: int, moment: Moment, scripts: list[Script], is_stream: bool) -> bool:
    stage, exchange = asked(scripts, is_stream)
    was_cancelled = await cancelled_at(k, listen(stage, exchange), moment)
    await stage.close()
    assert exchange.ended_s is not None
    assert not stage.engine._dispatch.watch.dogs, "a watchdog was not stopped"
    return was_cancelled


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("case", CASES)
def test_leaving_at_every_wait(case: str, moment: Moment) -> None:
    is_stream, scripts = CASES[case]
    for k in count(1):
        if not run_virtual(leave_at(k, moment, scripts, is_stream)):
            assert k > 3, "too few waits to prove anything"
            return
        assert k < WAITS_MAX


async def stop_at(k: int, moment: Moment, scripts: list[Script], is_stream: bool) -> bool:
    stage, exchange = asked(scripts, is_stream)
    calling = listen(stage, exchange)
    was_cancelled = await cancelled_at(k, calling, moment, stage.engine.call_off)
    await stage.close()
    assert exchange.ended_s is not None
    outcomes = [attempt.entry.outcome for attempt in exchange.attempts]
    assert "cancelled" not in outcomes
    if exchange.answered_by is None:
        assert exchange.fault is not None
    if "shutting_down" in outcomes:
        assert outcomes[-1] == "shutting_down", "somebody was asked after the end"
        if exchange.answered_by is None:
            assert exchange.fault == msgspec.structs.replace(
                SHUTTING_DOWN, message=exchange.fault.message
            )
            assert SHUTTING_DOWN.message in exchange.fault.message
    assert not stage.engine._dispatch.watch.dogs, "a watchdog was not stopped"
    return was_cancelled


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("case", CASES)
def test_the_process_may_end_at_every_wait(case: str, moment: Moment) -> None:
    """The caller is still there: it is told so, and so are the books."""
    is_stream, scripts = CASES[case]
    for k in count(1):
        if not run_virtual(stop_at(k, moment, scripts, is_stream)):
            assert k > 3, "too few waits to prove anything"
            return
        assert k < WAITS_MAX


def test_a_caller_and_a_deadline_may_end_a_wait_together() -> None:
    """The caller's cancellation goes on; it must not be mistaken for the timeout."""

    async def together() -> None:
        import asyncio

        stage = Stage()
        exchange = stage.accept("small", "Hello?")
        task = asyncio.get_running_loop().create_task(listen(stage, exchange))
        await asyncio.sleep(600.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.close()

    run_virtual(together())


def test_a_timeout_in_a_task_that_had_been_cancelled_before_is_a_timeout() -> None:
    """Whoever asks while cleaning up after a cancellation must not hang on, or lose the error."""

    async def late() -> str:
        import asyncio

        stage = Stage()

        async def clean_up() -> str:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                try:
                    await stage.engine.handle(stage.accept("small", "Hello?"))
                except WindvaneError as error:
                    return error.fault.kind
            return "no error"

        task = asyncio.get_running_loop().create_task(clean_up())
        await asyncio.sleep(1)
        task.cancel()
        kind = await task
        await stage.close()
        return kind

    assert run_virtual(late()) == "timeout"
