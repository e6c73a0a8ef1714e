"""What the cache's parts cost, each alone: ``python -m benchmarks parts``.

No network and no other process: the best of several rounds on one core, so that what is printed is the
work itself. A number for the eye, and nothing that a test depends on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec

from windvane.core.cache.entry import CacheEntry, pack, unpack
from windvane.core.cache.key import cache_key
from windvane.core.chat import ChatRequest, Choice, Completion, FinishReason, ReplyMessage
from windvane.core.usage import Usage
from windvane.wire.canonical import canonical
from windvane.wire.chat_request import chat_request_of
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.keeping import completion_of, raw_of, rest_of
from windvane.wire.openai_chat import encode_completion
from windvane.wire.replay import chunks_of

ROUNDS = 15
ROUND_S = 0.05
SENTENCE = "The wind came from the north, and with it the rain. "
LONG_CONVERSATION = (40, 2_500)
"""Messages, and characters of each: 100 KB."""


def main() -> int:
    """Measure all parts and print a line for each."""
    for name, part in _parts().items():
        print(f"{name:<52} {_best_us(part):>9.1f} us")
    return 0


def long_key_us() -> float:
    """CPU of the cache's key of a conversation of 100 KB, in microseconds."""
    return _best_us(partial(_key, chat_request_of(_conversation(*LONG_CONVERSATION))))


_KEY = bytes(32)


def _parts() -> dict[str, Callable[[], object]]:
    parts: dict[str, Callable[[], object]] = {}
    for label, size in (("1 KB", (1, 1_000)), ("100 KB, 40 messages", LONG_CONVERSATION)):
        request = chat_request_of(_conversation(*size))
        parts[f"key of {label}"] = partial(_key, request)
    for label, chars in (("1 KB", 1_000), ("20 KB", 20_000)):
        for entry, how in ((_entry(chars), "whole"), (_streamed(chars), "a stream")):
            data = pack(entry, _KEY)
            parts[f"pack {label} that came as {how}"] = partial(pack, entry, _KEY)
            parts[f"read {label} that came as {how}"] = partial(_read, data)
            parts[f"read and encode {label} that came as {how}"] = partial(_whole, data)
            parts[f"the same as a stream, {label} that came as {how}"] = partial(_stream, data)
    return parts


def _key(request: ChatRequest) -> bytes:
    return cache_key("key:a", "mistral", "m", canonical(request))


def _conversation(messages: int, chars: int) -> dict[str, object]:
    text = (SENTENCE * (chars // len(SENTENCE) + 1))[:chars]
    said = [
        {"role": "assistant" if place % 2 else "user", "content": text} for place in range(messages)
    ]
    return {"model": "m", "messages": said, "temperature": 0.3, "max_tokens": 500}


def _entry(chars: int) -> CacheEntry:
    """An answer that came whole: the provider's own bytes are kept."""
    streamed = _streamed(chars)
    assert streamed.completion is not None
    written = encode_completion(streamed.completion, streamed.usage, Dialect.OPENAI, None)
    return msgspec.structs.replace(streamed, completion=None, rest=rest_of(written, 0), pieces=())


def _streamed(chars: int) -> CacheEntry:
    text = (SENTENCE * (chars // len(SENTENCE) + 1))[:chars]
    choice = Choice(message=ReplyMessage(content=text), finish_reason=FinishReason.STOP)
    usage = Usage(input_tokens=300, output_tokens=chars // 4)
    return CacheEntry(
        completion=Completion(id="c", model="m", created=1, choices=[choice], usage=usage),
        usage=usage,
        provider="mistral",
        model="m",
        route="auto",
        tags=("scope:key:a", "model:m", "route:auto"),
        created_at_us=1,
        fresh_until_us=2,
        version=0,
        cost_nano_usd=1,
        latency_us=1,
        pieces=(4,) * (chars // 4),
    )


def _read(data: bytes) -> tuple[Completion, Usage]:
    entry = unpack(data, _KEY)
    assert entry is not None
    if entry.rest is None:
        assert entry.completion is not None
        return msgspec.structs.replace(entry.completion, id="chatcmpl-1"), entry.usage
    said, raw = completion_of(entry.rest), raw_of(entry.rest, "chatcmpl-1")
    return msgspec.structs.replace(said, id="chatcmpl-1", raw=raw), entry.usage


def _whole(data: bytes) -> bytes:
    return encode_completion(*_read(data), Dialect.OPENAI, None)


def _stream(data: bytes) -> bytes:
    completion, usage = _read(data)
    fold = Fold()
    writer = ChatStreamWriter(Dialect.OPENAI, fold, include_usage=False)
    chunks = list(chunks_of(completion, usage))
    for chunk in chunks:
        fold.add(chunk)
    return writer.write(chunks) + writer.end(usage, None)


def _best_us(part: Callable[[], object]) -> float:
    once_s = _time_s(part, 1)
    times = max(int(ROUND_S / max(once_s, 1e-7)), 1)
    return min(_time_s(part, times) / times for _ in range(ROUNDS)) * 1e6


def _time_s(part: Callable[[], object], times: int) -> float:
    begun_s = time.thread_time()
    for _ in range(times):
        part()
    return time.thread_time() - begun_s
