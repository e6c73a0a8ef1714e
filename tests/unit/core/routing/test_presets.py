"""What each preset decides for the same prompts."""

from typing import Any

import pytest

from windvane.core.analysis import Analysis, analyze
from windvane.core.routing.presets import CODE, LARGE, MEDIUM, PRESETS, SMALL
from windvane.core.routing.table import NO_FACTS, RouteTable, first_match
from windvane.wire.chat_request import chat_request_of

TOOL = {"type": "function", "function": {"name": "f"}}


def asked(content: Any, **fields: Any) -> Analysis:
    return analyze(
        chat_request_of(
            {"model": "auto", "messages": [{"role": "user", "content": content}], **fields}
        )
    )


FILLER = "the cat sat on the mat "
LONG_FRENCH = "Le chat est sur la table et le chien est dans la maison avec les enfants. " * 2
LONG_CODE = "```\n" + "x = y;\n" * 20_000 + "```"
PROMPTS = {
    "greeting": asked("Hello"),
    "110 characters": asked((FILLER * 10)[:110]),
    "121 characters": asked((FILLER * 10)[:121]),
    "tools": asked("Hello", tools=[TOOL]),
    "code": asked("Refactor this python function"),
    "mathematics": asked("Solve the equation"),
    "one reasoning word": asked("Explain rain"),
    "two reasoning words": asked("Explain and compare"),
    "long French": asked(LONG_FRENCH),
    "an image": asked([{"type": "image_url", "image_url": "http://x"}]),
    "very long code": asked(LONG_CODE),
}

LARGE_4, SOL, TERRA, LUNA, SONNET, HAIKU = (
    "mistral-large-4",
    "gpt-6.1-sol",
    "gpt-6.1-terra",
    "gpt-6-luna",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
)
DECISIONS: dict[str, list[tuple[str, ...] | str]] = {
    "default": [SMALL, SMALL, MEDIUM, MEDIUM, CODE, LARGE, SMALL, LARGE, MEDIUM, SMALL, CODE],
    "small-medium": [
        SMALL,
        SMALL,
        MEDIUM,
        MEDIUM,
        MEDIUM,
        SMALL,
        MEDIUM,
        MEDIUM,
        MEDIUM,
        SMALL,
        MEDIUM,
    ],
    "small-large": [SMALL, LARGE, LARGE, LARGE, SMALL, LARGE, LARGE, LARGE, LARGE, SMALL, LARGE],
    "task": [
        SMALL,
        SMALL,
        MEDIUM,
        MEDIUM,
        CODE,
        LARGE,
        SMALL,
        LARGE,
        LARGE,
        MEDIUM,
        (LARGE_4, LARGE),
    ],
    "mux": [
        (SMALL, LUNA, HAIKU),
        (SMALL, LUNA, HAIKU),
        (LARGE, HAIKU, LUNA),
        (TERRA, MEDIUM),
        (CODE, SONNET),
        (SOL, LARGE),
        (SMALL, LUNA, HAIKU),
        (SONNET, LARGE, SOL),
        (LARGE, HAIKU, LUNA),
        (SMALL, LUNA, HAIKU),
        (CODE, SONNET),
    ],
}
CASES = [
    (preset, prompt, models)
    for preset, row in DECISIONS.items()
    for prompt, models in zip(PROMPTS, row, strict=True)
]


@pytest.mark.parametrize(("preset", "prompt", "models"), CASES)
def test_what_a_preset_decides(preset: str, prompt: str, models: tuple[str, ...] | str) -> None:
    route, rules = RouteTable.of({"auto": PRESETS[preset]()}).routes["auto"]  # type: ignore[call-arg]
    place = first_match(rules, PROMPTS[prompt], NO_FACTS)
    chosen = route.default_models if place is None else rules[place - 1].rule.models
    assert chosen == ((models,) if isinstance(models, str) else models)


def test_every_preset_is_here() -> None:
    assert set(DECISIONS) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_length_threshold_is_a_setting(preset: str) -> None:
    table = RouteTable.of({"auto": PRESETS[preset](10)})
    rules = table.routes["auto"][1]
    asked = PROMPTS["110 characters"]
    assert [one.rule.reason for one in rules if first_match((one,), asked, NO_FACTS)] == [
        "longer than 10 characters"
    ]
