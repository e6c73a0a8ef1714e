"""A transport without a network: answers come from scripts, and everything done to it is recorded.

It is stricter than the real one: reading an answer that was closed is our own bug, and raises.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of
from windvane.ports.transport import UpstreamRequest
from windvane.testing.answers import Breaks, Connects, Ends, Head, Part, Piece, Refuses, Script

FINISH_S = 0.05
"""As long as the real transport waits for the last bytes of an answer already whole."""


class Call:
    """One request as its provider sees it, from its coming to the close of its connection; and before it
    comes, what is made of its connection.

    `input_tokens` is what the provider will bill for the request, once it has begun to answer.
    """

    def __init__(self, request: UpstreamRequest, number: int) -> None:
        self.number = number
        self.attempt_id = request.request_id
        body = msgspec.json.decode(request.body)
        self.body: dict[str, object] = body
        self.deployment = f"{(urlsplit(request.url).hostname or '').split('.')[0]}/{body['model']}"
        self.is_stream = bool(body.get("stream"))
        self.input_tokens = 0
        self.read_tokens = 0
        self.status: int | None = None
        self.is_connecting = False
        """Whether its connection is still being made: until its script says `Connects`."""
        self.is_whole = False
        self.is_closed = False
        self.was_cancelled = False
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time()
        self._parts: deque[tuple[float, Part]] = deque()
        self._more: asyncio.Future[None] | None = None
        self._made_tokens = 0

    def play(self, script: Script) -> None:
        """Add parts: each comes `delay_s` after the one before, at the earliest from now."""
        self._due_s = max(self._due_s, self._loop.time())
        for delay_s, part in script:
            self._due_s += delay_s
            self._parts.append((self._due_s, part))
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def must_wait(self) -> bool:
        """Whether a connection takes time: it was told so, or its script begins with what becomes of it."""
        if self._parts and isinstance(self._parts[0][1], Connects | Refuses):
            self.is_connecting = True
        return self.is_connecting

    async def connect(self) -> None:
        match await self.next_part():
            case Connects():
                self.is_connecting = False
            case Refuses():
                raise _unreachable("connection refused")
            case other:
                raise AssertionError(f"nothing is connected, and the script says {other}")

    async def next_part(self) -> Part:
        """The next part, when it is due; for ever nothing when there is none."""
        while not self._parts:
            self._more = self._loop.create_future()
            await self._more
        wait_s = self._parts[0][0] - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        return self._parts.popleft()[1]

    def waiting_pieces(self) -> list[Piece]:
        """The pieces that have come and were not read."""
        pieces = []
        for due_s, part in self._parts:
            if due_s > self._loop.time() or not isinstance(part, Piece):
                break
            pieces.append(part)
        return pieces

    def due_pieces(self) -> list[Piece]:
        """The pieces that came with the one just read: one read takes all there is."""
        pieces = self.waiting_pieces()
        for _ in pieces:
            self._parts.popleft()
        return pieces

    def has_come(self) -> bool:
        """Whether all that is left of a good answer is due."""
        *pieces, end = (part for _, part in self._parts) if self._parts else (None,)
        is_whole = isinstance(end, Ends) and all(isinstance(each, Piece) for each in pieces)
        return is_whole and self._parts[-1][0] <= self._loop.time()

    @property
    def is_beyond_its_limit(self) -> bool:
        """Whether more tokens were read of it than it was asked for."""
        limit, choices = self.body.get("max_tokens"), self.body.get("n") or 1
        if not (isinstance(limit, int) and isinstance(choices, int)):
            return False
        return self.read_tokens > limit * choices

    def close(self) -> None:
        """The connection is gone; the provider stops, and bills what it had made by now."""
        if not self.is_closed:
            self.is_closed = True
            self._made_tokens = self.read_tokens + sum(p.output_tokens for p in self.due_pieces())

    @property
    def billed(self) -> tuple[int, int] | None:
        """Input and output tokens of the provider's own bill; None when it bills nothing."""
        if self.status != 200 or not self.is_closed:
            return None
        return self.input_tokens, self._made_tokens


