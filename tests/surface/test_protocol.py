"""Below HTTP: slow, huge, broken and vanishing clients. The server answers or closes, and forgets."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.surface.served import Served, chat, raw_request, read_all, serving

from windvane.config.schema import LimitsConfig

HEAD_TIMEOUT_S = 0.4
BODY_TIMEOUT_S = 0.4
BODY_BYTES_MAX = 256 * 1024
TRIES = 20
GET = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One that waits as long as a busy machine may take to send a request."""
    with serving(limits=LimitsConfig(body_bytes_max=BODY_BYTES_MAX)) as running:
        yield running


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    """One that waits so short a time that a test can outwait it."""
    limits = LimitsConfig(
        head_timeout_s=HEAD_TIMEOUT_S, body_timeout_s=BODY_TIMEOUT_S, body_bytes_max=BODY_BYTES_MAX
    )
    with serving(limits=limits) as running:
        yield running


@pytest.fixture(autouse=True)
def the_server_stays_healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: it answers, no task is left over, and each exchange has ended."""
    name = "impatient" if "impatient" in request.fixturenames else "served"
    running: Served = request.getfixturevalue(name)
    before = running.task_count()
    yield
    with kept(running, 1 if name == "served" else TRIES):
        pass
    running.until(lambda: running.task_count() <= before, "the end of all tasks")


@contextmanager
def kept(served: Served, tries: int = TRIES) -> Iterator[socket.socket]:
    """A connection that has served a request, on a server whose patience a busy machine may exceed."""
    for _ in range(tries):
        with served.open() as connection:
            connection.sendall(GET + b"\r\n")
            if status(connection.recv(65536)) == 200:
                yield connection
                return
    raise AssertionError(f"not one of {tries} requests was answered")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> dict[str, object]:
    parsed = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert isinstance(parsed, dict)
    return parsed


def check_refusal(answer: bytes, expected: int) -> None:
    """A refusal before there is a request is JSON too, and closes the connection."""
    assert status(answer) == expected, answer[:200]
    assert b"content-type: application/json" in answer.lower()
    assert b"connection: close" in answer.lower()
    assert body_of(answer)["error"]


def test_a_head_that_drips_is_cut_off_in_time(impatient):
    """Did each byte give it time anew, all of this would be sent before an answer came."""
    began = time.monotonic()
    with impatient.open() as connection:
        connection.settimeout(0.05)
        answer = b""
        for sign in GET + b"x: " + b"y" * 400:
            connection.sendall(bytes([sign]))
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                continue
        took_s = time.monotonic() - began
    check_refusal(answer, 408)
    assert took_s >= HEAD_TIMEOUT_S * 0.8


def test_a_second_head_on_a_kept_connection_has_its_own_time(impatient):
    with kept(impatient) as connection:
        time.sleep(HEAD_TIMEOUT_S * 1.5)
        connection.sendall(GET)
        check_refusal(read_all(connection), 408)


def test_a_silent_connection_is_closed(impatient):
    with impatient.open() as connection:
        check_refusal(read_all(connection), 408)


def test_a_body_that_stops_is_408(impatient):
    sent = len(impatient.sim.tape)
    with impatient.open() as connection:
        connection.sendall(raw_request(b"").replace(b"length: 0", b"length: 100") + b'{"mod')
        answer = read_all(connection)
    assert status(answer) == 408
    assert b"connection: close" in answer.lower()
    assert len(impatient.sim.tape) == sent


def test_a_body_of_which_no_byte_comes_is_408(impatient):
    with impatient.open() as connection:
        connection.sendall(raw_request(b"").replace(b"length: 0", b"length: 100"))
        answer = read_all(connection)
    assert status(answer) == 408


def test_bytes_that_begin_no_request_do_not_keep_a_connection(impatient):
    """They end the keep-alive timer; another must take its place."""
    with kept(impatient) as connection:
        connection.sendall(b"\r\n")
        read_all(connection)  # to its end, within the time of a head


def test_a_declined_upgrade_does_not_eat_the_body(served):
    """Java's HttpClient offers h2c with every first request over plain HTTP."""
    body = json.dumps(chat()).encode()
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    request = raw_request(body, *offer)
    head, _, rest = request.partition(b"\r\n\r\n")
    with served.open() as connection:
        connection.sendall(head + b"\r\n\r\n")
        connection.sendall(rest)
        assert status(connection.recv(65536)) == 200
        # What looks like a request inside a body is none.
        smuggled = b"GET /v1/models/auto HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        connection.sendall(raw_request(smuggled, *offer))
        answer = connection.recv(65536)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


