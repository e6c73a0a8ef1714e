"""Reading a request: its headers once, its credential at one place, its body within bounds."""

import asyncio
import re
from contextlib import suppress

from windvane.core.exchange import Credentials
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.gateway.data_plane.asgi import HeaderList, Receive
from windvane.wire.dialect import Dialect

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_OWN_VIA = b"windvane"
_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")
_OTHER_CREDENTIALS = frozenset(_CREDENTIALS[1:])
_LISTS = frozenset(
    (b"cache-control", b"windvane-cache-control", b"x-windvane-cache-tags", b"x-windvane-tags")
)
"""Headers that may come in several lines, which are one list (RFC 9110, 5.2). Of others the last counts,
but for credentials."""
_LOOPBACK_NAMES = (b"127.0.0.1", b"localhost", b"[::1]")


DISCARD_S = 2.0
DISCARD_BYTES_MAX = 256 * 1024 * 1024
"""How much, and for how long, a body that was refused is read and thrown away."""


class ClientGoneError(Exception):
    """The caller closed the connection before its request was whole."""


class Incoming:
    """What the head of a request says. The names of `headers` are in lower case.

    A head that comes again is the same object: what was worked out of it is worked out once.
    """

    __slots__ = ("_credentials", "headers", "is_checked", "request_id", "said", "user_agent")

    def __init__(self, said: HeaderList, *, credentials: Credentials | None = None) -> None:
        """`credentials` are what it is known to show."""
        self.said = said
        # Later headers of one name win, as in no other place: what must be unique is checked below.
        headers: dict[bytes, bytes] = dict(said)
        if len(headers) < len(said):  # some name came twice
            for name in _LISTS & headers.keys():
                headers[name] = b", ".join([value for each, value in said if each == name])
        self.headers = headers
        self.is_checked = False
        self.user_agent = headers.get(b"user-agent", b"").decode("latin-1")
        shown = headers.get(b"x-request-id")
        self.request_id = (
            shown.decode() if shown is not None and _REQUEST_ID.fullmatch(shown) else None
        )
        """The caller's own id for this request, when it sent one that is safe to show."""
        self._credentials = credentials

    def with_length(self, length: bytes) -> "Incoming":
        """The same head before a body of another length."""
        name = b"content-length"
        said = [(name, length) if header[0] == name else header for header in self.said]
        other = Incoming(said, credentials=self._credentials)
        other.is_checked = self.is_checked
        return other

    @property
    def dialect(self) -> Dialect:
        """The dialect for errors that arise before the body is read."""
        return Dialect.MISTRAL if "mistral" in self.user_agent.lower() else Dialect.OPENAI

    def check(self, method: str) -> None:
        """Refuse what must not be served whoever sends it. A head that has passed passes again."""
        self.check_is_no_loop()
        if method == "POST":
            self.check_is_json()
        self.is_checked = True

    def credentials(self) -> Credentials:
        """What the caller shows: `Authorization: Bearer`, `x-api-key` or `api-key`.

        Raises BadRequestError when it shows two that differ: which of them is meant to be checked
        must not be a matter of order.
        """
        if self._credentials is None:
            self._credentials = Credentials(bearer=self._bearer())
        return self._credentials

    def _bearer(self) -> str | None:
        headers = self.headers
        if len(headers) == len(self.said) and headers.keys().isdisjoint(_OTHER_CREDENTIALS):
            said_once = headers.get(b"authorization")
            return None if said_once is None else _secret_in(b"authorization", said_once) or None
        if len(headers) == len(self.said):
            said = [(name, headers[name]) for name in _CREDENTIALS if name in headers]
        else:  # some name came twice
            said = [header for header in self.said if header[0] in _CREDENTIALS]
        shown = {secret for name, value in said if (secret := _secret_in(name, value))}
        if len(shown) > 1:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                "two different credentials were sent; send one",
                code="ambiguous_credentials",
            )
        return shown.pop() if shown else None

    @property
    def waits_to_send(self) -> bool:
        """Whether the caller sends no body before it is told to (RFC 9110, 10.1.1)."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    @property
    def names_loopback(self) -> bool:
        """Whether the caller calls us by a name that only this machine has.

        A web page that rebinds its own name to 127.0.0.1 does not, nor does a proxy that passes on
        the name it was called by.
        """
        value = self.headers.get(b"host", b"")
        host, _, port = value.rpartition(b":")
        name = host if host and port.isdigit() else value
        return name.lower() in _LOOPBACK_NAMES

    def check_is_json(self) -> None:
        """Refuse what a web page can send across origins without asking, and encoded bodies.

        Browsers look at the type alone, not its parameters, and let a body without one through: so
        without one, a request that tells of an origin is refused.
        """
        kind = self.headers.get(b"content-type", b"")
        is_json = kind == b"application/json" or b"json" in kind.partition(b";")[0].lower()
        if not is_json and (kind or b"origin" in self.headers):
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"content-type must be application/json, not {kind.decode('latin-1')[:80]!r}",
                status=415,
            )
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise refuse(
                FaultKind.INVALID_REQUEST, "encoded request bodies are not accepted", status=415
            )

    def check_is_no_loop(self) -> None:
        """Refuse a request that has been through us: somebody's upstream address is our own."""
        if b"via" in self.headers and any(
            _OWN_VIA in value for name, value in self.said if name == b"via"
        ):
            raise refuse(
                FaultKind.INVALID_REQUEST,
                "this request has already been through windvane: a provider's api_base is this"
                " gateway's own address",
                status=508,
                code="loop_detected",
            )


