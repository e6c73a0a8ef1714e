"""The control endpoints under `/_sim/`, for tests and tools in another process.

They need no key, and what they do is neither billed nor put on the tape.
"""

from collections.abc import Callable

import msgspec

from windvane.simulator.fault import FaultRule
from windvane.simulator.http_message import Received
from windvane.simulator.json_types import Json
from windvane.simulator.reply import Reply
from windvane.simulator.service import Service

PREFIX = "/_sim/"

ReadGauges = Callable[[], dict[str, int]]
"""Asks the server how many connections and streams are open."""


class _Rules(msgspec.Struct, forbid_unknown_fields=True):
    rules: tuple[FaultRule, ...]


class Control:
    """Answers the control endpoints."""

    def __init__(self, service: Service, gauges: ReadGauges) -> None:
        self._service = service
        self._gauges = gauges
        self._routes: dict[tuple[str, str], Callable[[bytes], Json]] = {
            ("GET", "bill"): lambda _body: self._bill(),
            ("GET", "requests"): lambda _body: self._requests(),
            ("GET", "stats"): lambda _body: self._stats(),
            ("GET", "violations"): lambda _body: {"violations": service.violations},
            ("POST", "faults"): self._faults,
            ("POST", "reset"): lambda _body: self._reset(),
        }

    def respond(self, received: Received) -> Reply:
        """Return the reply to a control request."""
        name = received.path.removeprefix(PREFIX).rstrip("/")
        route = self._routes.get((received.method, name))
        if route is None:
            known = ", ".join(f"{method} {PREFIX}{path}" for method, path in self._routes)
            return _reply(404, {"error": f"no such control endpoint; known: {known}"})
        try:
            return _reply(200, route(received.body))
        except (msgspec.MsgspecError, ValueError) as error:
            return _reply(400, {"error": str(error)})

    def _bill(self) -> Json:
        bill = self._service.bill
        return {
            "total_nano_usd": bill.total_nano_usd,
            "rows": bill.rows,
            "rows_dropped": bill.rows_dropped,
        }

    def _requests(self) -> Json:
        return {"requests": [entry.as_json() for entry in self._service.tape.entries]}

    def _stats(self) -> Json:
        by_status = {str(status): n for status, n in sorted(self._service.by_status.items())}
        return {**self._gauges(), "requests_by_status": by_status}

    def _faults(self, body: bytes) -> Json:
        """Replace the rules: a list of them, or an object with the key `rules`."""
        rules = msgspec.json.decode(body, type=tuple[FaultRule, ...] | _Rules)
        self._service.schedule.replace(rules.rules if isinstance(rules, _Rules) else rules)
        return {"rules": self._service.schedule.rules}

    def _reset(self) -> Json:
        self._service.reset()
        return {"reset": True}


def _reply(status: int, body: Json) -> Reply:
    return Reply(status=status, frames=[(msgspec.json.encode(body), 0)])
