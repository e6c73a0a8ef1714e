"""A cache that does not lie: a hit is what the model would have been asked, for this caller, whole."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.engine.scene import COST, HEAD_S, Scene, ScriptOf, echo, fails, outcomes, plays, says

from windvane.config.schema import AuthConfig, CacheRouteConfig, KeyConfig, ModelConfig
from windvane.core.cache.entry import pack, unpack
from windvane.core.cache.invalidation import ALL, key_tag, model_tag, route_tag, scope_tag
from windvane.core.catalog.models import Alias, ModelCard, Status
from windvane.core.chat import Chunk
from windvane.core.deployment import Deployment
from windvane.core.usage_report import UsageQuery
from windvane.engine.following import TOLD_AT_ONCE, ReplayStream
from windvane.engine.lookup import CALLER_TAGS_MAX, TAGS_HEADER, asked_model
from windvane.engine.relay import CLIENT_CLOSED
from windvane.testing import Call, run_virtual
from windvane.testing.answers import Breaks, Ends, Piece, Script, completion, json_head
from windvane.testing.stage import SMALL_CARD, two_providers
from windvane.wire.dialect import Dialect
from windvane.wire.openai_chat import encode_completion

# a hit


@plays()
async def test_the_second_time_nobody_is_asked(scene: Scene) -> None:
    first, second, third = [await scene.ask("why") for _ in range(3)]
    assert [each.how for each in (first, second, third)] == ["miss", "hit", "hit"]
    assert first.text == second.text == third.text == "why #1"
    assert len(scene.calls) == 1
    assert [*outcomes(scene.entries)] == [("ok", COST, None), ("hit", 0, COST), ("hit", 0, COST)]
    (usage,) = await scene.stage.ledger.usage(UsageQuery())
    assert (usage.totals.cost_nano_usd, usage.totals.saved_nano_usd) == (COST, 2 * COST)
    assert second.at_s == third.at_s == HEAD_S


@plays()
async def test_a_hit_tells_the_usage_and_has_an_id_of_its_own(scene: Scene) -> None:
    first, second, third = [await scene.ask("why") for _ in range(3)]
    assert len({each.id for each in (first, second, third)}) == 3
    assert first.usage == second.usage
    assert second.usage.output_tokens == 2
    assert first.completion and second.completion
    assert second.completion.created == first.completion.created
    assert second.completion.model == first.completion.model
    assert second.exchange.cost_nano_usd == 0
    assert second.exchange.answered_by is not None
    assert second.exchange.answered_by.deployment.id == "one/small"


def undated(call: Call) -> Script:
    """An answer whose provider does not say when it was made."""
    call.input_tokens = 9
    body = msgspec.json.decode(completion("So.", (9, 2)))
    del body["created"]
    data = msgspec.json.encode(body)
    return [(HEAD_S, json_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]


@plays()
async def test_an_answer_that_is_not_dated_has_the_time_of_the_first(scene: Scene) -> None:
    scene.scripts = [undated]
    first = await scene.ask("why")
    await scene.rest(100)
    whole, streamed = await scene.ask("why"), await scene.ask("why", stream=True)
    assert first.completion and whole.completion and first.completion.created
    assert whole.completion.created == first.completion.created
    assert {chunk.created for chunk in streamed.chunks} == {first.completion.created}


def of_a_version(call: Call) -> Script:
    """An answer whose provider names the version that has made it."""
    head, piece, end = says(content="So.")(call)
    body = msgspec.json.decode(piece[1].data)  # type: ignore[union-attr]
    data = msgspec.json.encode({**body, "model": "small-of-that-day"})
    return [head, (0, Piece(data=data, output_tokens=2)), end]


@plays()
async def test_an_answer_goes_by_the_version_that_its_provider_names(scene: Scene) -> None:
    scene.scripts = [of_a_version]
    await scene.ask("why")
    await scene.ask("how")
    assert (await scene.engine.invalidate(model_tag("small-of-that-day"))).removed == 1
    assert [(await scene.ask(text)).how for text in ("why", "how")] == ["miss", "hit"]


@plays()
async def test_a_long_answer_is_told_as_a_stream_a_piece_at_a_time(scene: Scene) -> None:
    """Others have their turn between any two."""
    scene.scripts = [says(content="word " * 40_000)]
    text = (await scene.ask("why")).text
    stream = await scene.engine.handle(scene.accept("why", stream=True))
    assert isinstance(stream, ReplayStream)
    heard: list[list[Chunk]] = []
    turns: list[int] = []

    async def others() -> None:
        while True:
            turns.append(len(heard))
            await asyncio.sleep(0)

    beside = asyncio.get_running_loop().create_task(others())
    async for chunks in stream:
        heard.append(chunks)
    beside.cancel()
    assert max(map(len, heard)) == TOLD_AT_ONCE
    assert set(range(1, len(heard))) <= set(turns)
    said = [piece.content or "" for each in heard for chunk in each for piece in chunk.choices]
    assert "".join(said) == text


@plays()
async def test_one_entry_serves_whole_and_streamed(scene: Scene) -> None:
    for stream in (False, True):
        first = await scene.ask(f"why {stream}", stream=stream)
        whole = await scene.ask(f"why {stream}")
        streamed = await scene.ask(f"why {stream}", stream=True)
        assert (whole.how, streamed.how) == ("hit", "hit")
        assert whole.text == streamed.text == first.text
        assert whole.usage == streamed.usage == first.usage
        assert whole.id != streamed.id != first.id
        assert scene.kept == 1 + stream


@plays()
async def test_whoever_leaves_a_hit_half_way_has_left(scene: Scene) -> None:
    await scene.ask("why")
    exchange = scene.accept("why", stream=True)
    stream = await scene.engine.handle(exchange)
    assert not hasattr(stream, "choices")
    await stream.aclose()  # type: ignore[union-attr]
    assert scene.ended(exchange).status == CLIENT_CLOSED


@plays()
async def test_an_answer_made_for_one_dialect_is_a_hit_in_the_other(scene: Scene) -> None:
    scene.scripts = [says(content="So.", reasoning_content="Let me think.")]
    text = [{"type": "text", "text": "why"}]
    openai = await scene.ask(
        "why", seed=7, max_completion_tokens=50, tool_choice="required", stop="x", tools=[TOOL]
    )
    mistral = await scene.ask(
        "why",
        dialect="mistral",
        messages=[{"role": "user", "content": text}],
        random_seed=7,
        max_tokens=50,
        tool_choice="any",
        stop=["x"],
        tools=[TOOL],
    )
    assert (openai.how, mistral.how) == ("miss", "hit")
    assert mistral.completion is not None

    def message(dialect: Dialect) -> Any:
        assert mistral.completion is not None
        data = encode_completion(mistral.completion, mistral.usage, dialect, None)
        return msgspec.json.decode(data)["choices"][0]["message"]

    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me think."}]}
    assert message(Dialect.MISTRAL)["content"] == [thought, {"type": "text", "text": "So."}]
    assert message(Dialect.OPENAI) == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "Let me think.",
    }


def vendors(call: Call) -> Script:
    """An answer with members of the provider's own in every place that one can be."""
    body = msgspec.json.decode(completion("So.", (9, 2)))
    body |= {
        "system_fingerprint": "fp_1",
        "x_safety": {"scores": [0.5, 1.0, 1e-7]},
        "nothing": None,
    }
    body["choices"][0] |= {"logprobs": None, "content_filter_results": {"hate": {"n": 0}}}
    body["choices"][0]["message"] |= {"annotations": [], "x_cites": ["\u00e9", "\U0001f600"]}
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 0, "audio_tokens": 0}
    call.input_tokens = 9
    data = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return [(HEAD_S, json_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]


@pytest.mark.parametrize("dialect", Dialect)
def test_a_whole_answers_hit_has_all_that_the_provider_said(dialect: Dialect) -> None:
    """As it was relayed to the first: members that nobody here has heard of included."""

    async def main() -> None:
        scene = Scene()
        scene.scripts = [vendors]
        told = []
        for how in ("miss", "hit", "hit"):
            got = await scene.ask("why", dialect=str(dialect))
            assert got.how == how and got.completion is not None
            metadata = {"cached": how == "hit"}
            written = msgspec.json.encode(metadata)
            data = encode_completion(got.completion, got.usage, dialect, written)
            body = msgspec.json.decode(data)
            assert body.pop("id") == got.id
            assert body.pop("router_metadata") == metadata
            told.append(body)
        assert told[0] == told[1] == told[2]
        assert told[0]["choices"][0]["message"]["x_cites"] == ["\u00e9", "\U0001f600"]
        streamed = await scene.ask("why", stream=True)
        assert (streamed.how, streamed.text) == ("hit", "So.")
        await scene.close()

    run_virtual(main())


@plays()
async def test_an_answer_that_came_as_a_stream_is_told_as_it_was_understood(scene: Scene) -> None:
    await scene.ask("why", stream=True)
    got = await scene.ask("why")
    assert got.completion is not None and got.completion.raw is None


@plays()
async def test_what_no_longer_reads_as_an_answer_is_a_miss(scene: Scene) -> None:
    await scene.ask("why")
    ((key, (data, *rest)),) = scene.stage.cache.kept.items()
    entry = unpack(data, key)
    assert entry is not None and entry.rest is not None
    for damaged in (
        msgspec.structs.replace(entry, rest=b',"choices":"none"'),
        msgspec.structs.replace(entry, rest=b""),
        msgspec.structs.replace(entry, rest=b'}{"'),
        msgspec.structs.replace(entry, rest=None),
    ):
        scene.stage.cache.kept[key] = pack(damaged, key), *rest  # type: ignore[assignment]
        assert (await scene.ask("why")).how == "miss"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLED = [
    {
        "id": f"abcdefgh{n}",
        "type": "function",
        "function": {"name": "f", "arguments": f'{{"n":{n}}}'},
    }
    for n in range(2)
]


@plays()
async def test_tool_calls_are_kept_and_told_whole_and_as_a_stream(scene: Scene) -> None:
    scene.scripts = [says(tool_calls=CALLED, finish="tool_calls")]
    await scene.ask("why", tools=[TOOL])
    whole = await scene.ask("why", tools=[TOOL])
    streamed = await scene.ask("why", tools=[TOOL], stream=True)
    assert (whole.how, streamed.how) == ("hit", "hit")
    assert whole.completion is not None
    told = [call.function.arguments for call in whole.completion.choices[0].message.tool_calls]
    pieces = [piece for chunk in streamed.chunks for piece in chunk.choices]
    heard = [call.arguments for piece in pieces for call in piece.tool_calls or ()]
    assert told == heard == ['{"n":0}', '{"n":1}']


@plays(replay="natural")
async def test_a_paced_replay_takes_as_long_as_the_first_time(scene: Scene) -> None:
    first = await scene.ask("why", stream=True)
    begun_s = scene.now_s()
    again = await scene.ask("why", stream=True)
    assert [text for _, text in again.heard] == ["", "why", " #1", ""]
    assert again.heard[0][0] - begun_s == pytest.approx(first.heard[0][0])
    assert again.at_s - begun_s == pytest.approx(first.at_s)
    whole_at_s = (await scene.ask("why")).at_s
    assert whole_at_s == again.at_s


@plays()
async def test_an_immediate_replay_takes_no_time(scene: Scene) -> None:
    first = await scene.ask("why", stream=True)
    again = await scene.ask("why", stream=True)
    assert again.heard == [(first.at_s, "why #1")]


# whose question it is


@plays()
async def test_a_model_is_the_same_by_all_its_names_and_ways(scene: Scene) -> None:
    assert (await scene.ask("why", "auto")).how == "miss"
    for name in ("small", "one/small", "auto"):
        assert (await scene.ask("why", name)).how == "hit"
    assert (await scene.ask("why", "large")).how == "miss"


def with_models(**models: ModelConfig | None) -> Any:
    config = two_providers()
    one = msgspec.structs.replace(config.providers["one"], models=models)
    return msgspec.structs.replace(config, providers={**config.providers, "one": one})


def with_address(url: str) -> Any:
    config = two_providers()
    one = msgspec.structs.replace(config.providers["one"], api_base=url)
    return msgspec.structs.replace(config, providers={**config.providers, "one": one})


@pytest.mark.parametrize(
    ("url", "how"),
    [
        ("http://one.test/v1", "hit"),
        ("http://ONE.test:80/v1/", "hit"),
        ("http://one.other.test/v1", "miss"),
        ("http://one.test:8080/v1", "miss"),
    ],
)
def test_gateways_that_share_a_store_share_what_one_address_said(url: str, how: str) -> None:
    """A provider of one name may be another server elsewhere, or tomorrow."""

    async def main() -> None:
        one, other = Scene(), Scene(config=with_address(url))
        other.stage.cache.kept = one.stage.cache.kept
        assert (await one.ask("why")).how == "miss"
        assert (await other.ask("why")).how == how
        assert (await one.ask("why")).how == "hit"
        for scene in (one, other):
            await scene.close()

    run_virtual(main())


@plays(config=with_models(small=ModelConfig(card=SMALL_CARD), tuned=ModelConfig(card=SMALL_CARD)))
async def test_two_models_that_share_a_card_do_not_share_answers(scene: Scene) -> None:
    """A model of one's own borrows price and abilities from a card; it is not that model."""
    assert (await scene.ask("why", "small")).text == "why #1"
    assert (await scene.ask("why", "tuned")).text == "why #2"
    assert [call.body["model"] for call in scene.calls] == ["small", "tuned"]


def test_an_alias_asks_its_card_and_another_name_asks_itself() -> None:
    card = ModelCard(
        id="big-2512",
        provider="mistral",
        name="Big",
        status=Status.GA,
        source="test",
        aliases=(Alias(name="big-latest"),),
    )

    def asked(told: str, card: ModelCard | None) -> str:
        return asked_model(Deployment(id="x", provider="x", model=told, card=card))

    assert asked("big-2512", card) == asked("big-latest", card) == "big-2512"
    assert asked("my-own-big", card) == "my-own-big"
    assert asked("unheard-of", None) == "unheard-of"


def a_key(name: str, team: str | None = None) -> KeyConfig:
    return KeyConfig(key=f"wv-key-{name}", name=name, team=team)


TEAMS = {
    "auth": AuthConfig(
        keys=(
            a_key("ann", "red"),
            a_key("bob", "red"),
            a_key("cyd", "blue"),
            a_key("dan"),
            a_key("eve"),
        )
    )
}
WHO = ("ann", "bob", "cyd", "dan", "eve")


@pytest.mark.parametrize(
    ("scope", "hits"),
    [("key", []), ("team", ["bob"]), ("shared", ["bob", "cyd", "dan", "eve"])],
)
def test_answers_are_shared_by_their_scope_alone(scope: str, hits: list[str]) -> None:
    """Keys without a team are not a team."""

    async def main() -> None:
        scene = Scene(scope=scope, settings=TEAMS)
        found = [who for who in WHO if (await scene.ask("why", key=f"wv-key-{who}")).how == "hit"]
        assert found == hits
        assert {(await scene.ask("why", key=f"wv-key-{who}")).how for who in WHO} == {"hit"}
        await scene.close()

    run_virtual(main())


@pytest.mark.parametrize("name", [None, "ann"])
@pytest.mark.parametrize("second", ["wv-key-first", "wv-key-other"])
def test_a_key_without_a_name_shares_by_its_secret_and_not_by_its_place(
    name: str | None, second: str
) -> None:
    """Another key may stand there tomorrow, or at another gateway; a name is the operator's word."""

    async def main() -> None:
        found = []
        kept: dict[bytes, Any] = {}
        for secret in ("wv-key-first", second):
            auth = AuthConfig(keys=(KeyConfig(key=secret, name=name),))
            scene = Scene(settings={"auth": auth})
            scene.stage.cache.kept.update(kept)
            found.append((await scene.ask("why", key=secret)).how)
            kept = dict(scene.stage.cache.kept)
            await scene.close()
        is_same = name == "ann" or second == "wv-key-first"
        assert found == ["miss", "hit" if is_same else "miss"]

    run_virtual(main())


@pytest.mark.parametrize("scope", ["key", "team"])
def test_answers_of_a_key_without_a_name_bear_its_place_too(scope: str) -> None:
    """Another gateway may have another pepper, and knows the key by its place alone."""

    async def main() -> None:
        auth = AuthConfig(keys=(KeyConfig(key="wv-key-first"),))
        scene = Scene(scope=scope, settings={"auth": auth})
        await scene.ask("why", key="wv-key-first")
        await scene.engine.invalidate(scope_tag("key:key-1"))
        assert (await scene.ask("why", key="wv-key-first")).how == "miss"
        await scene.close()

    run_virtual(main())


LIMITED = AuthConfig(
    keys=(a_key("free"), KeyConfig(key="wv-key-terse", name="terse", output_tokens_max=2))
)


@plays(scope="shared", settings={"auth": LIMITED})
async def test_a_key_is_given_no_longer_answer_than_it_may_ask_for(scene: Scene) -> None:
    """Its limit is a part of its question, as its own `max_tokens` would be."""
    who = ("free", "terse", "free", "terse")
    assert [(await scene.ask("why", key=f"wv-key-{each}")).how for each in who] == [
        "miss",
        "miss",
        "hit",
        "hit",
    ]
    assert scene.calls[1].body["max_tokens"] == 2
    for limit, how in ((2, "hit"), (9, "miss"), (0, "miss")):
        said = await scene.ask("why", key="wv-key-free", max_tokens=limit)
        assert said.how == how
    for limit, how in ((9, "hit"), (0, "hit"), (1, "miss")):
        said = await scene.ask("why", key="wv-key-terse", max_tokens=limit)
        assert said.how == how


@plays(scope="shared", settings={"auth": AuthConfig(passthrough="one")})
async def test_who_brings_a_key_of_its_own_shares_with_nobody(scene: Scene) -> None:
    found = [(await scene.ask("why", "small", key=f"sk-{who}")).how for who in "abab"]
    assert found == ["miss", "miss", "hit", "hit"]


@plays()
async def test_a_fallbacks_answer_is_kept_as_its_own_and_never_as_the_first_choices(
    scene: Scene,
) -> None:
    scene.scripts = [fails(401), echo]
    first = await scene.ask("why", "auto")
    assert (first.text, scene.calls[-1].deployment) == ("why #2", "two/large")
    by_name = await scene.ask("why", "large")
    assert (by_name.how, by_name.text) == ("hit", "why #2")
    scene.engine.health.__init__()  # type: ignore[misc]
    again = await scene.ask("why", "auto")
    assert (again.how, again.text) == ("miss", "why #3")
    assert scene.calls[-1].deployment == "one/small"


@plays()
async def test_of_two_answers_the_one_that_was_asked_for_later_stays(scene: Scene) -> None:
    """A slow answer does not take the place of what somebody has fetched anew meanwhile."""
    scene.scripts = [says(content="old", delay_s=5.0), says(content="new", delay_s=1.0)]
    first = scene.start("why")
    await scene.rest()
    second = await scene.ask("why", says="no-cache")
    assert (await scene.ask("why")).text == second.text == "new"
    got = await first
    assert (got.text, got.exchange.is_stored) == ("old", False)
    again = await scene.ask("why", stream=True)
    assert (again.how, again.text) == ("hit", "new")
    assert again.exchange.cache_age_s == 4
    third = await scene.ask("why", says="no-cache")
    assert (third.text, (await scene.ask("why")).text) == ("why #3", "why #3")


# what is not kept


def cut(call: Call) -> Script:
    return [*list(echo(call))[:-3], (0.1, Breaks())]


def uncounted(call: Call) -> Script:
    return echo(call, usage=None)


def ends_with(reason: str | None) -> ScriptOf:
    return says(content="words", finish=reason)


def two_choices(*texts: str) -> ScriptOf:
    def script(call: Call) -> Script:
        parts = list(says(content="")(call))
        body = msgspec.json.decode(parts[1][1].data)  # type: ignore[union-attr]
        choice = body["choices"][0]
        body["choices"] = [
            {**choice, "index": n, "message": {"role": "assistant", "content": text}}
            for n, text in enumerate(texts)
        ]
        piece = msgspec.structs.replace(parts[1][1], data=msgspec.json.encode(body))
        return [parts[0], (0, piece), parts[2]]

    return script


def calls(function: Any) -> ScriptOf:
    call = {"id": "call_1", "type": "function", "function": function}
    return says(content="words", tool_calls=[call], finish="tool_calls")


BAD_ANSWERS: dict[str, ScriptOf] = {
    "an error": fails(400),
    "cut to a length": ends_with("length"),
    "filtered": ends_with("content_filter"),
    "an error in its midst": ends_with("error"),
    "an end that nobody knows": ends_with("insufficient_system_resource"),
    "no end": ends_with(None),
    "a refusal": says(content=None, refusal="No."),
    "a refusal beside words": says(content="words", refusal="No."),
    "empty": says(content=""),
    "blank": says(content=" \n"),
    "thought, and nothing said": says(content=None, reasoning_content="Hm."),
    "one of two empty": two_choices("words", ""),
    "one of two missing": two_choices("words"),
    "a call by its end, and none there": says(content="words", finish="tool_calls"),
    "an old call by its end, and none there": says(content="words", finish="function_call"),
    "a call of nothing": calls({"name": "", "arguments": "{}"}),
    "a call without a function": calls(None),
    "a call with arguments that are no JSON": calls({"name": "f", "arguments": "{"}),
    "a call with arguments that are no object": calls({"name": "f", "arguments": "[1]"}),
    "not counted": uncounted,
    "over the cap": says(content="".join(chr(0x4E00 + n) for n in range(9_000))),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_not_kept(case: str) -> None:
    async def main() -> None:
        scene = Scene(entry_bytes_max=10_000)
        scene.scripts = [BAD_ANSWERS[case], echo]
        n = 2 if "of two" in case else 1
        first = await scene.ask("why", "small", n=n)
        assert first.fault is not None or case != "an error"
        assert scene.kept == 0
        second = await scene.ask("why", "small", n=n)
        assert (second.how, second.text) == ("miss", "why #2")
        await scene.close()

    run_virtual(main())


BAD_STREAMS: dict[str, tuple[ScriptOf, int]] = {
    "cut": (cut, 1),
    "not counted": (uncounted, 1),
    "cut to a length": (lambda call: echo(call, finish="length"), 1),
    "an end that nobody knows": (lambda call: echo(call, finish="abort"), 1),
    "a call by its end, and none there": (lambda call: echo(call, finish="tool_calls"), 1),
    "one of two missing": (echo, 2),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_a_bad_stream_is_not_kept(case: str) -> None:
    async def main() -> None:
        scene = Scene()
        script, n = BAD_STREAMS[case]
        scene.scripts = [script]
        await scene.ask("why", "small", stream=True, n=n)
        assert scene.kept == 0
        assert (await scene.ask("why", "small", n=n)).how == "miss"
        await scene.close()

    run_virtual(main())


FORMS = [
    ("json_object", '{"a": 1}', True),
    ("json_object", '"a"', False),
    ("json_object", "[1]", False),
    ("json_object", "so", False),
    ("json_schema", "[1]", True),
    ("json_schema", "so", False),
    ("text", "so", True),
]


@pytest.mark.parametrize(("form", "text", "is_kept"), FORMS)
def test_a_text_is_kept_in_the_form_that_was_asked_for(form: str, text: str, is_kept: bool) -> None:
    async def main() -> None:
        scene = Scene()
        scene.scripts = [says(content=text)]
        schema = {"name": "s", "schema": {}}
        asked = {"type": form, **({"json_schema": schema} if form == "json_schema" else {})}
        await scene.ask("why", "odd", response_format=asked)
        assert scene.kept == is_kept
        await scene.close()

    run_virtual(main())


@plays()
async def test_two_good_choices_are_kept(scene: Scene) -> None:
    scene.scripts = [two_choices("one", "two")]
    await scene.ask("why", n=2)
    hit = await scene.ask("why", n=2)
    assert hit.how == "hit" and hit.completion is not None
    assert [choice.message.content for choice in hit.completion.choices] == ["one", "two"]


def parts(*said: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "why"}, *said]}]}