def _secret_in(name: bytes, value: bytes) -> str:
    """The secret a credential's header shows; empty when it shows none."""
    said = value.decode("latin-1").strip()
    if name != b"authorization" or not said:
        return said
    scheme, _, token = said.partition(" ")
    secret = token.strip()
    if scheme.lower() != "bearer" or not secret:
        is_empty = scheme.lower() == "bearer"
        raise refuse(
            FaultKind.UNAUTHENTICATED,
            "the Authorization header has no key behind `Bearer`: is a variable empty?"
            if is_empty
            else "the Authorization header must be `Bearer <key>`",
            status=401,
        )
    return secret


async def read_body(receive: Receive, incoming: Incoming, bytes_max: int, within_s: float) -> bytes:
    """The request's body.

    Raises RequestTooLargeError beyond `bytes_max`, APITimeoutError when it does not come in time,
    ClientGoneError when the caller leaves.
    """
    declared = incoming.headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > bytes_max:
        raise too_large(bytes_max)
    try:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        if not message.get("more_body"):
            if len(body) > bytes_max:
                raise too_large(bytes_max)
            return body
        async with asyncio.timeout(within_s):
            return await _read_rest(receive, body, bytes_max)
    except TimeoutError as error:
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"the body did not arrive within {within_s:g} s",
            status=408,
            code="request_timeout",
        ) from error


async def _read_rest(receive: Receive, first: bytes, bytes_max: int) -> bytes:
    pieces = [first]
    size = len(first)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        assert isinstance(piece, bytes)
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise too_large(bytes_max)
        if not message.get("more_body"):
            return b"".join(pieces)


async def discard_rest(receive: Receive, incoming: Incoming) -> None:
    """Read what is left of a body that was refused, within bounds.

    SDKs send their whole body before they read: closing over unread bytes would reset the connection,
    and the reset would destroy the very answer that says why. Who waits to be told to send, and has said
    how much it would be, was refused by that and is not told.
    """
    if incoming.waits_to_send and b"content-length" in incoming.headers:
        return
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while size <= DISCARD_BYTES_MAX:
                message = await receive()
                piece = message.get("body", b"")
                assert isinstance(piece, bytes)
                size += len(piece)
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def too_large(bytes_max: int) -> WindvaneError:
    return refuse(FaultKind.TOO_LARGE, f"the body is larger than {bytes_max} bytes", status=413)
