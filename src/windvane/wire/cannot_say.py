"""The refusal of a request that one provider cannot be told, though it is right."""

from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of


def cannot_say(param: str, problem: str) -> WindvaneError:
    """Make the exception that names the field. Another provider may know how to say it, so a route
    goes on to its next model; nothing was sent."""
    return error_of(
        Fault(
            kind=FaultKind.INVALID_REQUEST,
            source=Source.CLIENT,
            retry=Retry.OTHER,
            message=f"{param}: {problem}",
            status=400,
            param=param,
        )
    )
