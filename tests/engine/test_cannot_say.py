"""A route goes on to its next model when one's provider cannot be told the request."""

from typing import Any

import pytest
from tests.engine.scene import Scene

from windvane.config.schema import Config, ProviderConfig
from windvane.core.routing.table import Route
from windvane.testing import run_virtual

MODELS = {
    "mistral": "mistral-small-latest",
    "anthropic": "claude-haiku-4-5",
    "openai": "gpt-4.1",
    "compatible": "local",
}
CUSTOM = {"tools": [{"type": "custom", "custom": {"name": "sh"}}]}
GUARDED = {"guardrails": [{"block_on_error": True}]}
ASKED = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "The wind"}
LATE = {"role": "system", "content": "Be brief."}


def config(*route: str) -> Config:
    """Each kind of provider serves one model, and `auto` asks those of `route` in turn."""
    providers = {
        kind: ProviderConfig(
            kind=kind, api_base=f"http://{kind}.test/v1", api_key="k", models={model: None}
        )
        for kind, model in MODELS.items()
    }
    first, *rest = (MODELS[kind] for kind in route)
    return Config(
        providers=providers, routes={"auto": Route(otherwise=first, fallbacks=tuple(rest))}
    )


@pytest.mark.parametrize(
    ("route", "fields", "asked"),
    [
        ("mistral openai", CUSTOM, "openai"),
        ("anthropic openai", CUSTOM, "openai"),
        ("anthropic mistral openai", CUSTOM, "openai"),
        ("mistral openai", {"messages": [ASKED, SAID]}, "openai"),
        ("mistral openai", {"messages": [ASKED, SAID, LATE, ASKED]}, "openai"),
        ("mistral compatible", {"response_format": {"type": "grammar"}}, "compatible"),
        ("openai mistral", GUARDED, "mistral"),
        ("compatible anthropic mistral", GUARDED, "mistral"),
    ],
    ids=str,
)
def test_the_next_model_is_asked(route: str, fields: dict[str, Any], asked: str) -> None:
    async def main() -> None:
        scene = Scene(config=config(*route.split()), scope="off")
        got = await scene.ask("Hi", **fields)
        assert got.fault is None
        assert [call.deployment for call in scene.calls] == [f"{asked}/{MODELS[asked]}"]
        await scene.close()

    run_virtual(main())


def test_the_last_ones_refusal_is_told_and_nothing_is_sent() -> None:
    async def main() -> None:
        scene = Scene(config=config("mistral", "anthropic"), scope="off")
        got = await scene.ask("Hi", **CUSTOM)
        assert got.fault is not None
        assert (got.fault.status, got.fault.param) == (400, "tools[0].type")
        assert "Anthropic" in got.fault.message
        assert not scene.calls and not scene.entries
        await scene.close()

    run_virtual(main())
