"""Each file of the folder is in the table, and each provider knows the statuses that matter."""

import pkgutil
from importlib import import_module

import msgspec
import pytest

import windvane.providers
from windvane.core.analysis import Analysis
from windvane.core.catalog.prices import PERMILLE
from windvane.core.deployment import Deployment
from windvane.core.faults import Retry, WindvaneError
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


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.kind)
def test_a_search_that_is_not_asked_for_costs_nothing(provider: Provider) -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "model": "m",
        "web_search_options": {"search_context_size": "low"},
    }
    try:
        told = msgspec.json.decode(provider.encode_chat(chat_request_of(body), "m"))
    except WindvaneError:
        told = body  # refused, not left out
    deployment = Deployment(id="p/m", provider="p", model="m", billing=provider.billing)
    is_free = deployment.unpriced_part(Analysis(), body) is None
    assert is_free is ("web_search_options" not in told)


def test_a_tier_that_an_answer_names_and_nobody_priced_is_not_taken_for_a_listed_one() -> None:
    """Whatever was asked for: what served it is known."""
    for provider in PROVIDERS.values():
        assert provider.billing.as_served("new") is None
        assert provider.billing.as_served("standard") == PERMILLE
