"""The cache as callers see it: over a socket, in both dialects, whole and streamed."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from langchain_mistralai import ChatMistralAI
from tests.surface.served import Reply, Served, chat, serving

from windvane.config.schema import AuthConfig, CacheConfig, KeyConfig
from windvane.core.cache.invalidation import Reach
from windvane.simulator import SimulatorConfig

ANN, BEN, CAT = "sk-ann-key-1", "sk-ben-key-1", "sk-cat-key-1"
UNNAMED = "sk-a-key-without-a-name"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    auth = AuthConfig(
        keys=(
            KeyConfig(key=ANN, name="ann", team="weather"),
            KeyConfig(key=BEN, name="ben", team="weather"),
            KeyConfig(key=CAT, name="cat"),
            KeyConfig(key=UNNAMED),
        ),
        admin_key="sk-admin-key-1",
    )
    slow = SimulatorConfig(ttft_ms=150.0)
    with serving(slow, auth=auth, cache=CacheConfig(scope="team")) as running:
        yield running


def ask(served: Served, text: str, key: str = ANN, **more: object):
    headers = more.pop("headers", {})
    return served.ask(chat(text, **more), authorization=f"Bearer {key}", **headers)


def said(body: bytes) -> str:
    """What a stream says, put together."""
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
    pieces = [json.loads(event)["choices"] for event in events]
    return "".join(choices[0]["delta"].get("content") or "" for choices in pieces if choices)


def test_langchains_mistral_streams_hit_once_their_no_store_is_overruled(served):
    """As docs/howto/use-with-langchain.md says: httpx-sse sends `no-store` with every stream."""
    address = f"http://127.0.0.1:{served.port}/v1"
    model = ChatMistralAI(endpoint=address, api_key=ANN, model="mistral-small-latest")
    before = stats_of(served)
    assert told(model, "overruled") and told(model, "overruled")
    assert stats_of(served) - before == {"bypass": 2}
    for client in (model.client, model.async_client):
        client.headers["Windvane-Cache-Control"] = "no-transform"
    assert told(model, "overruled") == told(model, "overruled")
    assert stats_of(served) - before == {"bypass": 2, "miss": 1, "hit": 1}


def told(model: ChatMistralAI, text: str) -> str:
    return "".join(str(piece.content) for piece in model.stream(text))


def stats_of(served: Served) -> Counter[str]:
    report = served.ask(path="/admin/cache", authorization="Bearer sk-admin-key-1").json
    return Counter(report["lookups"])


def test_one_entry_serves_both_kinds_of_answer_to_a_team_and_to_nobody_else(served):
    first = ask(served, "one entry")
    assert first.headers["cache-status"] == "Windvane; fwd=miss; stored"
    words = first.json["choices"][0]["message"]["content"]
    again = ask(served, "one entry", BEN)
    assert again.headers["cache-status"].startswith("Windvane; hit; ttl=")
    assert int(again.headers["age"]) < 15
    assert again.headers["x-router-cost-usd"] == "0"
    assert again.json["choices"][0]["message"]["content"] == words
    assert again.json["id"] != first.json["id"]
    assert again.json["usage"]["total_tokens"] == first.json["usage"]["total_tokens"]
    assert again.json["router_metadata"]["cached"]
    stream = ask(served, "one entry", BEN, stream=True)
    assert stream.headers["cache-status"].startswith("Windvane; hit")
    assert said(stream.body) == words
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert ask(served, "one entry", CAT).headers["cache-status"].startswith("Windvane; fwd=miss")


def test_a_hit_is_the_first_answer_but_for_its_id_and_what_was_done(served):
    first, again = ask(served, "all of it"), ask(served, "all of it", BEN)
    assert again.headers["cache-status"].startswith("Windvane; hit")
    own = ("id", "router_metadata")
    told = [
        {name: reply.json[name] for name in reply.json if name not in own}
        for reply in (first, again)
    ]
    assert told[0] == told[1]


def test_a_stream_is_kept_for_those_who_want_it_whole(served):
    stream = ask(served, "kept from a stream", stream=True)
    assert stream.headers["cache-status"].startswith("Windvane; fwd=miss")
    whole = ask(served, "kept from a stream")
    assert whole.headers["cache-status"].startswith("Windvane; hit")
    assert whole.json["choices"][0]["message"]["content"] == said(stream.body)


def test_many_at_once_make_one_call(served):
    def ask_at_once(question: str) -> list[Reply]:
        """On a busy machine the first may have its answer before another has begun."""
        before = len(served.sim.tape)
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, served, question, stream=n % 2 == 0) for n in range(12)]
            replies = [each.result() for each in asked]
        assert [reply.status for reply in replies] == [200] * 12
        assert len(served.sim.tape) == before + 1
        return [reply for reply in replies if "collapsed" in reply.headers["cache-status"]]

    assert any(ask_at_once(f"at once, {turn}") for turn in range(20))


def test_what_cache_control_asks_for(served):
    ask(served, "directives")
    no_cache = ask(served, "directives", headers={"cache_control": "no-cache"})
    assert no_cache.headers["cache-status"] == "Windvane; fwd=request; stored"
    bypass = ask(served, "directives", headers={"cache_control": "no-store"})
    assert bypass.headers["cache-status"] == "Windvane; fwd=bypass"
    only = {"cache_control": "only-if-cached"}
    assert ask(served, "directives", headers=only).status == 200
    refused = ask(served, "never asked before", headers=only)
    assert (refused.status, refused.json["error"]["code"]) == (504, "not_cached")
    assert refused.headers["cache-status"] == "Windvane; detail=not-forwarded"


def test_errors_say_what_the_cache_did(served):
    assert ask(served, "!error 500").headers["cache-status"] == "Windvane; fwd=miss"
    no_store = ask(served, "!error 500", headers={"cache_control": "no-store"})
    assert no_store.headers["cache-status"] == "Windvane; fwd=bypass"
    wrong = ask(served, "wrong", model="no-such-model")
    assert (wrong.status, wrong.headers["cache-status"]) == (404, "Windvane; detail=not-forwarded")


@pytest.mark.parametrize("code", [400, 429, 500])
def test_who_joined_in_vain_is_told_to_leave_it_as_who_led_is(served, code):
    """Else a client would ask again for each of them."""

    def all_at_once(question: str) -> list[Reply]:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, served, question) for _ in range(8)]
            return [each.result() for each in asked]

    for turn in range(20):
        replies = all_at_once(f"!error {code} {turn}")
        assert {reply.headers.get("x-should-retry") for reply in replies} == {"false"}
        if any("collapsed" in reply.headers["cache-status"] for reply in replies):
            return
    pytest.fail("nobody joined")


def test_errors_and_cut_answers_are_not_kept(served):
    for text in ("!error 500", "!cut 3", "tell me !loop 40"):
        for _ in range(2):
            assert "hit" not in ask(served, text, max_tokens=5).headers.get("cache-status", "")


@pytest.mark.parametrize("stream", [False, True])
def test_json_that_is_none_is_not_kept(served, stream):
    """What was asked for as JSON, and arguments of calls."""
    form = {"response_format": {"type": "json_object"}}
    tools = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    kind = "stream" if stream else "whole"
    broken = ((f"!badjson {kind}", form), (f"!badargs {kind}", tools))
    for text, more in broken:
        for _ in range(2):
            reply = ask(served, text, stream=stream, **more)
            assert reply.status == 200
            assert reply.headers["cache-status"] == "Windvane; fwd=miss"
    good = ((f"in JSON, {kind}", form), (f"!tool f {kind}", tools))
    for text, more in good:
        ask(served, text, stream=stream, **more)
        assert "hit" in ask(served, text, stream=stream, **more).headers["cache-status"]


def test_answers_are_taken_back_by_tag_and_counted(served):
    tagged = {"x_windvane_cache_tags": "v1, other"}
    ask(served, "tagged", headers=tagged)
    ask(served, "not tagged")
    admin = {"authorization": "Bearer sk-admin-key-1"}
    twice = served.ask(path="/admin/cache?tag=v1&tag=other", method="DELETE", **admin)
    assert (twice.status, twice.json["error"]["param"]) == (400, "tag")
    taken = served.ask(path="/admin/cache?tag=v1", method="DELETE", **admin)
    assert taken.json == {"tag": "tag:v1", "removed": 1, "reach": "everywhere", "note": None}
    assert ask(served, "tagged").headers["cache-status"].startswith("Windvane; fwd=miss")
    assert ask(served, "not tagged").headers["cache-status"].startswith("Windvane; hit")
    report = served.ask(path="/admin/cache", **admin).json
    metrics = served.ask(path="/metrics", accept="application/json", **admin).json
    assert report["lookups"] == {
        name: metrics["cache_lookups_by_result"].get(name, 0) for name in report["lookups"]
    }
    assert sum(report["lookups"].values()) == metrics["requests_total"]
    assert report["invalidations"] == 1
    assert report["saved_nano_usd"] == metrics["saved_nano_usd_total"] > 0


def test_reports_add_up_and_count_as_the_metrics_do(served):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: ask(served, "adds up"), range(3)))
    ask(served, "adds up", stream=True)
    ask(served, "adds up", headers={"cache_control": "no-store"})
    admin = {"authorization": "Bearer sk-admin-key-1"}
    lookups = served.ask(path="/admin/cache", **admin).json["lookups"]
    usage = served.ask(path="/admin/usage?by=key,model", **admin).json
    names = ("cache_hits", "cache_joins", "cache_misses", "cache_bypasses")
    for sums in (usage["totals"], *usage["rows"]):
        assert sum(sums[name] for name in names) == sums["requests"]
    totals = usage["totals"]
    asked = [totals[name] for name in names[:3]]
    assert asked == [lookups["hit"], lookups["joined"], lookups["miss"]]
    assert 0 < totals["cache_bypasses"] <= lookups["bypass"]
    metrics = served.ask(path="/metrics", accept="application/json", **admin).json
    for name in ("saved_nano_usd", "saved_tokens", "saved_seconds"):
        assert metrics[f"{name}_total"] == totals[name] > 0
    stats = [
        served.ask(path="/user/stats", authorization=f"Bearer {key}").json
        for key in (ANN, BEN, CAT)
    ]
    for name in (*names, "requests", "saved_tokens"):
        assert sum(each[name] for each in stats) == totals[name]
    lines = served.ask(path="/admin/usage?format=csv", **admin).body.decode().splitlines()
    told = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert {name: int(told[name]) for name in names} == {name: totals[name] for name in names}


def test_a_tag_is_what_it_says_in_utf8(served):
    as_sent = "café".encode().decode("latin-1")
    ask(served, "a tag of many bytes", headers={"x_windvane_cache_tags": as_sent})
    admin = {"authorization": "Bearer sk-admin-key-1"}
    taken = served.ask(path="/admin/cache?tag=caf%C3%A9", method="DELETE", **admin)
    assert (taken.json["tag"], taken.json["removed"]) == ("tag:café", 1)


def test_who_takes_answers_back_is_told_when_others_are_not(served, monkeypatch):
    admin = {"authorization": "Bearer sk-admin-key-1"}
    monkeypatch.setattr(type(served.engine.invalidations), "reach", Reach.LATER)
    taken = served.ask(path="/admin/cache?tag=none", method="DELETE", **admin)
    assert (taken.status, taken.json["reach"]) == (202, "later")


@pytest.mark.parametrize("way", ["tag", "model", "route", "scope", "key", "entry"])
@pytest.mark.parametrize("nothing", ["", "%20"])
def test_an_empty_question_takes_back_nothing(served, way, nothing):
    """A script whose variable is not set says `?tag=`, and does not mean everybody's answers."""
    ask(served, "stays")
    admin = {"authorization": "Bearer sk-admin-key-1"}
    refused = served.ask(path=f"/admin/cache?{way}={nothing}", method="DELETE", **admin)
    assert (refused.status, refused.json["error"]["param"]) == (400, way)
    assert ask(served, "stays").headers["cache-status"].startswith("Windvane; hit")