class ScriptedResponse:
    """Implements `UpstreamResponse` from a call's parts."""

    def __init__(self, call: Call, head: Head, on_closed: Callable[[Call], None]) -> None:
        self._call = call
        self._on_closed = on_closed
        self._head = head
        self._is_broken = False

    @property
    def status(self) -> int:
        return self._head.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._head.headers

    def whole(self) -> bytes | None:
        call = self._call
        assert not call.is_closed, f"{call.attempt_id}: a closed answer is read"
        if self._is_broken or not call.has_come():
            return None
        pieces = call.due_pieces()
        call.read_tokens += sum(each.output_tokens for each in pieces)
        call.is_whole = True
        return b"".join(each.data for each in pieces)

    async def read(self) -> bytes:
        call = self._call
        assert not call.is_closed, f"{call.attempt_id}: a closed answer is read"
        if call.is_whole:
            return b""
        if self._is_broken:
            raise broken()
        match await call.next_part():
            case Piece() as piece:
                pieces = [piece, *call.due_pieces()]
                call.read_tokens += sum(each.output_tokens for each in pieces)
                return b"".join(each.data for each in pieces)
            case Ends():
                call.is_whole = True
                return b""
            case Breaks():
                self._is_broken = True
                raise broken()
            case other:
                raise AssertionError(f"a script cannot say {other} here")

    def waiting_bytes(self) -> int | None:
        return sum(len(each.data) for each in self._call.waiting_pieces())

    async def finish(self) -> None:
        try:
            async with asyncio.timeout(FINISH_S):
                while not self._call.is_closed and await self.read():
                    pass
        except (TimeoutError, WindvaneError):
            pass
        self.close()

    def close(self) -> None:
        if not self._call.is_closed:
            self._call.close()
            self._on_closed(self._call)


def _nothing(_: Call) -> None:
    return None


class ScriptedTransport:
    """Implements `Transport`. `on_connecting` is told of each request before it has a connection, `on_sent`
    when it has been sent; either may `play` its answer, and the first what comes before that."""

    def __init__(
        self,
        on_sent: Callable[[Call], None] = _nothing,
        on_closed: Callable[[Call], None] = _nothing,
        on_connecting: Callable[[Call], None] = _nothing,
    ) -> None:
        self.calls: list[Call] = []
        self.is_closed = False
        self._on_connecting = on_connecting
        self._on_sent = on_sent
        self._on_closed = on_closed

    async def open(self, request: UpstreamRequest) -> ScriptedResponse:
        call = Call(request, len(self.calls) + 1)
        self.calls.append(call)
        try:
            self._on_connecting(call)
            if call.must_wait():
                await _connect(call, request.connect_timeout_s)
            request.take()
            self._on_sent(call)
            return await self._answer(call)
        except BaseException as error:
            call.was_cancelled = isinstance(error, asyncio.CancelledError)
            call.close()
            self._on_closed(call)
            raise

    async def _answer(self, call: Call) -> ScriptedResponse:
        match await call.next_part():
            case Head() as head:
                call.status = head.status
                return ScriptedResponse(call, head, self._on_closed)
            case Breaks():
                raise broken()
            case other:
                raise AssertionError(f"an answer cannot begin with {other}")

    @property
    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if not call.is_closed]

    async def aclose(self) -> None:
        self.is_closed = True


async def _connect(call: Call, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await call.connect()
    except TimeoutError as error:
        raise _unreachable(f"no connection within {timeout_s:g} s") from error


def broken() -> WindvaneError:
    """As the real transport says that a connection broke: what the provider got is not known."""
    return error_of(
        Fault(
            kind=FaultKind.STREAM_BROKEN,
            source=Source.UPSTREAM,
            message="the connection to the provider broke before its answer was whole",
            status=502,
            retry=Retry.SAME,
            billed=True,
        )
    )


def _unreachable(how: str) -> WindvaneError:
    return error_of(
        Fault(
            kind=FaultKind.CONNECT_FAILED,
            source=Source.UPSTREAM,
            message=f"the provider cannot be reached: {how}",
            status=502,
            retry=Retry.SAME,
        )
    )
