"""What rates take for an answer that nobody has bounded: it follows what such answers had of late."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import msgspec
import pytest

from windvane.config.schema import AuthConfig, Config, KeyConfig, RateConfig, UpstreamLimitsConfig
from windvane.core.faults import RateLimitError
from windvane.core.principal import Principal
from windvane.engine.expecting import EXPECTED_MAX, OUTPUT_TOKENS_FIRST, Expectations
from windvane.engine.relay import ChunkStream
from windvane.testing import Call, Stage, run_virtual
from windvane.testing.answers import (
    Ends,
    Piece,
    Script,
    chunk,
    completion,
    event_head,
    json_head,
)
from windvane.testing.stage import two_providers

INPUT, OUTPUT, LIMIT = 9, 3_000, 6_000
ONE, OTHER = "sk-one-of-them", "sk-the-other-one"
MINUTE_S = 60.0


def long_answer(call: Call, answer_s: float) -> Script:
    call.input_tokens = INPUT
    body = completion("word " * OUTPUT, (INPUT, OUTPUT))
    return [(answer_s, json_head()), (0, Piece(data=body, output_tokens=OUTPUT)), (0, Ends())]


class Crowd:
    """Callers without `max_tokens`, whose answers are long. When each was sent is in `sent_s`."""

    def __init__(self, config: Config) -> None:
        self.sent_s: list[float] = []
        self.answer_s = 1.0
        self.says_s: float | None = None
        """How long an answer goes on after its first word; None for one that comes whole."""
        self.stage = Stage(config, on_connecting=self._sent)
        self.engine = self.stage.engine
        self._loop = asyncio.get_running_loop()

    def _sent(self, call: Call) -> None:
        self.sent_s.append(self._loop.time())
        if self.says_s is None:
            call.play(long_answer(call, self.answer_s))
        else:
            word = Piece(data=chunk("on "), output_tokens=1)
            call.play([(0.1, event_head()), (0.1, word), (self.says_s, Ends())])

    async def ask(self, key: str | None = None, **fields: Any) -> bool:
        """Whether it was let in."""
        try:
            await self.engine.handle(self.stage.accept("small", "Hello?", key=key, **fields))
        except RateLimitError:
            return False
        return True

    async def come(self, number: int, key: str | None = None, **fields: Any) -> int:
        """So many at once: how many were let in."""
        asked = [self._loop.create_task(self.ask(key, **fields)) for _ in range(number)]
        return sum(await asyncio.gather(*asked))


Story = Callable[[Crowd], Awaitable[None]]


def crowd(**settings: Any) -> Callable[[Story], Callable[[], None]]:
    def of(story: Story) -> Callable[[], None]:
        @wraps(story)
        def test() -> None:
            async def play() -> None:
                crowd = Crowd(two_providers(**settings))
                await story(crowd)
                await crowd.stage.close()

            run_virtual(play())

        del test.__wrapped__  # type: ignore[attr-defined]  # it takes no fixture
        return test

    return of


def keys(**of_all: Any) -> AuthConfig:
    told = (KeyConfig(key=ONE, name="one", **of_all), KeyConfig(key=OTHER, name="other", **of_all))
    return AuthConfig(keys=told)


def ceiling(tokens: int) -> dict[str, Any]:
    one = two_providers().providers["one"]
    limits = UpstreamLimitsConfig(tokens_per_minute=tokens)
    return {"providers": {"one": msgspec.structs.replace(one, limits=limits)}, "routes": {}}


async def well_after(crowd: Crowd, used_minutes: float) -> None:
    await asyncio.sleep((used_minutes + 1) * MINUTE_S)


@crowd(rates={"global": RateConfig(tokens_per_minute=LIMIT)})
async def test_a_rate_holds_for_long_answers_once_one_was_seen(crowd: Crowd) -> None:
    assert await crowd.come(1) == 1
    await well_after(crowd, OUTPUT / LIMIT)
    assert await crowd.come(30) == 1, "two would be more than the minute's 6,000"
    await well_after(crowd, OUTPUT / LIMIT)
    assert await crowd.come(30) == 1


@crowd(rates={"global": RateConfig(tokens_per_minute=LIMIT)})
async def test_a_first_burst_may_use_more_and_is_owed_for_it(crowd: Crowd) -> None:
    let_in = await crowd.come(30)
    assert let_in == LIMIT // (INPUT + OUTPUT_TOKENS_FIRST)
    assert not await crowd.ask(max_tokens=1)
    await asyncio.sleep((let_in * (INPUT + OUTPUT) / LIMIT - 2) * MINUTE_S)
    assert not await crowd.ask(max_tokens=1)


@crowd(rates={"global": RateConfig(tokens_per_minute=LIMIT)})
async def test_who_leaves_early_holds_no_more_than_it_can_have_used(crowd: Crowd) -> None:
    """Not all that its key's longest answer of late had."""
    assert await crowd.come(1) == 1
    await well_after(crowd, OUTPUT / LIMIT)
    crowd.says_s = MINUTE_S
    stream = await crowd.engine.handle(crowd.stage.accept("small", "Hello?", stream=True))
    assert isinstance(stream, ChunkStream)
    assert await anext(stream)
    await stream.aclose()
    crowd.says_s = None
    assert await crowd.ask(max_tokens=LIMIT - 1_000)