@pytest.mark.parametrize("body", [{"tag": "doc-1"}, {}, b"tag=doc-1"])
def test_a_question_in_a_body_takes_back_nothing(served, body):
    """Who does not know that it is asked in the query does not mean everybody's answers."""
    ask(served, "stays")
    admin = {"authorization": "Bearer sk-admin-key-1"}
    refused = served.ask(body, path="/admin/cache", method="DELETE", **admin)
    assert (refused.status, refused.json["error"]["param"]) == (400, "body")
    assert "query" in refused.json["error"]["message"]
    assert ask(served, "stays").headers["cache-status"].startswith("Windvane; hit")


def taken_back(served: Served, query: str) -> Reply:
    return served.ask(
        path=f"/admin/cache?{query}", method="DELETE", authorization="Bearer sk-admin-key-1"
    )


def test_two_tags_in_one_are_refused(served):
    """As callers write them; an answer has either, and none has both as one."""
    refused = taken_back(served, "tag=v1,other")
    assert (refused.status, refused.json["error"]["param"]) == (400, "tag")


@pytest.mark.parametrize("way", ["key={}", "scope=key:{}", "scope=key:key-4"])
def test_answers_of_a_key_without_a_name_are_taken_back_by_its_id_or_its_place(served, way):
    ask(served, "unnamed", UNNAMED)
    assert ask(served, "unnamed", UNNAMED).headers["cache-status"].startswith("Windvane; hit")
    stats = served.ask(path="/user/stats", method="GET", authorization=f"Bearer {UNNAMED}")
    assert taken_back(served, way.format(stats.json["key"])).json["removed"] == 1
    assert ask(served, "unnamed", UNNAMED).headers["cache-status"].startswith("Windvane; fwd=miss")


