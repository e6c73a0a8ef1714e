"""`POST /v1/chat/completions`: OpenAI's and Mistral's dialects on one path, whole or streamed."""

from asyncio import CancelledError

from windvane.core.chat import Completion
from windvane.core.exchange import Exchange, Reading
from windvane.core.faults import Fault, FaultKind, WindvaneError
from windvane.core.usage import Usage
from windvane.engine.recall import BODY_BYTES_MAX
from windvane.engine.sharing import AnswerStream
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.outgoing import stream_lines, stream_metadata, whole_lines
from windvane.wire.chat_request import chat_request_of, dialect_of
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.errors import render_error_event
from windvane.wire.json_body import read_object_with
from windvane.wire.openai_chat import encode_completion
from windvane.wire.sse import COMMENT

NO_METADATA = b"off"
"""The value of the request header `x-router-metadata` that leaves `router_metadata` out."""


async def chat_completions(door: Door, body: bytes) -> None:
    """Serve one chat request. Raises WindvaneError before anything has been sent."""
    engine, incoming = door.engine, door.incoming
    reading = engine.recall.find(body)
    if reading is None:
        fields, messages_json = read_object_with(body, "messages")
        door.dialect = dialect_of(fields, incoming.user_agent)
        request = chat_request_of(fields, messages_json)
        del fields, messages_json
        if engine.cache is not None and len(body) <= BODY_BYTES_MAX:
            reading = Reading(request)
    else:
        request = reading.request
        door.dialect = dialect_of(request.body, incoming.user_agent)
    exchange = door.exchange = engine.accept(
        request,
        dialect=str(door.dialect),
        credentials=incoming.credentials(),
        body_bytes=len(body),
        headers=incoming.headers,
        client_request_id=incoming.request_id,
        reading=reading,
        principal=door.principal,
    )
    del request  # the exchange's alone, which lets go of it when a stream has begun
    if reading is None:
        body = b""  # nobody will ask for it: what it says is in the request
    answer = await engine.handle(exchange)
    if reading is not None and exchange.cache_status == "hit":
        engine.recall.keep(body, reading)
    has_metadata = (
        engine.snapshot.has_metadata and incoming.headers.get(b"x-router-metadata") != NO_METADATA
    )
    if isinstance(answer, Completion):
        lines, metadata = whole_lines(exchange, door.clock.monotonic_s())
        usage = answer.usage or _usage_of(exchange)
        shown = metadata if has_metadata else None
        await door.caller.answer(200, lines, encode_completion(answer, usage, door.dialect, shown))
    else:
        await _send_stream(door, exchange, answer, door.dialect, has_metadata)


def _usage_of(exchange: Exchange) -> Usage:
    """What was used for an answer that does not say it."""
    attempt = exchange.final_attempt
    return (attempt.usage if attempt else None) or Usage()


async def _send_stream(
    door: Door, exchange: Exchange, answer: AnswerStream, dialect: Dialect, has_metadata: bool
) -> None:
    """Send chunks as they come. The head goes with the first of them.

    A stream that dies ends with an error event and without the end-of-stream marker.
    """
    caller, clock = door.caller, door.clock
    include_usage = exchange.request.include_usage
    writer = ChatStreamWriter(dialect, answer.fold, include_usage=include_usage)
    try:
        caller.begin(200, stream_lines(exchange, clock.monotonic_s()), sign_of_life=COMMENT)
        try:
            async for chunks in answer:
                if data := writer.write(chunks):
                    await caller.send(data)
            metadata = stream_metadata(exchange, clock.monotonic_s()) if has_metadata else None
            last = writer.end(answer.usage, metadata)
        except WindvaneError as error:
            last = _last_words(door, exchange, error.fault)
        except CancelledError:
            # It waited for no word of the provider's, but for the caller to read, or for its own pace.
            if (told := door.engine.fault_of_cancellation()) is None:
                raise
            await answer.aclose(told.fault)
            last = _last_words(door, exchange, told.fault)
        await caller.end(last)
    finally:
        await answer.aclose()


def _last_words(door: Door, exchange: Exchange, fault: Fault) -> bytes:
    if fault.kind is FaultKind.SHUTTING_DOWN:
        door.caller.keep_alive = False  # nor is anybody served who waits behind it
    return render_error_event(fault, exchange.public_id)
