"""The server itself: many connections, pipelining, odd bytes, control endpoints."""

import asyncio
import json
import re

import uvloop

from windvane.simulator import Simulator, SimulatorConfig

STREAMS = 1000


def request_bytes(body, path="/v1/chat/completions", extra=""):
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret-key-of-mine\r\n"
        f"content-length: {len(data)}\r\n{extra}\r\n"
    )
    return head.encode() + data


async def hold_streams(simulator, body):
    """Open many streams at once; return the most that were open, and all bytes received."""

    connections = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", simulator.port) for _ in range(STREAMS))
    )

    async def one(reader, writer):
        writer.write(request_bytes(body, extra="connection: close\r\n"))
        data = await reader.read(-1)
        writer.close()
        return data

    tasks = [asyncio.create_task(one(*each)) for each in connections]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, simulator._gauges()["open_streams"])
        await asyncio.sleep(0.05)
    return most, [task.result() for task in tasks]


async def test_a_thousand_slow_streams_at_once(chat):
    simulator = Simulator(SimulatorConfig(ttft_ms=2000, tokens_per_s=20))
    await simulator.start()
    body = chat("Explain wind", stream=True, max_tokens=20)
    most, answers = await hold_streams(simulator, body)
    assert most == STREAMS
    assert all(b"[DONE]" in answer for answer in answers)
    assert len(simulator.bill.rows) == STREAMS
    assert len({row.nano_usd for row in simulator.bill.rows}) == 1
    await simulator.stop()


def test_it_runs_on_uvloop_too(chat):
    async def run():
        simulator = Simulator(SimulatorConfig(tokens_per_s=500))
        await simulator.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        body = chat("Explain wind", stream=True)
        writer.write(request_bytes(body, extra="connection: close\r\n"))
        data = await reader.read(-1)
        writer.close()
        await simulator.stop()
        return data

    assert b"[DONE]" in uvloop.run(run())


async def test_pipelined_requests_are_answered_in_order(start, chat):
    simulator = await start(tokens_per_s=500)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    last = request_bytes(chat("c"), extra="connection: close\r\n")
    writer.write(request_bytes(chat("a")) + request_bytes({"model": "none"}) + last)
    data = await reader.read(-1)
    writer.close()
    statuses = re.findall(rb"HTTP/1.1 (\d+)", data)
    assert statuses == [b"200", b"422", b"200"]


async def test_a_request_may_come_byte_by_byte_and_chunked(start, chat):
    simulator = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    data = json.dumps(chat("hello")).encode()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\nconnection: close\r\n"
    for byte in head + b"transfer-encoding: chunked\r\n\r\n" + body:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert b" 200 OK" in await reader.read(-1)
    writer.close()


async def test_what_is_not_http_is_refused_and_recorded(start):
    simulator = await start()
    smuggled = (
        b"POST /v1/models HTTP/1.1\r\ncontent-length: 3\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    for raw in (b"\x16\x03\x01garbage\r\n\r\n", smuggled):
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(raw)
        assert b" 400 " in await reader.read(-1)
        writer.close()
    assert [v.kind for v in simulator.violations] == ["invalid_http"] * 2


async def test_a_key_sent_twice_is_recorded(start, ask, chat):
    simulator = await start()
    said = await ask(simulator, chat("x"), headers=(("authorization", "Bearer other"),))
    assert said.status == 400
    assert simulator.violations[0].kind == "duplicate_header"


async def test_oddly_shaped_bodies_get_an_answer(start, ask):
    simulator = await start(strict=False)
    odd = [
        {"model": "mistral-small-latest", "messages": [1]},
        {"model": "mistral-small-latest", "messages": []},
        {
            "model": "mistral-small-latest",
            "messages": [{"role": "user", "content": 5}],
            "tools": [1],
        },
        {"model": "mistral-small-latest", "messages": [{}], "stop": [1], "n": "x"},
        [],
    ]
    for body in odd:
        assert 200 <= (await ask(simulator, body)).status < 500
    assert (await ask(simulator, odd[2], path="/openai/v1/chat/completions")).status in {400, 404}


async def test_control_endpoints(start, ask, chat):
    simulator = await start()
    secret = "very-secret-key-0123456789"
    await ask(simulator, chat("hello"), key=secret)

    async def control(name, method="GET", body=None):
        return await ask(simulator, body, path=f"/_sim/{name}", method=method, key=None)

    bill = (await control("bill")).json
    assert bill["total_nano_usd"] == simulator.bill.total_nano_usd
    assert bill["rows"][0]["status"] == 200
    tape = await control("requests")
    assert secret.encode() not in tape.raw
    entry = tape.json["requests"][0]
    assert entry["path"] == "/v1/chat/completions"
    assert entry["body"]["messages"][0]["content"] == "hello"
    assert entry["disconnected_at"] is None
    stats = (await control("stats")).json
    assert stats["requests_by_status"] == {"200": 1}
    assert stats["open_connections"] == 1
    rules = [{"kind": "error", "status": 418}]
    assert (await control("faults", "POST", rules)).status == 200
    assert (await ask(simulator, chat("x"))).status == 418
    assert (await control("faults", "POST", [{"kind": "nonsense"}])).status == 400
    assert (await control("faults", "POST", {"rules": [{"kind": "empty"}]})).status == 200
    assert (await ask(simulator, chat("x"))).text == ""
    assert (await control("reset", "POST")).status == 200
    assert (await control("bill")).json["rows"] == []
    assert (await control("nothing")).status == 404
