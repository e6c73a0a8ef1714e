"""Asking a provider over HTTP."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from windvane.core.exchange import Attempt, AttemptState

_SENT = AttemptState.SENT
"""By name: to look a member up in its enumeration takes as long as a call."""


class UpstreamRequest(msgspec.Struct, gc=False):
    """One POST. The address comes from configuration alone, never from a caller.

    `headers` are the same for all requests to one address; `request_id` goes in `x-request-id`.
    `credential` is the caller's own, as a header's name and value, for this request alone: nothing may
    keep it. `attempt` is what it is sent for, if for any: it becomes sent as the body is taken. Nothing
    here leads back to the request, so the garbage collector need not look at it.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    request_id: str
    body: bytes
    connect_timeout_s: float
    credential: tuple[str, str] | None = None
    attempt: Attempt | None = None

    def take(self) -> bytes:
        """The body, to be written at once. Only a transport takes it, and only once.

        From here on the provider may have the request, and bill it; until here it has not one byte. So it
        is taken when there is a connection, and before anything is written. Who waits for the answer does
        not hold it any more.
        """
        if self.attempt is not None:
            self.attempt.become(_SENT)
        body, self.body = self.body, b""
        return body

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return f"UpstreamRequest({self.request_id})"


class UpstreamResponse(Protocol):
    """An answer whose head has come. It must be closed, whatever happens."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case."""
        ...

    def whole(self) -> bytes | None:
        """What is left of the body, when it has all come already, as most answers have; else None,
        and nothing is taken. It is no more than a transport lets wait unread."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body, as many as have come; empty at its end.

        Raises APIConnectionError when the connection breaks before the body's end.
        """
        ...

    def waiting_bytes(self) -> int | None:
        """How much of the body has come and was not read; None when more waits than is taken in, and
        nobody knows how much."""
        ...

    async def finish(self) -> None:
        """The answer is whole, though the body may not be: wait briefly for its last bytes, so that
        the connection can be kept, then close."""
        ...

    def close(self) -> None:
        """Give the connection back, or close it when the body was not read to its end."""
        ...


class Transport(Protocol):
    """Sends requests. Cancelling a call closes its connection at once."""

    async def open(self, request: UpstreamRequest) -> UpstreamResponse:
        """Connect, take the request's body and send it; return when the head has come.

        Raises APIConnectionError: `connect_failed` before the body is taken, `stream_broken` after
        that, when it is not known what the provider received.
        """
        ...

    async def aclose(self) -> None: ...
