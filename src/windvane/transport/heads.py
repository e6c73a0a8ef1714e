"""The heads of a provider's answers, read by their forms.

A provider sends dozens of headers with each answer, always the same in the same order, and two or three
are looked at. So nothing is made of a header when it comes: a pattern, made of the names of an earlier
head, finds where the values of the next one stand, and what is asked for is taken from there.

Laws:
1. A form is made of a head that the parser has accepted, and what it says of another one is what the
   parser would say: the same names, spelled as before, each in a line of its own.
2. A form is plain if nothing in it is a matter of interpretation: 200, one content-length in digits, no
   character that may not be in a value, and nothing else that has a say in where the body ends or
   whether the connection is kept. Only such a head is believed before the parser has seen it.
3. What a head says does not depend on whether its form is known.
"""

import re
from collections.abc import Iterator, KeysView, Mapping
from typing import Any

HEADERS_MAX = 256

FORMS_MAX = 8
"""Of one origin. Whoever never says the same twice is read without."""
FORM_BYTES_MAX = 4 * 1024
"""No form is made of a longer head: it would be long in the making."""

END = b"\r\n\r\n"
_SPACE = b" \t"

_ANY = rb"[^\r]*+"
_LEGAL = rb"[\t\x20-\x7e\x80-\xff]*+"
_PLAIN_START = rb"HTTP/1\.1 200 OK"
_PLAIN_VALUES = {"content-length": rb" [0-9]{1,9}", "connection": rb" [Kk]eep-[Aa]live"}
_NEVER_PLAIN = frozenset(("transfer-encoding", "upgrade", "trailer", "proxy-connection"))


class Form:
    """The names of a head, in their order, and the places of their values."""

    __slots__ = ("length_place", "match", "places")

    def __init__(self, start: bytes, names: list[bytes], values: list[bytes]) -> None:
        """`start` and `values` are patterns, of the first line and of the lines with these names."""
        lines = [
            rb"\r\n%b:(%b)" % (re.escape(name), value)
            for name, value in zip(names, values, strict=True)
        ]
        self.match = re.compile(b"".join((start, *lines, END))).match
        self.places: dict[str, tuple[int, ...]] = {}
        for place, name in enumerate(names, 1):
            key = _key(name)
            self.places[key] = (*self.places.get(key, ()), place)
        self.length_place = self.places.get("content-length", (0,))[0]


def any_form(names: list[bytes]) -> Form:
    """What all heads with these names match, if the parser has accepted them."""
    return Form(_ANY, names, [_ANY] * len(names))


def plain_form(names: list[bytes]) -> Form | None:
    """What plain heads with these names match; None where there are none."""
    keys = [_key(name) for name in names]
    if keys.count("content-length") != 1 or not _NEVER_PLAIN.isdisjoint(keys):
        return None
    return Form(_PLAIN_START, names, [_PLAIN_VALUES.get(key, _LEGAL) for key in keys])


class Headers(Mapping[str, str]):
    """The headers of an answer whose form is known, names in lower case."""

    __slots__ = ("form", "said")

    form: Form
    said: re.Match[bytes]

    def __getitem__(self, name: str) -> str:
        return ", ".join([_text(self.said[place]) for place in self.form.places[name]])

    def get(self, name: str, default: Any = None, /) -> Any:
        """Without the exception that Mapping's own `get` makes of each header that is not there."""
        places = self.form.places.get(name)
        if places is None:
            return default
        if len(places) > 1:
            return self[name]
        return self.said[places[0]].lstrip(_SPACE).decode("latin-1")

    def keys(self) -> KeysView[str]:
        return self.form.places.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.form.places)

    def __len__(self) -> int:
        return len(self.form.places)


class Heads:
    """Reads the heads of one origin's answers."""

    __slots__ = ("_any", "plain")

    def __init__(self) -> None:
        self._any: list[Form] = []
        self.plain: list[Form] = []

    def read(self, head: bytes) -> Mapping[str, str]:
        """What a head says that the parser has accepted. Raises ValueError when it says too much."""
        known = known_head(self._any, head)
        return self._learn(head) if known is None else known

    def _learn(self, head: bytes) -> dict[str, str]:
        names: list[bytes] = []
        headers: dict[str, str] = {}
        for line in head[: -len(END)].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            names.append(name)
            key, said = _key(name), _text(value)
            headers[key] = f"{headers[key]}, {said}" if key in headers else said
        if len(headers) > HEADERS_MAX:
            raise ValueError("too many headers")
        if len(head) <= FORM_BYTES_MAX and len(self._any) < FORMS_MAX:
            self._any.append(any_form(names))
            plain = plain_form(names)
            if plain is not None:
                self.plain.append(plain)
        return headers


def known_head(forms: list[Form], text: bytes) -> Headers | None:
    """The head that `text` begins with, if it has one of these forms."""
    for form in forms:
        said = form.match(text)
        if said is not None:
            # Without a constructor, which would take longer than all else here.
            headers = Headers()
            headers.form = form
            headers.said = said
            return headers
    return None


def _key(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _text(value: bytes) -> str:
    """Without the space that may stand before it: that is no part of it."""
    return value.lstrip(_SPACE).decode("latin-1")
