"""What becomes of connections that nobody takes any more: on virtual time, over wires of our own.

A wire takes requests, and answers each of them whole after a while.
"""

import asyncio

from windvane.ports.transport import UpstreamRequest
from windvane.testing import run_virtual
from windvane.transport.http1 import IDLE_S, LATENESS_MAX_S, Http1Transport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Wire(asyncio.Transport):
    """One connection, as the loop would make it."""

    def __init__(self, loop, connection, answers_after_s):
        super().__init__()
        self._loop = loop
        self._connection = connection
        self._answers_after_s = answers_after_s
        self.is_open = True

    def write(self, data):
        self._loop.call_later(self._answers_after_s, self._answer)

    def _answer(self):
        if self.is_open:
            self._connection.data_received(OK)

    def abort(self):
        if self.is_open:
            self.is_open = False
            self._loop.call_soon(self._connection.connection_lost, None)

    def is_closing(self):
        return not self.is_open

    def get_write_buffer_size(self):
        return 0


class Network:
    """The loop's, from now on. Every answer on it takes `answers_after_s`."""

    def __init__(self, answers_after_s=0.1):
        self._loop = asyncio.get_running_loop()
        self._answers_after_s = answers_after_s
        self.wires = []
        self._loop.create_connection = self._connect

    async def _connect(self, factory, host, port, *, ssl):
        connection = factory()
        wire = Wire(self._loop, connection, self._answers_after_s)
        self.wires.append(wire)
        connection.connection_made(wire)
        return wire, connection

    @property
    def open(self):
        return sum(wire.is_open for wire in self.wires)

    def timers(self):
        """Those that will still do something."""
        return [each for each in self._loop._scheduled if not each.cancelled()]


async def ask(transport, host="one.test"):
    request = UpstreamRequest(f"https://{host}/v1", (), "r", b"{}", 5.0)
    response = await transport.open(request)
    assert await response.read() == b"ok"
    response.close()


def test_a_crowd_s_connections_close_by_themselves_and_leave_no_timer():
    """Nobody asks again: nothing but time passes."""

    async def story():
        network, transport = Network(), Http1Transport()
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(ask(transport, f"{number % 3}.test"))
        assert network.open == 400 and len(network.timers()) == 1
        await asyncio.sleep(IDLE_S - LATENESS_MAX_S)
        assert network.open == 400
        await asyncio.sleep(2 * LATENESS_MAX_S)
        assert network.open == 0 and not network.timers()
        await ask(transport)
        assert network.open == 1
        await transport.aclose()
        assert network.open == 0 and not network.timers()

    run_virtual(story())


def test_a_connection_rests_from_the_end_of_its_last_answer():
    async def story():
        network, transport = Network(answers_after_s=5 * IDLE_S), Http1Transport()
        long = asyncio.create_task(ask(transport))
        await long
        for _ in range(3):
            await asyncio.sleep(IDLE_S - LATENESS_MAX_S)
            await ask(transport)
        assert len(network.wires) == 1, "it was at hand each time"
        await asyncio.sleep(IDLE_S - LATENESS_MAX_S)
        assert network.open == 1
        await asyncio.sleep(2 * LATENESS_MAX_S)
        assert network.open == 0 and not network.timers()

    run_virtual(story())


def test_those_in_use_stay_while_the_others_go():
    """Also where the freshest alone are taken, over and over: what stands behind them grows old."""

    async def story():
        network, transport = Network(answers_after_s=1.0), Http1Transport()
        await asyncio.gather(*[ask(transport) for _ in range(10)])
        for _ in range(round(IDLE_S) + 2):
            await ask(transport)
        assert (network.open, len(network.wires)) == (1, 10)
        await transport.aclose()

    run_virtual(story())


def test_what_a_server_has_closed_needs_no_timer():
    async def story():
        network, transport = Network(), Http1Transport()
        await ask(transport)
        network.wires[0].abort()
        await asyncio.sleep(0)
        assert not network.timers()
        await ask(transport)
        assert len(network.wires) == 2
        await transport.aclose()

    run_virtual(story())


def test_on_a_second_loop_it_is_the_same():
    """A client used from two `asyncio.run` has one transport: the first loop's timer never fires."""
    transport = Http1Transport()

    async def story():
        network = Network()
        await asyncio.gather(ask(transport), ask(transport))
        assert network.open == 2
        await asyncio.sleep(IDLE_S + LATENESS_MAX_S)
        assert network.open == 0 and not network.timers()
        await asyncio.gather(ask(transport), ask(transport))

    run_virtual(story())
    run_virtual(story())
    assert [len(kept) for kept in transport._idle.values()] == [2]