def image(url: object) -> dict[str, Any]:
    return parts({"type": "image_url", "image_url": url})


BYPASSED: dict[str, dict[str, Any]] = {
    "an image somewhere else": image("https://x.test/a.png"),
    "an image somewhere else, in OpenAI's way": image({"url": "http://x.test/a.png"}),
    "a document": parts({"type": "document_url", "document_url": "data:application/pdf;base64,AA"}),
    "a file": parts({"type": "file", "file": {"file_id": "file-1"}}),
    "speech": parts({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}),
    "a tool of the provider's": {"tools": [{"type": "web_search"}]},
    "a tool of the provider's, dressed as ours": {"tools": [{**TOOL, "type": "code_interpreter"}]},
    "a web search": {"web_search_options": {"search_context_size": "low"}},
    "a web search as it comes": {"web_search_options": {}},
    "probabilities": {"logprobs": True},
    "more probabilities": {"top_logprobs": 3},
    "a copy at the provider": {"store": True},
    "no-store": {"says": "no-store"},
    "no-store among others": {"says": "max-age=10, No-Store"},
}


@pytest.mark.parametrize("case", BYPASSED)
def test_what_may_not_be_kept_is_not_looked_for_nor_shared(case: str) -> None:
    async def main() -> None:
        scene = Scene()
        tasks = [scene.start("why", "odd", **BYPASSED[case]) for _ in range(2)]
        got = [await task for task in tasks]
        assert [each.how for each in got] == ["bypass", "bypass"]
        assert (len(scene.calls), scene.kept) == (2, 0)
        await scene.close()

    run_virtual(main())


