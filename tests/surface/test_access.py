"""Who may do what: each route by each kind of caller, and where secrets must not be seen."""

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from tests.surface.served import Reply, Served, chat, serving

from windvane.assembly import snapshot_of
from windvane.cli.main import windvane
from windvane.config import load_config
from windvane.config.schema import AuthConfig, KeyConfig
from windvane.engine.snapshot import Timeouts
from windvane.gateway.control_plane.access import GuardedRoute, Permission
from windvane.gateway.data_plane.app import ENDPOINTS
from windvane.simulator.fault import FAULT_WORDS
from windvane.telemetry.logs import JsonFormatter, TextFormatter

KEY_A, KEY_B, ADMIN_KEY = "sk-canary-alpha", "sk-canary-bravo", "sk-canary-admin"
PROVIDER_KEY = "sk-canary-provider"
CANARIES = (KEY_A, KEY_B, ADMIN_KEY, PROVIDER_KEY)
CALLERS = {"none": "", "wrong": "sk-nobody-at-all", "A": KEY_A, "B": KEY_B, "admin": ADMIN_KEY}
HOLDERS = ("A", "B", "admin")

PUBLIC = frozenset(
    ("/", "/docs", "/docs/{name}", "/openapi.json", "/livez", "/readyz", "/healthz", "/health")
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    auth = AuthConfig(
        keys=(KeyConfig(key=KEY_A, name="alpha"), KeyConfig(key=KEY_B, name="bravo")),
        admin_key=ADMIN_KEY,
    )
    folder = tmp_path_factory.mktemp("data")
    with serving(auth=auth, data_dir=str(folder)) as running:
        yield running


@pytest.fixture(scope="module", params=[None, "mistral"])
def open_served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Without a key of its own; also where callers bring the provider's."""
    with serving(auth=AuthConfig(passthrough=request.param)) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}" if key else ""}


def control_routes(served: Served) -> list[tuple[str, str]]:
    """Method and path of each control plane route, from the table the server itself uses."""
    app: Any = served.app._load_control_plane()
    return [
        (method, route.path_format)
        for route in app.routes
        if isinstance(route, GuardedRoute)
        for method in sorted(route.methods)
    ]


def admin_routes(served: Served) -> list[tuple[str, str]]:
    app: Any = served.app._load_control_plane()
    admins = {route.path_format for route in app.routes if route.permission is Permission.ADMIN}
    return [(method, path) for method, path in control_routes(served) if path in admins]


def data_routes() -> list[tuple[str, str]]:
    listed = [(method, path) for path, (method, _) in ENDPOINTS.items()]
    return [*listed, ("GET", "/v1/models/auto")]


def call(served: Served, method: str, path: str, key: str, **headers: str) -> Reply:
    body = chat() if method == "POST" else None
    return served.ask(body, path=path, method=method, **bearer(key), **headers)


ADMINS_PATHS = frozenset(
    (
        "/admin/keys",
        "/admin/keys/{key_id}",
        "/admin/keys/{key_id}/rotate",
        "/admin/budgets",
        "/admin/cache",
        "/admin/usage",
        "/admin/ledger/verification",
        "/admin/ledger/rebuild",
        "/admin/reload",
    )
)


def test_every_route_is_in_one_class_of_access(served):
    """A new route must be put into a class here, or it is taken to need a key."""
    paths = {path for _, path in control_routes(served)}
    assert paths >= PUBLIC
    needs_a_key = {"/metrics", "/providers", "/user/stats", "/admin/requests/{request_id}"}
    assert paths - PUBLIC - ADMINS_PATHS == needs_a_key
    assert {path for _, path in admin_routes(served)} == ADMINS_PATHS


def test_a_body_that_no_question_reads_is_refused(served):
    asked = [each for each in control_routes(served) if each[0] in ("GET", "DELETE")]
    assert ("DELETE", "/admin/cache") in asked
    for method, path in asked:
        reply = served.ask({"tag": "doc-1"}, path=path, method=method, **bearer(ADMIN_KEY))
        if path not in PUBLIC:
            assert (reply.status, reply.json["error"]["param"]) == (400, "body"), (method, path)


