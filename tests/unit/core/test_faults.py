"""Every kind of fault has its exception, and the exception carries the fault."""

import pytest

from windvane.core import faults
from windvane.core.faults import Fault, FaultKind, Retry, Source, error_of, refuse

TREE = {
    "invalid_request": faults.BadRequestError,
    "context_too_long": faults.BadRequestError,
    "content_filtered": faults.BadRequestError,
    "unauthenticated": faults.AuthenticationError,
    "forbidden": faults.PermissionDeniedError,
    "payment_required": faults.PermissionDeniedError,
    "not_found": faults.NotFoundError,
    "too_large": faults.RequestTooLargeError,
    "rate_limited": faults.RateLimitError,
    "budget_exceeded": faults.BudgetExceededError,
    "no_route": faults.NoRouteError,
    "timeout": faults.APITimeoutError,
    "connect_failed": faults.APIConnectionError,
    "stream_broken": faults.APIConnectionError,
    "overloaded": faults.InternalServerError,
    "upstream_error": faults.InternalServerError,
    "low_quality": faults.InternalServerError,
    "shutting_down": faults.InternalServerError,
    "internal": faults.InternalServerError,
}


@pytest.mark.parametrize("kind", list(FaultKind))
def test_each_kind_is_raised_as_its_own_exception(kind: FaultKind) -> None:
    fault = Fault(kind=kind, source=Source.GATEWAY, message="m", status=500)
    error = error_of(fault)
    assert type(error) is TREE[kind.value]
    assert isinstance(error, faults.WindvaneError)
    assert error.fault is fault
    assert str(error) == "m"


def test_a_spent_budget_is_caught_as_a_rate_limit() -> None:
    assert issubclass(faults.BudgetExceededError, faults.RateLimitError)


def test_a_refusal_is_the_callers_never_retried_and_never_billed() -> None:
    fault = refuse(FaultKind.NOT_FOUND, "no", status=404, code="c", param="model").fault
    assert (fault.source, fault.retry, fault.billed) == (Source.CLIENT, Retry.NEVER, False)
    assert (fault.status, fault.code, fault.param) == (404, "c", "model")


def test_a_fault_gains_its_place_on_the_way_up() -> None:
    fault = refuse(FaultKind.INTERNAL, "it broke").fault
    placed = fault.at("mistral/eu").at("attempt 2")
    assert placed.message == "attempt 2: mistral/eu: it broke"
    assert fault.message == "it broke"
