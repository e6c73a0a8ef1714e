"""The documentation is held to the code: what the code has, its reference page names; what a page
shows, works. A failure here means that a page must be written, not that this file must be changed."""

import ast
import importlib
import inspect
import re
import types
import typing
from datetime import date
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from fastapi.routing import APIRoute
from prometheus_client.core import CounterMetricFamily

import windvane
from windvane.cli.main import COMMANDS
from windvane.client.mistral import MistralClient
from windvane.config.load import CONFIG_VARIABLE, KEYS_VARIABLE, VARIABLES, load_config
from windvane.config.resolve import resolve
from windvane.config.schema import Config
from windvane.core import faults
from windvane.core.analysis import Analysis
from windvane.core.breaker import BreakerState
from windvane.core.budgets import Period, Standing
from windvane.core.events import AttemptSettled, ExchangeEnded
from windvane.core.faults import FaultKind
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL
from windvane.core.priority import Priority
from windvane.core.routing import fields, table
from windvane.core.routing.presets import PRESETS
from windvane.core.upstream_limits import Standing as UpstreamLimit
from windvane.core.upstream_limits import Unit
from windvane.core.usage import Certainty
from windvane.engine.waiting_room import UpstreamStanding
from windvane.gateway.control_plane.app import control_plane
from windvane.gateway.data_plane import app as data_plane
from windvane.gateway.data_plane import chat, outgoing
from windvane.ports.stores import CacheStats
from windvane.providers import PROVIDERS
from windvane.simulator import FAULT_WORDS, FaultRule, Simulator, SimulatorConfig
from windvane.telemetry.gauges import All, GaugeCollector, Gauges
from windvane.telemetry.metrics import Metrics
from windvane.wire import errors as wire_errors

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ENVIRONMENT = {
    "MISTRAL_API_KEY": "mistral-key",
    "OPENAI_API_KEY": "openai-key",
    "ANTHROPIC_API_KEY": "anthropic-key",
    "TEAM_ONE_KEY": "sk-team-one",
    "TEAM_TWO_KEY": "sk-team-two",
}
"""What the pages' configurations refer to."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def rows(text: str) -> dict[str, str]:
    """The rows of all tables in `text`, by each word in back quotes of the first cell."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            for word in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                found.setdefault(word, line)
    return found


def blocks(language: str) -> list[Any]:
    return [
        pytest.param(found[2], id=f"{path.relative_to(ROOT)}:{number}")
        for path in PAGES
        for number, found in enumerate(_BLOCK.finditer(path.read_text()), start=1)
        if found[1] == language
    ]


def missing(wanted: typing.Iterable[str], text: str) -> list[str]:
    return [name for name in wanted if f"`{name}`" not in text]


# configuration


def config_keys(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, object]:
    """Every key path of the configuration, with its default."""
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.name}"
        below, place = _struct_in(field.type)
        if below is None or place:
            found[path] = field.default
        if below is not None:
            found |= config_keys(below, f"{path}{place}.")
    return found


