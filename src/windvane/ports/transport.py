"""Asking a provider over HTTP."""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class UpstreamRequest(msgspec.Struct):
    """One POST. The address comes from configuration alone, never from a caller.

    `headers` are the same for all requests to one address; `request_id` goes in `x-request-id`.
    `credential` is the caller's own, as a header's name and value, for this request alone: nothing may
    keep it. `body` is the transport's to take: whoever waits for the answer need not hold it.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    request_id: str
    body: bytes
    connect_timeout_s: float
    credential: tuple[str, str] | None = None

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
        """Send, and return when the head has come.

        Raises APIConnectionError: `connect_failed` when not one byte was sent, `stream_broken`
        when it is not known what the provider received.
        """
        ...

    async def aclose(self) -> None: ...
