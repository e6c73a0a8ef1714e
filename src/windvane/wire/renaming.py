"""An answer told again under another id: to a caller who shares it with the one it was made for.

All else is the provider's, tool calls and their ids included. Of many who follow one stream each is told
each chunk; so in a plain piece of text the id alone is exchanged, where it stands.
"""

import msgspec

from windvane.core.chat import Chunk, Completion
from windvane.wire.keeping import raw_of, rest_of

_MEMBERS = (b'"id":', b'"id": ')
"""As servers write it."""

_encode = msgspec.json.Encoder().encode


def renamed(completion: Completion, answer_id: str) -> Completion:
    """A whole answer under another id."""
    rest = None if completion.raw is None else rest_of(completion.raw, completion.created)
    raw = None if rest is None else raw_of(rest, answer_id)
    return msgspec.structs.replace(completion, id=answer_id, raw=raw)


class Renaming:
    """The chunks of one stream, told under one id: the same in all of them, whatever theirs are."""

    __slots__ = ("_answer_id", "_mine", "_their_id", "_theirs")

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id
        self._their_id = ""
        self._theirs = self._mine = b""
        """The member that is the id, as their events have it, and as mine do."""

    def tell(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same chunks under the id; what was given stays as it is."""
        told = []
        for chunk in chunks:
            raw, is_plain = chunk.raw, chunk.is_plain
            if is_plain and raw is not None:
                if chunk.id != self._their_id:
                    self._learn(raw, chunk.id)
                theirs, raw = raw, raw.replace(self._theirs, self._mine)
                # Where the id was not found, it is written anew, as it is in all that is not plain.
                is_plain = raw is not theirs
            told.append(
                Chunk(
                    self._answer_id,
                    chunk.model,
                    chunk.created,
                    chunk.choices,
                    chunk.usage,
                    raw,
                    is_plain,
                    chunk.is_miscounted,
                )
            )
        return told

    def _learn(self, raw: bytes, their_id: str) -> None:
        """How a stream spells its id. Within a string of JSON nothing reads like a member."""
        id_json = _encode(their_id)
        member = next((each for each in _MEMBERS if each + id_json in raw), _MEMBERS[0])
        self._their_id = their_id
        self._theirs = member + id_json
        self._mine = member + _encode(self._answer_id)
