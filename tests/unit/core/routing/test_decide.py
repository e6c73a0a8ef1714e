"""From what is asked to the ordered plan, with why."""

from collections.abc import Callable
from datetime import date
from importlib.resources import files

import pytest

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Catalog
from windvane.core.deployment import Deployment
from windvane.core.faults import BadRequestError, FaultKind, NoRouteError, NotFoundError
from windvane.core.routing.decide import RESTING, decide
from windvane.core.routing.decision import Decision
from windvane.core.routing.table import Route, RouteTable, Rule

CATALOG = Catalog.from_json(
    files("windvane.core.catalog").joinpath("data/models.json").read_bytes()
)
DAY = date(2026, 11, 20)
SERVED = (
    "mistral-small-latest",
    "mistral-medium-latest",
    "mistral-large-latest",
    "codestral-latest",
    "devstral-latest",
)


def deployment(name: str, provider: str = "mistral") -> Deployment:
    return Deployment(
        id=f"{provider}/{name}", provider=provider, model=name, card=CATALOG.resolve(name, DAY)
    )


DEPLOYMENTS = {name: (deployment(name),) for name in SERVED} | {
    "mine": (deployment("mine", "here"), deployment("mine", "there")),
}
ROUTES = RouteTable.of(
    {
        "auto": Route(
            rules=(
                Rule(when={"tools": True}, use="mistral-medium-latest", reason="tools"),
                Rule(when={"code": True}, use=("codestral-latest", "mistral-medium-latest")),
                Rule(when={"images": True}, use="codestral-latest", reason="pictures"),
            ),
            otherwise="mistral-small-latest",
            otherwise_reason="simple",
            fallbacks=("mistral-medium-latest", "mistral-small-latest"),
        ),
        "abroad": Route(otherwise=("gpt-6-luna", "codestral-latest")),
        "empty": Route(),
        "gone": Route(otherwise=("open-mixtral-8x7b", "mistral/mistral-embed")),
        "mistral-large-latest": Route(otherwise="mistral-small-latest"),
    }
)


def ask(
    requested: str,
    analysis: Analysis | None = None,
    is_available: Callable[[Deployment], bool] = lambda _: True,
) -> Decision:
    return decide(
        requested,
        analysis or Analysis(),
        routes=ROUTES,
        deployments=DEPLOYMENTS,
        catalog=CATALOG,
        facts={},
        day=DAY,
        is_available=is_available,
    )


def models(decision: Decision) -> list[str]:
    return [candidate.model for candidate in decision.candidates]


@pytest.mark.parametrize(
    ("analysis", "rule", "reason", "chosen"),
    [
        (Analysis(), None, "simple", ["mistral-small-latest", "mistral-medium-latest"]),
        (Analysis(tools=1), 1, "tools", ["mistral-medium-latest", "mistral-small-latest"]),
        (
            Analysis(code=True),
            2,
            "rule 2",
            ["codestral-latest", "mistral-medium-latest", "mistral-small-latest"],
        ),
        (
            Analysis(tools=1, code=True),
            1,
            "tools",
            ["mistral-medium-latest", "mistral-small-latest"],
        ),
        (Analysis(images=1), 3, "pictures", ["mistral-medium-latest", "mistral-small-latest"]),
    ],
)
def test_the_first_rule_that_matches_decides(
    analysis: Analysis, rule: int | None, reason: str, chosen: list[str]
) -> None:
    decision = ask("auto", analysis)
    assert (decision.route, decision.rule, decision.reason) == ("auto", rule, reason)
    assert models(decision) == chosen


def test_what_cannot_serve_is_ruled_out_with_its_reason() -> None:
    (out,) = ask("auto", Analysis(images=1)).ruled_out
    assert (out.model, out.why) == ("codestral-latest", "it does not read images")
    (absent,) = ask("abroad").ruled_out
    assert (absent.model, absent.why) == ("gpt-6-luna", "no configured provider serves it")


def test_a_model_asked_for_by_name_is_that_model_alone() -> None:
    decision = ask("mine", Analysis(tools=1, code=True))
    assert (decision.route, decision.rule, decision.reason) == (None, None, "asked for by name")
    assert [one.deployment.id for one in decision.candidates] == ["here/mine", "there/mine"]


