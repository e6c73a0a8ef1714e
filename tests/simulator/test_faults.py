"""Each fault word does what its entry says, and faults can be scheduled by rule."""

import gzip
import json
import time

import pytest

from windvane.simulator import FAULT_WORDS, FaultRule
from windvane.simulator.fault import faults_in
from windvane.simulator.fault_effects import ANSWERS, DELIVERIES, REPLIES, USAGES

QUESTION = "Explain how sailing boats use wind"


def chunks_of(said):
    return [e for e in said.events if e.get("choices") and e["choices"][0]["delta"].get("content")]


def test_every_word_has_exactly_one_effect():
    names = [*REPLIES, *ANSWERS, *USAGES, *DELIVERIES]
    assert sorted(names) == sorted(FAULT_WORDS)


def test_words_are_read_with_their_arguments():
    fault = faults_in("please !error 503 retry-after=2 now")[0]
    assert (fault.kind, fault.status, fault.retry_after) == ("error", 503, 2.0)
    assert faults_in("wow! great !important !slow 50")[0].delay_s == 0.05
    assert faults_in("nothing here!") == []
    assert [f.kind for f in faults_in("!slow 5 !cut 2")] == ["slow", "cut"]


@pytest.mark.parametrize("number", ["42", "99", "199", "600", "1000", "503.5"])
def test_a_number_that_is_no_status_is_not_taken(number):
    """The status line would be none."""
    assert faults_in(f"!error {number}")[0].status == 500
    assert faults_in(f"!html {number} retry-after=2")[0].status == 502


@pytest.mark.parametrize(
    "field",
    [
        {"status": 99},
        {"status": 600},
        {"retry_after": -1},
        {"at_token": -1},
        {"delay_s": float("nan")},
        {"delay_s": float("inf")},
        {"first": -1},
        {"after": -1},
    ],
    ids=str,
)
def test_a_rule_that_cannot_be_carried_out_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        FaultRule(kind="error", **field)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("prefix", ["", "/openai"])
async def test_error_answers_with_that_status(start, ask, chat, status, prefix):
    simulator = await start()
    model = "gpt-4o" if prefix else "mistral-small-latest"
    body = chat(f"!error {status} retry-after=2", model=model)
    said = await ask(simulator, body, path=f"{prefix}/v1/chat/completions")
    assert said.status == status
    assert said.header("retry-after") == "2"
    if status != 401:
        assert ("error" in said.json) == bool(prefix)
    assert simulator.bill.total_nano_usd == 0
    assert simulator.bill.rows[0].status == status


async def test_shapes_of_429(start, ask, chat):
    simulator = await start()
    zero = await ask(simulator, chat("!error 429 shape=zero"))
    assert [v for k, v in zero.headers if k == "x-ratelimit-limit-req-minute"] == ["0"]
    month = await ask(simulator, chat("!error 429 shape=month"))
    assert month.header("x-ratelimit-remaining-tokens-month") == "0"
    full = await ask(simulator, chat("!error 429 shape=capacity"))
    assert full.json["code"] == "3505"


async def test_html_and_redirect(start, ask, chat):
    simulator = await start()
    page = await ask(simulator, chat("!html 502"))
    assert (page.status, page.header("content-type")) == (502, "text/html")
    assert b"<html>" in page.body
    moved = await ask(simulator, chat("!redirect"))
    assert moved.status == 307
    assert moved.header("location")


async def test_reset_before_the_first_byte(start, ask, chat):
    said = await ask(await start(), chat("!reset"))
    assert said.raw == b""
    assert said.was_reset


async def test_hang_says_nothing_until_the_client_leaves(start, ask, chat, until):
    simulator = await start()
    assert (await ask(simulator, chat("!hang"), quiet_s=0.2)).raw == b""
    await until(lambda: simulator.tape[0].disconnected_at is not None)
    assert simulator.bill.rows[0].aborted
    assert simulator.bill.total_nano_usd == 0


async def test_cut_resets_after_so_many_chunks(start, ask, chat):
    simulator = await start()
    said = await ask(simulator, chat(f"{QUESTION} !cut 5", stream=True))
    assert said.was_reset
    assert len(chunks_of(said)) == 5
    row = simulator.bill.rows[0]
    assert (row.output_tokens, row.finished, row.aborted) == (5, False, False)


async def test_cut_of_a_json_answer_breaks_it_off(start, ask, chat):
    said = await ask(await start(), chat(f"{QUESTION} !cut"))
    assert said.was_reset
    assert len(said.body) < int(str(said.header("content-length")))


async def test_cut_clean_ends_the_body_without_finish(start, ask, chat):
    said = await ask(await start(), chat(f"{QUESTION} !cut-clean 5", stream=True))
    assert not said.was_reset
    assert said.raw.endswith(b"0\r\n\r\n")
    assert len(chunks_of(said)) == 5
    assert b"[DONE]" not in said.body
    assert all(e["choices"][0]["finish_reason"] is None for e in said.events)


async def test_stall_says_some_chunks_then_nothing(start, ask, chat, until):
    simulator = await start()
    said = await ask(simulator, chat(f"{QUESTION} !stall 3", stream=True), quiet_s=0.3)
    assert len(chunks_of(said)) == 3
    await until(lambda: simulator.bill.rows)
    assert simulator.bill.rows[0].output_tokens == 3
    assert simulator.bill.rows[0].aborted


