"""The cache's file, as the one thread that owns it sees it: rows, room, and what to do when it is damaged.

Laws: the file and what SQLite keeps beside it stay within the bytes given, at all times: more than the log
may have is written in pieces, a transaction each, so that the log has twice as much at most; of the disk
so much is left free as the ledger needs (`spare.py`), and what is taken of that is given back: by eviction,
or where that fails with the whole file; nothing in it is worth an error, so what cannot be read is begun
anew: an entry alone, or the whole file where it is more than that; a file that is not ours is moved aside,
not deleted.

SQLite lets anybody put a text where a number was: what is read is looked at before it is used.

One row an entry; entries with the same tags share a row of `tag_set`. When room is short, what is over goes
first, then the least valuable by the same rule as in memory (`core.cache.value`), counted from the value of
what was last evicted. Uses are noted in memory, and written with the next group.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from windvane.core.cache.invalidation import ALL, Invalidations
from windvane.core.cache.value import USES_MAX, WORTH_MAX, gain_of
from windvane.ports.stores import Kept
from windvane.stores.sqlite.spare import spare_bytes

PAGE_BYTES = 4_096
RESERVE_BYTES_MAX = 16 * 1024 * 1024
"""A quarter of the room, at most this, is for the log of writes and for groups not yet made room for."""
WAL_BYTES_MAX = 4 * 1024 * 1024
SHM_BYTES = 32 * 1024
"""SQLite's index of the log."""
ROW_BYTES = 4 * PAGE_BYTES
"""What the log takes of a change to a row, beside its data: pages of the table and of its indices."""
ROWS_EVICTED_AT_ONCE = 256
ROWS_EVICTED_MAX = 64 * ROWS_EVICTED_AT_ONCE
"""After one group: far more than it can need."""
ROOM_LEFT = 0.95
"""Eviction goes on until so much of the room is used."""
USES_NOTED_MAX = 1_000
TAG_SETS_KNOWN_MAX = 10_000
BUSY_S = 0.05
"""A lock that somebody at a terminal holds is waited for so long."""
APPLICATION_ID = 0x57564331
SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE tag_set (id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE);
CREATE TABLE entry (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE,
  ends_at_us INTEGER NOT NULL,
  worth REAL NOT NULL,
  gain REAL NOT NULL,
  uses INTEGER NOT NULL,
  rank REAL NOT NULL,
  tag_set INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE INDEX entry_by_end ON entry (ends_at_us);
CREATE INDEX entry_by_rank ON entry (rank);
CREATE INDEX entry_by_tags ON entry (tag_set);
CREATE TABLE invalidation (tag TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE fact (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_PUT = """
INSERT INTO entry (key, ends_at_us, worth, gain, uses, rank, tag_set, data)
VALUES (:key, :ends_at_us, :worth, :gain, 1, :age + :gain, :tag_set, :data)
ON CONFLICT (key) DO UPDATE SET
  ends_at_us = excluded.ends_at_us, worth = excluded.worth, gain = excluded.gain,
  tag_set = excluded.tag_set, data = excluded.data, rank = :age + uses * :gain
"""
_USED = f"""
UPDATE entry SET uses = min(uses + :more, {USES_MAX}),
  rank = :age + min(uses + :more, {USES_MAX}) * gain
WHERE id = :id
"""
_IS_NEW = "SELECT NOT EXISTS (SELECT 1 FROM entry WHERE key = ?)"
_FIND = """
SELECT entry.id, data, ends_at_us, worth, tags
FROM entry JOIN tag_set ON tag_set.id = entry.tag_set WHERE key = ?
"""

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode

_log = logging.getLogger("windvane.cache")


class Put(msgspec.Struct, frozen=True):
    """An entry to be written; its end is UTC."""

    data: bytes
    tags: tuple[str, ...]
    ends_at_us: int
    worth: float


class CacheFile:
    """One file, open. Every call may raise sqlite3.Error or OSError; what it was to change is changed in
    part then, or not at all."""

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int,
        entries_max: int | None = None,
        wall_us: Callable[[], int],
    ) -> None:
        """Open it, or make it. Raises OSError when another process has it, or none can be made."""
        self._path = path
        self._wall_us = wall_us
        reserve = min(bytes_max // 4, RESERVE_BYTES_MAX)
        self._pages_max = (bytes_max - reserve) // PAGE_BYTES
        self._pages_limit = (bytes_max - reserve // 2 - SHM_BYTES) // PAGE_BYTES
        self._wal_bytes = min(reserve // 4, WAL_BYTES_MAX)
        self._entries_max = sys.maxsize if entries_max is None else entries_max
        self._rows_at_once = min(max(self._wal_bytes // ROW_BYTES, 1), ROWS_EVICTED_AT_ONCE)
        self._tag_sets: dict[str, int] = {}
        self._uses: dict[int, tuple[int, int]] = {}
        """How often an entry was used since that was last written, and the bytes of its data."""
        self.evicted = 0
        self.expired = 0
        self._is_told = False
        self._lock = _lock(path.with_name(f"{path.name}.lock"))
        try:
            try:
                self._begin()
            except sqlite3.DatabaseError as error:
                is_void = is_damage(error) or isinstance(error, _Foreign | _OfAnotherVersion)
                if not is_void and not self.is_in_the_way:
                    raise
                _put_away(path, error)
                self._begin()
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self) -> None:
        """Open the file, and know how things stand in it."""
        self._keep_to_owner()
        connection = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _text_of
        self._connection = connection
        try:
            self._prepare(connection)
            (self.entries,) = connection.execute("SELECT count(*) FROM entry").fetchone()
            found = connection.execute("SELECT value FROM fact WHERE name = 'age'").fetchone()
            self._age: float = _sound(found[0], float) if found else 0.0
            self.invalidations()
            self.make_room()
        except BaseException:
            connection.close()
            raise

    def _keep_to_owner(self) -> None:
        """Answers are nobody else's, and the folder may be open to others. What SQLite makes beside the
        file has the rights that the file has then."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for path in _with_those_beside(self._path):
            with contextlib.suppress(FileNotFoundError):
                path.chmod(0o600)

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages in use."""
        return self._used_pages() * PAGE_BYTES

    def find(self, key: bytes) -> Kept | None:
        """An entry that is not over; one more use of it is noted."""
        row = self._connection.execute(_FIND, (key,)).fetchone()
        if row is None:
            return None
        kept, number = self._kept(row), row[0]
        if kept is None:
            self.remove(key)
            raise sqlite3.DataError("an entry is not as it was written; it is deleted")
        if kept.left_s <= 0:
            return None
        used, _ = self._uses.get(number, (0, 0))
        self._uses[number] = used + 1, len(kept.data)
        if len(self._uses) > USES_NOTED_MAX:
            self.write([])
        return kept

    def _kept(self, row: tuple[object, ...]) -> Kept | None:
        """The entry in a row; None when it is none."""
        _, data, ends_at_us, worth, tags = row
        try:
            left_us = _sound(ends_at_us, int) - self._wall_us()
            return Kept(
                data=_sound(data, bytes),
                tags=_tags_of(tags),
                left_s=left_us / 1_000_000,
                worth=_sound(worth, float),
            )
        except _Unsound:
            return None

    def write(self, puts: Iterable[tuple[bytes, Put]]) -> None:
        """Write a group, and what was noted; then make room."""
        if self.is_in_the_way:
            self.make_room()
        uses, self._uses = self._uses, {}
        for used in self._pieces(uses.items(), lambda item: item[1][1]):
            with self._transaction() as cursor:
                cursor.executemany(
                    _USED,
                    ({"id": number, "more": more, "age": self._age} for number, (more, _) in used),
                )
        for piece in self._pieces(puts, lambda item: len(item[1].data)):
            if self.is_in_the_way:
                self._leave_out(piece)
            else:
                self._write(piece)
        self.make_room()

    def _pieces(self, items: Iterable[T], data_bytes: Callable[[T], int]) -> Iterator[list[T]]:
        """Cut rows that are to be changed into what one transaction may change."""
        piece: list[T] = []
        size = 0
        for item in items:
            more = ROW_BYTES + data_bytes(item)
            if piece and size + more > self._wal_bytes:
                yield piece
                piece, size = [], 0
            piece.append(item)
            size += more
        if piece:
            yield piece

    def _write(self, puts: Iterable[tuple[bytes, Put]]) -> None:
        more = 0
        with self._transaction() as cursor:
            for key, put in puts:
                more += cursor.execute(_IS_NEW, (key,)).fetchone()[0]
                worth = min(max(0.0, put.worth), WORTH_MAX)
                values = {
                    "key": key,
                    "ends_at_us": put.ends_at_us,
                    "worth": worth,
                    "age": self._age,
                    "gain": gain_of(worth, len(key) + len(put.data)),
                    "tag_set": self._tag_set(cursor, put.tags),
                    "data": put.data,
                }
                cursor.execute(_PUT, values)
        self.entries += more

    def _leave_out(self, puts: Iterable[tuple[bytes, Put]]) -> None:
        """There is no room for these; what is there under their keys is older."""
        for key, _ in puts:
            self.remove(key)
            self.evicted += 1

    def all_keys(self) -> Iterator[bytes]:
        """All keys, over or not."""
        for (key,) in self._connection.execute("SELECT key FROM entry"):
            yield _sound(key, bytes)

    def remove(self, key: bytes) -> int:
        """Delete one; whether it was there and not over."""
        with self._transaction() as cursor:
            rows = cursor.execute(
                "DELETE FROM entry WHERE key = ? RETURNING ends_at_us > ?", (key, self._wall_us())
            ).fetchall()
        return self._gone(rows)

    def remove_some_tagged(self, tag: str) -> tuple[int, bool]:
        """Delete some entries with a tag: how many of them were not over, and whether that was all."""
        sets = self._connection.execute("SELECT id, tags FROM tag_set").fetchall()
        chosen = [str(number) for number, tags in sets if tag == ALL or tag in _tags_of(tags)]
        if not chosen:
            return 0, True
        with self._transaction() as cursor:
            rows = cursor.execute(
                "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE tag_set IN"
                f" ({','.join(chosen)}) LIMIT ?) RETURNING ends_at_us > ?",
                (self._rows_at_once, self._wall_us()),
            ).fetchall()
            is_all = len(rows) < self._rows_at_once
            if is_all:
                self._forget_tag_sets(cursor)
        return self._gone(rows), is_all

    def invalidations(self) -> Invalidations:
        """All that were saved."""
        rows = self._connection.execute("SELECT tag, version FROM invalidation")
        by_tag = {_sound(tag, str): _sound(version, int) for tag, version in rows}
        return Invalidations(version=max(by_tag.values(), default=0), by_tag=by_tag)

    def save(self, known: Invalidations) -> None:
        """Keep them, for good when this returns: what was taken back must not come back with the power."""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction() as cursor:
                cursor.execute("DELETE FROM invalidation")
                cursor.executemany("INSERT INTO invalidation VALUES (?, ?)", known.by_tag.items())
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        try:
            self.write([])
        finally:
            self._connection.close()
            os.close(self._lock)

    def abandon(self) -> None:
        """Close it as it is."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    def discard(self) -> None:
        """Close it, and delete it: it is damaged."""
        self.abandon()
        _delete(self._path)

    # room

    def make_room(self) -> None:
        """Evict until there is room, and give back to the disk what is not used."""
        if self.is_in_the_way:
            self._tell()
            self._end_log()
        pages_max = self._pages_allowed()
        if self._used_pages() > pages_max or self.entries > self._entries_max:
            for _ in range(ROWS_EVICTED_MAX // self._rows_at_once):
                self._evict(pages_max)
                has_bytes = self._used_pages() <= pages_max * ROOM_LEFT or not self.entries
                if has_bytes and self.entries <= self._entries_max:
                    break
        excess = self._pragma("page_count") - pages_max
        excess = min(excess, self._pragma("freelist_count"))
        for _ in range(0, excess, self._pages_at_once):
            self._vacuum(min(excess, self._pages_at_once))
        if excess * PAGE_BYTES > self._wal_bytes or self.is_in_the_way:
            self._end_log()

    def give_way(self) -> None:
        """Give back what others need of the disk, if there is anything to give."""
        if self.is_in_the_way and (self.entries or self._pragma("freelist_count")):
            self.make_room()

    @property
    def is_in_the_way(self) -> bool:
        """Whether less is left of the disk than must be."""
        return spare_bytes(self._path.parent) < 0

    def _pages_allowed(self) -> int:
        """Pages that the file may have: within its bytes, and within what the disk has to spare. Pages that
        are in the log alone will want room in the file too."""
        pages = self._pragma("page_count")
        unwritten = max(pages * PAGE_BYTES - self._path.stat().st_size, 0)
        spare = spare_bytes(self._path.parent) - unwritten
        return max(min(self._pages_max, pages + spare // PAGE_BYTES), 0)

    def _end_log(self) -> None:
        """Bring all that the log has into the file, and give its room back."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            _log.warning(
                "the disk of the cache %s has so little left that the ledger may need it: the cache gives"
                " way, and keeps no more than leaves it free",
                self._path,
            )

    def give_back_some(self) -> bool:
        """Give back to the disk some of what is not used; whether that was all."""
        unused = self._pragma("freelist_count")
        self._vacuum(self._pages_at_once)
        if 0 < self._pragma("freelist_count") < unused:
            return False
        self._end_log()
        return True

    @property
    def _pages_at_once(self) -> int:
        """So few that the pages which move when these are given back fit into the log."""
        return self._wal_bytes // ROW_BYTES

    def _vacuum(self, pages: int) -> None:
        # By `executescript`, which goes on to the end; `execute` would free one page and stop.
        self._connection.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _evict(self, pages_max: int) -> None:
        """Delete a few: what is over, or else what is worth least."""
        used, most = self._used_pages(), pages_max * ROOM_LEFT
        share = max(used - most, 0) / max(used, 1)
        wanted = max(int(self.entries * share) + 1, self.entries - self._entries_max)
        wanted = min(wanted, self._rows_at_once)
        with self._transaction() as cursor:
            rows = cursor.execute(
                "DELETE FROM entry WHERE id IN"
                " (SELECT id FROM entry WHERE ends_at_us <= ? LIMIT ?) RETURNING rank",
                (self._wall_us(), self._rows_at_once),
            ).fetchall()
            self.expired += len(rows)
            if not rows:
                rows = cursor.execute(
                    "DELETE FROM entry WHERE id IN"
                    " (SELECT id FROM entry ORDER BY rank LIMIT ?) RETURNING rank",
                    (wanted,),
                ).fetchall()
                self.evicted += len(rows)
                self._age = max([self._age, *(_sound(rank, float) for (rank,) in rows)])
                cursor.execute("INSERT OR REPLACE INTO fact VALUES ('age', ?)", (self._age,))
            if not rows or len(self._tag_sets) >= TAG_SETS_KNOWN_MAX:
                self._forget_tag_sets(cursor)
        self.entries -= len(rows)

    def _used_pages(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _gone(self, rows: Sequence[tuple[int]]) -> int:
        """Count deleted rows, each with whether it was still good; how many were."""
        live = sum(is_live for (is_live,) in rows)
        self.entries -= len(rows)
        self.expired += len(rows) - live
        return live

    # tags

    def _tag_set(self, cursor: sqlite3.Cursor, tags: tuple[str, ...]) -> int:
        text = _encode(tags).decode()
        number = self._tag_sets.get(text)
        if number is None:
            cursor.execute("INSERT OR IGNORE INTO tag_set (tags) VALUES (?)", (text,))
            (number,) = cursor.execute("SELECT id FROM tag_set WHERE tags = ?", (text,)).fetchone()
            if len(self._tag_sets) >= TAG_SETS_KNOWN_MAX:
                self._tag_sets.clear()
            self._tag_sets[text] = number
        return number

    def _forget_tag_sets(self, cursor: sqlite3.Cursor) -> None:
        self._tag_sets.clear()
        cursor.execute(
            "DELETE FROM tag_set WHERE NOT EXISTS"
            " (SELECT 1 FROM entry WHERE entry.tag_set = tag_set.id)"
        )

    # the connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            self._tag_sets.clear()
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def _pragma(self, name: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and found != APPLICATION_ID:
            raise _Foreign(f"it is of another kind ({found:#x})")
        if tables and version != SCHEMA_VERSION:
            raise _OfAnotherVersion(f"it is of version {version}, and not {SCHEMA_VERSION}")
        # In this order: the first two hold only for a file that has no page yet.
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # Else, where SQLite was built so, what is deleted is written once more, as zeros.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute(f"PRAGMA wal_autocheckpoint = {self._wal_bytes // PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}")
        connection.execute(f"PRAGMA max_page_count = {self._pages_limit}")
        if not tables:
            connection.executescript(
                f"BEGIN;{_SCHEMA}PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )


class _Foreign(sqlite3.DatabaseError):
    """It is SQLite's, and not ours."""


class _OfAnotherVersion(sqlite3.DatabaseError):
    """It is ours, of another time."""


class _Unsound(sqlite3.DatabaseError):
    """A value is of another kind than what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _sound(value: object, kind: type[T]) -> T:
    """A value of the file, of the kind that was written. Raises _Unsound."""
    if not isinstance(value, kind):
        raise _Unsound(f"{type(value).__name__} where {kind.__name__} was written")
    return value


def _text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _Unsound(f"a text that is none: {error}") from error


def _tags_of(text: object) -> tuple[str, ...]:
    try:
        return _decode(_sound(text, str))
    except msgspec.DecodeError as error:
        raise _Unsound(f"tags that are none: {error}") from error


# A plain error is a question that the file does not understand: tables of it are gone, or others.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is not as it should be, and will not be."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def _put_away(path: Path, error: sqlite3.DatabaseError) -> None:
    """Delete what is damaged, or old; move aside what may be somebody's."""
    if isinstance(error, _OfAnotherVersion):
        _log.info("beginning the cache %s anew: %s", path, error)
    elif isinstance(error, _Foreign) or error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
        aside = path.with_name(f"{path.name}.aside")
        _log.warning("%s is not a cache (%s); it is now %s", path, error, aside)
        path.replace(aside)
    elif not is_damage(error):
        _log.warning("the disk has no room for the cache %s (%s); beginning a new one", path, error)
    else:
        _log.warning("the cache %s is damaged (%s); beginning a new one", path, error)
    _delete(path)


def _with_those_beside(path: Path) -> list[Path]:
    """The file, and those that SQLite keeps beside it."""
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")]


def _delete(path: Path) -> None:
    for each in _with_those_beside(path):
        each.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """One process: the kernel drops the lock with it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held
