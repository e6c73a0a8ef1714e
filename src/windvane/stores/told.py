"""Which shares of budgets have been told of, so that a restart tells of none again: a line of JSON each,
in a file that is only appended to, and made anew without what is over when it is opened.

An alert lost with this file is told again; nothing else depends on it.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from windvane.core.budgets import Account, Period
from windvane.core.principal import Scope

_log = logging.getLogger("windvane.alerts")


class Told(msgspec.Struct, frozen=True, array_like=True):
    """A share of a limit in one period, in thousandths, that was told of. Only append fields."""

    scope: Scope
    period: Period
    starts_at_us: int
    ends_at_us: int | None
    limit: int
    permille: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Told).decode

_Place = tuple[Scope, Period, int, int]
"""An account's scope, kind of period, its beginning, and its limit: a changed limit has been told of to
nobody."""


class ToldFile:
    """Implements `ToldBook`. `now_us` is when it is opened."""

    def __init__(self, path: Path, now_us: int) -> None:
        self._path = path
        self._told: dict[_Place, Told] = {}
        for told in _read(path):
            if told.ends_at_us is None or told.ends_at_us > now_us:
                self._told[told.scope, told.period, told.starts_at_us, told.limit] = told
        self._write_anew()

    def of(self, account: Account) -> int:
        told = self._told.get(_place(account))
        return 0 if told is None else told.permille

    def note(self, account: Account, permille: int) -> None:
        scope, period, starts_at_us, limit = place = _place(account)
        told = Told(scope, period, starts_at_us, account.ends_at_us, limit, permille)
        self._told[place] = told
        try:
            with self._path.open("ab") as file:
                file.write(_encode(told) + b"\n")
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error)

    def _write_anew(self) -> None:
        draft = self._path.with_suffix(".new")
        try:
            draft.touch(mode=0o600)
            draft.write_bytes(b"".join(_encode(told) + b"\n" for told in self._told.values()))
            draft.replace(self._path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error)


def _place(account: Account) -> _Place:
    assert account.limit is not None
    return account.scope, account.period, account.starts_at_us, account.limit


def _read(path: Path) -> Iterable[Told]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error)
        return
    for line in lines:
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            _log.warning("%s has a line that is not understood; it is left out", path)
