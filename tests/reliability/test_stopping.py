"""A gateway that is told to stop: as unready for a while, then closed to what is new, and at the end of the
grace whoever is still served is told so, in its stream or with a status (L1).

The simulator runs in this process and the gateway in another. Nothing here is about how long it takes.
"""

import asyncio
import json
import signal

import pytest

NEVER_S = 3_600.0
DIALECTS = {"openai": "OpenAI/Python 2.0", "mistral": "mistral-client-python/1.0"}


async def _until(condition, what, timeout_s=60.0):
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


class Crowd:
    """Callers under way, of one dialect, by what they are in the midst of."""

    def __init__(self, simulator, gateway, call, chat, dialect):
        self._simulator, self._gateway, self._call, self._chat = simulator, gateway, call, chat
        self._headers = (("user-agent", DIALECTS[dialect]),)
        self.calling = {}

    def send(self, name, words, *, stream, began=None, **more):
        body = self._chat(f"{name}. {words}", stream=stream, **more)
        headers = (*self._headers, ("x-request-id", name))
        calling = self._call(self._gateway.port, body, headers=headers, began=began)
        self.calling[name] = asyncio.ensure_future(calling)

    async def _is_sent(self, name):
        return any(f"{name}. ".encode() in entry.body for entry in self._simulator.tape)

    async def gather(self):
        """All there are, and each where it should be."""
        began = asyncio.Event()
        self.send("stream-begun", "!slow 20 !loop 100000", stream=True, began=began)
        self.send("stream-not-begun", "!late 3600000", stream=True)
        self.send("whole", "!late 3600000", stream=False)
        async with asyncio.timeout(60):
            await began.wait()
        await _until(lambda: self._is_sent("stream-not-begun"), "it is sent")
        await _until(lambda: self._is_sent("whole"), "it is sent")
        self.send("takes-the-turn", "!late 3600000", stream=False, model="gpt-4o-mini")
        await _until(lambda: self._is_sent("takes-the-turn"), "it is sent")
        self.send("waiting", "hello", stream=False, model="gpt-4o-mini")
        self.send("waiting-to-stream", "hello", stream=True, model="gpt-4o-mini")
        await _until(self._two_wait, "two wait for room")

    async def _two_wait(self):
        said = await self._call(self._gateway.port, None, path="/metrics")
        lines = said.body.decode().splitlines()
        waiting = [line for line in lines if line.startswith("windvane_waiting_requests{")]
        return sum(float(line.rpartition(" ")[2]) for line in waiting) == 2

    async def heard(self):
        return {name: await calling for name, calling in self.calling.items()}


def _check_told(heard):
    begun = heard.pop("stream-begun")
    assert begun.status == 200 and begun.is_whole, "its framing has no end"
    assert b"[DONE]" not in begun.body
    event = begun.body.strip().rpartition(b"\n\n")[2]
    said = json.loads(event.removeprefix(b"data: "))
    assert said["error"]["code"] == said["code"] == "shutting_down"
    assert said["request_id"] == "stream-begun"
    for name, answer in heard.items():
        assert (answer.status, answer.is_whole) == (503, True), name
        error = json.loads(answer.body)
        assert error["error"]["code"] == "shutting_down", name
        assert error["request_id"] == name
        assert int(answer.headers["retry-after"]) >= 1, name
        assert answer.headers["connection"] == "close", name
        assert "x-should-retry" not in answer.headers, name


def _check_books(ledger, simulator, audit):
    by_name = {row["client_request_id"]: row for row in ledger}
    assert len(by_name) == len(ledger) == 6
    assert {row["outcome"] for row in ledger} == {"shutting_down"}
    for name in ("waiting", "waiting-to-stream"):
        assert by_name[name]["cost_nano_usd"] == 0, name
    for name in ("stream-begun", "stream-not-begun", "whole", "takes-the-turn"):
        row = by_name[name]
        assert row["certainty"] in ("estimated", "assumed"), row
        assert 0 < row["cost_nano_usd"] <= row["hold_nano_usd"], row
    bill = simulator.bill.by_attempt()
    billed = [{"attempt": attempt, "nano_usd": row.nano_usd} for attempt, row in bill.items()]
    assert not audit(ledger, billed, {})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["the grace is over", "a second SIGINT"])
async def test_whoever_is_served_at_the_end_is_told_so(
    world, simulate, children, call, chat, audit, dialect, how
):
    simulator = await simulate(abort_billing="stop", ttft_ms=5)
    base = f"http://127.0.0.1:{simulator.port}"
    is_forced = how == "a second SIGINT"
    config = {
        "limits": {"grace_s": NEVER_S if is_forced else 0.2},
        "waiting": {"max_wait_s": 600},  # so that two wait for a turn that comes once a minute
        "providers": {
            "mistral": {"api_base": f"{base}/v1"},
            "openai": {
                "api_base": f"{base}/openai/v1",
                "api_key": "simulated",
                "limits": {"requests_per_minute": 1},
            },
        },
    }
    async with world(simulator=simulator, config=config) as place:
        gateway = await place.gateway()
        children.push_async_callback(gateway.end)
        crowd = Crowd(simulator, gateway, call, chat, dialect)
        await crowd.gather()
        gateway.tell(signal.SIGINT)
        if is_forced:
            await _until(lambda: _is_closed(gateway.port), "it takes no more")
            gateway.tell(signal.SIGINT)
        heard = await crowd.heard()
        await gateway.ended()
        _check_told(heard)
        _check_books(place.ledger(), simulator, audit)


async def _is_closed(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.transport.abort()
    return False


async def test_it_says_that_it_is_unready_while_it_takes_requests_yet(
    world, simulate, children, call, chat
):
    simulator = await simulate(ttft_ms=5)
    async with world(simulator=simulator, config={"limits": {"unready_s": NEVER_S}}) as place:
        gateway = await place.gateway()
        children.push_async_callback(gateway.end)
        assert (await call(gateway.port, None, path="/readyz")).status == 200
        gateway.tell(signal.SIGTERM)

        async def is_unready():
            return (await call(gateway.port, None, path="/readyz")).status == 503

        await _until(is_unready, "/readyz says so")
        said = await call(gateway.port, None, path="/readyz")
        assert json.loads(said.body) == {"status": "draining"}
        assert (await call(gateway.port, None, path="/livez")).status == 200
        assert (await call(gateway.port, chat("hello"))).is_acknowledged
        gateway.tell(signal.SIGINT)  # whoever sits before it need not wait
        await gateway.ended()
