"""Invalidations that could not be written where they belong yet, and a small file that says so meanwhile.

What was taken back must not come back with a restart: a process that cannot reach the cache's own record
notes here what that record is owed, and whoever opens the cache next writes it there first.

Laws: what is owed is bounded; a note that cannot be read owes everything.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from windvane.core.cache.invalidation import ALL, TAGS_MAX
from windvane.stores.folder import sync_folder

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode

_log = logging.getLogger("windvane.cache")


class Owed:
    """Tags of invalidations, each with a number that tells it from an earlier one of the same tag."""

    def __init__(self, path: Path | None) -> None:
        """Without a path, nothing can be noted."""
        self._path = path
        self._made = 0
        self._noted: Mapping[str, int] | None = None
        self.tags: Mapping[str, int] = {}

    @property
    def is_noted(self) -> bool:
        """Whether all that is owed outlives the process."""
        return not self.tags or self._noted == self.tags

    def left(self) -> Sequence[str]:
        """What the process before has left in the note."""
        if self._path is None:
            return ()
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("%s cannot be read (%s): all answers are void", self._path, error)
            return (ALL,)

    def add(self, tag: str) -> None:
        self._made += 1
        if tag == ALL or len(self.tags) >= TAGS_MAX:
            self.tags = {ALL: self._made}
        else:
            self.tags = {**self.tags, tag: self._made}

    def paid(self, tags: Mapping[str, int]) -> None:
        """These are where they belong; what was added since is still owed."""
        self.tags = {tag: number for tag, number in self.tags.items() if tags.get(tag) != number}

    def note(self) -> None:
        """Have the note say what is owed now, for good; none when nothing is."""
        tags = self.tags
        if self._path is None or self._noted == tags:
            return
        try:
            if tags:
                _write(self._path, _encode(tuple(tags)))
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.error("%s cannot be written: %s", self._path, error)
        else:
            self._noted = tags


def _write(path: Path, text: bytes) -> None:
    """All of it or nothing, and it outlives the power."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.new")
    draft.touch(mode=0o600)
    with draft.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
