"""What every endpoint of the data plane is given, and what it leaves for the error path to see."""

import msgspec

from windvane.core.exchange import Exchange
from windvane.core.principal import Principal
from windvane.engine.engine import Engine
from windvane.gateway.data_plane.caller import Caller
from windvane.gateway.data_plane.incoming import Incoming
from windvane.ports.clock import Clock
from windvane.wire.dialect import Dialect


class Door(msgspec.Struct, eq=False):
    """One request's way in: who calls, the engine, and how far the request has come.

    Once set, `dialect` is the one that errors are told in, and `exchange` the one they belong to.
    """

    engine: Engine
    clock: Clock
    caller: Caller
    incoming: Incoming
    principal: Principal | None = None
    dialect: Dialect | None = None
    exchange: Exchange | None = None
    _request_id: str = ""

    @property
    def request_id(self) -> str:
        """The id the caller is told: the same whenever it is asked for."""
        if self.exchange is not None:
            return self.exchange.public_id
        if not self._request_id:
            self._request_id = self.incoming.request_id or self.engine.new_request_id()
        return self._request_id
