"""Each file of the folder is in the table, and each provider knows the statuses that matter."""

import pkgutil
from importlib import import_module

import pytest

import windvane.providers
from windvane.core.faults import Retry
from windvane.providers import PROVIDERS, Provider

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