KEPT: dict[str, dict[str, Any]] = {
    "an image that is there": image("data:image/png;base64,AA"),
    "no probabilities": {"logprobs": False},
    "nothing about a web search": {"web_search_options": None},
    "no copy": {"store": False},
    "a tool of the caller's": {"tools": [TOOL]},
    "chance": {"temperature": 1.0},
}


@pytest.mark.parametrize("case", KEPT)
def test_what_may_be_kept_is_kept(case: str) -> None:
    async def main() -> None:
        scene = Scene()
        got = [await scene.ask("why", "odd", **KEPT[case]) for _ in range(2)]
        assert [each.how for each in got] == ["miss", "hit"]
        await scene.close()

    run_virtual(main())


@plays(routes={"auto": CacheRouteConfig(enabled=False)})
async def test_a_route_may_keep_nothing(scene: Scene) -> None:
    assert [(await scene.ask("why", "auto")).how for _ in range(2)] == ["bypass"] * 2
    assert [(await scene.ask("why", "small")).how for _ in range(2)] == ["miss", "hit"]
    assert (await scene.ask("why", "auto")).how == "bypass"


@plays(deterministic_only=True)
async def test_only_what_is_not_left_to_chance(scene: Scene) -> None:
    for fields in ({}, {"temperature": 0.1}, {"temperature": None}, {"temperature": 1}):
        assert [(await scene.ask("why", **fields)).how for _ in range(2)] == ["bypass"] * 2
    for zero in (0, 0.0, -0.0):
        await scene.ask("why", temperature=zero)
    assert [exchange.cache_status for exchange in scene.asked][-3:] == ["miss", "hit", "hit"]


