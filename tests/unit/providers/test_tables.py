"""Each file of the folder is in the table, and each provider knows the statuses that matter."""

import pkgutil
from importlib import import_module

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

import windvane.providers
from windvane.core.analysis import Analysis
from windvane.core.catalog.prices import PERMILLE
from windvane.core.deployment import Deployment
from windvane.core.faults import Retry, WindvaneError
from windvane.core.free_fields import FREE_FIELDS
from windvane.providers import PROVIDERS, Provider
from windvane.wire.chat_request import chat_request_of

NOT_PROVIDERS = {"provider", "fault_map"}


def test_every_file_is_in_the_table_under_its_own_name() -> None:
    files = {module.name for module in pkgutil.iter_modules(windvane.providers.__path__)}
    assert files - NOT_PROVIDERS == set(PROVIDERS)
    for name in PROVIDERS:
        assert import_module(f"windvane.providers.{name}").PROVIDER is PROVIDERS[name]


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
def test_a_provider_that_has_a_home_has_a_key_and_a_catalog(provider: Provider) -> None:
    has_home = provider.api_base is not None
    assert (provider.key_variable is not None) is has_home
    assert (provider.serves_catalog is not None) is has_home
    assert not (provider.api_base or "").endswith("/")
    assert provider.chat_path.startswith("/")
    assert provider.request_id_header == provider.request_id_header.lower()


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
@pytest.mark.parametrize(
    ("status", "retries"),
    [
        (400, {Retry.NEVER}),
        (401, {Retry.OTHER}),
        (404, {Retry.OTHER}),
        (429, {Retry.SAME}),
        *[
            (status, {Retry.SAME, Retry.OTHER})
            for status in (500, 501, 502, 503, 504, 520, 529, 599)
        ],
    ],
)
def test_every_fault_map_covers_the_statuses_that_matter(
    provider: Provider, status: int, retries: set[Retry]
) -> None:
    fault = provider.classify(status, {}, b"<html>", 0.0)
    assert fault.retry in retries
    assert fault.upstream_status == status
    assert 400 <= fault.status < 600
    # Somebody on the way gave up; what the model did, and billed, is not known.
    assert fault.billed is (status in (408, 504, 520))


LISTED = {None, "default", "standard_only"}
"""What the tier of a request at the list price is called, where it is told at all."""


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
@pytest.mark.parametrize(
    "tier",
    ["auto", "default", "fast", "flex", "priority", "scale", "standard_only", "batch", "new"],
)
def test_a_tier_that_is_not_told_costs_what_is_listed(provider: Provider, tier: str) -> None:
    """And one that is told does not, unless the provider says so: it may be dearer."""
    body = {"messages": [{"role": "user", "content": "x"}], "model": "m", "service_tier": tier}
    sent = msgspec.json.decode(provider.encode_chat(chat_request_of(body), "m"))
    deployment = Deployment(id="p/m", provider="p", model="m", billing=provider.billing)
    if sent.get("service_tier") in LISTED or tier in LISTED:
        assert provider.billing.of_tier(tier) == PERMILLE
        assert deployment.unpriced_part(Analysis(), body) is None
    else:
        assert provider.billing.of_tier(tier) != PERMILLE


KNOWN_TO_OPENAI = frozenset(CompletionCreateParamsBase.__annotations__)


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("web_search_options", {"search_context_size": "low"}),
        ("web_search_options", {}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("n_predict", 30_000),
        ("n_predict", -1),
        ("num_predict", 30_000),
        ("max_length", 0),
        ("n_cmpl", 9),
        ("best_of", 4),
        ("use_beam_search", True),
        ("search_parameters", {"mode": "auto"}),
        ("enable_search", True),
        ("thinking", {"type": "enabled", "budget_tokens": 2_000}),
        ("thinking_budget", 90_000),
        ("chat_template_kwargs", {"chat_template": "{{ messages }}"}),
        ("chat_template", "{% for i in range(99999) %}x{% endfor %}"),
        ("provider", {"order": ["dear"]}),
        ("models", ["dear"]),
        ("fallbacks", ["dear"]),
        ("plugins", [{"id": "web"}]),
        ("options", {"num_predict": 30_000}),
        ("response_fields", ["content"]),
        ("nobody-knows-this", "x"),
    ],
)
def test_what_may_cost_is_free_only_where_it_is_not_told(
    provider: Provider, field: str, value: object
) -> None:
    """Whoever is at the address: a provider's kind does not say that. What Claude thinks is told, and is no
    more than its `max_tokens`."""
    body = {"messages": [{"role": "user", "content": "x"}], "model": "m", field: value}
    try:
        told = msgspec.json.decode(provider.encode_chat(chat_request_of(body), "m"))
    except WindvaneError:
        return
    deployment = Deployment(id="p/m", provider="p", model="m", billing=provider.billing)
    part = deployment.unpriced_part(Analysis(), body)
    is_in_the_limit = provider.kind == "anthropic" and field == "thinking"
    is_dear = field in told and not is_in_the_limit
    told_as = f"the field {field!r} (not among the provider's free_fields)"
    assert part == (told_as if is_dear else None)


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 1},
        {"n_cmpl": 1},
        {"search_parameters": {"mode": "off"}},
        {"web_search_options": False},
        {"web_search_options": None},
        {"modalities": ["text"]},
        {"thinking": {"type": "disabled"}},
        {"models": []},
        {"nobody-knows-this": None},
        {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [2]},
        {"guided_json": {"type": "object"}, "chat_template_kwargs": {"enable_thinking": False}},
        {"temperature": 1, "verbosity": "low", "store": True, "user": "u", "prompt_cache_key": "k"},
        {"safe_prompt": True, "random_seed": 4},
    ],
)
def test_what_asks_for_nothing_dear_is_free_everywhere(
    provider: Provider, fields: dict[str, object]
) -> None:
    deployment = Deployment(id="p/m", provider="p", model="m", billing=provider.billing)
    assert deployment.unpriced_part(Analysis(), {"model": "m", "messages": [], **fields}) is None


def test_every_field_that_openai_documents_is_known() -> None:
    known = FREE_FIELDS | {"audio", "modalities", "web_search_options"}
    assert known >= KNOWN_TO_OPENAI


def test_a_tier_that_an_answer_names_and_nobody_priced_is_not_taken_for_a_listed_one() -> None:
    """Whatever was asked for: what served it is known."""
    for provider in PROVIDERS.values():
        assert provider.billing.as_served("new") is None
        assert provider.billing.as_served("standard") == PERMILLE
