"""What `/providers` says of where a provider is: enough to know it by, and no credential."""

from datetime import date

import pytest

from windvane.config.resolve import resolve
from windvane.config.schema import Config, ProviderConfig
from windvane.gateway.control_plane.app import _address_of


@pytest.mark.parametrize("kind", ["compatible", "anthropic"])
@pytest.mark.parametrize(
    ("configured", "shown"),
    [
        ("http://one.test/v1", "http://one.test/v1"),
        ("https://one.test:8443/gateway/v1/", "https://one.test:8443/gateway/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_it_is_as_configured_but_for_what_is_secret(kind: str, configured: str, shown: str) -> None:
    provider = ProviderConfig(kind=kind, api_base=configured, api_key="k")
    config = Config(providers={"one": provider}, routes={})
    snapshot = resolve(config, pepper=b"p", day=date(2026, 11, 21))
    assert _address_of(snapshot.upstreams["one"]) == shown