def test_a_wrong_method_is_told_all_the_right_ones(served):
    allowed: dict[str, set[str]] = {}
    for method, path in control_routes(served):
        allowed.setdefault(path, set()).add(method)
    for path, methods in allowed.items():
        reply = served.ask(path=path, method="PUT", **bearer(ADMIN_KEY))
        assert reply.status == 405, path
        told = set(reply.headers["allow"].split(", "))
        assert told == methods or (told > methods and "{key_id}" in path), (
            path
        )  # ids may have a slash


def check_reply(reply: Reply, path: str, caller: str) -> None:
    """What this kind of caller may be told at this path."""
    if path in ADMINS_PATHS and caller in ("A", "B"):
        assert reply.status == 403, (path, caller)
        assert reply.json["error"]["code"] == "admin_only"
    elif caller in HOLDERS or path in PUBLIC:
        assert reply.status in ((200, 400, 404) if path in ADMINS_PATHS else (200, 404)), path
    else:
        assert reply.status == 401, (path, caller)
        assert reply.json["error"]["type"] == "authentication_error"
        assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("caller", CALLERS)
def test_each_route_answers_only_those_it_should(served, caller):
    """By loopback's name: the table of routes times the table of callers."""
    for method, path in [*control_routes(served), *data_routes()]:
        shown = path.replace("{name}", "docs.js")
        check_reply(call(served, method, shown, CALLERS[caller]), path, caller)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("host", ["gateway.example", "127.0.0.1.evil.test:8000"])
def test_what_tells_of_traffic_needs_a_key_when_called_by_another_name(served, caller, host):
    """A proxy on this machine, or a page that rebinds its name, calls from loopback as well."""
    for method, path in [*control_routes(served), *data_routes()]:
        shown = path.replace("{name}", "docs.js")
        reply = call(served, method, shown, CALLERS[caller], host=host)
        check_reply(reply, path, caller)


def test_a_key_sees_its_own_requests_alone_and_the_admin_sees_all(served):
    mine = "shared-by-name-1"
    assert served.ask(chat(), **bearer(KEY_A), x_request_id=mine).status == 200
    served.until(lambda: record(served, "admin").status == 200, "the ledger's commit")
    path = "/admin/requests/" + record_id(served, "admin")
    assert served.ask(path=path, **bearer(KEY_A)).json["key"] == "alpha"
    assert served.ask(path=path, **bearer(ADMIN_KEY)).json["key"] == "alpha"
    hidden = served.ask(path=path, **bearer(KEY_B))
    absent = served.ask(path="/admin/requests/req_none", **bearer(KEY_B))
    assert (hidden.status, absent.status) == (404, 404)
    assert hidden.json["error"]["code"] == absent.json["error"]["code"]


def record_id(served: Served, caller: str) -> str:
    return served.seen.ended[-1].request_id


def record(served: Served, caller: str) -> Reply:
    path = "/admin/requests/" + record_id(served, caller)
    return served.ask(path=path, **bearer(CALLERS[caller]))


def test_each_key_sees_its_own_usage(served):
    for key, name in ((KEY_A, "alpha"), (KEY_B, "bravo"), (ADMIN_KEY, "admin")):
        assert served.ask(path="/user/stats", **bearer(key)).json["key"] == name


def test_the_same_request_id_of_another_key_shows_nothing_of_the_first(served):
    """Callers choose their own ids; one key's id must not open another key's record."""
    for key in (KEY_A, KEY_B):
        assert served.ask(chat("Twin"), **bearer(key), x_request_id="twin").status == 200

    def seen(key: str) -> Reply:
        return served.ask(path="/admin/requests/twin", **bearer(key))

    served.until(lambda: seen(KEY_B).status == 200, "the ledger's commit")
    for key, name in ((KEY_A, "alpha"), (KEY_B, "bravo"), (ADMIN_KEY, "bravo")):
        shown = seen(key).json
        assert (shown["key"], len(shown["attempts"])) == (name, 1)


