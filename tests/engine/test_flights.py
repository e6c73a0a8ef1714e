"""Flights: identical requests under way share one call, and nobody is worse off for it."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from itertools import count, product
from random import Random
from typing import Any

import msgspec
import pytest
from tests.engine.scene import (
    COST,
    HEAD_S,
    PIECE_S,
    WHOLE_S,
    Got,
    Scene,
    echo,
    fails,
    outcomes,
    plays,
    says,
)

from windvane.config.schema import (
    AuthConfig,
    BudgetConfig,
    Config,
    KeyConfig,
    RateConfig,
    UpstreamLimitsConfig,
    WaitingConfig,
)
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of
from windvane.core.keys import KeyTerms
from windvane.core.money import usd_text
from windvane.core.priority import Priority
from windvane.engine import flights as flights_module
from windvane.engine import sharing as sharing_module
from windvane.engine.flights import BEHIND_MAX, Flights
from windvane.engine.snapshot import Timeouts
from windvane.gateway.data_plane.outgoing import error_headers
from windvane.testing import Call, Moment, cancelled_at, run_virtual
from windvane.testing.answers import (
    DONE,
    Breaks,
    Ends,
    Piece,
    Script,
    chunk,
    event_head,
)
from windvane.testing.answers_kept import OtherProcess
from windvane.testing.stage import two_providers
from windvane.wire.chat_reply import ChatStreamReader
from windvane.wire.fold import Fold


async def all_of(*tasks: asyncio.Task[Got]) -> list[Got]:
    return list(await asyncio.gather(*tasks))


# one call


@plays()
async def test_identical_requests_share_one_call(scene: Scene) -> None:
    got = await all_of(*(scene.start("why") for _ in range(50)))
    assert [each.text for each in got] == ["why #1"] * 50
    assert [each.how for each in got] == ["miss"] + ["joined"] * 49
    assert {each.at_s for each in got} == {HEAD_S}
    assert len(scene.calls) == 1
    paid, *free = outcomes(scene.entries)
    assert paid == ("ok", COST, None)
    assert free == [("joined", 0, COST)] * 49
    assert [scene.ended(each.exchange).status for each in got] == [200] * 50


@plays()
async def test_identical_streams_share_one_call_live(scene: Scene) -> None:
    got = await all_of(*(scene.start("why", stream=True) for _ in range(50)))
    live = [(1.5, "why"), (2.0, " #1"), (2.5, "")]
    assert all(each.heard == live for each in got)
    assert all(each.usage.output_tokens == 2 for each in got)
    assert len(scene.calls) == 1
    assert [*outcomes(scene.entries)] == [("ok", COST, None)] + [("joined", 0, COST)] * 49


@plays()
async def test_a_late_joiner_gets_what_was_said_at_once_and_then_follows(scene: Scene) -> None:
    first = scene.start("why", stream=True)
    await asyncio.sleep(2.2)
    late = await scene.ask("why", stream=True)
    assert late.how == "joined"
    assert late.heard == [(2.2, "why #1"), (2.5, "")]
    assert (await first).heard == [(1.5, "why"), (2.0, " #1"), (2.5, "")]
    assert len(scene.calls) == 1


@plays()
async def test_of_an_answer_that_nobody_counted_all_are_told_the_same(scene: Scene) -> None:
    for leads, joins in product((False, True), repeat=2):
        question = f"{leads} {joins}"
        scene.scripts = [lambda call: echo(call, usage=None)]
        got = await all_of(scene.start(question, stream=leads), scene.start(question, stream=joins))
        assert [each.how for each in got] == ["miss", "joined"]
        told = []
        for each in got:
            attempt = each.exchange.final_attempt
            assert attempt is not None
            told.append(each.usage or attempt.usage)  # as the doors have it
        assert told[0] == told[1]
        assert told[0].input_tokens and told[0].output_tokens


@plays()
async def test_each_has_its_first_words_when_it_is_given_them(scene: Scene) -> None:
    first = scene.start("why", stream=True)
    await asyncio.sleep(1.6)
    second, gone = scene.start("why", stream=True), scene.start("why", stream=True)
    await asyncio.sleep(0.1)
    gone.cancel()
    await all_of(first, second)
    waited = [scene.ended(exchange).first_chunk_s for exchange in scene.asked]
    assert waited == [pytest.approx(1.5), pytest.approx(0.0), pytest.approx(0.0)]
    assert [scene.ended(exchange).status for exchange in scene.asked] == [200, 200, 499]


@plays()
async def test_whole_and_streamed_answers_share_a_flight_either_way(scene: Scene) -> None:
    stream, whole = await all_of(scene.start("a", stream=True), scene.start("a"))
    assert (stream.how, whole.how) == ("miss", "joined")
    assert stream.text == whole.text == "a #1"
    assert whole.usage == stream.usage
    whole, stream = await all_of(scene.start("b"), scene.start("b", stream=True))
    assert (whole.how, stream.how) == ("miss", "joined")
    assert stream.text == whole.text == "b #2"
    assert stream.usage == whole.usage
    assert len(scene.calls) == 2


CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def calls_a_tool(call: Call) -> Script:
    """One tool call, in an answer or a stream."""
    if not call.is_stream:
        return says(tool_calls=CALLS, finish="tool_calls")(call)
    call.input_tokens = 9
    told = msgspec.json.encode(
        {
            "id": "cmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **CALLS[0]}]}}],
        }
    )
    end = chunk(finish="tool_calls", usage=(9, 2))
    last = [(PIECE_S, Piece(data=end)), (0.0, Piece(data=DONE)), (0.0, Ends())]
    return [
        (HEAD_S, event_head()),
        (PIECE_S, Piece(data=b"data: " + told + b"\n\n", output_tokens=2)),
        *last,
    ]


@pytest.mark.parametrize("what", [echo, calls_a_tool])
@pytest.mark.parametrize("leads_stream", [False, True], ids=["whole", "stream"])
def test_each_who_joins_has_an_answer_id_of_its_own(
    leads_stream: bool, what: Callable[[Call], Script]
) -> None:
    """The same in all that it is told; a tool call's id is of the answer, and the leader's."""

    @plays()
    async def play(scene: Scene) -> None:
        scene.scripts = [what]
        leader = scene.start("why", stream=leads_stream)
        await scene.rest()
        joiners = [
            scene.start("why", stream=stream, dialect=dialect)
            for stream in (False, True)
            for dialect in ("openai", "mistral")
        ]
        await scene.rest(HEAD_S + PIECE_S + 0.1)
        if leads_stream:
            joiners.append(scene.start("why", stream=True))
        first, *others = await all_of(leader, *joiners)
        assert {each.how for each in others} == {"joined"}
        assert len({each.id for each in (first, *others)}) == 1 + len(others)
        for each in others:
            assert each.id == each.exchange.answer_id
            assert {told.id for told in each.chunks} <= {each.id}
            assert call_ids(each) == call_ids(first)
        for each in (first, *others):
            plain = [told.raw for told in each.chunks if told.is_plain]
            assert all(each.id.encode() in (raw or b"") for raw in plain)
            if each.completion is not None and each.completion.raw is not None:
                assert msgspec.json.decode(each.completion.raw)["id"] == each.id
        assert {told.id for told in first.chunks} <= {first.id}
        assert len(scene.calls) == 1

    play()


def call_ids(got: Got) -> list[str | None]:
    said = [] if got.completion is None else got.completion.choices[0].message.tool_calls
    told = [delta for each in got.chunks for delta in each.choices[0].tool_calls or ()]
    return [call.id for call in (*said, *told)]


@plays(scope="shared")
async def test_another_question_or_key_is_another_flight(scene: Scene) -> None:
    got = await all_of(scene.start("a"), scene.start("b"), scene.start("a", temperature=0.5))
    assert [each.how for each in got] == ["miss"] * 3
    assert len(scene.calls) == 3


def keys(*names: str, **more: Any) -> dict[str, Any]:
    terms = tuple(
        KeyConfig(key=f"wv-key-{name}", name=name, **more.get(name, {})) for name in names
    )
    return {"auth": AuthConfig(keys=terms)}


@plays(settings=keys("ann", "bob"))
async def test_two_keys_never_share_unless_told_to(scene: Scene) -> None:
    ann, bob = await all_of(scene.start("a", key="wv-key-ann"), scene.start("a", key="wv-key-bob"))
    assert (ann.how, bob.how) == ("miss", "miss")
    assert ann.text != bob.text
    assert (await scene.ask("a", key="wv-key-bob")).text == bob.text


@plays(scope="shared", settings=keys("ann", "bob"))
async def test_a_shared_scope_shares(scene: Scene) -> None:
    ann, bob = await all_of(scene.start("a", key="wv-key-ann"), scene.start("a", key="wv-key-bob"))
    assert (ann.how, bob.how) == ("miss", "joined")
    paid, free = scene.entries
    assert (paid.key_id, paid.cost_nano_usd) == ("ann", COST)
    assert (free.key_id, free.cost_nano_usd) == ("bob", 0)


# leaving


@plays()
async def test_the_leader_leaves_and_nobody_notices(scene: Scene) -> None:
    for stream in (False, True):
        leader = scene.start("why", stream=stream, seed=int(stream))
        await asyncio.sleep(0.1)
        joiner = scene.start("why", stream=stream, seed=int(stream))
        await asyncio.sleep(0.1)
        leader.cancel()
        got = await joiner
        assert got.text == f"why #{1 + stream}"
    assert len(scene.calls) == 2
    assert [*outcomes(scene.entries)] == [("ok", COST, None), ("joined", 0, COST)] * 2
    leaders = [exchange for exchange in scene.asked if exchange.leads]
    assert len(leaders) == 2
    assert all(each.attempts[0].entry.cost_nano_usd == COST for each in leaders)


@plays()
async def test_the_leader_leaves_in_the_midst_of_its_stream(scene: Scene) -> None:
    leader = scene.start("why", stream=True)
    joiner = scene.start("why", stream=True)
    await asyncio.sleep(1.7)
    leader.cancel()
    assert (await joiner).heard == [(1.5, "why"), (2.0, " #1"), (2.5, "")]
    assert [*outcomes(scene.entries)] == [("ok", COST, None), ("joined", 0, COST)]
    assert scene.kept == 1


@plays()
async def test_when_all_have_left_the_provider_is_let_go_at_once(scene: Scene) -> None:
    for stream in (False, True):
        tasks = [scene.start(f"why {stream}", stream=stream) for _ in range(5)]
        await asyncio.sleep(0.5)
        left_s = scene.now_s()
        for task in tasks:
            task.cancel()
        while scene.stage.transport.open_calls:
            await asyncio.sleep(0.001)
        assert scene.now_s() - left_s <= 0.05
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [entry.outcome for entry in scene.entries] == ["cancelled"] * 10
    assert [entry.is_attempt for entry in scene.entries].count(True) == 2
    assert scene.kept == 0
    assert {scene.ended(exchange).status for exchange in scene.asked} == {499}


@plays()
async def test_nobody_joins_a_flight_that_is_dying(scene: Scene) -> None:
    first = scene.start("why")
    await asyncio.sleep(0.5)
    first.cancel()
    await asyncio.sleep(0)  # it has left, and its flight has not yet heard
    got = await scene.ask("why")
    assert (got.how, got.text) == ("miss", "why #2")


@plays()
async def test_a_caller_who_leaves_before_its_flight_began_leaves_nothing(scene: Scene) -> None:
    task = scene.start("why")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await scene.rest()
    assert scene.entries == [] or scene.entries[0].outcome == "cancelled"


def test_a_flight_that_is_called_off_before_it_began_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = Flights.start

    def call_off(self: Flights, flight: Any, run: Any, on_gone: Any) -> None:
        start(self, flight, run, on_gone)
        flight.task.cancel()

    monkeypatch.setattr(Flights, "start", call_off)

    async def main() -> None:
        scene = Scene()
        got = await scene.ask("why")
        assert got.fault is not None and got.fault.status == 503
        assert scene.ended(got.exchange).status == 499
        assert not scene.calls
        await scene.close()

    run_virtual(main())


# failing


@plays()
async def test_a_failure_is_told_to_all_once_and_not_kept(scene: Scene) -> None:
    scene.scripts = [fails(400)]
    got = await all_of(*(scene.start("why", stream=bool(n % 2)) for n in range(6)))
    assert {(each.fault.kind, each.fault.status) for each in got} == {("invalid_request", 400)}
    assert len(scene.calls) == 1
    assert scene.kept == 0
    assert [scene.ended(each.exchange).status for each in got] == [400] * 6
    assert (await scene.ask("why")).text == "why #2"


def breaking(call: Call) -> Script:
    call.input_tokens = 9
    return [*list(echo(call))[:2], (PIECE_S, Breaks())]


@plays()
async def test_a_failure_in_the_midst_is_told_to_all(scene: Scene) -> None:
    scene.scripts = [breaking]
    tasks = [scene.start("why", stream=True), scene.start("why", stream=True), scene.start("why")]
    await asyncio.sleep(1.7)
    late = scene.start("why", stream=True)
    got = await all_of(*tasks, late)
    assert [each.text for each in got] == ["why", "why", "", "why"]
    assert {each.fault.kind for each in got} == {"stream_broken"}
    assert [scene.ended(each.exchange).fault for each in got] == ["stream_broken"] * 4
    assert [scene.ended(each.exchange).status for each in got] == [200, 200, 502, 200]
    assert (len(scene.calls), scene.kept) == (1, 0)
    assert [entry.outcome for entry in scene.entries] == ["stream_broken"] * 4
    assert [entry.cache for entry in scene.entries] == ["miss", "joined", "joined", "joined"]
    assert [entry.cost_nano_usd for entry in scene.entries[1:]] == [0, 0, 0]


@plays()
async def test_all_aboard_are_told_when_the_process_ends(scene: Scene) -> None:
    """They have not left, and nor has the one who leads."""
    await stop_under_way(scene, HEAD_S / 2, [503, 503, 503])


@plays()
async def test_all_aboard_are_told_in_the_midst_when_the_process_ends(scene: Scene) -> None:
    await stop_under_way(scene, HEAD_S + PIECE_S + 0.2, [200, 200, 503])


@pytest.mark.parametrize("scope", ["key", None])
def test_nobody_is_told_that_what_the_end_of_the_process_broke_off_cost_nothing(
    scope: str | None,
) -> None:
    async def main() -> None:
        scene = Scene(scope=scope)
        exchange = scene.accept("why", "small")
        told: list[bytes] = []

        async def serve() -> None:
            try:
                await scene.engine.handle(exchange)
            except WindvaneError as error:
                told.append(dict(error_headers(error.fault, exchange, "x"))[b"x-router-cost-usd"])

        serving = asyncio.get_running_loop().create_task(serve())
        await scene.rest(HEAD_S / 2)
        scene.engine.call_off()
        serving.cancel()
        await serving
        await scene.rest()
        cost = scene.entries[-1].cost_nano_usd
        assert cost
        assert told == [b"unknown" if scope else usd_text(cost).encode()]
        await scene.close()

    run_virtual(main())


async def stop_under_way(scene: Scene, after_s: float, statuses: list[int]) -> None:
    tasks = [scene.start("why", stream=True), scene.start("why", stream=True), scene.start("why")]
    await asyncio.sleep(after_s)
    scene.engine.call_off()
    for task in tasks:
        task.cancel()
    got = await all_of(*tasks)
    assert {each.fault.kind for each in got} == {"shutting_down"}
    assert [scene.ended(each.exchange).fault for each in got] == ["shutting_down"] * 3
    assert [scene.ended(each.exchange).status for each in got] == statuses
    assert (len(scene.calls), scene.kept) == (1, 0)
    assert [entry.outcome for entry in scene.entries] == ["shutting_down"] * 3


@plays()
async def test_who_comes_after_a_failure_asks_anew(scene: Scene) -> None:
    """Even in the very turn of the loop in which the flight failed."""
    scene.scripts = [fails(400)]
    got = await all_of(scene.start("why"), comes_after_failure(scene))
    assert got[0].fault is not None
    assert got[1].text == "why #2"


def comes_after_failure(scene: Scene) -> asyncio.Task[Got]:
    async def come() -> Got:
        await asyncio.sleep(HEAD_S / 2)
        (flight,) = scene.engine._sharing.flights._under_way
        while flight.error is None:
            await flight.move()
        return await scene.ask("why")

    return asyncio.get_running_loop().create_task(come())


@plays()
async def test_a_bug_of_ours_ends_everyone_and_leaves_nothing(scene: Scene) -> None:
    async def bug(*_: object) -> None:
        await asyncio.sleep(0.1)
        raise ZeroDivisionError

    scene.engine._dispatch.run = bug  # type: ignore[method-assign,assignment]
    got = await all_of(*(scene.start("why", stream=bool(n % 2)) for n in range(4)))
    assert {each.fault.status for each in got} <= {500, 503}
    assert [scene.ended(each.exchange).status for each in got] == [500, 503, 503, 503]


# each for itself


@plays()
async def test_each_waits_as_long_as_it_will(scene: Scene) -> None:
    async def hasty() -> str:
        try:
            async with asyncio.timeout(0.3):
                await scene.ask("why")
        except TimeoutError:
            return "left"
        return "stayed"

    leader = scene.start("why")
    assert await hasty() == "left"
    assert (await leader).text == "why #1"


def never(call: Call) -> Script:
    call.input_tokens = 9
    return []


SHORT = Timeouts(total_s=10.0)


@plays(settings={"timeouts": SHORT})
async def test_when_the_leaders_time_is_over_who_has_time_left_goes_on(scene: Scene) -> None:
    """One of them leads, and all are answered that have the time; nobody's is begun anew."""
    scene.scripts = [never, never]
    first = scene.start("why", "small")
    await asyncio.sleep(4)
    second = scene.start("why", "small")
    await asyncio.sleep(4)
    third = [scene.start("why", "small"), scene.start("why", "small", stream=True)]
    got = await all_of(first, second, *third)
    assert {each.fault.kind for each in got} == {"timeout"}
    assert [each.at_s for each in got] == [
        pytest.approx(at_s, abs=0.1) for at_s in (10, 14, 18, 18)
    ]
    # The last to come has most time left, and so leads for the rest.
    assert len(scene.calls) == 2
    assert scene.calls[1].attempt_id.startswith((got[2].exchange.id, got[3].exchange.id))