def _struct_in(kind: Any) -> tuple[type[msgspec.Struct] | None, str]:
    """The Struct that `kind` is or holds, and how its keys are reached: "", ".NAME" or "[]"."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [each for each in typing.get_args(kind) if each is not type(None)]
        kind = members[0]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, ""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return _struct_in(arguments[1])[0], ".NAME"
    if typing.get_origin(kind) is tuple:
        return _struct_in(arguments[0])[0], "[]"
    return None, ""


CONFIG_KEYS = config_keys(Config)


@pytest.mark.parametrize("path", CONFIG_KEYS)
def test_each_key_of_the_configuration_has_a_row_with_its_default(path: str) -> None:
    known = rows(page("configuration.md"))
    assert path in known, f"{path} is not in configuration.md"
    default = CONFIG_KEYS[path]
    if isinstance(default, bool):
        assert f"`{str(default).lower()}`" in known[path]
    elif isinstance(default, int | float | str) and default != "":
        assert f"`{default}`" in known[path]


def test_no_row_is_about_a_key_that_is_not_there() -> None:
    section = page("configuration.md").split("## Keys")[1].split("## Environment")[0]
    containers = {path.rpartition(".")[0] for path in CONFIG_KEYS}
    documented = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert documented <= CONFIG_KEYS.keys() | containers


def test_each_environment_variable_has_a_row() -> None:
    known = rows(page("configuration.md").split("## Environment variables")[1])
    for name, path in VARIABLES.items():
        assert f"`{'.'.join(path)}`" in known[name]
    keys = [provider.key_variable for provider in PROVIDERS.values() if provider.key_variable]
    assert {KEYS_VARIABLE, CONFIG_VARIABLE, *keys} <= known.keys()
    assert "`WINDVANE__SECTION__KEY`" in page("configuration.md")
    assert "NAME_FILE" in page("configuration.md")


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_configuration_in_the_documentation_is_right(text: str, tmp_path: Path) -> None:
    path = tmp_path / "windvane.yaml"
    path.write_text(text)
    resolve(load_config(ENVIRONMENT, path), pepper=b"pepper", day=date(2026, 11, 21))


# command line


def command_of(name: str) -> click.Command:
    command = importlib.import_module(f"windvane.cli.{name}").command
    assert isinstance(command, click.Command)
    return command


def options_of(name: str) -> set[str]:
    """Its options, and for a group those of its commands."""
    command = command_of(name)
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    options = [each for one in commands for each in one.params if isinstance(each, click.Option)]
    spelt = {spelling for option in options for spelling in (*option.opts, *option.secondary_opts)}
    return {spelling for spelling in spelt if spelling.startswith("--")}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_section_with_its_options(name: str) -> None:
    sections = re.split(r"^## ", page("cli.md"), flags=re.MULTILINE)
    section = next((each for each in sections if each.startswith(f"`windvane {name}")), None)
    assert section is not None, f"windvane {name} is not in cli.md"
    documented = {word.split()[0] for word in rows(section) if word.startswith("--")}
    assert documented == options_of(name)


@pytest.mark.parametrize("text", blocks("sh"))
def test_a_command_line_in_the_documentation_exists(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        for said in line.split("&&"):
            found = re.match(r"\s*(?:\S*/)?windvane (\S+)(.*)", said)
            if found and not found[1].startswith("-"):
                assert found[1] in COMMANDS
                used = set(re.findall(r"(?<!\S)(--[a-z-]+)", found[2].split("#")[0]))
                assert used <= options_of(found[1])


def test_each_make_target_that_is_spoken_of_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        spoken = set(re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE))
        assert spoken <= targets, path


def test_the_readme_begins_with_how_to_run_and_how_to_test() -> None:
    beginning = (ROOT / "README.md").read_text().splitlines()[:10]
    assert any(line.startswith("make run") for line in beginning)
    assert any(line.startswith("make test") for line in beginning)


# HTTP


def test_each_response_header_has_a_row() -> None:
    known = {word.partition(":")[0] for word in rows(page("headers.md"))}
    text = page("headers.md")
    for module in (outgoing, data_plane, chat):
        for name in re.findall(r'\(b"([a-z][a-z-]+)", ', inspect.getsource(module)):
            assert name in known or f"`{name}:" in text or f"`{name}`" in text, name


def test_each_endpoint_of_the_data_plane_is_named() -> None:
    text = page("endpoints.md")
    for path, (method, _) in data_plane.ENDPOINTS.items():
        assert f"`{method} {path}`" in text
    assert "`GET /v1/models/{id}`" in text


def test_each_path_of_the_control_plane_is_named() -> None:
    application = control_plane(
        typing.cast(Any, None), Metrics(), is_local=lambda: True, trail=typing.cast(Any, None)
    )
    found = [
        (route.path_format, route.methods)
        for route in application.routes
        if isinstance(route, APIRoute)
    ]
    assert len(found) > 5
    for path, methods in found:
        for method in methods - {"HEAD"}:
            assert f"`{method} {path}`" in page("endpoints.md")


@pytest.mark.parametrize("kind", list(FaultKind))
def test_each_kind_of_fault_has_a_row_with_its_type_and_exception(kind: FaultKind) -> None:
    known = rows(page("errors.md").split("## Kinds")[1])
    assert kind.value in known
    row = known[kind.value]
    assert f"`{faults._ERRORS[kind].__name__}`" in row
    assert f"`{wire_errors._TYPES.get(kind, 'api_error')}`" in row
    assert f"`{wire_errors._CODES.get(kind, kind.value)}`" in row


@pytest.mark.parametrize("text", blocks("json"))
def test_json_in_the_documentation_is_json(text: str) -> None:
    msgspec.json.decode(text)


# metrics


def settled() -> AttemptSettled:
    entry = LedgerEntry(
        attempt_id="a-1", request_id="a", number=1, started_at_us=0, key_id="k", team=None, tags=(),
        route="auto", requested_model="auto", provider="p", model="m", resolved_model="m",
        reason="r", dialect="openai", is_stream=True, certainty=Certainty.EXACT,
        cost_nano_usd=NanoUsd(1), hold_nano_usd=NanoUsd(2),
    )  # fmt: skip
    return AttemptSettled(entry=entry)


def ended() -> ExchangeEnded:
    return ExchangeEnded(
        request_id="a", model="m", provider="p", route="auto", status=200, reason="r", key_id="k",
        requested_model="auto", attempts=2, models_tried=("n", "m"), is_stream=True,
        cache_status="miss", duration_s=1.0, overhead_s=0.1, first_chunk_s=0.5, cost_nano_usd=1,
        fault=None, at_us=0,
    )  # fmt: skip


def gauges() -> Gauges:
    budget = Standing(
        scope=GLOBAL, period=Period.DAILY, limit_nano_usd=1, spent_nano_usd=0, held_nano_usd=0,
        starts_at_us=0, renews_at_us=1,
    )  # fmt: skip
    limit = UpstreamLimit(Unit.TOKENS, 60_000_000, 1, 1)
    upstream = UpstreamStanding(
        key="mistral", waiting={Priority.LOW: 1}, longest_wait_s=1.0, pause_s=0.0, limits=(limit,)
    )
    return Gauges(
        budgets=(budget,), upstreams=(upstream,), breakers={"mistral/m": BreakerState.OPEN},
        cache=(CacheStats(tier="memory", entries=1, bytes=1, bytes_max=1),),
    )  # fmt: skip


def test_each_metric_has_a_row_with_its_labels() -> None:
    metrics = Metrics()
    metrics.on(settled())
    unpriced = msgspec.structs.replace(settled().entry, cost_nano_usd=None)
    metrics.on(AttemptSettled(entry=unpriced))
    metrics.on(ended())
    known = rows(page("metrics.md"))
    names = set()
    for family in All(metrics, GaugeCollector(gauges())).collect():
        name = f"{family.name}_total" if isinstance(family, CounterMetricFamily) else family.name
        names.add(name)
        assert name in known
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert not missing(labels, known[name])
    assert names == {name for name in known if name.startswith(("router_", "windvane_"))}
    assert not missing(metrics.totals(gauges()), page("metrics.md"))


# routing


def test_each_field_that_rules_may_ask_about_has_a_row() -> None:
    analysis = [field.name for field in msgspec.structs.fields(Analysis)]
    known = rows(page("routing.md"))
    assert {*analysis, *fields.FACT_FIELDS, f"{fields.HEADER_PREFIX}NAME"} <= known.keys()


def test_each_comparison_and_preset_is_named() -> None:
    text = page("routing.md")
    for name in (*table._ORDERINGS, "in", "not", "contains"):
        assert f"{{{name}: " in text or f"`{name}`" in text, name
    assert PRESETS.keys() <= rows(text.split("## Presets")[1]).keys()


# simulator


def test_each_fault_word_has_a_row() -> None:
    known = rows(page("simulator.md").split("## Fault words")[1])
    assert {f"!{word}" for word in FAULT_WORDS} <= known.keys()


def test_each_field_and_control_endpoint_of_the_simulator_is_named() -> None:
    text = page("simulator.md")
    assert not missing(FaultRule.__struct_fields__, text)
    assert not missing(SimulatorConfig.__struct_fields__, text)
    routes = [f"{method} /_sim/{name}" for method, name in Simulator()._control._routes]
    assert not missing(routes, text)


# Python


def test_each_name_and_parameter_of_the_library_is_named() -> None:
    text = page("python.md")
    public = [each for each in windvane.__all__ if each[0].isupper()]
    assert not missing(public, text.replace("(...)", ""))
    for function in (MistralClient.__init__, MistralClient.chat):
        named = [
            each.name
            for each in inspect.signature(function).parameters.values()
            if each.name != "self" and each.kind is not each.VAR_KEYWORD
        ]
        assert not missing(named, text)
    client = MistralClient(api_key="any", config=Config())
    assert not missing(client.get_stats(), text)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_documentation_compiles_and_its_imports_exist(text: str) -> None:
    tree = ast.parse(text)
    compile(text, "documentation", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("windvane"):
            module = importlib.import_module(node.module or "")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


# links


def anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces as hyphens."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links(path: Path) -> list[str]:
    found = _LINK.findall(_BLOCK.sub("", path.read_text()))
    return [link for link in found if not link.startswith(("http:", "https:"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert ROOT in target.parents, link
        if anchor:
            assert anchor in anchors(target), link


def test_each_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path not in seen and path.suffix == ".md":
            seen.add(path)
            ahead += [(path.parent / link.partition("#")[0]).resolve() for link in links(path)]
    written_by_machine = {DOCS / "benchmarks.md"}
    assert set(PAGES) - seen - written_by_machine == set()


def test_each_module_that_the_explanations_name_exists() -> None:
    source = ROOT / "src" / "windvane"
    for path in (DOCS / "explanation").glob("*.md"):
        for named in re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.py)`", path.read_text()):
            assert (source / named).is_file(), f"{path.name}: {named}"
