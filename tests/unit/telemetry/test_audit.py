"""The audit trail: a line for each change, in a file that stays bounded and is its owner's alone."""

import json
import logging
from pathlib import Path

import pytest

from windvane.system import SystemClock
from windvane.telemetry import audit
from windvane.telemetry.audit import AUDIT_FILE, COMMAND_LINE, AuditTrail


def record(trail: AuditTrail, number: int = 0) -> None:
    trail.record(who="admin", what="create_key", subject=f"key_{number}", outcome="done")


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_change_is_a_line_with_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / AUDIT_FILE
    trail = AuditTrail(path, SystemClock(), through=COMMAND_LINE, user="ada")
    record(trail, 1)
    record(trail, 2)
    first, second = lines(path)
    assert second["subject"] == "key_2" and first["at"].endswith("Z")
    assert first | {"at": ""} == {
        "at": "", "who": "admin", "what": "create_key", "subject": "key_1", "outcome": "done",
        "through": "command line", "user": "ada",
    }  # fmt: skip
    assert path.stat().st_mode & 0o077 == 0


def test_the_file_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BYTES_MAX", 1_000)
    path = tmp_path / AUDIT_FILE
    trail = AuditTrail(path, SystemClock())
    for number in range(60):
        record(trail, number)
    kept = [*lines(tmp_path / f"{AUDIT_FILE}.1"), *lines(path)]
    numbers = [int(line["subject"].removeprefix("key_")) for line in kept]
    assert numbers == list(range(numbers[0], 60)) and len(numbers) >= 6
    assert sorted(each.name for each in tmp_path.iterdir()) == [AUDIT_FILE, f"{AUDIT_FILE}.1"]


def test_a_disk_that_refuses_is_told_of_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trail = AuditTrail(tmp_path / "gone" / AUDIT_FILE, SystemClock())
    record(trail)
    levels = [(each.levelno, each.getMessage()) for each in caplog.records]
    assert levels[0] == (logging.INFO, "admin: create_key key_0: done")
    assert levels[1][0] == logging.ERROR and "cannot be written" in levels[1][1]


def test_without_a_path_the_log_alone_is_told(caplog: pytest.LogCaptureFixture) -> None:
    record(AuditTrail(None, SystemClock()))
    assert [each.getMessage() for each in caplog.records] == ["admin: create_key key_0: done"]
