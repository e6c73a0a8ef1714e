"""Every request of the data plane is counted once and logged once, whatever became of it, and in no log
is a word of what its caller said."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.surface.served import MODEL, Served, chat, raw_request, read_all, serving

from windvane.config.schema import AuthConfig, KeyConfig, LimitsConfig
from windvane.core.events import RequestEnded
from windvane.telemetry.logs import LINES_MAX, JsonFormatter, TextFormatter

KEY = "sk-counted-tests"
WRONG = "sk-nobody-s"
SAID = "a word in confidence"
CHAT = "/v1/chat/completions"
TIMEOUT_S = 0.4
MISTRAL = "mistral-client-python/3.7"
GET = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"
IDS = ("x-request-id", "request-id", "mistral-correlation-id")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    auth = AuthConfig(keys=(KeyConfig(key=KEY, name="counted"),))
    limits = LimitsConfig(body_bytes_max=64 * 1024, body_timeout_s=TIMEOUT_S, head_timeout_s=5.0)
    with serving(auth=auth, limits=limits) as running:
        running.headers = {"authorization": f"Bearer {KEY}"}
        yield running


class Count:
    """What was counted, told and logged since it was made."""

    def __init__(self, served: Served, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "windvane.requests")
        self._served = served
        self._caplog = caplog
        self._before = self._totals()
        self._told = len(served.seen.others) + len(served.seen.ended)
        self._lines = len(caplog.records)

    def _totals(self) -> dict[str, Any]:
        totals: dict[str, Any] = self._served.app._metrics.totals()
        lookups = totals["cache_lookups_by_result"]
        assert sum(lookups.values()) == totals["requests_total"]
        return totals

    @property
    def told(self) -> int:
        seen = self._served.seen
        return len(seen.others) + len(seen.ended) - self._told

    def statuses(self) -> dict[str, int]:
        """How many there were of each status."""
        before, now = self._before["requests_by_status"], self._totals()["requests_by_status"]
        return {
            status: count - before.get(status, 0)
            for status, count in now.items()
            if count != before.get(status, 0)
        }

    def check(self, status: int, request_id: str | None = None) -> None:
        """There was one, with this status, and one line tells of it."""
        self._served.until(lambda: self.told >= 1, "its being told")
        assert self.statuses() == {str(status): 1}
        assert self.told == 1
        (record,) = [
            each for each in self._caplog.records[self._lines :] if each.name == "windvane.requests"
        ]
        for formatter in (TextFormatter(), JsonFormatter()):
            line = formatter.format(record)
            assert str(status) in line and (request_id or "") in line
            for secret in (KEY, WRONG, SAID):
                assert secret not in line


BODY = json.dumps(chat(SAID)).encode()
NO_KEY = {"authorization": ""}
REFUSED: dict[str, tuple[int, bytes, str, str, dict[str, str]]] = {
    "no key": (401, BODY, "POST", CHAT, NO_KEY),
    "a wrong key": (401, BODY, "POST", CHAT, {"authorization": f"Bearer {WRONG}"}),
    "an empty key": (401, BODY, "POST", CHAT, {"authorization": "Bearer "}),
    "two keys": (400, BODY, "POST", CHAT, {"x-api-key": WRONG}),
    "no key for a list": (401, b"", "GET", "/v1/models", NO_KEY),
    "no JSON": (400, BODY[:-1], "POST", CHAT, {}),
    "a wrong field": (400, BODY[:-1] + b',"temperature":9}', "POST", CHAT, {}),
    "a wrong field of Mistral's": (
        422, BODY[:-1] + b',"temperature":9}', "POST", CHAT, {"user-agent": MISTRAL},
    ),
    "an unknown model": (404, BODY.replace(MODEL.encode(), b"m"), "POST", CHAT, {}),
    "an unknown model's card": (404, b"", "GET", f"/v1/models/{WRONG}", {}),
    "an unknown path": (404, BODY, "POST", f"/v1/{WRONG}", {}),
    "another method": (405, b"", "DELETE", CHAT, {}),
    "another type": (415, BODY, "POST", CHAT, {"content-type": "text/plain"}),
    "too large": (413, BODY + b" " * 70_000, "POST", CHAT, {}),
    "a loop": (508, BODY, "POST", CHAT, {"via": "1.1 windvane"}),
    "a question of what would be decided": (
        400, BODY[:-1] + b',"temperature":9}', "POST", "/v1/route", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_counted_and_logged_once(
    served: Served, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    status, body, method, path, headers = REFUSED[case]
    headers = {name.replace("-", "_"): value for name, value in headers.items()}
    count = Count(served, caplog)
    reply = served.ask(body or None, path=path, method=method, **headers)
    assert reply.status == status
    # An exchange is logged under our own id: the caller's may come twice.
    count.check(status, reply.headers["x-request-id"])


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/models", None), (f"/v1/models/{MODEL}", None), ("/v1/route", chat(SAID))],
)
def test_what_asks_no_model_is_counted_as_well(
    served: Served, caplog: pytest.LogCaptureFixture, path: str, body: Any
) -> None:
    count = Count(served, caplog)
    reply = served.ask(body, path=path)
    assert reply.status == 200
    count.check(200, reply.headers["x-request-id"])


def test_answers_and_refusals_add_up(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    count = Count(served, caplog)
    for authorization in (f"Bearer {KEY}", "Bearer x", f"Bearer {KEY}"):
        served.ask(chat(), authorization=authorization)
    served.until(lambda: count.told == 3, "the end of all three")
    assert count.statuses() == {"200": 2, "401": 1}


def other(served: Served) -> RequestEnded:
    return served.seen.others[-1]


MALFORMED = {
    "no HTTP": (400, b"so what\r\n\r\n", "unknown"),
    "a line that is no header": (400, GET + b"a: b\r\nx\r\n\r\n", "/v1/models"),
    "too large a head": (431, GET + b"x: %b\r\n" % (b"y" * 70_000), "/v1/models"),
    "too many headers": (431, GET + b"x: y\r\n" * 101 + b"\r\n", "/v1/models"),
    "a body in broken chunks": (
        400,
        b"POST %b HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\nx-request-id: mine\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
        % (CHAT.encode(), KEY.encode()),
        CHAT,
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_the_server_refuses_is_counted_and_logged_once(
    served: Served, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    status, sent, endpoint = MALFORMED[case]
    count = Count(served, caplog)
    with served.open() as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    assert int(answer.split(b" ", 2)[1]) == status, answer
    shown = ids_of(answer)
    count.check(status, shown)
    assert (other(served).endpoint, other(served).status) == (endpoint, status)
    if b"x-request-id" in sent:
        assert shown == "mine"


def ids_of(answer: bytes) -> str:
    """The id an answer shows, in all its headers and in its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
    shown = {lines[name] for name in IDS} | {json.loads(body)["request_id"].lower()}
    assert len(shown) == 1
    return shown.pop()