@plays(settings={"timeouts": SHORT})
async def test_who_goes_on_is_answered(scene: Scene) -> None:
    for stream in (False, True):
        scene.scripts = [never]
        begun_s = scene.now_s()
        first = scene.start(f"why {stream}", "small", stream=stream)
        await asyncio.sleep(9.8)
        others = [scene.start(f"why {stream}", "small", stream=stream) for _ in range(5)]
        got = await all_of(first, *others)
        assert got[0].fault is not None and got[0].fault.kind == "timeout"
        assert got[0].at_s - begun_s == pytest.approx(10, abs=0.1)
        assert sorted(each.how for each in got[1:]) == ["joined"] * 4 + ["miss"]
        assert {each.text for each in got[1:]} == {f"why {stream} #{len(scene.calls)}"}
    assert len(scene.calls) == 4


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_key_that_is_revoked_while_its_request_shares_a_flight_leads_no_other(
    stream: bool,
) -> None:
    async def main() -> None:
        scene = Scene(settings={"timeouts": SHORT})
        key, secret = await scene.stage.desk.create(KeyTerms(name="one"))
        scene.scripts = [never]
        first = scene.start("why", "small", key=secret, stream=stream)
        await asyncio.sleep(4)
        second = scene.start("why", "small", key=secret, stream=stream)
        await asyncio.sleep(4)
        await scene.stage.desk.revoke(key.id)
        got = await all_of(first, second)
        kinds = [each.fault and each.fault.kind for each in got]
        assert kinds == [FaultKind.UNAUTHENTICATED, FaultKind.UNAUTHENTICATED]
        assert len(scene.calls) == 1
        await scene.close()

    run_virtual(main())


