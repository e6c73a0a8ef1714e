"""What every endpoint of the data plane is given, and what it leaves for the error path to see."""

from windvane.core.exchange import Exchange
from windvane.core.principal import Principal
from windvane.engine.engine import Engine
from windvane.gateway.data_plane.caller import Caller
from windvane.ports.clock import Clock
from windvane.wire.dialect import Dialect


class Door:
    """One request's way in: who calls, the engine, and how far the request has come.

    Once set, `dialect` is the one that errors are told in, and `exchange` the one they belong to.
    """

    __slots__ = ("caller", "clock", "dialect", "engine", "exchange", "incoming", "principal")

    def __init__(self, engine: Engine, clock: Clock, caller: Caller) -> None:
        self.engine = engine
        self.clock = clock
        self.caller = caller
        self.incoming = caller.incoming
        self.dialect: Dialect | None = None
        self.exchange: Exchange | None = None
        self.principal: Principal | None = None