def test_one_answer_is_taken_back_by_the_key_that_its_hits_show(served):
    for text in ("one of two", "two of two"):
        ask(served, text)
    status = ask(served, "one of two").headers["cache-status"]
    key = status.partition('key="')[2].rstrip('"')
    assert len(key) == 64
    assert taken_back(served, f"entry={key}").json["removed"] == 1
    assert ask(served, "one of two").headers["cache-status"].startswith("Windvane; fwd=miss")
    assert ask(served, "two of two").headers["cache-status"].startswith("Windvane; hit")
    assert taken_back(served, "entry=abc").json["error"]["param"] == "entry"


def test_whose_answers_go_is_said_by_name_or_it_is_said_why_none_can(served):
    ask(served, "cat's", CAT)
    ask(served, "ann's", ANN)
    assert taken_back(served, "key=cat").json["removed"] > 0
    assert "fwd=miss" in ask(served, "cat's", CAT).headers["cache-status"]
    of_a_team = taken_back(served, "key=ann")
    assert of_a_team.status == 400
    assert "scope=team:weather" in of_a_team.json["error"]["message"]
    assert ask(served, "ann's", BEN).headers["cache-status"].startswith("Windvane; hit")
    assert taken_back(served, "scope=team:weather").json["removed"] > 0
    assert taken_back(served, "scope=weather").status == 400
    assert taken_back(served, "key=nobody").status == 404