@crowd(**ceiling(LIMIT))
async def test_nor_of_its_provider(crowd: Crowd) -> None:
    assert await crowd.come(1) == 1
    await asyncio.sleep(2 * MINUTE_S)
    crowd.says_s = MINUTE_S
    stream = await crowd.engine.handle(crowd.stage.accept("small", "Hello?", stream=True))
    assert isinstance(stream, ChunkStream)
    assert await anext(stream)
    await stream.aclose()
    (one,) = crowd.engine.room.upstreams()
    assert (one.limits[0].remaining or 0) > LIMIT - 1_000


@crowd(
    rates={"key:*": RateConfig(tokens_per_minute=LIMIT)},
    auth=keys(),
)
async def test_a_key_begins_with_what_its_model_gave_others(crowd: Crowd) -> None:
    assert await crowd.come(1, ONE) == 1
    assert await crowd.come(30, OTHER) == 1


@crowd(
    rates={"key:*": RateConfig(tokens_per_minute=LIMIT)},
    auth=keys(output_tokens_max=OUTPUT),
)
async def test_what_a_key_says_of_its_answers_is_taken_from_the_first(crowd: Crowd) -> None:
    assert await crowd.come(30, ONE) == 1
    assert await crowd.come(30, OTHER, max_tokens=100_000) == 1


@crowd(rates={"global": RateConfig(tokens_per_minute=LIMIT)})
async def test_what_a_caller_says_is_taken_whatever_was_learned(crowd: Crowd) -> None:
    assert await crowd.come(1) == 1
    await well_after(crowd, OUTPUT / LIMIT)
    assert await crowd.come(2, max_tokens=2_900) == 2


@crowd(**ceiling(LIMIT))
async def test_a_providers_tokens_hold_once_an_answer_was_seen(crowd: Crowd) -> None:
    assert await crowd.come(1) == 1
    await asyncio.sleep(2 * MINUTE_S)
    crowd.sent_s.clear()
    await crowd.come(20)
    assert len(crowd.sent_s) > 1
    for at_s in crowd.sent_s:
        in_a_minute = [each for each in crowd.sent_s if at_s <= each < at_s + MINUTE_S]
        assert len(in_a_minute) * (INPUT + OUTPUT) <= LIMIT + 2 * INPUT


@crowd(**ceiling(LIMIT))
async def test_who_waits_takes_what_is_known_at_its_turn(crowd: Crowd) -> None:
    """They came before anything was known of the answers."""
    crowd.answer_s = 20.0
    await crowd.come(40)
    first = [at_s for at_s in crowd.sent_s if at_s < 1.0]
    later = [at_s for at_s in crowd.sent_s if at_s >= 1.0]
    assert len(first) == LIMIT // (INPUT + OUTPUT_TOKENS_FIRST)
    assert later and later[0] >= MINUTE_S
    assert len(later) <= LIMIT // OUTPUT


class _Used(msgspec.Struct):
    output_tokens: int


class _Attempt(msgspec.Struct):
    usage: _Used | None


def taught(*used: int, key: str = "k", model: str = "m", known: Expectations | None = None) -> Any:
    """What is known after answers of so many tokens; `expected` asks it."""
    expectations = known or Expectations()
    for output in used:
        expectations.learn(an_exchange(key, model, output))
    return expectations


def an_exchange(key: str, model: str, *used: int, n: int = 1) -> Any:
    exchange = _Exchange(principal=Principal(key_id=key), request=_Request(model=model, n=n))
    exchange.attempts = [_Attempt(_Used(output)) for output in used] or [_Attempt(None)]
    return exchange


class _Request(msgspec.Struct):
    model: str
    n: int = 1
    output_tokens_max: int | None = None


class _Analysis(msgspec.Struct, frozen=True):
    input_tokens: int = 0


class _Exchange(msgspec.Struct):
    principal: Principal
    request: _Request
    analysis: _Analysis = _Analysis()
    attempts: list[_Attempt] = []


def expected(expectations: Expectations, key: str = "k", model: str = "m", n: int = 1) -> int:
    return expectations.tokens(an_exchange(key, model, n=n))


def test_it_rises_at_once_and_falls_slowly() -> None:
    known = taught(4_000)
    assert expected(known) == 4_000
    falling = [expected(taught(240, known=known)) for _ in range(60)]
    assert falling[0] == 4_000 - 3_760 // 8
    assert falling == sorted(falling, reverse=True)
    assert falling[7] > 1_000 and falling[-1] == 240
    assert expected(taught(700, known=known)) == 700


@pytest.mark.parametrize("used", [(), (0,)])
def test_an_answer_that_never_came_teaches_nothing(used: tuple[int, ...]) -> None:
    known = Expectations()
    known.learn(an_exchange("k", "m", *used))
    assert expected(known) == OUTPUT_TOKENS_FIRST


def test_each_choice_counts() -> None:
    known = Expectations()
    known.learn(an_exchange("k", "m", 3_000, n=3))
    assert expected(known) == 1_000
    assert expected(known, n=4) == 4_000


def test_models_and_keys_are_apart() -> None:
    known = taught(5_000, key="long")
    assert expected(known, key="new") == 5_000
    assert expected(known, key="long", model="other") == OUTPUT_TOKENS_FIRST
    for _ in range(40):
        taught(10, key="short", known=known)
    assert expected(known, key="short") < 100
    assert expected(known, key="long") == 5_000


def test_no_more_is_kept_than_may_be() -> None:
    known = Expectations()
    for number in range(EXPECTED_MAX + 10):
        taught(500, key=f"k{number}", known=known)
    assert len(known._output) == EXPECTED_MAX
    assert expected(known, key=f"k{EXPECTED_MAX + 9}") == 500
