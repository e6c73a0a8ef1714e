"""Windvane: a gateway and library between applications and language models.

    from windvane import MistralClient

    async with MistralClient() as client:
        answer = await client.chat([{"role": "user", "content": "Hello"}])
        print(answer["content"], answer["cost"])

Importing this package loads nothing but these names; each is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from windvane._version import __version__

if TYPE_CHECKING:
    from windvane.client.mistral import ChatResult, MistralClient
    from windvane.core.faults import (
        APIConnectionError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BudgetExceededError,
        InternalServerError,
        NoRouteError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        RequestTooLargeError,
        WindvaneError,
    )

_FAULTS = "windvane.core.faults"
_HOME = {
    "ChatResult": "windvane.client.mistral",
    "MistralClient": "windvane.client.mistral",
    "APIConnectionError": _FAULTS,
    "APITimeoutError": _FAULTS,
    "AuthenticationError": _FAULTS,
    "BadRequestError": _FAULTS,
    "BudgetExceededError": _FAULTS,
    "InternalServerError": _FAULTS,
    "NoRouteError": _FAULTS,
    "NotFoundError": _FAULTS,
    "PermissionDeniedError": _FAULTS,
    "RateLimitError": _FAULTS,
    "RequestTooLargeError": _FAULTS,
    "WindvaneError": _FAULTS,
}

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ChatResult",
    "InternalServerError",
    "MistralClient",
    "NoRouteError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestTooLargeError",
    "WindvaneError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