@plays(settings={"timeouts": SHORT})
async def test_who_came_with_the_leader_has_no_time_either(scene: Scene) -> None:
    scene.scripts = [never]
    got = await all_of(*(scene.start("why", "small") for _ in range(5)))
    assert {each.fault.kind for each in got} == {"timeout"}
    assert len(scene.calls) == 1


@plays(settings={"timeouts": SHORT})
async def test_a_stream_that_was_too_long_for_its_leader_is_begun_again_by_who_heard_nothing(
    scene: Scene,
) -> None:
    scene.scripts = [long(12_000), echo]
    first = scene.start("why", "small", stream=True)
    await asyncio.sleep(4)
    whole, live = await all_of(
        scene.start("why", "small"), scene.start("why", "small", stream=True)
    )
    assert (await first).fault is not None
    assert (whole.text, whole.fault) == ("why #2", None)
    assert live.text and live.fault is not None and live.fault.kind == "timeout"
    assert live.at_s == pytest.approx(10, abs=0.1)


class Hung:
    """A stream that says one thing, and then nothing for an hour: no deadline of its own bites."""

    def __init__(self, exchange: Any, on_end: Any) -> None:
        self.fold = Fold()
        self._said = ChatStreamReader(0).feed(chunk("why"))
        self._end = lambda: on_end(exchange, 499, None)

    async def __aiter__(self) -> Any:
        yield self._said
        await asyncio.sleep(3_600)

    async def aclose(self) -> None:
        self._end()


