"""Laws of Anthropic's streams, through real bytes cut at random places.

`fold(stream(x)) == complete(x)`, for the answer that Anthropic would have given whole; and what the
writer sends a client of either dialect folds to the same answer. What is stored is told again as it was.
"""

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.chat import Completion
from windvane.wire.anthropic_reply import FINISH_REASONS, MessageStreamReader, decode_message
from windvane.wire.chat_reply import ChatStreamReader
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.mistral_chat import tool_call_id
from windvane.wire.replay import chunks_of

NOW_S = 7
TEXT = st.text(alphabet='aé\U0001f600 \n"\\:{}', min_size=1, max_size=12)
COUNT = st.integers(0, 9_999)
TEXT_BLOCK = st.builds(lambda text: {"type": "text", "text": text}, TEXT)
THINKING = st.builds(
    lambda text, signature: {"type": "thinking", "thinking": text, "signature": signature},
    TEXT | st.just(""),
    st.from_regex("[a-zA-Z0-9+/=]{1,20}", fullmatch=True),
)
REDACTED = st.builds(lambda data: {"type": "redacted_thinking", "data": data}, TEXT)
CALL = st.builds(
    lambda name, given: {"type": "tool_use", "id": "", "name": name, "input": given},
    st.sampled_from(["f", "g"]),
    st.dictionaries(TEXT, TEXT | st.integers() | st.lists(st.booleans(), max_size=2), max_size=3),
)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A whole answer, as Anthropic writes it: it thinks, it speaks, it calls."""
    thought = draw(st.lists(THINKING | REDACTED, max_size=2))
    said = draw(st.lists(TEXT_BLOCK, max_size=2))
    called = draw(st.lists(CALL, max_size=3))
    calls = [{**call, "id": f"toolu_{n}"} for n, call in enumerate(called)]
    written, output = draw(COUNT), draw(COUNT)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [*thought, *said, *calls],
        "stop_reason": draw(st.sampled_from(sorted(FINISH_REASONS))),
        "stop_sequence": None,
        "usage": {
            "input_tokens": draw(st.integers(1, 9_999)),
            "cache_read_input_tokens": draw(COUNT),
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_1h_input_tokens": draw(st.integers(0, written))},
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": draw(st.integers(0, output))},
            "service_tier": draw(st.sampled_from(["standard", "priority", "batch"])),
        },
    }


def event(kind: str, **members: Any) -> bytes:
    data = msgspec.json.encode({"type": kind, **members})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def cut(draw: st.DrawFn, text: str, most: int = 2) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=most)))
    return [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]


def block_events(draw: st.DrawFn, index: int, block: dict[str, Any]) -> list[bytes]:
    def delta(kind: str, **members: Any) -> bytes:
        return event("content_block_delta", index=index, delta={"type": kind, **members})

    first, deltas = dict(block), []
    match block["type"]:
        case "text":
            first["text"] = ""
            deltas = [delta("text_delta", text=piece) for piece in cut(draw, block["text"])]
        case "thinking":
            first |= {"thinking": "", "signature": ""}
            thoughts = cut(draw, block["thinking"])
            deltas = [delta("thinking_delta", thinking=piece) for piece in thoughts]
            signed = cut(draw, block["signature"], most=1)
            deltas += [delta("signature_delta", signature=piece) for piece in signed]
        case "tool_use":
            first["input"] = {}
            said = msgspec.json.encode(block["input"]).decode()
            if block["input"] or draw(st.booleans()):
                parts = cut(draw, said)
                deltas = [delta("input_json_delta", partial_json=piece) for piece in parts]
    begun = event("content_block_start", index=index, content_block=first)
    return [begun, *deltas, event("content_block_stop", index=index)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[Completion, list[bytes]]:
    """A completion, and the bytes that Anthropic streams it in, cut anywhere."""
    said = draw(messages())
    usage = said["usage"]
    begun = {**said, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events = [event("message_start", message=begun)]
    for index, block in enumerate(said["content"]):
        events += block_events(draw, index, block)
        if draw(st.booleans()):
            events.append(event("ping"))
    last = {name: usage[name] for name in ("output_tokens", "output_tokens_details")}
    if draw(st.booleans()):
        last |= {"input_tokens": usage["input_tokens"]}
    events.append(event("message_delta", delta={"stop_reason": said["stop_reason"]}, usage=last))
    data = b"".join([*events, event("message_stop")])
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    bounds = [0, *places, len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    return decode_message(msgspec.json.encode(said), NOW_S), pieces


@settings(deadline=None, max_examples=150)
@given(streams())
def test_a_folded_stream_is_the_whole_answer(case: tuple[Completion, list[bytes]]) -> None:
    completion, pieces = case
    reader, fold = MessageStreamReader(NOW_S), Fold()
    for piece in pieces:
        for chunk in reader.feed(piece):
            fold.add(chunk)
    assert reader.is_done and reader.failure is None
    assert fold.final_usage == completion.usage
    assert fold.completion() == completion


@settings(deadline=None, max_examples=100)
@given(streams(), st.sampled_from(Dialect), st.booleans())
def test_what_a_client_is_sent_is_the_answer(
    case: tuple[Completion, list[bytes]], dialect: Dialect, include_usage: bool
) -> None:
    completion, pieces = case
    reader, fold = MessageStreamReader(NOW_S), Fold()
    writer = ChatStreamWriter(dialect, fold, include_usage=include_usage)
    sent = []
    for piece in pieces:
        batch = reader.feed(piece)
        for chunk in batch:
            fold.add(chunk)
        sent.append(writer.write(batch))
    assert completion.usage is not None
    sent.append(writer.end(completion.usage, None))
    client, again = ChatStreamReader(0), Fold()
    for chunk in client.feed(b"".join(sent)):
        again.add(chunk)
    assert client.is_done and again.is_finished
    choice, expected = again.completion().choices[0], completion.choices[0]
    assert expected.finish_reason is not None
    assert choice.finish_reason == expected.finish_reason.told  # a word of Claude's own is `stop`
    # Of thinking its readers know the text alone; the signed blocks come whole, and once.
    blocks = expected.message.thinking_blocks
    calls = expected.message.tool_calls
    if dialect is Dialect.MISTRAL:
        calls = [msgspec.structs.replace(call, id=tool_call_id(str(call.id))) for call in calls]
    told_as = msgspec.structs.replace(expected.message, thinking_blocks=[], tool_calls=calls)
    assert choice.message == told_as
    told = [line for line in b"".join(sent).split(b"\n\n") if b'"thinking_blocks"' in line]
    assert len(told) == bool(blocks)
    if told:
        delta = msgspec.json.decode(told[0][6:])["choices"][0]["delta"]
        assert delta["thinking_blocks"] == blocks


@settings(deadline=None, max_examples=60)
@given(messages())
def test_a_stored_answer_is_told_again_as_it_was(said: dict[str, Any]) -> None:
    completion = decode_message(msgspec.json.encode(said), NOW_S)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(completion), type=Completion)
    assert stored == completion
    assert completion.usage is not None
    fold = Fold()
    for chunk in chunks_of(stored, completion.usage):
        fold.add(chunk)
    assert fold.completion() == completion
