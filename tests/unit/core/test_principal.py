"""Where a caller's requests count, when they say more of themselves and when they do not."""

import pytest

from windvane.core.chat import ChatRequest
from windvane.core.exchange import Credentials, Exchange
from windvane.core.principal import Principal
from windvane.engine.attribution import attribute

CALLER = Principal(key_id="k", team="blue", tags=("web", "eu", "web"))


@pytest.mark.parametrize(
    ("principal", "headers", "scopes"),
    [
        (Principal(key_id="k"), {}, ("global", "key:k")),
        (Principal(key_id="k", team="blue"), {}, ("global", "key:k", "team:blue")),
        (CALLER, {}, ("global", "key:k", "team:blue", "tag:web", "tag:eu")),
        (
            CALLER,
            {b"x-windvane-user": b"ann", b"x-windvane-tags": b"new, eu"},
            ("global", "key:k", "team:blue", "user:ann", "tag:web", "tag:eu", "tag:new"),
        ),
        (
            Principal(key_id="k", tags=("eu",)),
            {b"x-windvane-tags": b"eu"},
            ("global", "key:k", "tag:eu"),
        ),
    ],
)
def test_a_request_counts_once_in_each_scope_of_its_caller(
    principal: Principal, headers: dict[bytes, bytes], scopes: tuple[str, ...]
) -> None:
    one = Exchange("id", "openai", ChatRequest("m", [], {}), Credentials(), 0.0, 0, headers)
    attribute(one, principal)
    assert one.scopes == scopes
