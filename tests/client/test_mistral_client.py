"""`MistralClient`: the engine in process, against the simulator over a real socket."""

import asyncio
import queue
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.blackhole import blackhole, connecting_to
from tests.redis_server import NEEDS_REDIS, redis_server

import windvane
from windvane import BadRequestError, InternalServerError, MistralClient, NotFoundError
from windvane.config import Config, ConfigError
from windvane.config.schema import CacheConfig, ProviderConfig
from windvane.core.money import NANO_PER_USD
from windvane.simulator import Simulator, SimulatorConfig


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorConfig())
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[MistralClient]:
    async with MistralClient(api_key="k", api_base=f"{simulator.url}/v1") as client:
        yield client


def user(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


async def test_an_answer_has_its_parts_as_keys_and_attributes(client: MistralClient) -> None:
    result = await client.chat(user("What is a windvane?"))
    assert result["content"] == result.content != ""
    assert result["model"] == result.model == "mistral-small-latest"
    assert result["reason"] == "short and simple"
    assert result["cached"] is False
    assert result["cost"] == result["cost_nano_usd"] / NANO_PER_USD > 0
    usage = result["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert set(result) >= {"content", "cost", "model", "usage", "cached", "reason"}
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        _ = result.nothing


async def test_what_it_says_it_cost_is_what_the_provider_bills(
    client: MistralClient, simulator: Simulator
) -> None:
    for text in ("Hello", "Prove step by step that 2 is prime", "def f(): return 1  # python bug"):
        await client.chat(user(text))
    stats = client.get_stats()
    assert stats["requests"] == 3
    assert stats["total_cost_nano_usd"] == simulator.bill.total_nano_usd > 0
    assert stats["requests_by_model"] == {
        "mistral-small-latest": 1,
        "mistral-large-latest": 1,
        "codestral-latest": 1,
    }


async def test_a_call_cancelled_while_it_connects_costs_nothing() -> None:
    with blackhole() as port:
        before = connecting_to(port)
        async with MistralClient(api_key="k", api_base=f"http://127.0.0.1:{port}/v1") as client:
            asking = asyncio.ensure_future(client.chat(user("Hello")))
            while connecting_to(port) == before:
                await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            stats = client.get_stats()
            assert (stats["requests"], stats["total_cost_nano_usd"]) == (1, 0)


async def test_statistics_before_and_after(client: MistralClient) -> None:
    assert client.get_stats()["cache_hit_rate"] == "0.0%"
    assert client.get_stats()["avg_cost_per_request"] == 0.0
    result = await client.chat(user("Hello"))
    stats = client.get_stats()
    assert stats["tokens_input"] == result["usage"]["input_tokens"]
    assert stats["tokens_output"] == result["usage"]["output_tokens"]
    assert stats["total_cost"] == stats["avg_cost_per_request"] == result["cost"]
    assert (await client.chat(user("Hello"))).cached
    assert client.clear_cache() == 1
    assert client.clear_cache() == 0
    assert not (await client.chat(user("Hello"))).cached
    assert not (await client.chat(user("Hello"), use_cache=False)).cached
    assert client.get_stats()["cache_hits"] == 1


async def test_a_model_asked_for_by_name_is_the_one_that_answers(client: MistralClient) -> None:
    result = await client.chat(user("Prove it step by step"), model="ministral-8b-latest")
    assert result.model == "ministral-8b-latest"
    assert result.reason == "asked for by name"


async def test_routing_can_be_turned_off(client: MistralClient) -> None:
    result = await client.chat(user("Prove it step by step"), auto_route=False)
    assert result.model == "mistral-small-latest"


async def test_a_string_is_one_user_message_and_options_reach_the_model(
    client: MistralClient, simulator: Simulator
) -> None:
    result = await client.chat("Hello", temperature=0.2, max_tokens=3, random_seed=7)
    assert result["usage"]["output_tokens"] <= 3
    assert result.finish_reason == "length"
    sent = simulator.tape[-1].body
    assert b'"temperature":0.2' in bytes(sent) and b'"random_seed":7' in bytes(sent)


async def test_tools_come_back_whole(client: MistralClient) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    result = await client.chat("What is the weather in Paris?", tools=[tool])
    assert result.model == "mistral-medium-latest"
    assert result.tool_calls[0]["function"] == {
        "name": "get_weather",
        "arguments": '{"city":"Paris"}',
    }


async def test_a_failing_model_is_replaced_and_both_attempts_are_counted(
    client: MistralClient, simulator: Simulator
) -> None:
    result = await client.chat("!empty")
    assert result["attempts"] == 2
    assert client.get_stats()["fallbacks"] == 1
    assert client.get_stats()["total_cost_nano_usd"] == simulator.bill.total_nano_usd


@pytest.mark.parametrize(
    ("messages", "options", "error", "said"),
    [
        ([], {}, BadRequestError, "messages"),
        (None, {}, BadRequestError, "messages"),
        ({"role": "user", "content": "hi"}, {}, BadRequestError, "messages"),
        ("hi", {"tools": object()}, BadRequestError, "JSON"),
        ("hi", {"temperature": 9}, BadRequestError, "temperature"),
        ("hi", {"model": "mistral-smal-latest"}, NotFoundError, "mistral-small-latest"),
        ("hi", {"stream": True}, BadRequestError, "stream"),
        ("!error 500", {"model": "ministral-3b-latest"}, InternalServerError, "500"),
    ],
)
async def test_errors_are_raised_as_the_openai_sdk_names_them(
    client: MistralClient,
    messages: object,
    options: dict[str, object],
    error: type[windvane.WindvaneError],
    said: str,
) -> None:
    with pytest.raises(error, match=said) as raised:
        await client.chat(messages, **options)  # type: ignore[arg-type]
    assert raised.value.fault.message
    stats = client.get_stats()
    assert (stats["requests"], stats["errors"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": float("-inf")}, "top_p is -inf"),
        ({"tools": [{"type": "function", "x": (float("inf"),)}]}, "tools[0].x[0] is inf"),
    ],
)
async def test_a_number_that_json_has_not_is_refused(
    client: MistralClient, options: dict[str, Any], said: str
) -> None:
    """It would be sent as null, or left out."""
    with pytest.raises(BadRequestError, match=re.escape(f"cannot be written as JSON: {said}")):
        await client.chat("hello", **options)
    assert client.get_stats()["errors"] == 1


async def test_a_closed_client_opens_again_and_goes_on_counting(client: MistralClient) -> None:
    await client.chat("hello", use_cache=False)
    await client.aclose()
    await client.chat("hello", use_cache=False)
    assert client.get_stats()["requests"] == 2


async def test_redis_without_its_package_is_a_problem_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("cache", "invalidations", "leases", "link", "node"):
        monkeypatch.delitem(sys.modules, f"windvane.stores.redis.{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    async with MistralClient(api_key="k", redis_url="redis://127.0.0.1:1") as client:
        with pytest.raises(ConfigError, match=r"pip install 'windvane\[redis\]'") as caught:
            await client.chat("hello")
    assert [problem.path for problem in caught.value.problems] == ["cache.redis"]


async def test_without_any_provider_the_error_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.chdir(str(tmp_path))
    with pytest.raises(ConfigError, match="MISTRAL_API_KEY"):
        await MistralClient().chat("hi")


def test_a_client_outlives_the_loop_it_was_first_used_in(loop_thread: str) -> None:
    """Scripts call `asyncio.run` more than once; connections of a loop that is gone are forgotten."""
    client = MistralClient(api_key="k", api_base=f"{loop_thread}/v1")
    for _ in range(3):
        assert asyncio.run(client.chat("Hello"))["content"]
    assert client.get_stats()["requests"] == 3


@pytest.fixture
def loop_thread() -> Iterator[str]:
    """A simulator in a thread of its own: its address."""
    ready: queue.SimpleQueue[tuple[str, asyncio.AbstractEventLoop]] = queue.SimpleQueue()

    async def serve() -> None:
        simulator = Simulator(SimulatorConfig())
        await simulator.start()
        ready.put((simulator.url, asyncio.get_running_loop()))
        stopped = asyncio.Event()
        stops.append(stopped)
        await stopped.wait()
        await simulator.stop()

    stops: list[asyncio.Event] = []
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, loop = ready.get(timeout=60)
    yield url
    loop.call_soon_threadsafe(stops[0].set)
    thread.join(60)


CONFIGURED = CacheConfig(scope="shared", ttl_s=60, redis="redis://configured:1/0")
UNSCOPED = CacheConfig(ttl_s=60, redis="redis://unrelated:1/0")


@pytest.mark.parametrize(
    ("configured", "said", "kept"),
    [
        # Nothing is said: the configuration's word, else an hour in memory.
        (CacheConfig(), {}, ("key", 3600, None)),
        (CONFIGURED, {}, ("shared", 60, "redis://configured:1/0")),
        (UNSCOPED, {}, ("key", 60, None)),
        # What is said wins.
        (CacheConfig(), {"enable_cache": False}, (None, 3600, None)),
        (CONFIGURED, {"enable_cache": False}, (None, 3600, None)),
        (CONFIGURED, {"enable_cache": False, "cache_ttl": 5}, (None, 3600, None)),
        (CONFIGURED, {"enable_cache": True}, ("shared", 60, "redis://configured:1/0")),
        (UNSCOPED, {"enable_cache": True}, ("key", 60, None)),
        (CONFIGURED, {"cache_ttl": 5}, ("shared", 5, "redis://configured:1/0")),
        (CONFIGURED, {"redis_url": "redis://said:1/0"}, ("shared", 60, "redis://said:1/0")),
        (CacheConfig(), {"redis_url": "redis://said:1/0"}, ("key", 3600, "redis://said:1/0")),
    ],
)
def test_what_is_said_of_the_cache_wins_over_what_is_configured(
    configured: CacheConfig, said: dict[str, Any], kept: tuple[str | None, int, str | None]
) -> None:
    client = MistralClient(api_key="k", config=Config(cache=configured), **said)
    cache = client._config.cache
    assert (cache.scope, cache.ttl_s, cache.redis) == kept
    assert (client.enable_cache, client.cache_ttl, client.redis_url) == (bool(kept[0]), *kept[1:])


@pytest.mark.parametrize(
    ("scope", "said", "cached"),
    [
        (None, {}, True),
        (None, {"enable_cache": False}, False),
        ("shared", {}, True),
        ("shared", {"enable_cache": False}, False),
    ],
)
async def test_the_same_question_twice(
    simulator: Simulator, scope: Any, said: dict[str, Any], cached: bool
) -> None:
    provider = ProviderConfig(api_base=f"{simulator.url}/v1", api_key="k")
    config = Config(
        providers={"mistral": provider}, data_dir=":memory:", cache=CacheConfig(scope=scope)
    )
    async with MistralClient(config=config, **said) as client:
        await client.chat("Hello")
        assert (await client.chat("Hello"))["cached"] is cached


@pytest.mark.parametrize("tier", ["memory", "disk", pytest.param("redis", marks=NEEDS_REDIS)])
async def test_after_the_cache_was_cleared_nothing_of_before_is_given(
    simulator: Simulator, tmp_path: Path, tier: str
) -> None:
    """Without a wait between: what was on its way to a lower tier is not found there either."""
    provider = ProviderConfig(api_base=f"{simulator.url}/v1", api_key="k")
    with ExitStack() as stack:
        url = stack.enter_context(redis_server()).url if tier == "redis" else None
        config = Config(
            providers={"mistral": provider},
            data_dir=":memory:" if tier == "memory" else str(tmp_path),
            cache=CacheConfig(scope="shared", redis=url),
        )
        async with MistralClient(config=config) as client:
            for number in range(10):
                await client.chat(f"Hello {number}")
                assert client.clear_cache() == 1 + bool(number)
                assert not (await client.chat(f"Hello {number}"))["cached"]
                assert (await client.chat(f"Hello {number}"))["cached"]
            client.clear_cache()
            await client.chat("last")
            client.clear_cache()
        async with MistralClient(config=config) as client:
            assert not (await client.chat("last"))["cached"], "nor after a restart"


@pytest.mark.parametrize("ttl", [0, -1, 0.5, 1.5, 60.0, "60", True])
def test_a_wrong_ttl_is_refused(ttl: object) -> None:
    with pytest.raises(ValueError, match="cache_ttl"):
        MistralClient(api_key="k", cache_ttl=ttl)  # type: ignore[arg-type]