async def test_slow_waits_between_chunks(start, ask, chat):
    began = time.monotonic()
    said = await ask(await start(), chat(f"{QUESTION} !slow 20", stream=True, max_tokens=10))
    assert len(chunks_of(said)) == 10
    assert time.monotonic() - began > 0.15


async def test_late_waits_before_the_first_byte(start, ask, chat):
    began = time.monotonic()
    assert (await ask(await start(), chat("!late 100"))).status == 200
    assert time.monotonic() - began > 0.08


@pytest.mark.parametrize("stream", [False, True])
async def test_empty_refuse_and_loop(start, ask, chat, stream):
    simulator = await start()
    empty = await ask(simulator, chat("!empty", stream=stream))
    assert empty.text == ""
    refused = await ask(simulator, chat("!refuse", stream=stream))
    assert b"content_filter" in refused.body
    looped = await ask(simulator, chat("!loop 100", stream=stream))
    assert looped.text.startswith("and so on and so on ")
    assert [row.output_tokens for row in simulator.bill.rows][::2] == [0, 100]


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage_does_not_parse(start, ask, chat, stream):
    said = await ask(await start(), chat("!garbage", stream=stream))
    assert said.status == 200
    with pytest.raises(ValueError):
        _ = said.events if stream else said.json


@pytest.mark.parametrize("stream", [False, True])
async def test_truncated_promises_more_than_it_sends(start, ask, chat, stream):
    said = await ask(await start(), chat(f"{QUESTION} !truncated", stream=stream))
    if stream:
        assert not said.raw.endswith(b"0\r\n\r\n")
    else:
        assert len(said.body) < int(str(said.header("content-length")))


@pytest.mark.parametrize("stream", [False, True])
async def test_gzip_was_not_asked_for(start, ask, chat, stream):
    said = await ask(await start(), chat(f"{QUESTION} !gzip", stream=stream))
    assert said.header("content-encoding") == "gzip"
    assert b"mistral-small-latest" in gzip.decompress(said.body)


@pytest.mark.parametrize("stream", [False, True])
async def test_bytewise_changes_nothing_but_the_pieces(start, ask, chat, stream):
    simulator = await start()
    plain = await ask(simulator, chat(f"{QUESTION} !crlf", stream=stream, max_tokens=5))
    body = chat(f"{QUESTION} !bytewise", stream=stream, max_tokens=5)
    said = await ask(simulator, body)
    assert said.status == plain.status == 200
    assert said.text
    if stream:
        assert said.raw.count(b"\r\n1\r\n") > 100


async def test_error_event_arrives_mid_stream(start, ask, chat):
    said = await ask(await start(), chat(f"{QUESTION} !error-event 3", stream=True))
    assert len(chunks_of(said)) == 3
    assert said.events[-1]["object"] == "error"
    assert said.raw.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_can_be_missing_or_zero_but_the_bill_is_true(start, ask, chat, stream):
    simulator = await start()
    missing = await ask(simulator, chat("!usage-missing", stream=stream))
    assert b'"usage"' not in missing.body
    zero = await ask(simulator, chat("!usage-zero", stream=stream))
    assert b'"prompt_tokens":0' in zero.body
    assert all(row.nano_usd > 0 for row in simulator.bill.rows)


async def test_bad_json_and_bad_arguments_do_not_parse(start, ask, chat):
    simulator = await start()
    said = await ask(simulator, chat("!badjson", response_format={"type": "json_object"}))
    with pytest.raises(ValueError):
        json.loads(said.text)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    said = await ask(simulator, chat("!badargs", tools=[tool]))
    call = said.json["choices"][0]["message"]["tool_calls"][0]
    with pytest.raises(ValueError):
        json.loads(call["function"]["arguments"])


async def test_stream_framing_variants(start, ask, chat):
    simulator = await start()
    assert b"\r\n\r\n" in (await ask(simulator, chat("!crlf", stream=True))).body
    assert b": still here" in (await ask(simulator, chat("!comments", stream=True))).body
    assert b"[DONE]" not in (await ask(simulator, chat("!no-done", stream=True))).body
    said = await ask(simulator, chat("!wrong-type"))
    assert said.header("content-type") == "text/plain"


async def test_rules_strike_by_schedule(start, ask, chat):
    first = FaultRule(kind="error", status=503, first=2)
    simulator = await start(faults=(first,))
    assert [(await ask(simulator, chat("x"))).status for _ in range(4)] == [503, 503, 200, 200]
    simulator.set_faults(FaultRule(kind="error", status=500, every=2))
    assert [(await ask(simulator, chat("x"))).status for _ in range(4)] == [200, 500, 200, 500]
    simulator.set_faults(FaultRule(kind="error", status=500, after=1, models=("mistral-embed",)))
    assert [(await ask(simulator, chat("x"))).status for _ in range(3)] == [200, 200, 200]


async def test_rules_strike_by_seeded_chance(start, ask, chat):
    async def statuses():
        simulator = await start(faults=(FaultRule(kind="error", rate=0.5),))
        return [(await ask(simulator, chat("x"))).status for _ in range(20)]

    one, other = await statuses(), await statuses()
    assert one == other
    assert {200, 500} == set(one)


def test_rules_are_checked_when_made():
    for wrong in ({"kind": "nonsense"}, {"kind": "error", "rate": 2}, {"kind": "cut", "every": 0}):
        with pytest.raises(ValueError):
            FaultRule(**wrong)