HEADS: dict[str, tuple[bytes, int]] = {
    "a huge header": (GET + b"x: " + b"y" * 70_000, 431),
    "a huge line": (b"GET /" + b"a" * 70_000, 431),
    "a huge finished head": (
        GET + b"connection: close\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        431,
    ),
    "101 headers": (GET + b"".join(b"x%d: 1\r\n" % n for n in range(101)) + b"\r\n", 431),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "length twice": (
        raw_request(b"{}").replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 3"),
        400,
    ),
    "length and chunks": (
        raw_request(b"{}", "transfer-encoding: chunked"),
        400,
    ),
    "a negative length": (raw_request(b"").replace(b"length: 0", b"length: -1"), 400),
    "an endless length": (raw_request(b"").replace(b"length: 0", b"length: " + b"9" * 30), 400),
    "a chunk of no size": (
        raw_request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked") + b"zz\r\n",
        400,
    ),
    "a coding but chunks": (
        raw_request(b"").replace(b"content-length: 0", b"transfer-encoding: gzip, chunked"),
        501,
    ),
    "codings in two lines": (
        raw_request(b"", "transfer-encoding: chunked").replace(
            b"content-length: 0", b"transfer-encoding: gzip"
        ),
        501,
    ),
    "a bare NUL": (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\na: b\r\n\x00c\r\n\r\n", 400),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "no host for the data plane": (b"GET /v1/models HTTP/1.1\r\naccept: */*\r\n\r\n", 400),
    "two hosts": (GET + b"Host: elsewhere\r\n\r\n", 400),
    "two hosts of an old request": (
        b"GET /livez HTTP/1.0\r\nhost: 127.0.0.1\r\nhost: 127.0.0.1\r\n\r\n",
        400,
    ),
    "bytes in the path": (b"GET /\xc3\xa9 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_that_is_wrong_is_refused_and_the_connection_closed(served, case):
    sent, expected = HEADS[case]
    before = len(served.sim.tape)
    check_refusal(served.talk(sent), expected)
    assert len(served.sim.tape) == before


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("length twice", "Duplicate Content-Length"),
        ("length and chunks", "Transfer-Encoding can't be present with Content-Length"),
        ("a chunk of no size", "Invalid character in chunk size"),
        ("another protocol", "Invalid method encountered"),
        ("no host", "it has no Host header; one is needed"),
        ("two hosts", "it has 2 Host headers; one is needed"),
    ],
)
def test_a_wrong_head_is_told_what_is_wrong_with_it(served, case, what):
    answer = served.talk(HEADS[case][0])
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert said["message"].startswith(f"this is not an HTTP request ({what})")


def test_a_request_of_http_1_0_needs_no_host(served):
    """It is read; without keys, whoever does not name loopback is not served."""
    answer = served.talk(b"GET /livez HTTP/1.0\r\n\r\n")
    assert (status(answer), b"host_not_allowed" in answer) == (403, True)


@pytest.mark.parametrize(
    "case", ["101 headers", "garbage", "another protocol", "bytes in the path", "no host"]
)
def test_a_wrong_head_behind_a_request_is_not_answered_in_its_place(served, case):
    """The first answer on the wire is that of the first request: a refusal of the second is none of it."""
    body = json.dumps(chat(f"Wind. !hang {case}")).encode()
    before, others = len(served.sim.tape), len(served.seen.others)
    with served.open() as connection:
        connection.sendall(raw_request(body))
        served.until(lambda: len(served.sim.tape) > before, "the first request")
        connection.sendall(HEADS[case][0])
        assert read_all(connection) == b""
    assert len(served.seen.others) == others


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_a_probe_may_ask_for_the_head_alone(served, path):
    head = f"HEAD {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    answer = served.talk(head.encode())
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


def test_a_head_of_the_data_plane_has_no_body(served):
    """It is refused, and the connection serves on."""
    with served.open() as connection:
        connection.sendall(b"HEAD /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        answer = connection.recv(65536)
        assert status(answer) == 405
        assert answer.endswith(b"\r\n\r\n")
        connection.sendall(GET + b"\r\n")
        assert status(connection.recv(65536)) == 200


def test_100_headers_are_allowed(served):
    sent = GET + b"".join(b"x%d: 1\r\n" % n for n in range(98)) + b"connection: close\r\n\r\n"
    assert status(served.talk(sent)) == 200


def test_requests_in_one_packet_are_answered_in_their_order(served):
    paths = [b"/livez", b"/v1/nope", b"/v1/models", b"/health", b"/nope"]
    sent = b"".join(b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % path for path in paths)
    last = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    answer = served.talk(sent + last)
    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200, 200, 404, 200]


def test_chats_in_one_packet_are_all_answered(served):
    body = json.dumps(chat("Twice")).encode()
    answer = served.talk(raw_request(body) + raw_request(body, "connection: close"))
    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_waits_for_100_continue_gets_it(served):
    body = json.dumps(chat()).encode()
    head, _, _ = raw_request(body, "expect: 100-continue", "connection: close").partition(body)
    with served.open() as connection:
        connection.sendall(head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status(read_all(connection)) == 200


def test_http_1_0_is_answered_and_closed(served):
    request = raw_request(json.dumps(chat()).encode()).replace(b"HTTP/1.1", b"HTTP/1.0")
    with served.open() as connection:
        connection.sendall(request)
        answer = read_all(connection)
        assert status(answer) == 200
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]
        assert connection.recv(1) == b""


def test_an_upgrade_to_a_websocket_is_not_taken(served):
    lines = b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: a\r\n"
    with served.open() as connection:
        connection.sendall(GET + lines + b"sec-websocket-version: 13\r\n\r\n")
        assert status(connection.recv(65536)) == 200


def leave(connection: socket.socket, how: str) -> None:
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("part", [b"GE", GET, raw_request(b"").replace(b"h: 0", b"h: 99") + b"{"])
def test_a_client_may_leave_before_its_request_is_whole(served, how, part):
    sent, ended = len(served.sim.tape), len(served.seen.ended)
    connection = served.open()
    connection.sendall(part)
    time.sleep(0.02)
    leave(connection, how)
    assert served.ask(path="/livez").status == 200
    assert (len(served.sim.tape), len(served.seen.ended)) == (sent, ended)


LEAVES = {
    "while the provider is silent": ("Wind. !hang", False, 0),
    "before the first token": ("Wind. !late 5000", True, 0),
    "mid-stream": ("Write 400 words about wind. !slow 20", True, 3),
    "in a silence mid-stream": ("Write 400 words about wind. !stall 5", True, 3),
    "while a whole answer is written": ("Write 400 words about wind. !late 5000", False, 0),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("phase", LEAVES)
def test_a_client_that_leaves_ends_the_provider_s_work_and_is_accounted_for(served, phase, how):
    """The provider sees the connection close; the attempt is settled, and the exchange ended, once."""
    text, stream, events = LEAVES[phase]
    sent = len(served.sim.tape)
    settled, ended = len(served.seen.settled), len(served.seen.ended)
    connection = served.open()
    connection.sendall(raw_request(json.dumps(chat(text, stream=stream)).encode()))
    served.until(lambda: len(served.sim.tape) == sent + 1, "the provider's part")
    came = b""
    while came.count(b"data: ") < events:
        came += connection.recv(65536)
    leave(connection, how)
    entry = served.sim.tape[-1]
    served.soon(lambda: entry.disconnected_at is not None, 0.5, "the provider's notice")
    served.until(lambda: len(served.seen.ended) > ended, "the exchange's end")
    assert len(served.seen.ended) == ended + 1
    assert len(served.seen.settled) == settled + 1
    assert served.seen.ended[-1].status == 499
    assert served.seen.settled[-1].entry.outcome == "cancelled"


def test_a_client_that_closes_its_sending_half_is_gone(served):
    """A half-closed client cannot be told from one that left; it is treated as such."""
    sent = len(served.sim.tape)
    connection = served.open()
    connection.sendall(raw_request(json.dumps(chat("Wind. !hang")).encode()))
    served.until(lambda: len(served.sim.tape) == sent + 1, "the provider's part")
    connection.shutdown(socket.SHUT_WR)
    entry = served.sim.tape[-1]
    served.until(lambda: entry.disconnected_at is not None, "the provider's notice")
    assert read_all(connection) == b""
    connection.close()


def test_many_clients_that_leave_leak_nothing(served):
    ended, before = len(served.seen.ended), served.task_count()
    request = raw_request(json.dumps(chat("Words about wind. !slow 20", stream=True)).encode())
    connections = [served.open() for _ in range(60)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        connection.recv(1)
        connection.close()
    served.until(lambda: len(served.seen.ended) == ended + 60, "the end of all exchanges")
    served.until(lambda: served.task_count() <= before, "the end of all tasks")
    served.until(lambda: all(e.finished_at or e.disconnected_at for e in served.sim.tape[-60:]))


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "chunked ", "chunked   "])
def test_blanks_behind_a_header_are_no_part_of_it(served: Served, coding: str) -> None:
    """RFC 9112, 5: also where a coding but chunks is refused."""
    body = json.dumps(chat()).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: {coding}\r\n"
    )
    head += "connection: close\r\n\r\n"
    assert status(served.talk(head.encode(), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))) == 200


def test_who_waits_behind_a_stream_that_the_end_of_the_process_breaks_off_is_not_served() -> None:
    first = json.dumps(chat("!slow 20 !loop 100000", stream=True)).encode()
    second = json.dumps(chat("!late 3600000")).encode()
    with serving() as running:
        with running.open() as connection:
            connection.sendall(raw_request(first) + raw_request(second))
            came = connection.recv(65536)
            sim, seen = running.sim, running.seen
            running.stop()
            came += read_all(connection)
        assert came.endswith(b"\r\n0\r\n\r\n") and b"shutting_down" in came
        assert came.count(b"HTTP/1.1 ") == 1
    assert len(sim.tape) == 1, "a provider was asked after the end"
    assert [event.fault for event in seen.ended] == ["shutting_down"]
