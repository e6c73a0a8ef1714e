"""A small file of keys that are revoked, for when the ledger cannot be told: a line of JSON each.

Its room is taken when it is opened, byte by byte, and lines are written into it: so a full disk has room
for them. What comes behind the first zero is nothing; a line that was not written to its end is none.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from windvane.stores.folder import sync_folder

ROOM_BYTES = 16 * 1024
"""For some hundred keys. More than that is written all the same, if the disk has room."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, int]).decode

_log = logging.getLogger("windvane.keys")


class RevokedFile:
    """Implements `RevocationNote`."""

    def __init__(self, path: Path) -> None:
        """Read it, and take its room; without room there is none in need, and that is told."""
        self._path = path
        data = _read(path)
        said = data.partition(b"\0")[0]
        self._end = said.rfind(b"\n") + 1
        self.left: Mapping[str, int] = dict(map(_line, said[: self._end].splitlines()))
        self.left.pop("", None)
        if len(data) < ROOM_BYTES:
            try:
                _write(path, self._end, bytes(ROOM_BYTES - self._end))
            except OSError as error:
                _log.warning("%s cannot be written: %s", path, error)

    async def add(self, key_id: str, at_us: int) -> None:
        line = _encode((key_id, at_us)) + b"\n"
        await asyncio.to_thread(_write, self._path, self._end, line)
        self._end += len(line)
        self.left = {**self.left, key_id: at_us}

    async def clear(self) -> None:
        await asyncio.to_thread(_write, self._path, 0, bytes(max(self._end, ROOM_BYTES)))
        self._end = 0
        self.left = {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.error("%s cannot be read: keys that it says are revoked may work: %s", path, error)
        return b""


def _line(line: bytes) -> tuple[str, int]:
    try:
        return _decode(line)
    except msgspec.DecodeError:
        _log.error("a line of the note of revoked keys is not understood; it is left out")
        return "", 0


def _write(path: Path, place: int, data: bytes) -> None:
    """Write there, for good. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(file, data[done:], place + done)
        os.fsync(file)
    finally:
        os.close(file)
    sync_folder(path.parent)