class Ended(Hung):
    """A stream whose first words come in the moment in which it ends by its leader's deadline."""

    async def __aiter__(self) -> Any:
        yield self._said
        raise error_of(
            Fault(kind=FaultKind.TIMEOUT, source=Source.UPSTREAM, message="", status=504)
        )


@plays(settings={"timeouts": SHORT})
async def test_a_stream_that_ends_before_a_joiner_was_given_anything_is_begun_again(
    scene: Scene,
) -> None:
    """What was said in vain nobody has heard; who has time left hears it all from another."""
    run = scene.engine._dispatch.run

    async def end(exchange: Any, *_: object) -> Any:
        scene.engine._dispatch.run = run  # type: ignore[method-assign]
        await asyncio.sleep(10)
        return Ended(exchange, scene.engine._end)

    scene.engine._dispatch.run = end  # type: ignore[method-assign]
    leader = scene.start("why", "small", stream=True)
    await asyncio.sleep(5)
    joiner = scene.start("why", "small", stream=True)
    assert (await leader).fault is not None
    got = await joiner
    assert (got.how, got.text, got.fault) == ("miss", "why #1", None)


SILENCE = Timeouts(first_token_s=10.0, inter_token_s=10.0, total_s=100.0)


@plays(settings={"timeouts": SILENCE})
async def test_a_silence_too_long_for_the_leader_is_not_for_who_came_later(scene: Scene) -> None:
    """Who has waited as long as it is told of it; who came since is not, nor who wants the whole, and has
    no deadline for a first word."""
    scene.scripts = [never]
    with_leader = [scene.start("why", "small", stream=True) for _ in range(2)]
    await asyncio.sleep(4)
    later = [scene.start("why", "small", stream=stream) for stream in (True, False, True)]
    got = await all_of(*with_leader, *later)
    assert [each.fault and each.fault.kind for each in got] == ["timeout"] * 2 + [None] * 3
    assert [each.at_s for each in got[:2]] == [pytest.approx(10, abs=0.1)] * 2
    assert {each.text for each in got[2:]} == {"why #2"}
    assert sorted(each.how for each in got[2:]) == ["joined", "joined", "miss"]
    assert len(scene.calls) == 2


@plays(settings={"timeouts": SILENCE})
async def test_a_silence_that_goes_on_is_told_to_each_stream_once_it_has_lasted(
    scene: Scene,
) -> None:
    scene.scripts = [never] * 9
    tasks = []
    for _ in range(5):
        tasks.append(scene.start("why", "small", stream=True))
        await asyncio.sleep(4)
    got = await all_of(*tasks)
    assert {each.fault and each.fault.kind for each in got} == {"timeout"}
    assert all(each.at_s - 4 * place <= 20.1 for place, each in enumerate(got))
    assert len(scene.calls) <= 3


def goes_silent(call: Call) -> Script:
    """After its first word."""
    call.input_tokens = 9
    return list(echo(call))[:2]


@plays(settings={"timeouts": SILENCE})
async def test_a_stream_that_goes_silent_is_told_to_who_heard_it_alone(scene: Scene) -> None:
    scene.scripts = [goes_silent]
    first = scene.start("why", "small", stream=True)
    await scene.rest()
    live, whole = scene.start("why", "small", stream=True), scene.start("why", "small")
    got = await all_of(first, live, whole)
    assert [each.fault and each.fault.kind for each in got] == ["timeout", "timeout", None]
    assert [each.text for each in got] == ["why", "why", "why #2"]


@plays(settings={"timeouts": SHORT})
async def test_a_joiner_waits_no_longer_than_its_own_deadline_whatever_ails_the_flight(
    scene: Scene,
) -> None:
    async def hang(exchange: Any, *_: object) -> Any:
        if exchange.request.stream:
            return Hung(exchange, scene.engine._end)
        return await asyncio.sleep(3_600)

    scene.engine._dispatch.run = hang  # type: ignore[method-assign]
    for stream in (False, True):
        leader = scene.start(f"why {stream}", stream=stream)
        await asyncio.sleep(4)
        begun_s = scene.now_s()
        joiner = await scene.ask(f"why {stream}", stream=stream)
        assert joiner.fault is not None and joiner.fault.kind == "timeout"
        assert joiner.text == ("why" if stream else "")
        assert 10 <= joiner.at_s - begun_s <= 10.1
        ended = scene.ended(joiner.exchange)
        assert (ended.status, ended.fault) == (200 if stream else 504, "timeout")
        assert not leader.done()
        leader.cancel()


@plays(settings={"timeouts": Timeouts(total_s=5.0)})
async def test_a_reader_who_takes_its_time_is_not_cancelled_for_it(scene: Scene) -> None:
    """A deadline is for waiting for us, not for the reader's own doing."""
    leader = scene.start("why", stream=True)
    await asyncio.sleep(0)
    slow = scene.start("why", stream=True, pause_s=4.0)
    assert (await leader).text == "why #1"
    got = await slow
    assert (got.text, got.fault) == ("why #1", None)
    assert got.at_s > 8


@plays(settings={"timeouts": Timeouts(total_s=5.0)})
async def test_nor_for_a_pause_after_it_has_waited(scene: Scene) -> None:
    leader = scene.start("why", stream=True)
    await scene.rest()
    exchange = scene.accept("why", stream=True)
    stream: Any = await scene.engine.handle(exchange)
    reads = 0
    async for _ in stream:
        reads += 1
        if reads == 2:
            await asyncio.sleep(20)
    await stream.aclose()
    assert (scene.ended(exchange).status, scene.ended(exchange).fault) == (200, None)
    await leader


@plays()
async def test_a_slow_reader_blocks_nobody(scene: Scene) -> None:
    slow = scene.start("why", stream=True, pause_s=30.0)
    fast = scene.start("why", stream=True)
    assert (await fast).at_s == WHOLE_S
    assert (await slow).text == "why #1"


def long(words: int) -> Callable[[Call], Script]:
    def script(call: Call) -> Script:
        call.input_tokens = 9
        said = [(0.001, Piece(data=chunk("w"), output_tokens=1)) for _ in range(words)]
        end = Piece(data=chunk(finish="stop", usage=(9, words)))
        return [(0.1, event_head()), *said, (0.001, end), (0, Piece(data=DONE)), (0, Ends())]

    return script


@plays()
async def test_the_provider_waits_while_everyone_is_far_behind(scene: Scene) -> None:
    scene.scripts = [long(3 * BEHIND_MAX)]
    tasks = [scene.start("why", stream=True, pause_s=60.0) for _ in range(2)]
    await asyncio.sleep(30.0)
    (flight,) = scene.engine._sharing.flights._under_way
    assert BEHIND_MAX <= len(flight.log) <= BEHIND_MAX + 2
    await asyncio.sleep(40.0)
    assert flight.is_over
    assert [got.text for got in await all_of(*tasks)] == ["w" * 3 * BEHIND_MAX] * 2


