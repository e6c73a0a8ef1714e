"""A head that a connection may send again, word for word, but for the length of the body.

Clients repeat themselves: on a kept connection every request has the head of the last one. To see that
takes a comparison of bytes; to read it again, a callback for each header and a look at each of them.

Laws:
1. What is known was read by the parser first, and belongs to one connection: it ends with it.
2. Nothing in it is a matter of interpretation: lines end with CRLF, and one content-length, in digits, is
   all that frames the body.
3. It is compared as bytes. What is not the same is the parser's.
"""

from windvane.gateway.data_plane.asgi import HeaderList
from windvane.gateway.data_plane.incoming import Incoming

BYTES_MAX = 4 * 1024
"""Longer heads are not known again: each connection holds one in memory."""
DIGITS_MAX = 9
"""Of a body's length. What is longer is refused anyway, but by others."""

_LENGTH = b"content-length"
_UNUSUAL = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"trailer"))
_END = b"\r\n\r\n"


class KnownHead:
    """The head of a request for the data plane, and what it says."""

    __slots__ = ("_after", "_before", "incoming", "length", "method", "path", "size", "text")

    def __init__(
        self, before: bytes, digits: bytes, after: bytes, method: str, path: str, incoming: Incoming
    ) -> None:
        """`before` and `after` are what stands around the digits of the length."""
        self._before = before
        self._after = after
        self.text = before + digits + after
        self.size = len(self.text)
        self.length = int(digits)
        self.method = method
        self.path = path
        self.incoming = incoming

    def of_other_length(self, data: bytes) -> "KnownHead | None":
        """The head that `data` begins with, if it is this one but for the length of the body."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        at = len(before)
        end = data.find(b"\r", at, at + DIGITS_MAX + 1)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(after, end):
            return None
        incoming = self.incoming.with_length(digits)
        return KnownHead(before, digits, after, self.method, self.path, incoming)


def known_head(
    data: bytes, method: str, url: bytes, path: str, incoming: Incoming
) -> KnownHead | None:
    """The head that `data` begins with, of which the parser has made the rest; None when it is not
    one to be known again."""
    size = data.find(_END) + len(_END)
    if not len(_END) <= size <= BYTES_MAX:
        return None
    text = data[:size]
    if not text.startswith(b"%b %b HTTP/1.1\r\n" % (method.encode(), url)):
        return None
    length = _plain_length(incoming.said)
    at = text.lower().find(b"\r\n%b:" % _LENGTH)
    if length is None or at < 0 or not _has_lines(text, len(incoming.said) + 2):
        return None
    at = text.index(b":", at) + 1
    at = text.index(length, at, text.index(b"\r", at))
    before, after = text[:at], text[at + len(length) :]
    if not after.startswith(b"\r"):
        return None
    return KnownHead(before, length, after, method, path, incoming)


def _plain_length(said: HeaderList) -> bytes | None:
    """The digits of the length, where nothing else has a say in where the body ends."""
    names = [name for name, _ in said]
    if names.count(_LENGTH) != 1 or not _UNUSUAL.isdisjoint(names):
        return None
    digits = dict(said)[_LENGTH]
    return digits if digits.isdigit() and len(digits) <= DIGITS_MAX else None


def _has_lines(text: bytes, count: int) -> bool:
    """Whether the text has so many lines, and all of them end with CRLF."""
    return text.count(b"\r\n") == count == text.count(b"\n") == text.count(b"\r")
