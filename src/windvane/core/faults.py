"""What can go wrong, whose fault it is, and whether trying again helps.

One record, `Fault`, with three closed axes (kind, source, retry). Only `wire`, `providers` and the
transport classify; only surfaces render. The exception tree at the bottom carries a `Fault` to
Python callers; its names follow the OpenAI SDK's, so that users guess right:

    WindvaneError
    ├── BadRequestError            invalid_request, context_too_long, content_filtered
    ├── AuthenticationError        unauthenticated
    ├── PermissionDeniedError      forbidden
    ├── NotFoundError              not_found
    ├── RequestTooLargeError       too_large
    ├── RateLimitError             rate_limited
    │   └── BudgetExceededError    budget_exceeded
    ├── NoRouteError               no_route
    ├── APITimeoutError            timeout
    ├── APIConnectionError         connect_failed, stream_broken
    └── InternalServerError        overloaded, upstream_error, shutting_down, internal
"""

from enum import StrEnum

import msgspec

from windvane.core.usage import Usage


class FaultKind(StrEnum):
    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTERED = "content_filtered"
    RATE_LIMITED = "rate_limited"
    BUDGET_EXCEEDED = "budget_exceeded"
    PAYMENT_REQUIRED = "payment_required"
    OVERLOADED = "overloaded"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CONNECT_FAILED = "connect_failed"
    STREAM_BROKEN = "stream_broken"
    LOW_QUALITY = "low_quality"
    NO_ROUTE = "no_route"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


class Source(StrEnum):
    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Retry(StrEnum):
    NEVER = "never"
    SAME = "same"
    """The same deployment may succeed after a wait."""
    OTHER = "other"
    """Only another deployment can succeed."""


class LimitReached(msgspec.Struct, frozen=True, kw_only=True):
    """Which limit refused, and when it will not. Amounts are nano-dollars for a budget, else counts.

    `period` is `daily`, `monthly` or `total` for a budget, and `minute` or `now` (concurrency) for a
    rate. `renews_at_us` is UTC; None when it never does, or cannot be foretold.
    """

    scope: str
    what: str
    period: str
    limit: int
    used: int
    left: int
    needed: int | None = None
    renews_at_us: int | None = None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A classified failure.

    `status` is the HTTP status the caller sees. `billed` is whether the provider may have charged
    for the attempt all the same, if it was sent: False only when that is certain. `usage` is what it
    says it will charge for, when it says so of an answer that failed.
    """

    kind: FaultKind
    source: Source
    message: str
    status: int
    retry: Retry = Retry.NEVER
    code: str | None = None
    param: str | None = None
    detail: tuple[str, ...] = ()
    retry_after_s: float | None = None
    upstream_status: int | None = None
    billed: bool = False
    limit: LimitReached | None = None
    usage: Usage | None = None

    def at(self, place: str) -> "Fault":
        """The same fault with the place it arose in front of its message."""
        return msgspec.structs.replace(self, message=f"{place}: {self.message}")

    def without(self, secrets: tuple[str, ...]) -> "Fault":
        """The same fault with no secret in what it says: a provider may quote what it was shown."""
        return msgspec.structs.replace(
            self,
            message=_hidden(self.message, secrets),
            code=None if self.code is None else _hidden(self.code, secrets),
            param=None if self.param is None else _hidden(self.param, secrets),
            detail=tuple([_hidden(text, secrets) for text in self.detail]),
        )


SECRET_CHARS_MIN = 8
"""What is shorter is nobody's secret, and may be a part of many a word."""


def _hidden(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if len(secret) < SECRET_CHARS_MIN:
            continue
        text = text.replace(secret, "***")
        # A long text is cut, and may be in the midst of it.
        for size in range(len(secret) - 1, SECRET_CHARS_MIN - 1, -1):
            if text.endswith(secret[:size]):
                text = text[:-size] + "***"
                break
    return text


def refuse(
    kind: FaultKind,
    message: str,
    *,
    status: int = 400,
    code: str | None = None,
    param: str | None = None,
) -> "WindvaneError":
    """Make the exception for a request that is the caller's to mend; nothing was sent."""
    fault = Fault(
        kind=kind, source=Source.CLIENT, message=message, status=status, code=code, param=param
    )
    return error_of(fault)


class WindvaneError(Exception):
    """A request that did not get its answer. `fault` says what, whose, and what helps."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class BadRequestError(WindvaneError): ...


class AuthenticationError(WindvaneError): ...


class PermissionDeniedError(WindvaneError): ...


class NotFoundError(WindvaneError): ...


class RequestTooLargeError(WindvaneError): ...


class RateLimitError(WindvaneError): ...


class BudgetExceededError(RateLimitError): ...


class NoRouteError(WindvaneError): ...


class APITimeoutError(WindvaneError): ...


class APIConnectionError(WindvaneError): ...


class InternalServerError(WindvaneError): ...


_ERRORS: dict[FaultKind, type[WindvaneError]] = {
    FaultKind.INVALID_REQUEST: BadRequestError,
    FaultKind.CONTEXT_TOO_LONG: BadRequestError,
    FaultKind.CONTENT_FILTERED: BadRequestError,
    FaultKind.UNAUTHENTICATED: AuthenticationError,
    FaultKind.FORBIDDEN: PermissionDeniedError,
    FaultKind.PAYMENT_REQUIRED: PermissionDeniedError,
    FaultKind.NOT_FOUND: NotFoundError,
    FaultKind.TOO_LARGE: RequestTooLargeError,
    FaultKind.RATE_LIMITED: RateLimitError,
    FaultKind.BUDGET_EXCEEDED: BudgetExceededError,
    FaultKind.NO_ROUTE: NoRouteError,
    FaultKind.TIMEOUT: APITimeoutError,
    FaultKind.CONNECT_FAILED: APIConnectionError,
    FaultKind.STREAM_BROKEN: APIConnectionError,
    FaultKind.OVERLOADED: InternalServerError,
    FaultKind.UPSTREAM_ERROR: InternalServerError,
    FaultKind.LOW_QUALITY: InternalServerError,
    FaultKind.SHUTTING_DOWN: InternalServerError,
    FaultKind.INTERNAL: InternalServerError,
}


def error_of(fault: Fault) -> WindvaneError:
    """The exception of `fault`'s kind, carrying it."""
    return _ERRORS[fault.kind](fault)