@plays(scope=None)
async def test_without_a_scope_nothing_is_kept(scene: Scene) -> None:
    assert [(await scene.ask("why")).how for _ in range(2)] == ["bypass"] * 2


@plays()
async def test_a_damaged_entry_is_a_miss_and_is_made_anew(scene: Scene) -> None:
    await scene.ask("why")
    kept = scene.stage.cache.kept
    ((key, (data, tags, until_s)),) = kept.items()
    for damaged in (b"", data[:-1], data[:40] + b"\xff" + data[41:], b"WV9p" + data[4:]):
        kept[key] = damaged, tags, until_s
        assert (await scene.ask("why")).how == "miss"
        assert (await scene.ask("why")).how == "hit"


@plays()
async def test_the_entry_says_where_it_is_from(scene: Scene) -> None:
    await scene.ask("why", stream=True, headers={TAGS_HEADER: b"a, b"})
    ((key, (data, tags, _)),) = scene.stage.cache.kept.items()
    entry = unpack(data, key)
    assert entry is not None and pack(entry, key) == data
    assert (entry.provider, entry.model, entry.route) == ("one", "small", "auto")
    assert entry.cost_nano_usd == COST
    assert (entry.latency_us, entry.first_chunk_us) == (2_500_000, 1_500_000)
    assert entry.pieces == (3, 3)
    assert entry.completion.raw is None
    assert tags == entry.tags
    assert {"tag:a", "tag:b", "route:auto", "scope:key:anonymous", f"model:{SMALL_CARD}"} <= set(
        tags
    )


