"""`windvane models`: no name is cut, whatever the width."""

import json

import pytest
from click.testing import CliRunner

from windvane.cli.main import windvane


def lines(**environment: str) -> list[str]:
    result = CliRunner(env=environment).invoke(windvane, ["models"])
    assert result.exit_code == 0
    return result.output.splitlines()


def test_where_there_is_no_terminal_each_model_is_one_line_with_all_its_names() -> None:
    shown = {line.split(maxsplit=1)[0]: line for line in lines(COLUMNS="40")[1:]}
    with_aliases = json.loads(CliRunner().invoke(windvane, ["models", "--json"]).output)["models"]
    assert with_aliases
    for model in with_aliases:
        words = {word.strip(",;") for word in shown[model["id"]].split()}
        assert {model["id"], *model["aliases"]} <= words


@pytest.mark.parametrize("columns", ["80", "100", "119", "120", "200"])
def test_in_a_terminal_no_name_is_cut(columns: str) -> None:
    told = lines(COLUMNS=columns, FORCE_COLOR="1", TERM="dumb")
    assert max(map(len, told)) <= int(columns) + 40  # what turns bold on and off is not seen
    words = {word.strip(",;") for line in told for word in line.split()}
    piped = {word.strip(",;") for line in lines() for word in line.split()}
    assert {word for word in piped if "-" in word} <= words