@pytest.mark.parametrize("name", ["authorization", "x_api_key", "api_key"])
def test_a_key_is_taken_from_any_of_the_three_headers(served, name):
    value = f"Bearer {KEY_A}" if name == "authorization" else KEY_A
    assert served.ask(path="/user/stats", **{name: value}).json["key"] == "alpha"


def test_two_credentials_that_differ_are_refused_in_either_order(served):
    for first, second in ((KEY_A, KEY_B), (KEY_B, KEY_A), (KEY_A, "sk-wrong-one")):
        reply = served.ask(path="/user/stats", **bearer(first), x_api_key=second)
        assert reply.json["error"]["code"] == "ambiguous_credentials"
    same = served.ask(path="/user/stats", **bearer(KEY_A), x_api_key=KEY_A)
    assert same.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "evil.test:8000",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "evil.test#127.0.0.1",
        "127.0.0.1@evil.test",
        "0.0.0.0",
        "[::]",
        "10.0.0.1:8000",
        "2130706433",
        "127.1",
    ],
)
def test_without_a_key_only_loopbacks_own_names_are_answered(open_served, host):
    for method, path in [*control_routes(open_served), *data_routes()]:
        reply = call(open_served, method, path, "", host=host)
        assert reply.status == 403, path
        assert reply.json["error"]["code"] == "host_not_allowed"
        assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert open_served.sim.tape == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LocalHost", "[::1]:80", "[::1]"])
def test_without_a_key_loopbacks_names_are_answered(open_served, host):
    shown = bearer("sk-of-the-provider")
    assert open_served.ask(path="/v1/models", host=host, **shown).status == 200


def test_without_a_key_a_request_without_a_host_is_refused(open_served):
    assert open_served.talk(b"GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403 ")


ENVIRONMENT = {"MISTRAL_API_KEY": "sk-not-used-here", "ALLOWED_API_KEYS": None}