@pytest.mark.parametrize("agent", ["openai/2", MISTRAL])
@pytest.mark.parametrize("part", [b"", b'{"mod'])
def test_a_body_that_does_not_come_is_answered_like_any_other_request(
    served: Served, caplog: pytest.LogCaptureFixture, part: bytes, agent: str
) -> None:
    lines = f"authorization: Bearer {KEY}", "x-request-id: mine", f"user-agent: {agent}"
    count = Count(served, caplog)
    with served.open() as connection:
        request = raw_request(b"", *lines)
        connection.sendall(request.replace(b"length: 0", b"length: 100") + part)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer.lower()
    assert ids_of(answer) == "mine"
    count.check(408, "mine")


def test_who_leaves_before_its_body_is_whole_is_counted_as_one_that_left(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    count = Count(served, caplog)
    with served.open() as connection:
        request = raw_request(b"", f"authorization: Bearer {KEY}", "expect: 100-continue")
        connection.sendall(request.replace(b"length: 0", b"length: 100"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
    count.check(499)


@pytest.mark.parametrize(
    "sent",
    [b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", b""],
    ids=["/metrics", "nothing"],
)
def test_what_is_no_request_of_the_data_plane_is_not_counted(
    caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """Whoever opens a connection and says nothing is a probe, more often than not."""
    with serving(limits=LimitsConfig(head_timeout_s=TIMEOUT_S)) as served:
        count = Count(served, caplog)
        with served.open() as connection:
            connection.sendall(sent)
            assert read_all(connection).startswith(b"HTTP/1.1 4")
        assert count.told == 0 and count.statuses() == {}


def test_a_connection_too_many_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with serving(limits=LimitsConfig(connections_max=1)) as served, served.open() as first:
        first.sendall(GET + b"\r\n")
        assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
        served.until(lambda: bool(served.seen.others), "its being told")
        count = Count(served, caplog)
        with served.open() as second:
            answer = read_all(second)
        assert answer.startswith(b"HTTP/1.1 503 ")
        count.check(503, ids_of(answer))


def test_a_gateway_without_keys_counts_whom_it_refuses_for_the_name_they_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as served:
        count = Count(served, caplog)
        assert served.ask(chat(SAID), host="rebound.test").status == 403
        count.check(403)


def test_a_flood_of_refusals_does_not_flood_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    count = Count(served, caplog)
    caplog.set_level(logging.INFO, "windvane.requests")
    lines = len(caplog.records)
    with served.open() as connection:
        for _ in range(200):
            connection.sendall(raw_request(BODY))
            connection.recv(65536)
    served.until(lambda: count.told == 200, "the end of all")
    assert count.statuses() == {"401": 200}
    assert len(caplog.records) - lines <= 2 * LINES_MAX + 1  # two minutes, if it fell between them
