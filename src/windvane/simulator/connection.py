"""One client connection: reads requests, carries out planned replies, notices when a client leaves.

Sockets are driven directly, without an HTTP framework, because a simulator must be able to lie:
promise a length and not keep it, stop in the middle, reset. A paced reply costs one timer, not a
task, so thousands of slow streams are cheap.

- `data_received` feeds the parser, whose callbacks assemble a `Received`;
- `_serve` asks for a plan and starts it; `_pump` writes all that is due and sets the next timer;
- `_end` settles the bill exactly once, before the last bytes leave.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from windvane.simulator import clock
from windvane.simulator.http_message import Received, head
from windvane.simulator.reply import Ending, Frame, Reply, wire_frames
from windvane.simulator.service import Service
from windvane.simulator.tape import TapeEntry

BODY_BYTES_MAX = 32 * 1024 * 1024
"""A request body larger than this is refused: several times what providers take."""
HEAD_BYTES_MAX = 256 * 1024
"""Header bytes of one request."""
PIPELINED_MAX = 64
"""Requests waiting on one connection while an earlier one is answered."""
RESET_DELAY_S = 0.005
"""How long a reset waits, so that the bytes before it are delivered rather than discarded."""
BYTES_PER_TURN_MAX = 256 * 1024
FRAMES_PER_TURN_MAX = 1024
"""Bytes or frames written before the loop gets its turn back."""

_LINGER_NONE = struct.pack("ii", 1, 0)

Respond = Callable[[Received], tuple[Reply, TapeEntry | None]]


class Connection(asyncio.Protocol):
    """Serves one client; requests on it are answered one after the other."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: Service,
        respond: Respond,
        registry: set["Connection"],
    ) -> None:
        self._loop = loop
        self._service = service
        self._respond = respond
        self._registry = registry
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Received] = deque()
        self._paused = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self._reply: Reply | None = None
        self._entry: TapeEntry | None = None
        self._frames: list[Frame] = []
        self._timer: asyncio.Handle | None = None
        self._place = 0
        self._generated = 0
        self._began = 0.0
        self._due = 0.0

    @property
    def is_streaming(self) -> bool:
        """Return whether a streamed reply is under way."""
        return self._reply is not None and self._reply.streamed

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        # A cast, not a check: uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse what is not HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(501, "upgrade")
        except httptools.HttpParserError as error:
            self._service.violate("", "invalid_http", str(error))
            self._refuse(400, "invalid_http")
        self._serve_waiting()

    def eof_received(self) -> bool:
        """Treat a half-closed connection as closed, as providers do."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle what was under way as aborted by the client."""
        self._transport = None
        self._registry.discard(self)
        self._waiting.clear()
        if self._reply is not None:
            if self._entry is not None:
                self._entry.disconnected_at = clock.now_s()
            self._end("aborted")

    def pause_writing(self) -> None:
        """Stop generating while the client does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on where the pause began."""
        self._paused = False
        if self._reply is not None and self._timer is None:
            self._pump()

    # What the parser calls.

    def on_url(self, url: bytes) -> None:
        """Collect the request target, which may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, "head_too_large")
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Encourage a client that waits to be told to send its body."""
        if b"expect" in [name.lower() for name, _ in self._headers]:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._refuse(413, "body_too_large")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Serve the request, or let it wait for the one before it."""
        received = Received(
            method=self._parser.get_method().decode("latin-1"),
            target=self._url.decode("latin-1"),
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
            fields={name.lower(): value for name, value in self._headers},
        )
        self._forget_request()
        if len(self._waiting) < PIPELINED_MAX:
            self._waiting.append(received)
        else:
            self._refuse(429, "too_many_pipelined")

    # The reply.

    def _serve_waiting(self) -> None:
        """Serve what waits, as long as nothing is under way."""
        while self._waiting and self._reply is None:
            if self._transport is None or self._transport.is_closing():
                self._waiting.clear()
                return
            self._serve(self._waiting.popleft())

    def _serve(self, received: Received) -> None:
        reply, self._entry = self._respond(received)
        if not received.keep_alive and reply.ending is Ending.KEEP:
            reply.ending = Ending.CLOSE
        self._reply = reply
        self._frames = wire_frames(reply, clock.http_date(clock.now_s()))
        self._began = self._loop.time()
        self._due = self._began + reply.first_delay_s
        if reply.first_delay_s > 0 or not self._frames:
            self._timer = self._loop.call_at(self._due, self._pump)
        else:
            self._pump()

    def _pump(self) -> None:
        """Write everything that is due, then set the timer for the rest."""
        self._timer = None
        reply = self._reply
        if reply is None or self._transport is None or self._paused:
            return
        if not reply.token_delay_s and not reply.bytewise:
            self._pump_at_once(reply)
            return
        now = self._loop.time()
        due, frames, delay_s = self._due, self._frames, reply.token_delay_s
        place, size, count = self._place, 0, len(frames)
        out: list[bytes] = []
        is_timed = False
        while place < count:
            body, generated = frames[place]
            if generated and delay_s:
                ready_at = due + generated * delay_s
                if ready_at > now:
                    is_timed = True
                    break
                due = ready_at
            out.append(body)
            self._generated += generated
            place += 1
            size += len(body)
            if size > BYTES_PER_TURN_MAX or reply.bytewise:
                break
        self._due, self._place = due, place
        self._send(reply, out, place == count, is_timed)

    def _pump_at_once(self, reply: Reply) -> None:
        """Write frames without a pace, many to a turn."""
        frames = self._frames[self._place : self._place + FRAMES_PER_TURN_MAX]
        self._place += len(frames)
        self._generated += sum([size for _, size in frames])
        out = [body for body, _ in frames]
        self._send(reply, out, self._place == len(self._frames), False)

    def _send(self, reply: Reply, out: list[bytes], is_last: bool, is_timed: bool) -> None:
        data = b"".join(out)
        if data and self._entry is not None and self._entry.first_byte_at is None:
            self._entry.first_byte_at = clock.now_s()
        if is_last:
            self._finish(reply, data)
            return
        self._write(data)
        if self._paused:
            return
        if is_timed:
            generated = self._frames[self._place][1]
            ready_at = self._due + generated * reply.token_delay_s
            self._timer = self._loop.call_at(ready_at, self._pump)
        else:
            self._timer = self._loop.call_soon(self._pump)

    def _finish(self, reply: Reply, data: bytes) -> None:
        """Write the last bytes and end the reply in the way planned."""
        if reply.ending is Ending.SILENCE:
            self._write(data)
            return
        self._end("finished" if reply.is_whole else "failed")
        self._write(data)
        match reply.ending:
            case Ending.KEEP:
                if self._waiting:
                    self._loop.call_soon(self._serve_waiting)
            case Ending.CLOSE:
                self._close()
            case Ending.RESET:
                self._loop.call_later(RESET_DELAY_S, self._abort)

    def _end(self, ending: str) -> None:
        reply, entry = self._reply, self._entry
        assert reply is not None
        if entry is not None and ending != "aborted":
            entry.finished_at = clock.now_s()
        if self._timer is not None:
            self._timer.cancel()
        generated = self._generated
        if ending == "aborted":
            generated = (
                generated + self._of_frame_under_way(reply)
                if reply.streamed
                else self._generated_unseen(reply)
            )
        self._service.settle(reply, generated=generated, delivered=self._generated, ending=ending)
        self._forget_reply()

    def _generated_unseen(self, reply: Reply) -> int:
        """Return how much of a JSON answer was made by now, though none of it was sent."""
        if self._place or not reply.token_delay_s:
            is_begun = self._loop.time() >= self._began + reply.first_delay_s
            return reply.tokens if self._place or is_begun else 0
        generating_s = self._loop.time() - self._began - reply.first_delay_s
        return max(0, min(reply.tokens, int(generating_s / reply.token_delay_s)))

    def _of_frame_under_way(self, reply: Reply) -> int:
        """Return how much was made by now of the frame that comes next: a call comes in one."""
        if not (self._place and reply.token_delay_s and self._place < len(self._frames)):
            return 0
        made = int((self._loop.time() - self._due) / reply.token_delay_s)
        return max(0, min(made, self._frames[self._place][1]))

    def _refuse(self, status: int, kind: str) -> None:
        """Answer outside any plan and close: the request cannot be understood."""
        body = b'{"detail":"%b"}' % kind.encode()
        fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._write(head(status, fields + "connection: close\r\n") + body)
        self._close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def _abort(self) -> None:
        """Reset the connection: with no lingering, closing sends RST instead of FIN."""
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._transport.abort()

    def _forget_request(self) -> None:
        self._url = b""
        self._headers = []
        self._body = []
        self._head_bytes = 0
        self._body_bytes = 0

    def _forget_reply(self) -> None:
        self._reply = None
        self._entry = None
        self._frames = []
        self._timer = None
        self._place = 0
        self._generated = 0
