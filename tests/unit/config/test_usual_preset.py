"""Which preset gives `auto` when none is named, and what a demonstration asks for."""

import json
import re

import pytest

from windvane.assembly import snapshot_of
from windvane.cli.demo import _announce
from windvane.config import load_config
from windvane.config.routes import leads_on
from windvane.core.routing.presets import default, mux

KEYS = {"mistral": "MISTRAL_API_KEY", "openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def read(tmp_path, text="", **environment):
    path = tmp_path / "windvane.yaml"
    path.write_text(text)
    return load_config(environment, path)


def auto_of(config):
    route, _ = snapshot_of(config).routes.routes["auto"]
    return route


@pytest.mark.parametrize(
    ("providers", "route"),
    [
        (("mistral",), default()),
        (("openai",), mux()),
        (("anthropic",), mux()),
        (("openai", "anthropic"), mux()),
        (("mistral", "openai", "anthropic"), default()),
        ((), default()),
    ],
)
def test_auto_leads_somewhere_whoever_the_keys_are_of(tmp_path, providers, route):
    config = read(tmp_path, **{KEYS[name]: "sk-x" for name in providers})
    assert auto_of(config) == route
    assert leads_on(route, snapshot_of(config).deployments) is bool(providers)


def test_the_threshold_counts_for_the_usual_preset_too(tmp_path):
    config = read(tmp_path, OPENAI_API_KEY="sk-x", ROUTER_LENGTH_THRESHOLD="77")
    assert auto_of(config) == mux(77)


def test_a_preset_that_is_named_is_taken_whoever_serves(tmp_path):
    config = read(tmp_path, OPENAI_API_KEY="sk-x", ROUTER_PRESET="default")
    assert auto_of(config) == default()


LOCAL = 'providers: {a: {kind: compatible, api_base: "http://127.0.0.1:9", models: {mine: }}}\n'


@pytest.mark.parametrize(
    ("text", "environment", "model"),
    [
        ("", {"MISTRAL_API_KEY": "sk-x"}, "auto"),
        ("", {"OPENAI_API_KEY": "sk-x"}, "auto"),
        ("", {"ANTHROPIC_API_KEY": "sk-x"}, "auto"),
        (LOCAL, {}, "mine"),
        (f"{LOCAL}routes: {{auto: {{otherwise: mine}}}}", {}, "auto"),
        (f"{LOCAL}routes: {{fast: {{otherwise: mine}}}}", {}, "mine"),
    ],
)
def test_the_line_that_a_demonstration_prints_asks_for_what_is_served(
    tmp_path, capsys, text, environment, model
):
    config = read(tmp_path, text, **environment)
    _announce("http://127.0.0.1:8000", "sk-demo-1", config, is_simulated=False)
    [body] = re.findall(r"-d '(.*)'", capsys.readouterr().out)
    assert json.loads(body)["model"] == model