# taking answers back

TAGGED = {TAGS_HEADER: b"index-7"}


@pytest.mark.parametrize(
    "tag",
    [
        ALL,
        "tag:index-7",
        model_tag(SMALL_CARD),
        model_tag("small"),
        route_tag("auto"),
        scope_tag("key:anonymous"),
        "the key's own",
    ],
)
def test_what_was_taken_back_is_not_served_and_what_is_made_after_is(tag: str) -> None:
    async def main() -> None:
        scene = Scene()
        await scene.ask("why", headers=TAGGED)
        assert (await scene.ask("why", headers=TAGGED)).how == "hit"
        (key,) = scene.stage.cache.kept
        await scene.stage.invalidations.invalidate(key_tag(key) if tag.startswith("the") else tag)
        again = await scene.ask("why", headers=TAGGED)
        assert (again.how, again.text) == ("miss", "why #2")
        assert (await scene.ask("why", headers=TAGGED)).how == "hit"
        await scene.close()

    run_virtual(main())


@pytest.mark.parametrize(
    "tag", ["tag:index-8", "model:other", "route:other", "scope:key:other", "entry:00"]
)
def test_what_has_nothing_to_do_with_it_stays(tag: str) -> None:
    async def main() -> None:
        scene = Scene()
        await scene.ask("why", headers=TAGGED)
        await scene.stage.invalidations.invalidate(tag)
        assert (await scene.ask("why", headers=TAGGED)).how == "hit"
        await scene.close()

    run_virtual(main())


