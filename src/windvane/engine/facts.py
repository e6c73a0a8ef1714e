"""What routing rules may ask about an exchange besides its analysis."""

from windvane.core.exchange import Exchange

_HEADER = "header."
_US_PER_HOUR = 3_600_000_000
_HOURS_PER_DAY = 24
_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


class Facts:
    """Implements `core.routing.table.Facts`. Each is worked out only when a rule asks."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get(self, name: str) -> object:
        exchange = self._exchange
        principal = exchange.principal
        if name.startswith(_HEADER):
            value = exchange.headers.get(name.removeprefix(_HEADER).lower().encode())
            return None if value is None else value.decode("latin-1")
        hours = exchange.received_at_us // _US_PER_HOUR
        match name:
            case "key":
                return principal.key_id if principal else None
            case "team":
                return principal.team if principal else None
            case "tag":
                return principal.tags if principal else ()
            case "requested_model":
                return exchange.request.model
            case "hour":
                return hours % _HOURS_PER_DAY
            case "weekday":
                return (hours // _HOURS_PER_DAY + _EPOCH_WEEKDAY) % 7
        return None
