"""The upstream of the benchmark in Python, for machines without a C compiler.

The same answers as ``upstream.c``, which is three times as fast: ``upstream PORT CHUNKS CHUNK_MS``.
Everything sent is written before the first request; no JSON is parsed, a body that holds
``"stream":true`` gets a paced stream of server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import NamedTuple, cast

from benchmarks.event_loop import run

HEAD_END = b"\r\n\r\n"
STREAM_MARKS = (b'"stream":true', b'"stream": true')
MODEL = "mistral-small-latest"
IDENTITY = {"id": "cmpl-5f0d2c7e9b1a4c6d8e3f", "created": 1760000000, "model": MODEL}
PROSE = "The harbour master keeps two books: one for the ships, and one for the weather. " * 7
USAGE = {"prompt_tokens": 187, "total_tokens": 299, "completion_tokens": 112}


class Answers(NamedTuple):
    """Whole responses, as bytes."""

    completion: bytes
    models: bytes
    stream_head: bytes
    content_chunk: bytes
    last_chunk: bytes


def write_answers() -> Answers:
    """Build every response once."""
    message = {"role": "assistant", "tool_calls": None, "content": PROSE}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"object": "chat.completion", **IDENTITY, "choices": [choice], "usage": USAGE}
    listing = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1760000000}]}
    return Answers(
        completion=_response(completion),
        models=_response(listing),
        stream_head=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
        content_chunk=_chunk({"role": "assistant", "content": " harbour"}, None),
        last_chunk=_chunk({"content": ""}, "stop", usage=USAGE)
        + _framed(b"data: [DONE]\n\n")
        + b"0\r\n\r\n",
    )


class Upstream(asyncio.Protocol):
    """One connection: gathers a request, answers it, keeps the connection."""

    posts = 0

    def __init__(self, answers: Answers, chunks: int, interval_s: float) -> None:
        self.answers = answers
        self.chunks = chunks
        self.interval_s = interval_s
        self.buffer = b""
        self.chunks_left = 0
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is now whole."""
        self.buffer = self.buffer + data if self.buffer else data
        while self.buffer and not self.chunks_left:
            end = self.buffer.find(HEAD_END)
            if end < 0:
                return
            length = self._body_length(end)
            taken = end + len(HEAD_END) + length
            if length < 0 or len(self.buffer) < taken:
                return
            request, self.buffer = self.buffer[:taken], self.buffer[taken:]
            self._answer(request)

    def _body_length(self, head_end: int) -> int:
        """Length of the body, or -1 while a chunked one is not all there."""
        head = self.buffer[:head_end].lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        if found:
            return int(rest.split(b"\r\n", 1)[0])
        if b"\r\ntransfer-encoding:" not in head:
            return 0
        is_whole = self.buffer.endswith(b"0" + HEAD_END)
        return len(self.buffer) - head_end - len(HEAD_END) if is_whole else -1

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET /__count"):
            self.transport.write(_response({"posts": Upstream.posts}))
        elif request.startswith(b"GET "):
            self.transport.write(self.answers.models)
        elif Upstream._count_post() and any(mark in request for mark in STREAM_MARKS):
            self.transport.write(self.answers.stream_head + self.answers.content_chunk)
            self.chunks_left = self.chunks
            self._send_later(self.loop.time() + self.interval_s)
        else:
            self.transport.write(self.answers.completion)

    @classmethod
    def _count_post(cls) -> int:
        cls.posts += 1
        return cls.posts

    def _send_later(self, due_s: float) -> None:
        self.loop.call_at(due_s, self._send_chunk, due_s)

    def _send_chunk(self, due_s: float) -> None:
        if self.transport.is_closing():
            return
        self.chunks_left -= 1
        if self.chunks_left:
            self.transport.write(self.answers.content_chunk)
            self._send_later(max(due_s + self.interval_s, self.loop.time()))
            return
        self.transport.write(self.answers.last_chunk)
        self.data_received(b"")


def _response(value: object) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + HEAD_END + body


def _chunk(delta: object, finish_reason: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    value = {"object": "chat.completion.chunk", **IDENTITY, "choices": [choice], **more}
    return _framed(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


async def serve(port: int, chunks: int, interval_s: float) -> None:
    """Listen until stopped."""
    answers = write_answers()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Upstream(answers, chunks, interval_s), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000))