def test_a_model_goes_by_any_of_its_names_and_an_unknown_one_is_said_to_be(served):
    ask(served, "by an alias", model="mistral-small-latest")
    (card,) = (
        card
        for card in served.engine.snapshot.catalog.cards
        if any(alias.name == "mistral-small-latest" for alias in card.aliases)
    )
    assert taken_back(served, f"model={card.id}").json["removed"] > 0
    ask(served, "by an alias", model=card.id)
    assert taken_back(served, "model=mistral-small-latest").json["removed"] > 0
    for way in ("model", "route"):
        unknown = taken_back(served, f"{way}=nobody-knows").json
        assert (unknown["removed"], "'nobody-knows'" in unknown["note"]) == (0, True)
    assert taken_back(served, "route=auto").json["note"] is None


def test_answers_of_who_brings_a_key_are_taken_back_by_the_id_that_reports_show():
    auth = AuthConfig(passthrough="mistral", admin_key="sk-admin-key-1")
    with serving(auth=auth, cache=CacheConfig(scope="shared")) as served:
        ask(served, "mine", "a-providers-own-key")
        (event,) = served.ask(
            path="/admin/usage?by=key", authorization="Bearer sk-admin-key-1"
        ).json["rows"]
        assert event["key"].startswith("own-")
        assert taken_back(served, "key=own-0000000000000000").json["removed"] == 0
        assert taken_back(served, f"key={event['key']}").json["removed"] == 1
        again = ask(served, "mine", "a-providers-own-key")
        assert "fwd=miss" in again.headers["cache-status"]


def test_no_cache_on_the_way_keeps_an_answer(served):
    for stream in (False, True):
        for _ in range(2):
            got = ask(served, "nobody else's", stream=stream)
            assert got.headers["cache-control"] == "no-store"


def test_the_official_client_notices_nothing_but_the_speed(served):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key=ANN)
    with client:
        texts = []
        for _ in range(2):
            stream = client.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": "The same for the SDK"}],
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(stream)
            texts.append("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
            assert chunks[-1].usage is not None
        assert texts[0] == texts[1] != ""
