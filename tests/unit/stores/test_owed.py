"""What is owed to a cache's record is bounded, outlives the process, and is never too little."""

from pathlib import Path

import pytest

from windvane.core.cache.invalidation import ALL
from windvane.stores import owed
from windvane.stores.owed import Owed


def test_what_is_noted_is_left_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "of" / "the" / "owed"
    first = Owed(path)
    assert (first.left(), first.is_noted) == ((), True)
    first.add("tag:é")
    first.add("model:m")
    assert not first.is_noted
    first.note()
    assert first.is_noted
    assert path.stat().st_mode & 0o777 == 0o600
    assert Owed(path).left() == ("tag:é", "model:m")
    first.paid(first.tags)
    first.note()
    assert not path.exists()


def test_what_is_added_while_it_is_paid_stays_owed(tmp_path: Path) -> None:
    debt = Owed(tmp_path / "owed")
    debt.add("a")
    debt.add("b")
    paying = debt.tags
    debt.add("a")
    debt.paid(paying)
    assert list(debt.tags) == ["a"]


def test_a_note_that_cannot_be_read_owes_everything(tmp_path: Path) -> None:
    path = tmp_path / "owed"
    for garbage in (b"", b"[", b"[1]", b"\xff"):
        path.write_bytes(garbage)
        assert Owed(path).left() == (ALL,)


def test_too_much_is_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "TAGS_MAX", 5)
    debt = Owed(tmp_path / "owed")
    for number in range(6):
        debt.add(f"t{number}")
    assert list(debt.tags) == [ALL]


def test_without_a_folder_nothing_is_noted() -> None:
    debt = Owed(None)
    assert (debt.left(), debt.is_noted) == ((), True)
    debt.add("a")
    debt.note()
    assert not debt.is_noted
