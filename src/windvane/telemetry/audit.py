"""The audit trail: what operators changed, one JSON object a line, beside the ledger.

The log tells of the same changes, but a log is where its reader has put it, and a command that changes
the folder of a gateway that does not run has none. No secret is in it: only declared fields are.
"""

import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from windvane.ports.clock import Clock

AUDIT_FILE = "audit.jsonl"
GATEWAY = "gateway"
COMMAND_LINE = "command line"
BYTES_MAX = 16 * 1024 * 1024
"""Then it becomes `audit.jsonl.1`, in place of an older one: some hundred thousand changes are kept."""
US_PER_MS = 1_000

_log = logging.getLogger("windvane.admin")
# Who changed what is no matter of how talkative the log shall be.
_log.setLevel(logging.INFO)


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change, done or refused. `user` is who typed it, where this machine knows."""

    at: str
    who: str
    what: str
    subject: str | None
    outcome: str
    through: str
    user: str | None = None


MINUTE_US = 60_000_000
ATTEMPTS_MAX = 10_000
"""Of keys and changes, remembered to tell the first attempt in a minute from the next."""


class AuditTrail:
    """Keeps changes in a file, and tells the log. Without a path only the log is told."""

    def __init__(
        self, path: Path | None, clock: Clock, *, through: str = GATEWAY, user: str | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._through = through
        self._user = user
        self._attempts: dict[tuple[str, str], int] = {}

    def record_attempt(self, *, who: str, what: str, outcome: str) -> None:
        """Keep that somebody tried to change what it may not: the first time in each minute, so that
        nobody can push out of the file what others have changed."""
        minute = self._clock.wall_us() // MINUTE_US
        if self._attempts.get((who, what)) == minute:
            return
        if len(self._attempts) >= ATTEMPTS_MAX:
            self._attempts.clear()
        self._attempts[who, what] = minute
        self.record(who=who, what=what, subject=None, outcome=outcome)

    def record(self, *, who: str, what: str, subject: str | None, outcome: str) -> None:
        """Keep a change. A disk that refuses is told of in the log: the change is made already."""
        _log.info("%s: %s %s: %s", who, what, subject or "-", outcome)
        if self._path is None:
            return
        change = Change(
            at=_utc(self._clock.wall_us()),
            who=who,
            what=what,
            subject=subject,
            outcome=outcome,
            through=self._through,
            user=self._user,
        )
        try:
            _append(self._path, msgspec.json.encode(change) + b"\n")
        except OSError as error:
            _log.error("the audit trail %s cannot be written: %s", self._path, error)


def _append(path: Path, line: bytes) -> None:
    with suppress(FileNotFoundError):
        if path.stat().st_size >= BYTES_MAX:
            path.rename(path.with_name(f"{path.name}.1"))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def _utc(at_us: int) -> str:
    moment = datetime.fromtimestamp(at_us // US_PER_MS / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
