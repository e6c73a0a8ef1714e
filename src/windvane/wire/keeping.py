"""A provider's own answer as the cache keeps it: its JSON without its id, which every caller is given anew.

So a stored answer has all that the provider said, fields that nobody here has heard of included.
"""

import msgspec

from windvane.core.chat import Completion
from windvane.wire.chat_reply import decode_completion

_SOME_ID = "-"
"""In the place of an id that is yet to be given: an answer without any would not be one by itself."""
NOT_THE_PROVIDERS = frozenset(("id", "router_metadata"))
"""Members that each answer is given anew."""
_NO_TIME = (b"null", b"0")
"""`created`, of providers who do not say it."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def rest_of(raw: bytes, created: int) -> bytes | None:
    """What follows the id in a relayable answer, but for its last brace; None when its members cannot
    be told apart. `created` is put in where the provider does not say it."""
    try:
        members = _members(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    said = members.get("created")
    if said is None or bytes(said) in _NO_TIME:
        members["created"] = msgspec.Raw(b"%d" % created)
    return b"".join(
        [
            b",%b:%b" % (_encode(name), bytes(value))
            for name, value in members.items()
            if name not in NOT_THE_PROVIDERS
        ]
    )


def raw_of(rest: bytes, answer_id: str) -> bytes:
    """The provider's answer again, under another id."""
    return b"".join((b'{"id":', _encode(answer_id), rest, b"}"))


def completion_of(rest: bytes) -> Completion:
    """The answer as it is read, its id yet to be given. Raises APIConnectionError when it is none."""
    return decode_completion(raw_of(rest, _SOME_ID), 0)