@pytest.mark.parametrize("settings", ["", "providers: {mistral: {}}\nauth: {passthrough: mistral}"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_beyond_loopback_the_gateway_does_not_start_without_a_key(
    host, settings, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if settings:
        (tmp_path / "windvane.yaml").write_text(settings)
    result = CliRunner(env=ENVIRONMENT).invoke(windvane, ["serve", "--host", host, "--port", "0"])
    assert result.exit_code == 1
    assert f"refusing to listen on {host} without a key" in result.output


@pytest.mark.parametrize(
    ("environment", "opens"),
    [
        ({}, True),
        ({"ALLOWED_API_KEYS": KEY_A}, False),
        ({"WINDVANE_ADMIN_KEY": ADMIN_KEY}, False),
    ],
)
def test_any_key_closes_the_gateway(environment, opens):
    """Also the admin's alone."""
    config = load_config(environment)
    assert config.auth.is_open == opens == (not snapshot_of(config).keys)


FAULTS = [f"!{word}" for word in FAULT_WORDS if word != "slow"]
STATUSES = (400, 401, 402, 403, 404, 408, 413, 422, 500, 502, 503, 504, 529, 429)
"""429 is last: a provider that has said it is not asked again for a while."""


def quick_canary(folder: Any) -> dict[str, Any]:
    return {
        "auth": AuthConfig(
            keys=(KeyConfig(key=KEY_A, name="alpha"), KeyConfig(key=KEY_B, name="bravo")),
            admin_key=ADMIN_KEY,
        ),
        "data_dir": str(folder),
        "timeouts": Timeouts(connect_s=1.0, first_token_s=0.15, inter_token_s=0.15, total_s=0.4),
        "provider_key": PROVIDER_KEY,
    }


def spellings(secret: str) -> Iterator[bytes]:
    """The secret as it might be written somewhere."""
    yield secret.encode()
    yield secret.encode().hex().encode()
    for shift in range(3):
        # Base64 of a text that holds the secret shows one of three forms, but for the edges.
        coded = base64.b64encode(b"\0" * shift + secret.encode())
        yield coded.rstrip(b"=")[4:-4]


SPELT = [spelt for canary in CANARIES for spelt in spellings(canary)]


def found_in(data: bytes) -> list[bytes]:
    return [spelt for spelt in SPELT if spelt in data]


@pytest.mark.parametrize("encode", [bytes, base64.b64encode, bytes.hex])
@pytest.mark.parametrize("canary", CANARIES)
def test_the_search_finds_a_planted_secret(encode, canary):
    planted = encode(b"Bearer " + canary.encode() + b" and more")
    assert found_in(planted if isinstance(planted, bytes) else planted.encode())


def test_no_secret_is_anywhere_it_should_not_be(tmp_path, caplog):
    """All ways to fail, whole and streamed; then every answer, log line and file is searched."""
    caplog.set_level(logging.DEBUG)
    shown: list[bytes] = []

    def keep(reply: Reply) -> None:
        shown.append(json.dumps(reply.headers).encode() + reply.body)

    with serving(**quick_canary(tmp_path)) as running:
        running.headers = {"authorization": f"Bearer {KEY_A}"}
        faults = [*FAULTS, *(f"!error {status}" for status in STATUSES)]
        for fault in faults:
            for stream in (False, True):
                keep(running.ask(chat(f"Wind. {fault}", stream=stream)))
        # One that a busy machine keeps from the provider until its time is over is no matter.
        assert len(running.sim.tape) > 1.5 * len(faults)
        for key in CANARIES:
            keep(running.ask(chat(), authorization=f"Basic {key}"))
            keep(running.ask(chat(), authorization=f"Bearer {key}x"))
            keep(running.ask(chat(), x_api_key=key + "y"))
        keep(running.ask(chat(model="nobody"), authorization=f"Bearer {ADMIN_KEY}"))
        for _, path in [*control_routes(running), *data_routes()]:
            for key in (KEY_A, KEY_B, ADMIN_KEY):
                keep(running.ask(path=path.replace("{name}", "docs.js"), **bearer(key)))
        record = running.seen.ended[0].request_id
        keep(running.ask(path=f"/admin/requests/{record}", **bearer(ADMIN_KEY)))
        keep(running.ask(path="/metrics", accept="application/json"))
        held = [path for path in tmp_path.rglob("*") if path.is_file()]
        journals = [path.read_bytes() for path in held if path.suffix == ".journal"]
        assert any(journals)
        printed = repr((running.config.data_dir, running.engine.snapshot, running.seen.ended))
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(data.startswith(b"SQLite format 3") for data in files)
    logs = [
        formatter.format(logged).encode()
        for logged in caplog.records
        for formatter in (JsonFormatter(), TextFormatter())
    ]
    assert len(logs) > len(FAULTS)
    for data in (*shown, *journals, *files, *logs, printed.encode()):
        assert found_in(data) == []


def test_an_error_tells_nothing_of_where_the_provider_is(tmp_path):
    """No address, no traceback, no path of our own in any error of a provider's making."""
    with serving(**quick_canary(tmp_path)) as running:
        running.headers = {"authorization": f"Bearer {KEY_A}"}
        hidden = (str(running.sim.port), "127.0.0.1", "Traceback", "site-packages", "/src/", ".py")
        for fault in [*FAULTS, *(f"!error {status}" for status in STATUSES)]:
            reply = running.ask(chat(f"Wind. {fault}"))
            if reply.status != 200:
                said = json.dumps(reply.json["error"]["message"].partition(" (request id")[0])
                assert [each for each in hidden if each in said] == [], fault