def test_a_route_is_found_before_a_model_of_the_same_name() -> None:
    assert models(ask("mistral-large-latest")) == ["mistral-small-latest"]


def test_the_sick_go_last_and_are_still_tried() -> None:
    decision = ask("mine", is_available=lambda one: one.provider != "here")
    assert [one.deployment.id for one in decision.candidates] == ["there/mine", "here/mine"]
    assert [out.why for out in decision.ruled_out] == [RESTING]
    assert len(ask("mine", is_available=lambda _: False).candidates) == 2


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (
            "mistral-smal-latest",
            'there is no model "mistral-smal-latest"; did you mean mistral-small-latest',
        ),
        ("zzzzzzzzz", 'there is no model "zzzzzzzzz"'),
        ("AUTO", 'there is no model "AUTO"; did you mean auto?'),
        ("auto ", 'there is no model "auto "; did you mean auto?'),
        ("Mine", 'there is no model "Mine"; did you mean mine'),
        ("gpt-6-luna", 'the model "gpt-6-luna" is openai\'s, and that provider is not configured'),
        (
            "open-mixtral-8x7b",
            'the model "open-mixtral-8x7b" was retired on 2025-03-30; its replacement is mistral-s',
        ),
        (
            "mistral/open-mixtral-8x7b",
            'the model "mistral/open-mixtral-8x7b" was retired on 2025-03-30; its replacement is',
        ),
        ("mistral-embed", 'the model "mistral-embed" does not chat: it is for embeddings'),
        (
            "mistral/mistral-embed",
            'the model "mistral/mistral-embed" does not chat: it is for embeddings',
        ),
        ("openai/gpt-6-luna", 'there is no model "openai/gpt-6-luna"'),
        ("x" * 5_000, 'there is no model "' + "x" * 128 + '"'),
    ],
)
def test_a_name_that_nobody_serves_is_not_found_and_says_why(requested: str, message: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        ask(requested)
    fault = caught.value.fault
    assert fault.message.startswith(message)
    assert (fault.status, fault.code, fault.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("requested", "analysis", "reasons"),
    [
        ("empty", Analysis(), "(the route is empty)"),
        (
            "gone",
            Analysis(),
            (
                "(open-mixtral-8x7b: it was retired on 2025-03-30; its replacement is mistral-small-2603;"
                " mistral/mistral-embed: it does not chat: it is for embeddings)"
            ),
        ),
        (
            "abroad",
            Analysis(images=1),
            "(gpt-6-luna: no configured provider serves it; codestral-latest: it does not read images)",
        ),
        ("codestral-latest", Analysis(audio=1), "(codestral-latest: it does not read audio)"),
        (
            "devstral-latest",
            Analysis(),
            "(devstral-latest: it was retired on 2026-07-31; its replacement is mistral-medium-3-5)",
        ),
    ],
)
def test_no_candidate_left_says_what_ruled_out_what(
    requested: str, analysis: Analysis, reasons: str
) -> None:
    with pytest.raises((NoRouteError, NotFoundError)) as caught:
        ask(requested, analysis)
    fault = caught.value.fault
    assert fault.kind in (FaultKind.NO_ROUTE, FaultKind.CONTEXT_TOO_LONG)
    assert fault.message == f'no model can serve this request for "{requested}" {reasons}'
    assert fault.status == 400


def test_a_request_too_long_for_every_candidate_is_told_as_such() -> None:
    """Clients trim their prompts on that code, and on no other."""
    with pytest.raises(BadRequestError) as caught:
        ask("codestral-latest", Analysis(input_tokens=131_072))
    fault = caught.value.fault
    assert fault.kind is FaultKind.CONTEXT_TOO_LONG
    assert fault.message.endswith("about 131072 tokens of input; its window has 131072")


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens_max", "param"),
    [
        (1_000, 200_000, "max_tokens"),
        (131_072, 1, "messages"),
        (131_072, 200_000, "messages"),
        (131_072, None, "messages"),
    ],
)
def test_what_is_too_long_is_named(
    input_tokens: int, output_tokens_max: int | None, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(
            "codestral-latest",
            Analysis(input_tokens=input_tokens, output_tokens_max=output_tokens_max),
        )
    fault = caught.value.fault
    assert (fault.kind, fault.param) == (FaultKind.CONTEXT_TOO_LONG, param)
    assert fault.message.startswith(f"{param}: ")
