"""What every endpoint of the data plane is given, and what it leaves for the error path to see."""

from windvane.core.exchange import Exchange
from windvane.core.principal import Principal
from windvane.engine.engine import Engine
from windvane.ports.clock import Clock
from windvane.wire.dialect import Dialect


class Door:
    """One request's way in: the engine, and how far the request has come."""

    __slots__ = ("clock", "dialect", "engine", "exchange", "principal")

    def __init__(self, engine: Engine, clock: Clock, dialect: Dialect) -> None:
        self.engine = engine
        self.clock = clock
        self.dialect = dialect
        self.exchange: Exchange | None = None
        self.principal: Principal | None = None

    def saw_dialect(self, dialect: Dialect) -> None:
        """From now, errors are told in `dialect`."""
        self.dialect = dialect

    def saw_exchange(self, exchange: Exchange) -> None:
        """From now, errors are this exchange's."""
        self.exchange = exchange
