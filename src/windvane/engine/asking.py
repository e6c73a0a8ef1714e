"""One attempt at one deployment: ask, and read until there is something to give the caller.

For a stream that is the first chunk that says anything: what comes before it (a role, an empty
piece) is kept, so that a provider that opens a stream and fails at once can still be replaced.
"""

from asyncio import CancelledError, get_running_loop
from collections.abc import Coroutine
from typing import NoReturn

import msgspec

from windvane.core.chat import Chunk, Completion
from windvane.core.exchange import Attempt, Exchange
from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of
from windvane.engine.estimating import may_call
from windvane.engine.snapshot import Upstream
from windvane.engine.watchdog import Watchdog
from windvane.ports.clock import Clock
from windvane.ports.transport import Transport, UpstreamRequest, UpstreamResponse
from windvane.wire.fold import Fold

REPLY_BYTES_MAX = 64 * 1024 * 1024
"""A whole answer larger than this is a broken upstream; images in base64 stay well below."""
ERROR_BYTES_MAX = 256 * 1024
ANSWER = "the provider's answer"
BEARER = "Bearer "
ERROR_BODY_S = 5.0
"""How long the reason of an error status is waited for; the status alone is enough to go on by."""


class OpenStream:
    """A stream whose first words have come. Whoever holds it must close it.

    `first` are the chunks read so far. `fold` is what they and all later ones amount to.
    """

    __slots__ = (
        "_answer_id",
        "_attempt",
        "_bytes",
        "_clock",
        "_is_ended",
        "_is_noting",
        "_read_s",
        "_reader",
        "_request",
        "_response",
        "_upstream",
        "_watchdog",
        "first",
        "fold",
    )

    def __init__(
        self,
        response: UpstreamResponse,
        request: UpstreamRequest,
        upstream: Upstream,
        watchdog: Watchdog,
        exchange: Exchange,
        attempt: Attempt,
        fold: Fold,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._request = request
        self._answer_id = exchange.answer_id
        self._attempt = attempt
        self._response = response
        self._upstream = upstream
        self._watchdog = watchdog
        self._reader = upstream.provider.read_stream(exchange.received_at_us // 1_000_000)
        self._is_ended = False
        is_calling = may_call(exchange.request)
        attempt.calling_since_s = attempt.started_s if is_calling else None
        self._is_noting = is_calling and exchange.request.n == 1
        self._read_s = clock.monotonic_s()
        self._bytes = 0
        self.fold = fold
        self.first: list[Chunk] = []

    async def read(self, what: str, within_s: float) -> list[Chunk]:
        """The next chunks, at least one; none at the stream's good end, and ever after.

        Comments are not chunks: a provider that sends nothing else runs out of time all the same.
        Raises APIConnectionError when the stream ends before its answer did, and APITimeoutError
        when nothing comes in time.
        """
        if self._is_ended:
            return []
        self._watchdog.expect(what, within_s)
        asked_s, said = self._clock.monotonic_s() if self._is_noting else 0.0, self.fold.chunks
        try:
            if self._reader.failure is not None:
                raise self._reader.failure
            while not self._reader.is_done and (piece := await self._response.read()):
                self._bytes += len(piece)
                if self._bytes > REPLY_BYTES_MAX:
                    raise error_of(_unreadable(f"it is larger than {REPLY_BYTES_MAX} bytes"))
                if chunks := self._reader.feed(piece):
                    for chunk in chunks:
                        if not (chunk.is_plain or (chunk.id and chunk.model)):
                            _name(chunk, self.fold.id or self._answer_id, self._attempt)
                        self.fold.add(chunk)
                    if self._is_noting:
                        self._note(asked_s, is_saying=self.fold.chunks > said)
                    return chunks
        except WindvaneError as error:
            raise discreet(error, self._request, self._upstream) from error
        except CancelledError as cancelled:
            if (timeout := self._watchdog.fault_of_cancellation()) is not None:
                raise timeout from cancelled
            raise
        finally:
            self._watchdog.rest()
        self._check_end()
        self._is_ended = True
        return []

    def _note(self, asked_s: float, *, is_saying: bool) -> None:
        """Something was read, for which was asked at `asked_s`. A call may be being written since then, if
        that said anything; or since what came before was read: whoever asks late finds it waiting."""
        now_s = self._clock.monotonic_s()
        if is_saying:
            self._attempt.calling_since_s = now_s - (asked_s - self._read_s)
        self._read_s = now_s

    def _check_end(self) -> None:
        """A dead stream must not end like a good one, whatever marker it ends with."""
        is_counted = self._reader.is_done or self.fold.final_usage is not None
        if not (self.fold.is_finished and is_counted):
            raise error_of(
                Fault(
                    kind=FaultKind.STREAM_BROKEN,
                    source=Source.UPSTREAM,
                    message="the provider's stream ended before its answer was whole",
                    status=502,
                    retry=Retry.OTHER,
                    billed=True,
                )
            )

    async def read_first(self, within_s: float) -> None:
        """Read until something is said, or the stream ends well without a word."""
        loop = get_running_loop()
        due_s = loop.time() + within_s
        while not self.fold.chunks:
            chunks = await self.read("the first token", due_s - loop.time())
            if not chunks:
                return
            self.first += chunks
        if self._reader.failure is not None:
            raise self._reader.failure

    def read_next(self) -> Coroutine[object, object, list[Chunk]]:
        """The next chunks, to be awaited."""
        return self.read("the next token", self._upstream.timeouts.inter_token_s)

    async def finish(self) -> None:
        """The answer is whole: give the connection back."""
        try:
            await self._response.finish()
        finally:
            self._response.close()

    def close(self) -> None:
        """Close; a stream that is not whole takes its connection with it, at once."""
        waiting = self._response.waiting_bytes()
        self.fold.unread_bytes = None if waiting is None else waiting + self._reader.unread_bytes
        self._response.close()


class Asking:
    """Asks providers, one attempt at a time."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock

    async def complete(
        self,
        exchange: Exchange,
        attempt: Attempt,
        request: UpstreamRequest,
        upstream: Upstream,
        watchdog: Watchdog,
    ) -> Completion:
        """The whole answer.

        Raises the WindvaneError its failure amounts to; `billed` says whether it may have cost, if it was
        sent at all. That is the transport's to know: `UpstreamRequest.take`.
        """
        watchdog.expect(ANSWER)
        try:
            response = await self._transport.open(request)
            try:
                if not _is_readable(response, attempt, upstream):
                    await self._refuse(response, upstream, watchdog)
                body = response.whole()
                if body is None:
                    body = await _read_whole(response, REPLY_BYTES_MAX)
            finally:
                response.close()
        except CancelledError as cancelled:
            if (timeout := watchdog.fault_of_cancellation()) is not None:
                raise timeout from cancelled
            raise
        finally:
            watchdog.rest()
        answer = upstream.provider.decode_chat(body, exchange.received_at_us // 1_000_000)
        if not (answer.is_everybodys or (answer.id and answer.model)):
            _name(answer, exchange.answer_id, attempt)
        return answer

    async def stream(
        self,
        exchange: Exchange,
        attempt: Attempt,
        request: UpstreamRequest,
        upstream: Upstream,
        watchdog: Watchdog,
        fold: Fold,
    ) -> OpenStream:
        """An open stream whose first words have come, or that ended well without any.

        `fold` is empty, and takes up what comes: whatever ends this, whoever gave it knows how far it was.
        """
        within_s = upstream.timeouts.first_token_s
        started_s = self._clock.monotonic_s()
        response = await self._open(request, watchdog, within_s)
        opened = OpenStream(
            response, request, upstream, watchdog, exchange, attempt, fold, self._clock
        )
        try:
            if not _is_readable(response, attempt, upstream):
                await self._refuse(response, upstream, watchdog)
            _check_event_stream(response)
            await opened.read_first(within_s - (self._clock.monotonic_s() - started_s))
        except BaseException:
            opened.close()  # so that the fold knows what was not read
            raise
        attempt.first_chunk_s = self._clock.monotonic_s()
        return opened

    async def _open(
        self, request: UpstreamRequest, watchdog: Watchdog, within_s: float
    ) -> UpstreamResponse:
        watchdog.expect(ANSWER, within_s)
        try:
            return await self._transport.open(request)
        except CancelledError as cancelled:
            if (timeout := watchdog.fault_of_cancellation()) is not None:
                raise timeout from cancelled
            raise
        finally:
            watchdog.rest()

    async def _refuse(
        self, response: UpstreamResponse, upstream: Upstream, watchdog: Watchdog
    ) -> NoReturn:
        """Raise what an answer amounts to that is not a readable one."""
        if response.status == 200:
            encoding = response.headers["content-encoding"]
            raise error_of(_unreadable(f"it is encoded as {encoding[:40]!r}, unasked"))
        try:
            body = await self._read_reason(response, watchdog)
        except WindvaneError:
            # Cut, endless or never come: the status has said that nothing will be billed.
            body = b""
        now_s = self._clock.wall_us() / 1_000_000
        fault = upstream.provider.classify(response.status, response.headers, body, now_s)
        if response.status < 300:
            # 201 or 204 is no answer, but no error either: it may have been billed.
            fault = msgspec.structs.replace(fault, billed=True)
        raise error_of(fault)

    async def _read_reason(self, response: UpstreamResponse, watchdog: Watchdog) -> bytes:
        """The body of a refusal, within its own time and what is left of the exchange's."""
        watchdog.expect(ANSWER, ERROR_BODY_S)
        try:
            return await _read_whole(response, ERROR_BYTES_MAX)
        except CancelledError as cancelled:
            if (timeout := watchdog.fault_of_cancellation()) is not None:
                raise timeout from cancelled
            raise
        finally:
            watchdog.rest()


def discreet(error: WindvaneError, request: UpstreamRequest, upstream: Upstream) -> WindvaneError:
    """The same error without the credential that the request was sent with, should it be quoted."""
    shown = [header for header in request.headers if header not in upstream.bare_headers]
    if request.credential is not None:
        shown.append(request.credential)
    secrets = tuple([value.removeprefix(BEARER) for _, value in shown])
    return error_of(error.fault.without(secrets))


def _name(answer: Completion | Chunk, answer_id: str, attempt: Attempt) -> None:
    """Give an answer, or a piece of one, what its provider has left out: an id of its own, and the model
    that was asked."""
    answer.id = answer.id or answer_id
    answer.model = answer.model or attempt.deployment.model


def _is_readable(response: UpstreamResponse, attempt: Attempt, upstream: Upstream) -> bool:
    """Note what the head of an answer says, and whether its body is what was asked for."""
    headers = response.headers
    attempt.status = response.status
    attempt.headers = headers
    attempt.upstream_request_id = headers.get(upstream.provider.request_id_header)
    encoding = headers.get("content-encoding")
    return response.status == 200 and (encoding is None or encoding.lower() == "identity")


async def _read_whole(response: UpstreamResponse, bytes_max: int) -> bytes:
    """The body, bounded."""
    pieces: list[bytes] = []
    size = 0
    while piece := await response.read():
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise error_of(_unreadable(f"it is larger than {bytes_max} bytes"))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_event_stream(response: UpstreamResponse) -> None:
    """Refuse what says that it is no stream; a server that does not say what it sends may send one."""
    kind = response.headers.get("content-type")
    if kind is not None and not kind.lower().startswith("text/event-stream"):
        raise error_of(_unreadable(f"a stream was asked for and {kind[:60]!r} came"))


def _unreadable(how: str) -> Fault:
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message=f"the provider's answer cannot be read: {how}",
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
    )