@plays()
async def test_who_waits_for_the_whole_is_never_behind(scene: Scene) -> None:
    """The stream's reader sleeps, or has gone; the one who wants all of it at once must not starve."""
    scene.scripts = [long(2 * BEHIND_MAX), long(2 * BEHIND_MAX)]
    slow = scene.start("a", stream=True, pause_s=1_000.0)
    await scene.rest()
    whole = await scene.ask("a")
    assert whole.text == "w" * 2 * BEHIND_MAX
    assert whole.at_s < 5
    slow.cancel()
    gone = scene.start("b", stream=True)
    whole_b = scene.start("b")
    await asyncio.sleep(0.5)
    gone.cancel()
    assert (await whole_b).text == "w" * 2 * BEHIND_MAX


@plays()
async def test_a_paused_flight_ends_when_its_last_reader_goes(scene: Scene) -> None:
    scene.scripts = [long(3 * BEHIND_MAX)]
    slow = scene.start("why", stream=True, pause_s=1_000.0)
    await asyncio.sleep(30.0)
    slow.cancel()
    await asyncio.sleep(0.05)
    assert not scene.stage.transport.open_calls
    assert [entry.outcome for entry in scene.entries] == ["cancelled"]


# money, rates and rights

POOR = BudgetConfig(daily=Decimal("1e-9"))


@plays(
    scope="shared",
    settings=keys("rich", "poor", poor={"budget": POOR, "rates": RateConfig(tokens_per_minute=1)}),
)
async def test_a_joiner_needs_no_budget_and_no_tokens(scene: Scene) -> None:
    rich = scene.start("why", key="wv-key-rich")
    await asyncio.sleep(0.1)
    poor = await scene.ask("why", key="wv-key-poor")
    assert (poor.how, poor.text) == ("joined", "why #1")
    assert (await rich).how == "miss"
    hit = await scene.ask("why", key="wv-key-poor", stream=True)
    assert (hit.how, hit.text) == ("hit", "why #1")
    refused = await scene.ask("something else", key="wv-key-poor")
    assert refused.fault is not None and refused.fault.status == 429


@plays(settings={"rates": {"key:*": RateConfig(requests_per_minute=3)}})
async def test_hits_and_joins_count_as_requests(scene: Scene) -> None:
    await all_of(scene.start("why"), scene.start("why"))
    assert (await scene.ask("why")).how == "hit"
    refused = await scene.ask("why")
    assert refused.fault is not None and refused.fault.kind == "rate_limited"


@plays(scope="shared", settings=keys("rich", "poor", poor={"budget": POOR}))
async def test_a_refusal_of_the_leaders_own_is_not_told_to_others(scene: Scene) -> None:
    """Nor do they go without an answer because of it: the next of them leads, for all the rest."""
    poor = scene.start("why", key="wv-key-poor")
    others = [scene.start("why", key="wv-key-rich") for _ in range(4)]
    got = await all_of(poor, *others)
    assert got[0].fault is not None and got[0].fault.kind == "budget_exceeded"
    assert [each.text for each in got[1:]] == ["why #1"] * 4
    assert [each.how for each in got[1:]] == ["miss", "joined", "joined", "joined"]
    assert len(scene.calls) == 1


ENOUGH_FOR_A_FEW_WORDS = BudgetConfig(daily=Decimal("0.00003"))


def cut(call: Call) -> Script:
    """The answer of a provider that was told to be short."""
    return echo(call, finish="length" if call.body.get("max_tokens") else "stop")


@plays(scope="shared", settings=keys("rich", "poor", poor={"budget": ENOUGH_FOR_A_FEW_WORDS}))
async def test_an_answer_cut_to_the_leaders_budget_is_not_given_to_others(scene: Scene) -> None:
    for stream in (False, True):
        scene.scripts = [cut, cut]
        poor = scene.start(f"why {stream}", key="wv-key-poor", stream=stream)
        rich = scene.start(f"why {stream}", key="wv-key-rich", stream=stream)
        got = await all_of(poor, rich)
        assert got[0].exchange.clamped_to is not None
        assert [each.how for each in got] == ["miss", "miss"]
        (mine,) = [call for call in scene.calls if call.attempt_id.startswith(got[1].exchange.id)]
        assert got[1].text == f"why {stream} #{mine.number}"
        assert (
            "max_tokens" not in mine.body or mine.body["max_tokens"] != got[0].exchange.clamped_to
        )


@plays(
    scope="key",
    settings={**keys("app"), "budgets": {"user:ann": ENOUGH_FOR_A_FEW_WORDS}},
)
async def test_an_answer_cut_to_a_users_budget_is_not_given_to_another_of_its_key(
    scene: Scene,
) -> None:
    for stream in (False, True):
        scene.scripts = [cut, cut]
        tasks = [
            scene.start(
                f"why {stream}", key="wv-key-app", stream=stream, headers={b"x-windvane-user": user}
            )
            for user in (b"ann", b"ann", b"bob", b"bob")
        ]
        got = await all_of(*tasks)
        assert got[0].exchange.clamped_to is not None
        assert [each.how for each in got] == ["miss", "joined", "miss", "joined"]
        first, second = scene.calls[-2:]
        assert [each.text.rpartition("#")[2] for each in got] == [
            *(2 * [str(first.number)]),
            *(2 * [str(second.number)]),
        ]


USERS = ("ann", "bob", "cid", "dan")


@pytest.mark.parametrize("whose", ["key", "user"])
def test_users_of_a_key_share_what_is_cut_alike(whose: str) -> None:
    """One call where the key's own budget cuts; and where each user's does, one for each."""
    names = ["key:app"] if whose == "key" else [f"user:{user}" for user in USERS]
    budgets = dict.fromkeys(names, ENOUGH_FOR_A_FEW_WORDS)

    @plays(scope="key", settings={**keys("app"), "budgets": budgets})
    async def script(scene: Scene) -> None:
        scene.scripts = [cut] * len(USERS)
        tasks = [
            scene.start("why", key="wv-key-app", headers={b"x-windvane-user": user.encode()})
            for user in USERS
            for _ in range(3)
        ]
        got = await all_of(*tasks)
        assert {each.fault for each in got} == {None}
        calls = 1 if whose == "key" else len(USERS)
        assert sorted(each.how for each in got) == ["joined"] * (12 - calls) + ["miss"] * calls
        assert len(scene.calls) == calls

    script()


def whole(call: Call) -> Script:
    """An answer that was short enough, however short it had to be."""
    return echo(call, finish="stop")


BOUND = {name: {"budget": ENOUGH_FOR_A_FEW_WORDS} for name in ("poor", "bob", "cid", "dan")}


@plays(scope="shared", settings=keys("rich", *BOUND, **BOUND))
async def test_a_whole_answer_is_everybodys_however_short_it_had_to_be(scene: Scene) -> None:
    """One call for all; a stream of another key gets its words once it is known that nothing is missing,
    one of the leader's own live."""
    for stream in (False, True):
        scene.scripts = [whole]
        begun_s = scene.now_s()
        poor = scene.start(f"why {stream}", key="wv-key-poor", stream=stream)
        await scene.rest()
        mine = scene.start(f"why {stream}", key="wv-key-poor", stream=True)
        others = [
            scene.start(f"why {stream}", key=f"wv-key-{key}", stream=streams)
            for streams in (False, True)
            for key in ("rich", "bob")
        ]
        got = await all_of(poor, mine, *others)
        assert got[0].exchange.clamped_to is not None
        assert [each.how for each in got] == ["miss"] + ["joined"] * 5
        assert {each.text for each in got} == {got[0].text}
        assert {each.fault for each in got} == {None}
        end_s = got[0].at_s
        assert [each.at_s for each in got[2:4]] == [pytest.approx(end_s, abs=0.01)] * 2
        told_s = [each.heard[0][0] - begun_s for each in got[4:]]
        assert told_s == [pytest.approx(end_s - begun_s, abs=0.01)] * 2
        assert got[1].heard[0][0] == pytest.approx(got[0].heard[0][0] if stream else end_s)
    assert len(scene.calls) == 2