@plays()
async def test_a_tag_goes_for_all_who_ask_with_it(scene: Scene) -> None:
    """Whoever asked first may have had no tags, or another route; the answer is as old for all."""
    await scene.ask("why", "small")
    assert (await scene.ask("why", "auto", headers=TAGGED)).how == "hit"
    await scene.stage.invalidations.invalidate("tag:index-7")
    assert (await scene.ask("why", "small")).how == "hit"
    assert (await scene.ask("why", "auto", headers=TAGGED)).how == "miss"
    assert (await scene.ask("why", "auto", headers=TAGGED)).how == "hit"
    assert (await scene.ask("why", "small")).text == "why #2"


@plays()
async def test_what_was_asked_before_is_not_kept_after(scene: Scene) -> None:
    """The answer was under way when it was taken back; it may be about what is no more."""
    asking = scene.start("why", headers=TAGGED)
    await scene.rest(0.5)
    await scene.stage.invalidations.invalidate("tag:index-7")
    assert (await asking).text == "why #1"
    again = await scene.ask("why", headers=TAGGED)
    assert (again.how, again.text) == ("miss", "why #2")


@plays()
async def test_what_was_asked_before_does_not_take_the_place_of_what_was_asked_after(
    scene: Scene,
) -> None:
    scene.scripts = [says(content="of the old index", delay_s=10.0)]
    asking = scene.start("why", headers=TAGGED)
    await scene.rest(0.5)
    await scene.stage.invalidations.invalidate("tag:index-7")
    assert (await scene.ask("why", headers=TAGGED)).text == "why #2"
    assert (await asking).text == "of the old index"
    again = await scene.ask("why", headers=TAGGED)
    assert (again.how, again.text) == ("hit", "why #2")


