"""The ledger's file: locked for one process, opened, checked, and brought to the newest schema.

Whatever is wrong with it is a RuntimeError that names the file and says what to do, for a person at a
terminal; the journal beside it is not touched until the ledger is in order.

A new ledger comes to its name whole. So a file without a byte is no new one, but what a full disk left of
one. None at all is an operator's word that a new one may begin.
"""

import fcntl
import logging
import os
import sqlite3
from importlib import resources
from pathlib import Path

from windvane.stores.folder import sync_folder

CHECKED_BYTES_MAX = 8 * 1024 * 1024
"""A file up to this size is read through at start (in less than a tenth of a second); of a larger one,
damage is met when it is read or written."""
STATEMENTS_KEPT = 64
"""Prepared statements: some hundred kilobytes each, at most."""
LEFT_BEHIND = ("journal", "admin.key", "audit.jsonl")
"""What a gateway leaves in its data folder beside the ledger: where one is, the folder was used before."""

_log = logging.getLogger("windvane.ledger")


def lock(folder: Path) -> int:
    """Make the folder and lock it. One writer: the kernel drops the lock with the process, so no stale
    file can hold it. Raises OSError, and RuntimeError when somebody else has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise RuntimeError(
            f"another windvane process has the ledger in {folder} open; stop it, or choose another"
            " folder with WINDVANE_DATA_DIR"
        ) from error
    return held


def open_file(path: Path) -> sqlite3.Connection:
    """Open the ledger, or make it. Raises RuntimeError when it cannot be used as it is."""
    try:
        if not path.exists():
            _make(path)
        elif not path.stat().st_size:
            raise sqlite3.DatabaseError("it is empty")
        connection = _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    try:
        if path.stat().st_size <= CHECKED_BYTES_MAX:
            _check(connection)
        migrate(connection)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise unusable(path, error) from error
    except RuntimeError:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        check_same_thread=False,
        isolation_level=None,
        cached_statements=STATEMENTS_KEPT,
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """A new ledger, under another name until it is whole."""
    written_last = path.with_name(f"{path.name}-wal")
    if written_last.exists() and written_last.stat().st_size:
        raise sqlite3.DatabaseError(f"it is missing, and {written_last.name} has a part of it")
    draft = path.with_suffix(".new")
    for suffix in ("", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    connection = _connect(draft)
    try:
        migrate(connection)
    finally:
        connection.close()
    draft.rename(path)
    sync_folder(path.parent)


def tell_of_new(path: Path) -> None:
    """Say so if the ledger is missing from a folder that was used before: to be called ahead of all that
    leaves something there."""
    if path.exists() or not any((path.parent / name).exists() for name in LEFT_BEHIND):
        return
    _log.critical(
        "%s is missing, and its folder was used before: a new one begins. What was spent is counted from"
        " zero, but for what the journal still has, and keys that were made are gone: where none are"
        " configured, who asks from this machine needs none. If that is not meant, stop, and put the ledger"
        " or a backup of it in its place",
        path,
    )


def identity(path: Path) -> tuple[int, int]:
    """Which file this is: one that was moved away or replaced is another. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _check(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def no_folder(folder: Path, error: OSError) -> RuntimeError:
    """What to tell a person about a data folder that cannot be made, or written to."""
    return RuntimeError(
        f"the data folder {folder} cannot be used ({error.strerror}): it must be a folder that this"
        " user may write to; say another with data_dir or WINDVANE_DATA_DIR"
    )


def unusable(path: Path, error: Exception) -> RuntimeError:
    """What to tell a person about a ledger that cannot be opened, read or written."""
    is_denied = isinstance(error, sqlite3.OperationalError | OSError)
    advice = (
        "make room, or make it and its folder writable, and start again"
        if is_denied
        else "put a backup of it in its place, or move it away, with the -wal and -shm files beside"
        " it, to begin a new one (what was spent is then counted from zero), and start again"
    )
    return RuntimeError(
        f"the ledger {path} cannot be used ({error}); {advice}. The journal in"
        f" {path.parent / 'journal'} is kept as it is, and goes to the ledger at the next start"
    )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema. Raises RuntimeError for a schema from the future."""
    files = resources.files("windvane.stores.sqlite").iterdir()
    scripts = sorted(
        (file for file in files if file.name.endswith(".sql")), key=lambda file: file.name
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise RuntimeError(
            f"the ledger has schema {version}; this windvane knows {len(scripts)}: upgrade it"
        )
    for number, file in enumerate(scripts[version:], start=version + 1):
        script = f"BEGIN;\n{file.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
        connection.executescript(script)