@plays(scope="shared", settings=keys("rich", *BOUND, **BOUND))
async def test_those_who_cannot_take_a_cut_answer_share_another(scene: Scene) -> None:
    for stream in (False, True):
        scene.scripts = [cut, cut]
        before = len(scene.calls)
        poor = [scene.start(f"why {stream}", key="wv-key-poor", stream=stream) for _ in range(2)]
        others = [
            scene.start(f"why {stream}", key="wv-key-rich", stream=place % 2 > 0)
            for place in range(6)
        ]
        got = await all_of(*poor, *others)
        first, second = scene.calls[before:]
        assert [each.how for each in got] == ["miss", "joined", "miss"] + ["joined"] * 5
        assert {each.text for each in got[:2]} == {f"why {stream} #{first.number}"}
        assert {each.text for each in got[2:]} == {f"why {stream} #{second.number}"}


@plays(scope="shared", settings=keys(*BOUND, **BOUND))
async def test_whom_no_other_key_affords_a_whole_answer_shares_with_its_own(scene: Scene) -> None:
    """And nobody is refused since requests of its own held all its money at once."""
    scene.scripts = [cut] * len(BOUND)
    tasks = [scene.start("why", key=f"wv-key-{key}") for key in BOUND for _ in range(5)]
    got = await all_of(*tasks)
    assert {each.fault for each in got} == {None}
    assert sorted(each.how for each in got) == ["joined"] * 16 + ["miss"] * 4
    for place, key in enumerate(BOUND):
        shared = got[5 * place : 5 * place + 5]
        assert len({each.text for each in shared}) == 1, key
    assert len(scene.calls) == len(BOUND)


@plays(scope="shared", settings=keys("terse", "free", terse={"output_tokens_max": 2}))
async def test_an_answer_cut_by_the_leaders_key_is_not_shared_under_way(scene: Scene) -> None:
    got = await all_of(
        scene.start("why", key="wv-key-terse"), scene.start("why", key="wv-key-free")
    )
    assert [each.how for each in got] == ["miss", "miss"]


@plays()
async def test_who_would_be_answered_by_other_models_flies_apart(scene: Scene) -> None:
    """`small` by its name has no fallback, and wants none; `auto` has one, and wants it."""
    scene.scripts = [fails(401), fails(401), echo]
    by_name, by_route = await all_of(scene.start("why", "small"), scene.start("why", "auto"))
    assert by_name.fault is not None
    assert by_route.text == "why #3"
    assert scene.calls[2].deployment == "two/large"


@plays()
async def test_a_models_names_fly_together(scene: Scene) -> None:
    got = await all_of(scene.start("why", "small"), scene.start("why", "one/small"))
    assert [each.how for each in got] == ["miss", "joined"]


# other processes


def entry_of(text: str) -> tuple[bytes, bytes]:
    """Key and bytes of the answer that another process has made to `text`."""

    async def main() -> tuple[bytes, bytes]:
        scene = Scene()
        scene.scripts = [echo]
        await scene.ask(text, "small")
        ((key, (data, _, _)),) = scene.stage.cache.kept.items()
        await scene.close()
        return key, data

    return run_virtual(main())


def with_others(
    script: Callable[[Scene, OtherProcess], Any], **settings: Any
) -> tuple[Scene, OtherProcess]:
    """Play a script in a process that shares its cache; no lease may be left."""

    async def main() -> tuple[Scene, OtherProcess]:
        slow = {name: settings.pop(name, 0.0) for name in ("claim_s", "release_s")}
        others = OtherProcess(**slow)
        scene = Scene(leases=others, **settings)
        await script(scene, others)
        await scene.close()
        assert others.granted == others.released
        assert not others.ours
        return scene, others

    return run_virtual(main())


def test_who_asks_for_all_has_the_lease_until_the_answer_is_kept() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        slow = says(content="words", delay_s=10.0)
        scene.scripts = [slow]
        got = await all_of(scene.start("why"), scene.start("why"))
        assert [each.how for each in got] == ["miss", "joined"]
        assert others.granted == 1
        assert others.renewals == 7

    with_others(script)


def test_the_lease_is_kept_until_others_would_find_the_answer() -> None:
    """Who had it next would ask, and pay, once more; who has asked does not wait for it."""
    key, _ = entry_of("why")

    async def script(scene: Scene, others: OtherProcess) -> None:
        scene.stage.cache.write_s = 0.5
        got = await all_of(scene.start("why"), scene.start("why"))
        assert {each.at_s for each in got} == {HEAD_S}
        assert others.ours == {key}
        await scene.rest(0.4)
        assert others.ours == {key}
        await scene.rest(0.2)
        assert not others.ours

    with_others(script)


def test_what_another_process_is_asking_is_waited_for() -> None:
    key, data = entry_of("why")

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {key}
        tasks = [scene.start("why", "small", stream=bool(n % 2)) for n in range(4)]
        await scene.rest(3.0)
        scene.stage.cache.kept[key] = data, (), 1e9
        got = await all_of(*tasks)
        assert {(each.how, each.text) for each in got} == {("hit", "why #1")}
        assert all(3.0 < each.at_s < 3.2 for each in got)

    scene, _ = with_others(script)
    assert not scene.calls


def test_a_key_that_is_revoked_while_another_process_asks_sends_nothing() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        key, secret = await scene.stage.desk.create(KeyTerms(name="one"))
        others.holds_all = True
        waiting = scene.start("why", "small", key=secret)
        await scene.rest(3.0)
        await scene.stage.desk.revoke(key.id)
        others.holds_all = False
        got = await waiting
        assert got.fault is not None and got.fault.kind is FaultKind.UNAUTHENTICATED

    scene, others = with_others(script)
    assert not scene.calls
    assert others.granted == 1


def test_when_the_other_process_dies_one_of_us_takes_over() -> None:
    key, _ = entry_of("why")

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {key}
        tasks = [scene.start("why", "small", stream=bool(n % 2)) for n in range(4)]
        await scene.rest(3.0)
        others.holds = set()
        got = await all_of(*tasks)
        assert sorted(each.how for each in got) == ["joined", "joined", "joined", "miss"]
        assert {each.text for each in got} == {"why #1"}

    scene, others = with_others(script)
    assert len(scene.calls) == 1
    assert others.granted <= 4


def test_nobody_waits_for_another_process_for_ever() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds_all = True
        got = await scene.ask("why")
        assert (got.how, got.text) == ("miss", "why #1")
        assert 5.0 <= got.at_s - HEAD_S <= 5.2

    with_others(script, wait_s=5.0)


def test_not_to_wait_at_all_is_to_look_twice_at_most() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds_all = True
        assert (await scene.ask("why")).at_s - HEAD_S <= 0.1

    with_others(script, wait_s=0.0)