@plays()
async def test_who_asks_after_does_not_join_what_was_asked_before(scene: Scene) -> None:
    before = scene.start("why", headers=TAGGED)
    await scene.rest(0.5)
    await scene.stage.invalidations.invalidate("tag:index-7")
    after = scene.start("why", headers=TAGGED)
    untouched = scene.start("why")
    assert [(await task).how for task in (before, after, untouched)] == ["miss", "miss", "joined"]
    assert (await before).text == "why #1"
    assert (await scene.ask("why", headers=TAGGED)).text == "why #2"


@plays()
async def test_the_work_of_a_process_that_had_not_heard_is_void(scene: Scene) -> None:
    await scene.stage.invalidations.invalidate("tag:other")
    await scene.ask("why", headers=TAGGED)
    ((key, (data, tags, until_s)),) = scene.stage.cache.kept.items()
    await scene.stage.invalidations.invalidate("tag:index-7")
    entry = unpack(data, key)
    assert entry is not None and entry.version == 1
    late = pack(msgspec.structs.replace(entry, created_at_us=scene.stage.clock.wall_us()), key)
    scene.stage.cache.kept[key] = late, tags, until_s
    assert (await scene.ask("why", headers=TAGGED)).how == "miss"


@plays()
async def test_too_many_tags_are_refused(scene: Scene) -> None:
    many = ",".join(f"t{n}" for n in range(CALLER_TAGS_MAX + 1)).encode()
    for said in (many, b"x" * 129):
        refused = await scene.ask("why", headers={TAGS_HEADER: said})
        assert refused.fault is not None and refused.fault.status == 400
    assert (await scene.ask("why", headers={TAGS_HEADER: b" , ,"})).how == "miss"


# what these tests would say of a worse cache


def would_notice(test: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        test()


def test_a_key_without_its_scope_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine import lookup

    keyed = lookup.cache_key
    monkeypatch.setattr(lookup, "cache_key", lambda _, *rest: keyed("", *rest))
    with pytest.raises(AssertionError):
        test_answers_are_shared_by_their_scope_alone("key", [])


def test_a_key_without_the_address_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.config import resolve

    monkeypatch.setattr(resolve, "origin_of", lambda name, *_: name)
    with pytest.raises(AssertionError):
        test_gateways_that_share_a_store_share_what_one_address_said(
            "http://one.other.test/v1", "miss"
        )


def test_a_key_of_the_card_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine import lookup

    monkeypatch.setattr(lookup, "asked_model", lambda deployment: deployment.resolved_model)
    would_notice(test_two_models_that_share_a_card_do_not_share_answers)


def test_keeping_whatever_comes_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine import lookup

    monkeypatch.setattr(lookup, "is_good", lambda *_: True)
    for case in ("cut to a length", "filtered", "no end", "a refusal beside words", "blank"):
        with pytest.raises(AssertionError):
            test_a_bad_answer_is_not_kept(case)
