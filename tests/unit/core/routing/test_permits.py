"""What a key may use."""

import pytest

from windvane.core.faults import PermissionDeniedError
from windvane.core.principal import Principal
from windvane.core.routing.decision import Decision
from windvane.core.routing.permits import permitted

NOWHERE = Decision(route="auto", rule=None, reason="", candidates=(), ruled_out=())
"""A preset may lead only to models of providers that are not configured; it is listed all the same."""


def test_a_key_without_bounds_may_use_a_route_that_leads_nowhere() -> None:
    assert permitted(NOWHERE, "auto", Principal(key_id="any")) is NOWHERE


@pytest.mark.parametrize(
    "bounds", [{"models": ("small",)}, {"routes": ("other",)}, {"provider": "one"}]
)
def test_a_key_with_bounds_may_not(bounds: dict[str, str | tuple[str, ...]]) -> None:
    with pytest.raises(PermissionDeniedError, match="this key may not use"):
        permitted(NOWHERE, "auto", Principal(key_id="bound", **bounds))  # type: ignore[arg-type]