def test_a_lease_that_is_lost_does_no_harm() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.is_lost = True
        scene.scripts = [says(content="words", delay_s=10.0)]
        assert (await scene.ask("why")).text == "words"
        assert others.renewals == 1
        assert (await scene.ask("why")).how == "hit"

    with_others(script)


def test_an_answer_that_came_between_looking_and_claiming_is_seen() -> None:
    """The other process has put it and let go; whoever then gets the lease must not ask again."""
    key, data = entry_of("why")

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {key}
        task = scene.start("why", "small")
        while not others.refused:
            await scene.rest()
        looked = scene.engine._sharing._lookup.find
        looks = 0

        async def look(ask: Any) -> Any:
            nonlocal looks
            looks += 1
            found = await looked(ask)
            if others.holds:
                others.holds = set()
                scene.stage.cache.kept[key] = data, (), 1e9
            return found

        scene.engine._sharing._lookup.find = look  # type: ignore[method-assign]
        assert (await task).how == "hit"
        assert looks == 2

    scene, _ = with_others(script)
    assert not scene.calls


def test_who_claims_at_once_in_one_process_flies_together() -> None:
    """While the first still claims, there is no flight to be found yet."""

    async def script(scene: Scene, others: OtherProcess) -> None:
        got = await all_of(*(scene.start("why") for _ in range(5)))
        assert sorted(each.how for each in got) == ["joined"] * 4 + ["miss"]
        assert others.granted == 1

    with_others(script, claim_s=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_when_the_leases_fail_one_of_us_asks_for_all_the_rest(seed: int) -> None:
    """Each hears of it at another moment, and looks once more for the answer, which takes a while too."""
    dice = Random(seed)

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds_all = True
        scene.stage.cache.look_s = 0.02
        tasks = []
        for _ in range(60):
            tasks.append(scene.start("why", stream=dice.random() < 0.5))
            await scene.rest(0.002)
        await scene.rest(1.5)
        others.is_down = True
        got = await all_of(*tasks)
        assert {each.text for each in got} == {"why #1"}
        assert sorted(each.how for each in got) == ["joined"] * 59 + ["miss"]

    scene, _ = with_others(script, claim_s=lambda: dice.choice((0.0, 0.02, dice.random() / 50)))
    assert len(scene.calls) == 1


def test_who_was_granted_a_lease_flies_beside_nobody_that_took_off_meanwhile() -> None:

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds_all = True
        first, second = scene.start("why"), scene.start("why")
        while others.refused < 2:
            await scene.rest()
        scene.stage.cache.look_s = 0.02
        others.is_down = True
        got = await all_of(first, second)
        assert sorted(each.how for each in got) == ["joined", "miss"]

    with_others(script)


def test_a_lease_is_given_back_when_its_holder_may_not_ask() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await scene.ask("a rate may be overdrawn once")
        refused = await scene.ask("why")
        assert refused.fault is not None and refused.fault.kind == "rate_limited"
        await scene.rest()
        assert (others.granted, others.released) == (2, 2)

    with_others(script, settings={"rates": {"key:*": RateConfig(tokens_per_minute=1)}})


def test_what_is_kept_bears_the_number_of_the_lease_it_was_asked_for_with() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await scene.ask("a")
        await scene.ask("b")
        scene.scripts = [fails(401), echo]
        await scene.ask("another model's answer, whose lease nobody had")
        others.is_down = True
        await scene.ask("c")
        assert list(scene.stage.cache.fences.values()) == [1, 2, 0, 0]

    with_others(script)


def test_nobody_waits_for_a_lease_to_be_given_back() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        scene.scripts = [fails(400), echo]
        failed = await all_of(scene.start("a"), scene.start("a"))
        assert {each.at_s for each in failed} == {HEAD_S}
        assert len(others.ours) == 1
        await scene.rest(10)
        begun_s = scene.now_s()
        whole, stream = await all_of(scene.start("b"), scene.start("b", stream=True))
        assert {whole.at_s, stream.at_s} == {begun_s + HEAD_S}
        await scene.rest(10)

    with_others(script, release_s=5.0)


def test_a_lease_is_given_back_by_who_fails_or_leaves() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        scene.scripts = [fails(400)]
        await scene.ask("why")
        task = scene.start("how")
        await scene.rest(0.5)
        task.cancel()
        await scene.rest(0.05)
        assert (others.granted, others.released) == (2, 2)

    with_others(script)


# several gateways, on one lease store

FOUR = 4


def among_four(script: Callable[[list[Scene], OtherProcess], Any], **slow: Any) -> list[Scene]:
    """Play a script in four gateways whose leases are the same."""

    async def main() -> list[Scene]:
        leases = OtherProcess(**slow)
        scenes = [Scene(leases=leases, seed=number) for number in range(FOUR)]
        await script(scenes, leases)
        for scene in scenes:
            await scene.close()
        assert not leases.ours
        return scenes

    return run_virtual(main())


def calls_of(scenes: list[Scene]) -> list[int]:
    return [len(scene.calls) for scene in scenes]


NOT_KEPT: dict[str, Callable[[Call], Script]] = {
    "cut": lambda call: echo(call, finish="length"),
    "empty": says(content=""),
    "uncounted": lambda call: echo(call, usage=None),
    "refused": fails(400),
}


@pytest.mark.parametrize("what", NOT_KEPT)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_is_not_kept_is_waited_for_once(what: str, stream: bool) -> None:
    """Then all who waited ask at once, each gateway for itself and once, and not one after another."""

    async def script(scenes: list[Scene], _: OtherProcess) -> None:
        for scene in scenes:
            scene.scripts = [NOT_KEPT[what]] * 9
        begun_s = scenes[0].now_s()
        waits = what == "empty" or not stream
        once_s = HEAD_S if waits else WHOLE_S
        tasks = [
            scene.start("why", "small", stream=stream and what != "empty")
            for scene in scenes
            for _ in range(5)
        ]
        got = await all_of(*tasks)
        assert max(each.at_s for each in got) - begun_s <= 2 * once_s + 0.2

    assert calls_of(among_four(script)) == [1] * FOUR


def test_a_leader_who_goes_hands_over_to_one_of_the_others() -> None:
    """That is no answer that was not kept: they go on taking turns."""

    async def script(scenes: list[Scene], leases: OtherProcess) -> None:
        leader = scenes[0].start("why", "small")
        await scenes[0].rest(0.3)
        tasks = [scene.start("why", "small") for scene in scenes[1:]]
        await scenes[0].rest(0.3)
        leader.cancel()
        await scenes[0].rest(0.3)
        assert sum(calls_of(scenes)) == 2
        assert leases.granted == 2
        for task in tasks:
            task.cancel()
        await scenes[0].rest(0.3)

    among_four(script)


def test_a_gateway_that_ends_hands_over_to_one_of_the_others() -> None:
    """Nor is that it had to end: they need not all ask at once."""

    async def script(scenes: list[Scene], leases: OtherProcess) -> None:
        leader = scenes[0].start("why", "small")
        await scenes[0].rest(0.3)
        tasks = [scene.start("why", "small") for scene in scenes[1:]]
        await scenes[0].rest(0.3)
        scenes[0].engine.call_off()
        leader.cancel()
        assert (await leader).fault is not None
        await scenes[0].rest(0.3)
        assert sum(calls_of(scenes)) == 2
        assert leases.granted == 2
        for task in tasks:
            task.cancel()
        await scenes[0].rest(0.3)

    among_four(script)


@pytest.mark.parametrize("away_s", [0.0, 0.008, 0.012, 0.019])
def test_gateways_agree_however_far_their_store_is_and_wait_for_one_round_trip(
    away_s: float,
) -> None:
    """A look-up and a claim, each as long as a command may take, cost less than 25 ms together."""

    async def script(scenes: list[Scene], leases: OtherProcess) -> None:
        for scene in scenes:
            scene.stage.cache.look_s = away_s
            scene.stage.cache.kept = scenes[0].stage.cache.kept
        got = await all_of(*(scene.start("why", "small") for scene in scenes))
        first = min(got, key=lambda each: each.at_s)
        assert first.at_s - HEAD_S <= 0.025
        assert {(each.how, each.text) for each in got if each is not first} == {("hit", "why #1")}
        assert sorted(calls_of(scenes)) == [0, 0, 0, 1]

    among_four(script, claim_s=away_s)


@pytest.mark.parametrize(("away_s", "claims"), [(0.001, 0), (0.012, 1)])
def test_a_hit_of_a_store_nearby_claims_nothing_and_of_one_far_away_gives_it_back(
    away_s: float, claims: int
) -> None:
    key, data = entry_of("why")

    async def script(scene: Scene, others: OtherProcess) -> None:
        scene.stage.cache.look_s = away_s
        scene.stage.cache.behind[key] = data, (), 1e9
        got = await scene.ask("why", "small")
        assert (got.how, got.at_s) == ("hit", away_s)
        await scene.rest(0.1)
        assert others.claims == claims

    with_others(script, claim_s=away_s)


@pytest.mark.parametrize("away_s", [0.0, 0.008, 0.02])
def test_who_goes_while_the_lease_is_claimed_keeps_nobody_waiting(away_s: float) -> None:
    async def script(scenes: list[Scene], leases: OtherProcess) -> None:
        for scene in scenes:
            scene.stage.cache.look_s = away_s
        for number in range(40):
            task = scenes[0].start(f"why {number}", "small")
            await scenes[0].rest(number * 0.001)
            task.cancel()
            begun_s = scenes[1].now_s()
            got = await scenes[1].ask(f"why {number}", "small")
            assert got.at_s - begun_s - HEAD_S <= 0.2

    among_four(script, claim_s=away_s)


# leaving at every wait there is

CASES: dict[str, tuple[bool, bool, list[Callable[[Call], Script]]]] = {
    "whole": (False, False, [echo]),
    "streams": (True, True, [echo]),
    "a whole answer joined by a stream": (False, True, [echo]),
    "a stream joined by a whole answer": (True, False, [echo]),
    "a failure": (False, False, [fails(400)]),
    "a stream that breaks": (True, True, [breaking]),
    "a failover": (True, True, [fails(401), echo]),
}
WAITS_MAX = 60


async def leave_at(k: int, moment: Moment, case: str, leaver: int, has_leases: bool) -> bool:
    """Leader, joiner and a late joiner; one of them leaves at its k-th wait."""
    leads_stream, joins_stream, scripts = CASES[case]
    others = OtherProcess(claim_s=0.01)
    scene = Scene(leases=others if has_leases else None)
    scene.scripts = list(scripts)
    was_cancelled = False
    kinds = (leads_stream, joins_stream, joins_stream)

    async def caller(place: int) -> Got | None:
        nonlocal was_cancelled
        await asyncio.sleep((0.0, 0.0, 1.7 if leads_stream else 0.5)[place])
        fields = {"stream": kinds[place]}
        if place != leaver:
            return await scene.ask("why", **fields)
        listening = scene.listen(scene.accept("why", **fields))
        was_cancelled = await cancelled_at(k, listening, moment)
        return None

    tasks = [asyncio.get_running_loop().create_task(caller(place)) for place in range(3)]
    stayed = [got for got in await asyncio.gather(*tasks) if got is not None]
    assert len({got.text for got in stayed if got.how == "joined" and got.fault is None}) <= 1
    await scene.close()
    paid = [entry for entry in scene.entries if entry.is_attempt]
    assert len(paid) == len(scene.calls)
    assert others.released == others.granted
    return was_cancelled


@pytest.mark.parametrize("has_leases", [False, True], ids=["alone", "among others"])
@pytest.mark.parametrize("leaver", range(3), ids=["leader", "joiner", "latecomer"])
@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("case", CASES)
def test_leaving_at_every_wait(case: str, moment: Moment, leaver: int, has_leases: bool) -> None:
    for k in count(1):
        if not run_virtual(leave_at(k, moment, case, leaver, has_leases)):
            assert k > 1
            return
        assert k < WAITS_MAX


# what these tests would say of worse flights


class Careless(Flights):
    """Lets everyone aboard a flight that is dying."""

    def leave(self, flight: Any, exchange: Any) -> None:
        flight.leave(exchange)


def test_joining_a_dying_flight_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "Flights", Careless)
    with pytest.raises(AssertionError):
        test_nobody_joins_a_flight_that_is_dying()


