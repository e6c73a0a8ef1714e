"""The rows of a table of fields that a request's names call for."""

import pytest

from windvane.wire import rows
from windvane.wire.rows import Rows, Table


def _as_is(value: object) -> object:
    return value


TABLE: Table = {"old": ("told", _as_is), "new": ("told", _as_is), "other": ("other", _as_is)}


@pytest.mark.parametrize(
    "said", [("new", "old", "unknown"), ("old", "new"), ("model", "old", "new")]
)
def test_rows_come_in_the_order_of_the_table(said: tuple[str, ...]) -> None:
    found = Rows(TABLE)
    for _ in range(2):
        assert found[said] == [("old", "told", _as_is), ("new", "told", _as_is)]
    assert list(found) == [said]


def test_only_so_many_names_are_kept() -> None:
    found = Rows(TABLE)
    for number in range(2 * rows.KEPT_MAX + 1):
        assert found[f"n{number}", "other"] == [("other", "other", _as_is)]
        assert len(found) <= rows.KEPT_MAX
    assert len(found) == 1


def test_long_names_are_not_kept() -> None:
    found = Rows(TABLE)
    assert found["x" * rows.NAMES_CHARS_MAX, "other"] == [("other", "other", _as_is)]
    assert not found
