"""Tables tell people what is there, whatever it is made of."""

import pytest

from windvane.cli.tables import ROWS_FOLDED_MAX, plain_table, print_table


def test_signs_that_are_not_seen_or_turn_a_line_round_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = plain_table()
    table.add_column("user")
    table.add_column("cost")
    table.add_row("adm\u202enimda", "1\x1b[2J")
    table.add_row("風見鶏", "two\nlines")
    print_table(table)
    told = capsys.readouterr().out
    assert "adm?nimda" in told and "1?[2J" in told and "風見鶏" in told
    assert "two" in told and "lines" in told


def test_a_row_is_a_line_without_a_terminal_and_columns_stand_under_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = plain_table("what was used")
    table.show_footer = True
    table.add_column("user", footer="all")
    table.add_column("cost", justify="right", footer="1,009")
    table.add_row("風見鶏", "9")
    table.add_row("a very long name " * 20, "1,000")
    print_table(table)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "what was used"
    name = "a very long name " * 20
    assert lines == [
        f"user{' ' * (len(name) - 4)}   cost",
        f"風見鶏{' ' * (len(name) - 6)}      9",
        f"{name}  1,000",
        f"all{' ' * (len(name) - 3)}  1,009",
    ]


def test_a_large_table_is_not_measured_row_by_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal too: to fold a row takes a millisecond, and nobody reads ten thousand of them there."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    said = {}
    for count in (ROWS_FOLDED_MAX, ROWS_FOLDED_MAX + 1):
        table = plain_table()
        table.add_column("name")
        for number in range(count):
            table.add_row(f"a name that is longer than a line: {number}")
        print_table(table)
        said[count] = len(capsys.readouterr().out.splitlines())
    assert said == {
        ROWS_FOLDED_MAX: 3 * ROWS_FOLDED_MAX + 1,
        ROWS_FOLDED_MAX + 1: ROWS_FOLDED_MAX + 2,
    }
