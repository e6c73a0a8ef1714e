"""Tables tell people what is there, whatever it is made of."""

import pytest

from windvane.cli.tables import plain_table, print_table


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
