"""The simulator as a whole: a listening socket, the service behind it, and its books."""

import asyncio

from windvane.listener import Listener, listen
from windvane.simulator.bill import Bill
from windvane.simulator.config import SimulatorConfig
from windvane.simulator.connection import Connection
from windvane.simulator.control import PREFIX, Control
from windvane.simulator.fault import FaultRule
from windvane.simulator.http_message import Received
from windvane.simulator.reply import Reply
from windvane.simulator.service import Service
from windvane.simulator.tape import TapeEntry, Violation


class Simulator:
    """Acts as Mistral under `/v1`, as OpenAI under `/openai/v1` and as Anthropic under `/anthropic/v1`,
    on one port.

    Example:
        simulator = Simulator(SimulatorConfig(seed=7))
        await simulator.start()
        ...  # talk to simulator.url
        await simulator.stop()
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self._service = Service(self.config)
        self._control = Control(self._service, self._gauges)
        self._connections: set[Connection] = set()
        self._listener: Listener | None = None
        self._host = "127.0.0.1"
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        listening = listen(host, port)
        self._host = host
        self.port = listening.getsockname()[1]
        self._listener = Listener(
            listening, lambda: Connection(loop, self._service, self._respond, self._connections)
        )

    async def stop(self) -> None:
        """Stop listening, drop all connections, and settle what was under way as aborted."""
        if self._listener is None:
            return
        self._listener.close()
        await self._listener.wait_closed()
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            await asyncio.sleep(0)
        self._listener = None

    @property
    def url(self) -> str:
        """Return the address without a path, for SDKs that add `/v1` themselves."""
        return f"http://{self._host}:{self.port}"

    @property
    def bill(self) -> Bill:
        """Return the bill meter."""
        return self._service.bill

    @property
    def violations(self) -> list[Violation]:
        """Return the requests no well-behaved client sends."""
        return self._service.violations

    @property
    def tape(self) -> list[TapeEntry]:
        """Return the last requests received, oldest first."""
        return list(self._service.tape.entries)

    def set_faults(self, *rules: FaultRule) -> None:
        """Replace the fault rules and start counting anew."""
        self._service.schedule.replace(rules)

    def reset(self) -> None:
        """Forget bill, tape, limits and caches; the faults are again those configured."""
        self._service.reset()

    def _respond(self, received: Received) -> tuple[Reply, TapeEntry | None]:
        if received.target.startswith(PREFIX):
            return self._control.respond(received), None
        return self._service.respond(received, asyncio.get_running_loop().time())

    def _gauges(self) -> dict[str, int]:
        streams = sum(connection.is_streaming for connection in self._connections)
        return {"open_connections": len(self._connections), "open_streams": streams}
