"""A request the provider will not serve, in terms both dialects can put into words."""

from windvane.simulator.json_types import JsonObject


class Refusal(Exception):
    """An error answer: raised where the reason is found, rendered by the caller's dialect."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | int | None = None,
        param: str | None = None,
        detail: list[JsonObject] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.code = code
        self.param = param
        self.detail = detail
        self.headers = headers or {}


def unauthorized() -> Refusal:
    """Return the refusal of a missing or unknown key."""
    return Refusal(401, "Unauthorized", code="invalid_api_key")


def no_such_path(method: str, path: str) -> Refusal:
    """Return the refusal of an unknown route."""
    return Refusal(404, f"Invalid URL ({method} {path})", code="unknown_url")
