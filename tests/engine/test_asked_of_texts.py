"""A text is looked at for what rules ask of it: no less, and for a model's name not at all."""

import pytest
from tests.engine.scene import Scene

from windvane.config.schema import AuthConfig, KeyConfig
from windvane.core.analysis import analyze
from windvane.core.routing.table import Route, Rule
from windvane.testing import run_virtual

FRENCH = "Quelle est la capitale du pays, et pour qui?"
MINE, THEIRS = "sk-of-mine", "sk-of-theirs"
SETTINGS = {
    "auth": AuthConfig(
        keys=(
            KeyConfig(key=MINE, name="mine", route="by-language"),
            KeyConfig(key=THEIRS, name="t"),
        )
    ),
    "routes": {
        "auto": Route(rules=(Rule(use="large", when={"tools": True}),), otherwise="small"),
        "by-language": Route(
            rules=(Rule(use="large", when={"language": "fr"}),), otherwise="small"
        ),
        "by-difficulty": Route(
            rules=(Rule(use="large", when={"difficulty": {"gte": 0.01}}),), otherwise="small"
        ),
    },
}


@pytest.mark.parametrize(
    ("model", "key", "used"),
    [
        ("auto", THEIRS, "small"),
        ("auto", MINE, "large"),
        ("by-language", THEIRS, "large"),
        ("by-difficulty", THEIRS, "large"),
        ("small", MINE, "small"),
    ],
)
def test_a_rule_finds_what_it_asks_for(model: str, key: str, used: str) -> None:
    """Also when it is the route of the caller's key, and `auto` asks for less."""

    async def story() -> None:
        scene = Scene(scope=None, settings=SETTINGS)
        got = await scene.ask(FRENCH, model, key=key)
        attempt = got.exchange.final_attempt
        assert attempt is not None and attempt.deployment.model == used
        await scene.close()

    run_virtual(story())


def test_a_text_is_not_looked_at_for_a_models_name_but_is_to_explain() -> None:
    async def story() -> None:
        scene = Scene(scope=None, settings=SETTINGS)
        exchange = (await scene.ask(FRENCH, "small", key=THEIRS)).exchange
        whole = analyze(exchange.request)
        assert exchange.analysis is not None and whole.language == "fr"
        assert (exchange.analysis.language, exchange.analysis.difficulty) == (None, 0)
        assert exchange.analysis.input_tokens == whole.input_tokens
        explained, _ = scene.engine.explain(
            exchange.request, credentials=exchange.credentials, headers={}
        )
        assert explained == whole
        await scene.close()

    run_virtual(story())
