"""`POST /v1/chat/completions`: OpenAI's and Mistral's dialects on one path, whole or streamed."""

from windvane.core.chat import Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, WindvaneError
from windvane.core.usage import Usage
from windvane.engine.relay import ChunkStream
from windvane.gateway.data_plane.asgi import JSON, HeaderList, Send, send_whole
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import answer_headers, router_metadata
from windvane.wire.chat_request import chat_request_of, dialect_of
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.errors import render_error_event
from windvane.wire.json_body import read_object
from windvane.wire.openai_chat import encode_completion

_STREAM_HEADERS: HeaderList = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
NO_METADATA = b"off"
"""The value of the request header `x-router-metadata` that leaves `router_metadata` out."""


async def chat_completions(door: Door, incoming: Incoming, body: bytes, send: Send) -> None:
    """Serve one chat request. Raises WindvaneError before anything has been sent."""
    fields = read_object(body)
    dialect = dialect_of(fields, incoming.user_agent)
    door.saw_dialect(dialect)
    exchange = door.engine.accept(
        chat_request_of(fields),
        dialect=dialect.value,
        credentials=incoming.credentials(),
        body_bytes=len(body),
        headers=incoming.headers,
        client_request_id=incoming.request_id,
    )
    exchange.principal = door.principal
    door.saw_exchange(exchange)
    answer = await door.engine.handle(exchange)
    has_metadata = (
        door.engine.snapshot.has_metadata
        and incoming.headers.get(b"x-router-metadata") != NO_METADATA
    )
    if isinstance(answer, Completion):
        await _send_completion(door, exchange, answer, dialect, send, has_metadata)
    else:
        await _send_stream(door, exchange, answer, dialect, send, has_metadata)


async def _send_completion(
    door: Door,
    exchange: Exchange,
    answer: Completion,
    dialect: Dialect,
    send: Send,
    has_metadata: bool,
) -> None:
    now_s = door.clock.monotonic_s()
    attempt = exchange.final_attempt
    usage = answer.usage or (attempt.usage if attempt else None) or Usage()
    metadata = router_metadata(exchange, now_s) if has_metadata else None
    body = encode_completion(answer, usage, dialect, metadata)
    headers = answer_headers(exchange, now_s, has_cost=True)
    headers.append(JSON)
    await send_whole(send, 200, headers, body)


async def _send_stream(
    door: Door,
    exchange: Exchange,
    answer: ChunkStream,
    dialect: Dialect,
    send: Send,
    has_metadata: bool,
) -> None:
    """Send chunks as they come. The head goes with the first of them.

    A stream that dies ends with an error event and without the end-of-stream marker.
    """
    include_usage = exchange.request.include_usage
    writer = ChatStreamWriter(dialect, answer.fold, include_usage=include_usage)
    try:
        headers = answer_headers(exchange, door.clock.monotonic_s(), has_cost=False)
        headers += _STREAM_HEADERS
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunks in answer:
                if data := writer.write(chunks):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            metadata = router_metadata(exchange, door.clock.monotonic_s()) if has_metadata else None
            last = writer.end(answer.usage, metadata)
        except WindvaneError as error:
            last = _last_words(error.fault, exchange)
        await send({"type": "http.response.body", "body": last})
    finally:
        await answer.aclose()


def _last_words(fault: Fault, exchange: Exchange) -> bytes:
    return render_error_event(fault, exchange.public_id)
