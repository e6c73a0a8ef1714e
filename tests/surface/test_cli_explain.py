"""`windvane explain` says what the request would come to, without sending it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from windvane.cli.main import windvane

CONFIG = """
providers:
  anthropic: {api_key: simulated}
  mistral: {api_key: simulated}
routes:
  two: {otherwise: [claude-haiku-4-5, mistral-small-latest]}
"""


@pytest.fixture(name="explain")
def explain_fixture(tmp_path: Path) -> Any:
    config = tmp_path / "windvane.yaml"
    config.write_text(CONFIG)

    def explain(model: str, *options: str, **fields: Any) -> Result:
        messages = [{"role": "user", "content": "Say wind."}]
        asked = json.dumps({"model": model, "messages": messages, **fields})
        arguments = ["explain", "--config", str(config), "--request", "-", *options]
        return CliRunner().invoke(windvane, arguments, input=asked)

    return explain


def test_who_cannot_be_told_the_request_is_ruled_out(explain: Any) -> None:
    plan = json.loads(explain("two", "--json", n=2).output)
    assert plan["model"] == "mistral-small-latest"
    (out,) = plan["ruled_out"]
    assert out["model"] == "claude-haiku-4-5"
    assert out["why"].startswith("n: ")
    assert "not:     claude-haiku-4-5 (n: " in explain("two", n=2).output
    assert json.loads(explain("two", "--json").output)["model"] == "claude-haiku-4-5"


def test_what_nobody_can_be_told_is_the_error_that_the_request_would_be(explain: Any) -> None:
    said = explain("claude-haiku-4-5", n=2)
    assert said.exit_code == 1
    assert "n: " in said.output
