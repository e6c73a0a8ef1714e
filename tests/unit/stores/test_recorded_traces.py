"""Recorded traces are read in each format they are published in, and a file that is cut says so."""

import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import traces
from benchmarks.eviction import (
    CAPACITIES,
    alike,
    answered,
    ceiling,
    recorded_rows,
    score,
    trace_of,
)
from benchmarks.policies import RIVALS, Lru, Ours, S3Fifo, Sieve

from windvane.stores.memory.cache import entry_size

ASKED = [7, 9, 7, 7, 1_000_000, 9]
NUMBERS = [0, 1, 0, 0, 2, 1]


def packed(form: str, *before: int, after: int = 0) -> bytes:
    """Records of one format, each with a key among what else a request tells."""
    spare = (0,) * after
    return b"".join(struct.pack(form, *before, key, *spare) for key in ASKED)


def joined(*rows: str) -> bytes:
    return "\n".join([*rows, ""]).encode()


FILES = {
    "scarab-recs.trace": packed(">q"),
    "recs.trace.20160808T073231Z": packed(">q"),
    "web07.trace": packed("<i"),
    "w106.trace": packed(">I"),
    "w92.vscsi": packed("<IIIBxBBQQ", 5, 512, 1, 42, 0, 1, after=1),
    "w106.vscsi2": packed("<BxBBIIIQQQ", 42, 0, 2, 5, 512, 1, after=2),
    "wiki.oracleGeneral.bin": packed("<IQIq", 3, after=2),
    "twitter_cluster52.csv": joined(
        "# time, object, size, next_access_vtime", *(f"0, {key}, 737, 13" for key in ASKED)
    ),
    "cloudPhysicsIO.csv": joined(
        "version,time,op,size,lbn", *(f"1,5633898,2a,512,{key}" for key in ASKED)
    ),
    "multi1.trc": joined("*", *map(str, ASKED)),
    "loop.trace": joined(*map(str, ASKED)),
    "conversation_trace.jsonl": joined(
        *(json.dumps({"timestamp": 0, "hash_ids": ids}) for ids in (ASKED[:4], ASKED[4:]))
    ),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_in_the_format_its_name_tells(
    tmp_path: Path, name: str, ending: str
) -> None:
    path = tmp_path / (name + ending)
    path.write_bytes(PACKED[ending](FILES[name]))
    assert traces.read(path, requests=100) == NUMBERS
    assert traces.read(path, requests=4) == NUMBERS[:4]


def test_a_name_that_tells_nothing_needs_a_format(tmp_path: Path) -> None:
    path = tmp_path / "unnamed"
    path.write_bytes(packed(">q"))
    with pytest.raises(
        traces.TraceError, match="no format is known by this name; say one of longs"
    ):
        traces.read(path, requests=100)
    assert traces.read(path, requests=100, kind="longs") == NUMBERS


def test_more_requests_than_are_read_at_once(tmp_path: Path) -> None:
    count = 3 * traces.RECORDS_AT_ONCE + 5
    path = tmp_path / "web12.trace"
    path.write_bytes(struct.pack(f"<{count}i", *range(count)))
    assert traces.read(path, requests=1 << 20) == list(range(count))


CUT_WITHIN_A_REQUEST = {
    "scarab-recs.trace": "within a record: 5 of 8 bytes",
    "web07.trace": "within a record: 1 of 4 bytes",
    "w92.vscsi": "within a record: 29 of 32 bytes",
    "w106.vscsi2": "within a record: 37 of 40 bytes",
    "wiki.oracleGeneral.bin": "within a record: 21 of 24 bytes",
    "twitter_cluster52.csv": "line 7 has 3 of 4 columns",
    "conversation_trace.jsonl": "line 2 is no object with hash_ids",
}


@pytest.mark.parametrize("name", CUT_WITHIN_A_REQUEST)
def test_a_file_that_ends_within_a_request_says_where(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    cut = FILES[name][: -3 if name != "twitter_cluster52.csv" else -5]
    path.write_bytes(cut)
    with pytest.raises(traces.TraceError, match=f"{name}.*{CUT_WITHIN_A_REQUEST[name]}"):
        traces.read(path, requests=100)


@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_a_packed_file_that_is_cut_is_not_taken_for_a_short_one(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"web07.trace{ending}"
    path.write_bytes(PACKED[ending](FILES["web07.trace"])[:-9])
    with pytest.raises(traces.TraceError, match="end-of-stream"):
        traces.read(path, requests=100)


WRONG = {
    "empty.trace": (b"", "there is no request in it"),
    "disk.vscsi": (bytes(80), "neither version 1 nor version 2"),
    "sizes.csv": (b"time,size\n1,2\n", "no column is called one of object"),
    "text.csv": (b"time,key\n1,\xff\n", "can't decode"),
    "endless.csv": (b"time,key\n1," + b"x" * 200_000, "field larger than"),
    "list.jsonl": (b"[1, 2]\n", "line 1 is no object with hash_ids"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_trace_is_refused(tmp_path: Path, name: str) -> None:
    data, why = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(traces.TraceError, match=why):
        traces.read(tmp_path / name, requests=100)


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(traces.TraceError, match=r"nowhere\.csv.*No such file"):
        traces.read(tmp_path / "nowhere.csv", requests=100)


def test_of_a_package_only_the_traces_are_taken_and_only_if_they_are_the_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        for name in ("../outside", f"{traces.PACKAGE_DATA}/a.csv"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    folder = tmp_path / "traces"
    folder.mkdir()
    right = hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr(traces, "RECORDED", (traces.Recorded("A", "a.csv", right),))
    traces.extract(package, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.csv": b"abc"}
    assert not (tmp_path / "outside").exists()

    (folder / "a.csv").unlink()
    monkeypatch.setattr(traces, "RECORDED", (traces.Recorded("A", "a.csv", "0" * 64),))
    with pytest.raises(traces.TraceError, match="has SHA-256"):
        traces.extract(package, folder)
    assert list(folder.iterdir()) == []


def test_the_rows_of_a_trace_have_all_policies_and_its_ceiling() -> None:
    numbers = [number % 50 for number in range(100)]
    rows = list(recorded_rows("fifty, twice", numbers, seeds=[1]))
    assert [row.split(" | ")[1] for row in rows] == list(RIVALS)
    assert all(row.startswith("| fifty, twice (50.0) | ") for row in rows)
    assert ceiling(answered(numbers, 1)) == 0.5


@pytest.mark.parametrize("make", [Sieve, S3Fifo])
def test_the_rivals_keep_to_their_room_and_spare_what_is_used(
    make: Callable[[int], Sieve | S3Fifo],
) -> None:
    """On popularity by Zipf's law each is known to beat LRU."""
    trace = trace_of("Zipf 0.9", 1, 15_000)
    room = int(sum(entry_size(key, data) for key, data, _ in set(trace)) * 0.02)
    assert score(make(room), trace).hits > score(Lru(room), trace).hits
    assert score(make(1 << 40), trace) == (1.0, 1.0)
    assert score(make(100), trace) == (0.0, 0.0)


def test_conversations_hit_more_and_save_more_than_by_lru() -> None:
    """The trace that is shipped: its first third, and all of it in the slow tier."""
    _is_better_than_lru(requests=100_000, shares=(0.02, 0.1))


@pytest.mark.slow
def test_all_conversations_hit_more_and_save_more_than_by_lru() -> None:
    _is_better_than_lru(requests=1_000_000, shares=CAPACITIES)


def _is_better_than_lru(requests: int, shares: tuple[float, ...]) -> None:
    (path,) = traces.SHIPPED.values()
    numbers = traces.read(path, requests=requests)
    assert len(numbers) == min(requests, 288_500)
    for trace in (answered(numbers, 0, alike), answered(numbers, 1)):
        whole = sum(entry_size(key, data) for key, data, _ in set(trace))
        for share in shares:
            ours, lru = (score(policy(int(whole * share)), trace) for policy in (Ours, Lru))
            assert ours.hits > lru.hits, share
            assert ours.dollars > lru.dollars, share