class Promiscuous(Flights):
    """Takes any flight for the right one."""

    def find(self, key: bytes) -> Any:
        return next(iter(self._flights.values()), None)


def test_sharing_across_keys_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "Flights", Promiscuous)
    with pytest.raises(AssertionError):
        test_two_keys_never_share_unless_told_to()
    with pytest.raises(AssertionError):
        test_another_question_or_key_is_another_flight()


def test_waiting_for_the_slowest_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights_module.Flight, "has_read", lambda *_: None)
    with pytest.raises((AssertionError, RuntimeError)):
        test_who_waits_for_the_whole_is_never_behind()


def waiting_line() -> Config:
    """One request a minute, and callers of each priority who share answers."""
    one = msgspec.structs.replace(
        two_providers().providers["one"], limits=UpstreamLimitsConfig(requests_per_minute=1)
    )
    keys = tuple(
        KeyConfig(key=f"sk-of-{priority}", name=f"a-{priority}", priority=priority)
        for priority in Priority
    )
    return two_providers(
        providers={"one": one},
        routes={},
        auth=AuthConfig(keys=keys),
        waiting=WaitingConfig(max_wait_s=600),
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_who_joins_a_request_that_waits_lends_it_its_priority(stream: bool) -> None:
    async def main() -> None:
        scene = Scene(config=waiting_line(), scope="shared")

        def start(text: str, who: str) -> "asyncio.Task[Got]":
            return scene.start(text, "small", key=f"sk-of-{who}", stream=stream)

        await start("first", "normal")
        low = start("same", "low")
        await scene.rest(1)
        normal = start("other", "normal")
        await scene.rest(1)
        high = start("same", "high")
        first, second, third = await low, await high, await normal
        assert (first.how, second.how) == ("miss", "joined")
        assert first.text == second.text
        assert first.at_s < third.at_s
        led, joined = first.exchange.queued_s, second.exchange.queued_s
        assert joined == pytest.approx(led - 2, abs=0.01) and joined > 50
        await scene.close()

    run_virtual(main())
