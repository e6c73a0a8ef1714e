"""The admin API: who may use it, what a key's life is, and that what is set on a key holds."""

import asyncio
import base64
import concurrent.futures
import itertools
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from tests.surface.conftest import TLS
from tests.surface.served import MODEL, WAIT_S, Reply, Served, chat, raw_request, read_all, serving
from tests.surface.test_access import PUBLIC, admin_routes, bearer, control_routes, found_in

from windvane.assembly import ADMIN_FILE, PEPPER_FILE
from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig
from windvane.core.keys import KeyTerms, is_whole
from windvane.core.routing.table import Route
from windvane.engine import attribution
from windvane.engine.keyring import key_digest
from windvane.gateway.control_plane import key_forms
from windvane.gateway.control_plane.access import (
    Access,
    Permission,
    check_is_guarded,
    guard,
    needs,
)
from windvane.gateway.control_plane.key_forms import NAMES_MAX
from windvane.gateway.control_plane.times import moment_us, utc_text
from windvane.telemetry.audit import AUDIT_FILE
from windvane.telemetry.logs import JsonFormatter, TextFormatter

ADMIN = "sk-admin-of-tests"
CONFIGURED = "sk-configured-key"
KEYS = "/admin/keys"
_numbers = itertools.count(1)


class Admin:
    """A running gateway, and its admin's verbs."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.local_key = (folder / ADMIN_FILE).read_text()

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Reply:
        return self.served.ask(body, path=path, method=method, **bearer(ADMIN))

    def every(self) -> list[dict[str, Any]]:
        """All keys there are."""
        page = self.ask(f"{KEYS}?limit=1000").json
        assert page["next"] is None
        return page["data"]

    def create(self, name: str | None = None, **terms: Any) -> dict[str, Any]:
        reply = self.ask(KEYS, {"name": name or f"made-{next(_numbers)}", **terms})
        assert reply.status == 201, reply.body
        return reply.json

    def chat(self, key: str, text: str = "Say wind.", **more: Any) -> Reply:
        return self.served.ask(chat(text, **more), **bearer(key))

    def expired(self) -> str:
        """A key whose time is up; over HTTP none can be made."""

        async def make() -> str:
            terms = KeyTerms(name=f"expired-{next(_numbers)}", expires_at_us=1)
            _, secret = await self.served.engine.desk.create(terms)
            return secret

        return self.on_loop(make())

    def on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.served.loop).result(WAIT_S)


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("data")
    auth = AuthConfig(
        keys=(KeyConfig(key=CONFIGURED, name="configured", budget=BudgetConfig(daily=Decimal(7))),),
        admin_key=ADMIN,
    )
    routes = {"fast": Route(otherwise=MODEL)}
    with serving(auth=auth, routes=routes, data_dir=str(folder)) as served:
        yield Admin(served, folder)


# Who may


def test_a_route_without_a_declared_permission_cannot_be_added():
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    guard(app, Access(None, lambda: True, None))  # type: ignore[arg-type]

    async def endpoint() -> None: ...

    with pytest.raises(RuntimeError, match="/open declares no permission"):
        app.get("/open")(endpoint)
    app.get("/closed", openapi_extra=needs(Permission.ADMIN))(endpoint)
    check_is_guarded(app.routes)
    app.mount("/mounted", Starlette())
    with pytest.raises(RuntimeError, match="/mounted"):
        check_is_guarded(app.routes)


OBJECTS = ("own", "foreign", "absent")
STRANGERS = ("none", "wrong", "cut", "revoked", "expired")
ORDINARY = ("ordinary", "teammate", "configured")
ADMINS = ("admin", "local admin")


@pytest.fixture(scope="module")
def people(admin: Admin) -> dict[str, str]:
    """A key of each role. `ordinary` is the owner of the objects called its own."""
    ordinary = admin.create("the-ordinary", team="one")
    revoked = admin.create("the-revoked", team="one")
    assert admin.ask(f"{KEYS}/the-revoked", method="DELETE").status == 200
    return {
        "none": "",
        "wrong": "sk-nobody-at-all",
        "cut": ordinary["key"][:-1],
        "revoked": revoked["key"],
        "expired": admin.expired(),
        "ordinary": ordinary["key"],
        "teammate": admin.create("the-teammate", team="one")["key"],
        "configured": CONFIGURED,
        "admin": ADMIN,
        "local admin": admin.local_key,
    }


def body_for(method: str, path: str) -> Any:
    if method == "PATCH":
        return {"owner": "somebody"}
    if method == "POST" and path.endswith("/rotate"):
        return {"overlap_s": 5}
    return {"name": f"n-{next(_numbers)}"} if (method, path) == ("POST", KEYS) else None


def told(reply: Reply) -> Any:
    """An error without what differs from request to request."""
    return reply.status, reply.json["error"]["code"], reply.message.partition(" (request id")[0]


@pytest.mark.parametrize("role", [*STRANGERS, *ORDINARY, *ADMINS])
def test_every_admin_route_by_role_and_by_object(admin, people, role):
    """Who is no admin is told the same of what is its own, another's, or not there."""
    for method, path in admin_routes(admin.served):
        answers = []
        for kind in OBJECTS if "{key_id}" in path else OBJECTS[:1]:
            key_id = "key_0000000000000000"
            if kind == "own":
                # An admin owns none: what it changes is a key made for the purpose.
                key_id = "the-ordinary" if role not in ADMINS else admin.create()["id"]
            elif kind == "foreign":
                key_id = admin.create()["id"]
            reply = admin.served.ask(
                body_for(method, path),
                path=path.replace("{key_id}", key_id),
                method=method,
                **bearer(people[role]),
            )
            if role in ADMINS:
                allowed = (404,) if kind == "absent" else (200, 201)
                assert reply.status in allowed, (path, reply.body)
                assert reply.headers["cache-control"] == "no-store"
                continue
            answers.append(told(reply))
            assert reply.status == (403 if role in ORDINARY else 401), (path, role)
        if role not in ADMINS:
            assert len(set(answers)) == 1, "an oracle"
    assert admin.chat(people["ordinary"]).status == 200, "nothing was changed by who may not"


def test_what_a_route_does_not_have_is_refused_by_all_of_them(admin, people):
    """A field of the query, or of the body, that nobody would read."""
    for method, form in control_routes(admin.served):
        if form in PUBLIC:
            continue
        path = form.replace("{key_id}", "the-ordinary").replace("{request_id}", "req_1")
        asked = [(f"{path}?foo=1", body_for(method, form))]
        if method in ("POST", "PATCH"):
            asked.append((path, {**(body_for(method, form) or {}), "foo": 1}))
        for said, body in asked:
            reply = admin.ask(said, body, method=method)
            assert (reply.status, reply.json["error"]["param"]) == (400, "foo"), (method, said)
    assert admin.chat(people["ordinary"]).status == 200
    document = [admin.ask("/openapi.json").json["paths"] for _ in range(2)][1]
    assert "422" in document["/v1/chat/completions"]["post"]["responses"]
    for method, path in control_routes(admin.served):
        known = document.get(path.replace(":path", ""), {}).get(method.lower())
        if known is not None and path not in PUBLIC:
            assert "400" in known["responses"], (method, path)


def test_a_change_that_a_key_may_not_make_is_written_down_once_a_minute(tmp_path):
    auth = AuthConfig(keys=(KeyConfig(key=CONFIGURED, name="configured"),), admin_key=ADMIN)
    with serving(auth=auth, data_dir=str(tmp_path)) as served:
        for method, form in admin_routes(served):
            path = form.replace("{key_id}", "configured")
            for key in ("", "sk-nobody", *[CONFIGURED] * 20):
                assert served.ask(None, path=path, method=method, **bearer(key)).status in (
                    401,
                    403,
                )
        changes = [each for each in admin_routes(served) if each[0] != "GET"]
    lines = (tmp_path / AUDIT_FILE).read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert {(each["who"], each["outcome"]) for each in told} == {
        ("configured", "refused (admin_only)")
    }
    # A minute may begin meanwhile.
    assert len({each["what"] for each in told}) == len(changes) <= len(told) <= 2 * len(changes)


@pytest.mark.parametrize("role", [*STRANGERS, *ORDINARY])
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"name": 1, "name": 2}', b"x" * 70_000])
def test_who_may_not_is_told_so_before_its_request_is_looked_at(admin, people, role, body):
    for method, path in admin_routes(admin.served):
        if method in ("POST", "PATCH"):
            reply = admin.served.ask(body, path=path, method=method, **bearer(people[role]))
            assert reply.status == (403 if role in ORDINARY else 401)


@pytest.mark.parametrize(
    "path",
    [
        "//admin/keys", "/admin//keys", "/ADMIN/keys", "/admin/keys/", "/admin/./keys",
        "/v1/../admin/keys", "/docs/../admin/keys", "/%61dmin/keys", "/admin%2Fkeys", "/admin/keys%00",
        "/admin/keys;x", "/admin/keys/%2e%2e", "/admin/usage/", "/health/../admin/usage",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_goes_round_the_guard(admin, people, path):
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE"):
        for role in ("none", "wrong", "ordinary"):
            body = {"name": "round"} if method in ("POST", "PUT") else None
            reply = admin.served.ask(body, path=path, method=method, **bearer(people[role]))
            assert reply.status in (307, 400, 401, 403, 404, 405, 501), (method, role)
            assert b"secrets" not in reply.body
    assert "round" not in {key["name"] for key in admin.every()}


def test_an_open_gateway_still_asks_for_an_admin(tmp_path):
    """Alone on loopback anyone may chat; nobody may administer without the folder's own key."""
    with serving(data_dir=str(tmp_path)) as served:
        local = (tmp_path / ADMIN_FILE).read_text()
        assert served.ask(chat()).status == 200
        for method, path in admin_routes(served):
            for key in ("", "sk-any-key-at-all"):
                reply = served.ask(body_for(method, path), path=path, method=method, **bearer(key))
                assert reply.status == 401, path
        made = served.ask({"name": "first"}, path=KEYS, **bearer(local))
        assert made.status == 201
        assert served.ask(chat()).status == 401, "the first key closes the gateway"
        assert served.ask(chat(), **bearer(made.json["key"])).status == 200


def test_own_routes_by_role(admin, people):
    """`/user/stats` tells each of itself; a record is its own key's and the admin's."""
    reply = admin.chat(people["ordinary"])
    path = f"/admin/requests/{reply.headers['x-request-id']}"
    for role, key in people.items():
        stats = admin.served.ask(path="/user/stats", **bearer(key))
        record = admin.served.ask(path=path, **bearer(key))
        if role in STRANGERS:
            assert (stats.status, record.status) == (401, 401)
            continue
        assert stats.status == 200
        if role == "ordinary":
            assert stats.json["key_name"] == "the-ordinary"
        assert record.status == (200 if role in ("ordinary", *ADMINS) else 404), role


# What a key is made of

WRONG = [
    ({}, "name"),
    ({"name": None}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a,b"}, "name"),
    ({"name": "a" * 129}, "name"),
    ({"name": "line\nbreak"}, "name"),
    ({"name": 7}, "name"),
    ({"name": "x", "colour": "red"}, "colour"),
    ({"name": "x", "key": "sk-wv-mine"}, "key"),
    ({"name": "x", "id": "key_1"}, "id"),
    ({"name": "x", "is_admin": True}, "is_admin"),
    ({"name": "x", "configured": True}, "configured"),
    ({"name": "x", "tags": "one"}, "tags"),
    ({"name": "x", "tags": ["a,b"]}, "tags[0]"),
    ({"name": "x", "tags": ["t"] * (NAMES_MAX + 1)}, "tags"),
    ({"name": "x", "models": ["m"] * (NAMES_MAX + 1)}, "models"),
    ({"name": "x", "models": ["mistral-smal-latest"]}, "models"),
    ({"name": "x", "models": ["no-such-*"]}, "models"),
    ({"name": "x", "models": ["auto"]}, "models"),
    ({"name": "x", "routes": ["atuo"]}, "routes"),
    ({"name": "x", "route": "atuo"}, "route"),
    ({"name": "x", "route": "auto", "routes": ["fast"]}, "route"),
    ({"name": "x", "endpoints": ["chats"]}, "endpoints"),
    ({"name": "x", "budget": 5}, "budget"),
    ({"name": "x", "budget": {"weekly": 5}}, "budget.weekly"),
    ({"name": "x", "budget": {"daily": -1}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": True}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": "ten"}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": "NaN"}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": "1e999999"}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": "1e-999999999"}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": 0.0000000001}}, "budget.daily"),
    ({"name": "x", "budget": {"daily": "1.00000000000000000000000000001"}}, "budget.daily"),
    ({"name": "x", "budget": {"total": 1e18}}, "budget.total"),
    ({"name": "x", "rates": {"requests_per_minute": 0}}, "rates.requests_per_minute"),
    ({"name": "x", "rates": {"requests_per_minute": 1.5}}, "rates.requests_per_minute"),
    ({"name": "x", "rates": {"requests_per_minute": "9"}}, "rates.requests_per_minute"),
    ({"name": "x", "rates": {"requests_per_minute": 10**30}}, "rates.requests_per_minute"),
    ({"name": "x", "budget": {"daily": 10**30}}, "budget.daily"),
    ({"name": "x", "rates": {"rpm": 9}}, "rates.rpm"),
    ({"name": "x", "output_tokens_max": 0}, "output_tokens_max"),
    ({"name": "x", "output_tokens_max": True}, "output_tokens_max"),
    ({"name": "x", "clamp": "no"}, "clamp"),
    ({"name": "x", "priority": "urgent"}, "priority"),
    ({"name": "x", "expires_at": "tomorrow"}, "expires_at"),
    ({"name": "x", "expires_at": 1893456000}, "expires_at"),
    ({"name": "x", "expires_at": "1893456000"}, "expires_at"),
    ({"name": "x", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    ({"name": "x", "expires_at": "2030-13-01T00:00:00Z"}, "expires_at"),
    ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[json.dumps(each[0])[:60] for each in WRONG])
def test_a_wrong_field_is_named(admin, body, param):
    before = len(admin.every())
    reply = admin.ask(KEYS, body)
    assert reply.status == 400, reply.body
    assert reply.json["error"]["param"] == param
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert reply.message.startswith(param)
    assert len(admin.every()) == before


@pytest.mark.parametrize(
    ("terms", "near"),
    [
        ({"models": ["mistral-smal-latest"]}, "mistral-small-latest"),
        ({"models": ["auto"]}, "it is a route"),
        ({"routes": ["atuo"]}, "auto"),
        ({"endpoints": ["chats"]}, "chat"),
        ({"tgas": []}, "tags"),
        ({"budget": {"dialy": 1}}, "daily"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(admin, terms, near):
    assert near in admin.ask(KEYS, {"name": "x", **terms}).message


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"name": "a", "name": "b"}', 400),
        (b'{"name": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
        (b'{"name": "' + b"a" * 70_000 + b'"}', 413),
    ],
)
def test_a_body_has_one_meaning_and_an_end(admin, body, status):
    assert admin.ask(KEYS, body, method="POST").status == status


def test_only_json_is_taken(admin):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = admin.served.ask(
            b'{"name": "x"}', path=KEYS, method="POST", content_type=kind, **bearer(ADMIN)
        )
        assert reply.status == 415


@pytest.mark.parametrize(
    "amount", ["0.1", "0.000000001", "1234567.123456789", "9007199254.740993001"]
)
def test_amounts_are_exact_as_numbers_and_as_texts(admin, amount):
    """More digits than a binary fraction holds."""
    said = f'{{"daily": {amount}, "total": "{amount}"}}'
    body = f'{{"name": "exact-{next(_numbers)}", "budget": {said}}}'
    budget = admin.ask(KEYS, body.encode(), method="POST").json["budget"]
    whole, _, fraction = amount.partition(".")
    nano = int(whole + fraction.ljust(9, "0"))
    assert budget["daily_nano_usd"] == budget["total_nano_usd"] == nano
    assert budget["daily_usd"] == budget["total_usd"] == amount


def test_a_key_says_all_that_was_set_on_it(admin):
    terms = {
        "owner": "Jane Doe",
        "team": "research",
        "tags": ["nightly", "eu/west"],
        "models": ["mistral-small-*", "mistral-large-latest"],
        "routes": ["auto"],
        "endpoints": ["chat", "models"],
        "route": "auto",
        "priority": "low",
        "output_tokens_max": 500,
        "clamp": False,
        "rates": {
            "requests_per_minute": 60,
            "tokens_per_minute": 10**6,
            "concurrency": 3,
            "burst_requests": 5,
        },
    }
    made = admin.create("says-all", expires_at="2031-01-01T00:00:00+01:00", **terms)
    shown = admin.ask(f"{KEYS}/{made['id']}").json
    assert {name: shown[name] for name in terms} == terms
    assert shown["expires_at"] == "2030-12-31T23:00:00Z"
    assert shown["status"] == "live" and not shown["configured"]
    assert {**shown, "key": made["key"]} == made
    assert admin.ask(f"{KEYS}/says-all").json == shown
    assert shown in admin.every()
    assert is_whole(made["key"])


def test_a_change_changes_what_it_names_and_null_clears(admin):
    made = admin.create(
        "changing", team="a", tags=["t"], budget={"daily": 1, "total": 2}, clamp=False
    )
    path = f"{KEYS}/{made['id']}"
    changed = admin.ask(path, {"budget": {"daily": "3.5"}, "owner": "me"}, method="PATCH").json
    assert changed["budget"]["daily_usd"] == "3.5"
    assert changed["budget"]["total_usd"] == "2"
    assert (changed["team"], changed["tags"], changed["owner"]) == ("a", ["t"], "me")
    assert changed["clamp"] is False
    cleared = {"budget": {"daily": None}, "team": None, "tags": None, "clamp": None, "name": "anew"}
    changed = admin.ask(path, cleared, method="PATCH").json
    assert changed["budget"]["daily_usd"] is None
    assert changed["budget"]["total_usd"] == "2"
    assert (changed["team"], changed["tags"], changed["clamp"]) == (None, [], True)
    assert changed["name"] == "anew"
    assert admin.ask(path, {"budget": None}, method="PATCH").json["budget"]["total_usd"] is None
    assert admin.ask(path, {"name": None}, method="PATCH").json["error"]["param"] == "name"
    assert admin.ask(path, {}, method="PATCH").json["name"] == "anew"


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_keys_are_told_page_by_page(admin, limit):
    """Each once and in one order, whatever the size of a page and whatever is made meanwhile."""
    while len(admin.every()) < 7:
        admin.create()
    whole = [key["id"] for key in admin.every()]
    assert whole[0] == "configured"
    told: list[str] = []
    after = ""
    while True:
        reply = admin.ask(f"{KEYS}?limit={limit}{after}").json
        told += [key["id"] for key in reply["data"]]
        if reply["next"] is None:
            break
        assert len(reply["data"]) == limit and reply["next"] == told[-1]
        after = f"&after={reply['next']}"
        if len(told) == 3:
            whole.append(admin.create()["id"])
    assert told == whole


def test_a_page_begins_after_a_key_that_is_there(admin):
    made = admin.create("page-end", team="pages")
    by_name = admin.ask(f"{KEYS}?after=page-end").json
    assert by_name == admin.ask(f"{KEYS}?after={made['id']}").json == {"data": [], "next": None}
    for wrong in ("limit=0", "limit=1001", "limit=x", "limit=", "aftr=x", "after=", "after=nobody"):
        reply = admin.ask(f"{KEYS}?{wrong}")
        assert (reply.status, reply.json["error"]["param"]) == (400, wrong.partition("=")[0])
    assert made["key"] not in admin.ask(f"{KEYS}?after={made['key']}").message


@pytest.mark.parametrize("spelling", ["team/ci", "team%2Fci", "team%2fci"])
def test_a_name_with_a_slash_can_be_said_in_a_path(admin, spelling):
    name = f"{spelling.replace('%2F', '/').replace('%2f', '/')}-{next(_numbers)}"
    made = admin.create(name)
    path = f"{KEYS}/{spelling}{name.removeprefix('team/ci')}"
    assert admin.ask(path).json["id"] == made["id"]
    assert admin.ask(path, {"owner": "me"}, method="PATCH").json["owner"] == "me"
    assert admin.ask(f"{path}/rotate", {}, method="POST").json["id"] == made["id"]
    assert admin.ask(path, method="DELETE").json["status"] == "revoked"


@pytest.mark.parametrize(
    "name", ["x/rotate", "rotate", "/", ".", "..", "a//b", "keys/", "./x", "#a"]
)
def test_no_name_hides_another(admin, name):
    """Also one that reads like a part of the API; what is no name is refused when it is made."""
    reply = admin.ask(KEYS, {"name": name})
    if reply.status == 400:
        return
    path = f"{KEYS}/{name}"
    assert admin.ask(path).json["id"] == reply.json["id"]
    assert admin.ask(f"{path}/rotate", {}, method="POST").json["id"] == reply.json["id"]
    assert admin.ask(path, method="DELETE").json["status"] == "revoked"
    assert admin.ask(f"{KEYS}/").json["error"]["code"] == "no_such_key"


def test_names_are_no_two_keys(admin):
    admin.create("taken")
    for name in ("taken", "configured", "admin"):
        reply = admin.ask(KEYS, {"name": name})
        assert (reply.status, reply.json["error"]["code"]) == (409, "name_in_use")


def test_two_who_ask_for_one_name_at_once_do_not_both_get_it(admin):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: admin.ask(KEYS, {"name": "at-once"}), range(8)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 7


def test_changes_at_once_all_hold(admin):
    made = admin.create()
    path = f"{KEYS}/{made['id']}"
    changes: list[dict[str, Any]] = [
        {"owner": "o"},
        {"team": "t"},
        {"tags": ["a"]},
        {"priority": "high"},
        {"output_tokens_max": 9},
        {"rates": {"concurrency": 2}},
        {"rates": {"requests_per_minute": 3}},
        {"budget": {"daily": 4}},
    ]
    with concurrent.futures.ThreadPoolExecutor(len(changes)) as pool:
        done = list(pool.map(lambda each: admin.ask(path, each, method="PATCH").status, changes))
    assert done == [200] * len(changes)
    shown = admin.ask(path).json
    assert (shown["owner"], shown["team"], shown["tags"]) == ("o", "t", ["a"])
    assert (shown["priority"], shown["output_tokens_max"]) == ("high", 9)
    assert (shown["rates"]["concurrency"], shown["rates"]["requests_per_minute"]) == (2, 3)
    assert shown["budget"]["daily_usd"] == "4"


def test_a_key_that_is_revoked_while_it_is_changed_stays_revoked(admin):
    for _ in range(10):
        made = admin.create()
        path = f"{KEYS}/{made['id']}"
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            pool.submit(admin.ask, path, {"owner": "o"}, method="PATCH")
            pool.submit(admin.ask, path, method="DELETE")
            pool.submit(admin.ask, f"{path}/rotate", {}, method="POST")
        assert admin.ask(path).json["status"] == "revoked"
        assert admin.chat(made["key"]).status == 401


def test_a_key_of_the_configuration_is_shown_and_not_changed(admin):
    listed = admin.every()
    shown = next(key for key in listed if key["name"] == "configured")
    assert shown["configured"] and shown["secrets"] == []
    assert shown["budget"]["daily_usd"] == "7"
    assert next(key for key in listed if key["name"] == "admin")["admin"]
    path = f"{KEYS}/configured"
    for reply in (
        admin.ask(path, {"owner": "me"}, method="PATCH"),
        admin.ask(path, method="DELETE"),
        admin.ask(f"{path}/rotate", {}, method="POST"),
    ):
        assert (reply.status, reply.json["error"]["code"]) == (409, "key_is_configured")


def test_a_key_itself_is_no_name_for_it(admin):
    """Whoever pastes the secret is told so, without seeing it again."""
    made = admin.create()
    reply = admin.ask(f"{KEYS}/{made['key']}")
    assert reply.status == 404
    assert made["key"][10:] not in reply.message


@pytest.mark.parametrize("name", ["ci", "a b", "team/x", "a@b.c:1+2-3", "été", "x" * 128])
def test_a_name_for_a_key_is_one_that_callers_could_give(name):
    assert key_forms.NAME.fullmatch(name)
    assert attribution._NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", " a", "a,b", "a\nb", "a\x7f", "x" * 129])
def test_what_is_no_name_for_callers_is_none_for_a_key(name):
    assert not attribution._NAME.fullmatch(name)
    assert not key_forms.NAME.fullmatch(name)


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("2026-12-31T23:59:59.123456Z", 1798761599123456),
        ("2026-12-31t23:59:59z", 1798761599000000),
    ],
)
def test_moments_are_read_to_the_microsecond(text, at_us):
    assert moment_us(text) == at_us
    assert moment_us(utc_text(at_us)) == at_us


# The life of a key


def sdk(admin: Admin, key: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{admin.served.url}/v1",
        api_key=key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=TLS),
    )


def say(admin: Admin, key: str) -> str | None:
    with sdk(admin, key) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Say wind."}]
        )
    return answer.choices[0].message.content


def test_the_life_of_a_key(admin):
    made = admin.create("living")
    first = made["key"]
    assert say(admin, first)
    rotated = admin.ask(f"{KEYS}/living/rotate", {"overlap_s": 600}, method="POST")
    assert rotated.status == 200
    second = rotated.json["key"]
    assert second != first and rotated.json["id"] == made["id"]
    assert len(rotated.json["secrets"]) == 2
    assert say(admin, first) and say(admin, second)
    third = admin.ask(f"{KEYS}/living/rotate", {"overlap_s": 1}, method="POST").json["key"]
    admin.served.until(lambda: admin.chat(second).status == 401, "the end of the overlap")
    assert admin.chat(first).status == 401
    assert say(admin, third)
    assert len(admin.ask(f"{KEYS}/living").json["secrets"]) == 1
    assert admin.ask(f"{KEYS}/living", method="DELETE").json["status"] == "revoked"
    with pytest.raises(openai.AuthenticationError):
        say(admin, third)
    assert admin.ask(f"{KEYS}/living", method="DELETE").status == 200, "twice is as once"
    for reply in (
        admin.ask(f"{KEYS}/living", {"owner": "me"}, method="PATCH"),
        admin.ask(f"{KEYS}/living/rotate", {}, method="POST"),
    ):
        assert (reply.status, reply.json["error"]["code"]) == (409, "key_revoked")


def test_a_rotation_without_overlap_ends_the_old_secret_at_once(admin):
    made = admin.create()
    path = f"{KEYS}/{made['id']}/rotate"
    rotated = admin.ask(path, {"overlap_s": 0}, method="POST").json
    assert admin.chat(made["key"]).status == 401
    assert admin.chat(rotated["key"]).status == 200
    for wrong in (-1, 30 * 86_400 + 1, "60", None, 1.5):
        reply = admin.ask(path, {"overlap_s": wrong}, method="POST")
        assert (reply.status, reply.json["error"]["param"]) == (400, "overlap_s")


def test_a_rotation_without_a_body_overlaps_for_a_day(admin):
    made = admin.create()
    rotated = admin.ask(f"{KEYS}/{made['id']}/rotate", method="POST").json
    ends = moment_us(rotated["secrets"][0]["expires_at"])
    assert ends - moment_us(rotated["secrets"][1]["created_at"]) == 86_400 * 1_000_000


def test_a_revoked_key_is_refused_on_a_connection_that_is_open(admin):
    made = admin.create()
    with sdk(admin, made["key"]) as client:
        client.models.list()
        admin.ask(f"{KEYS}/{made['id']}", method="DELETE")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_revoked_key_is_refused_though_its_head_has_come_before(admin):
    """What is known of a head is what it says, not whether that is still good."""
    made = admin.create()
    said = {"model": MODEL, "messages": [{"role": "user", "content": "Say wind."}]}
    with sdk(admin, made["key"]) as client:
        for _ in range(3):
            client.chat.completions.create(**said)
        admin.ask(f"{KEYS}/{made['id']}", method="DELETE")
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**said)


ENDINGS: dict[str, tuple[str, str, Any, int, str]] = {
    # how it changes: method, what is behind the key's path, body, and what is answered then
    "revoked": ("DELETE", "", None, 401, "invalid_api_key"),
    "rotated": ("POST", "/rotate", {"overlap_s": 0}, 401, "invalid_api_key"),
    "other endpoints": ("PATCH", "", {"endpoints": ["models"]}, 403, "endpoint_not_allowed"),
    "other models": ("PATCH", "", {"models": ["mistral-large-latest"]}, 403, "model_not_allowed"),
}


@pytest.mark.parametrize("agent", ["openai", "mistral"])
@pytest.mark.parametrize("ending", ["revoked", "rotated"])
def test_a_stream_under_way_is_told_that_its_key_has_ended(admin, ending, agent):
    """And so is who waits for a whole answer; the connection that the provider was asked on is closed."""
    method, behind, change, _, _ = ENDINGS[ending]
    made, sim = admin.create(), admin.served.sim
    lines = (f"authorization: Bearer {made['key']}", f"user-agent: {agent}", "connection: close")
    streamed, whole = admin.served.open(), admin.served.open()
    with streamed, whole:
        body = json.dumps(chat("On and on !slow 300", stream=True, max_tokens=400)).encode()
        streamed.sendall(raw_request(body, *lines))
        came = b""
        while b"data: " not in came:
            came += streamed.recv(65536)
        whole.sendall(raw_request(json.dumps(chat("Wait !hang")).encode(), *lines))
        while not any("!hang" in str(request.body) for request in sim.tape[-3:]):
            admin.on_loop(asyncio.sleep(0.02))
        reply = admin.ask(f"{KEYS}/{made['id']}{behind}", change, method=method)
        assert reply.status == 200
        came += read_all(streamed)
        told = read_all(whole)
    last = came.rpartition(b"data: ")[2]
    assert b'"key_revoked"' in last and b"[DONE]" not in came
    assert told.startswith(b"HTTP/1.1 401 ") and b'"key_revoked"' in told
    rows = admin.ask(f"/admin/usage?by=key&key={made['id']}").json["rows"]
    assert [(row["requests"], row["failed_attempts"]) for row in rows] == [(2, 2)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_that_ends_while_a_body_comes_is_refused(admin, ending, path):
    """What a key may is asked when the body has come, not only before it is read."""
    method, behind, change, status, code = ENDINGS[ending]
    made, asked = admin.create(), len(admin.served.sim.tape)
    body = json.dumps(chat()).encode()
    lines = (f"authorization: Bearer {made['key']}", "connection: close")
    request = raw_request(body, *lines, path=path)
    with admin.served.open() as connection:
        connection.sendall(request[: -len(body) + 5])
        admin.on_loop(asyncio.sleep(0.05))
        reply = admin.ask(f"{KEYS}/{made['id']}{behind}", change, method=method)
        assert reply.status == 200
        connection.sendall(body[5:])
        came = read_all(connection)
    assert came.startswith(f"HTTP/1.1 {status} ".encode()), came
    assert code.encode() in came
    assert len(admin.served.sim.tape) == asked


def test_who_holds_a_key_that_has_ended_is_told_so(admin):
    revoked, rotated, expired = admin.create(), admin.create(), admin.expired()
    admin.ask(f"{KEYS}/{revoked['id']}", method="DELETE")
    admin.ask(f"{KEYS}/{rotated['id']}/rotate", {"overlap_s": 1}, method="POST")
    admin.served.until(lambda: admin.chat(rotated["key"]).status == 401, "the end of the overlap")
    for key, why in (
        (revoked["key"], "the key was revoked"),
        (rotated["key"], "the key has expired, or a rotation has replaced it"),
        (expired, "the key has expired, or a rotation has replaced it"),
        ("sk-nobody", "the key is not one of this gateway's"),
    ):
        for path, body in (("/v1/chat/completions", chat()), (KEYS, None), ("/metrics", None)):
            reply = admin.served.ask(body, path=path, **bearer(key))
            assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
            assert reply.message.startswith(why)


def test_a_key_that_has_expired_is_not_rotated(admin):
    async def expired() -> str:
        terms = KeyTerms(name=f"expired-{next(_numbers)}", expires_at_us=1)
        key, _ = await admin.served.engine.desk.create(terms)
        return key.id

    path = f"{KEYS}/{admin.on_loop(expired())}"
    reply = admin.ask(f"{path}/rotate", method="POST")
    assert (reply.status, reply.json["error"]["code"]) == (409, "key_expired")
    admin.ask(path, {"expires_at": None}, method="PATCH")
    assert admin.chat(admin.ask(f"{path}/rotate", method="POST").json["key"]).status == 200


@pytest.mark.parametrize("amount", ["1_000", "\u0661", " 1 ", "", "1.", "NaN", "Infinity", "0x1"])
def test_an_amount_is_a_decimal_text(admin, amount):
    reply = admin.ask(KEYS, {"name": "amount", "budget": {"daily": amount}})
    assert (reply.status, reply.json["error"]["param"]) == (400, "budget.daily")


def test_a_key_is_no_name_and_no_team(admin):
    key = admin.create()["key"]
    for field in ("name", "team", "owner"):
        reply = admin.ask(KEYS, {"name": "plain", field: key})
        assert (reply.status, reply.json["error"]["param"]) == (400, field)
        assert key not in reply.body.decode()


@pytest.mark.parametrize("cut", [1, 6, 20, 37])
def test_a_key_in_half_is_told_so(admin, cut):
    reply = admin.chat(admin.create()["key"][:-cut])
    assert reply.status == 401
    assert "not whole" in reply.message


def test_keys_outlive_the_process(tmp_path):
    auth = AuthConfig(admin_key=ADMIN)
    with serving(auth=auth, data_dir=str(tmp_path)) as served:
        keys = [
            served.ask({"name": f"k{n}"}, path=KEYS, **bearer(ADMIN)).json["key"] for n in range(2)
        ]
        served.ask(path=f"{KEYS}/k1", method="DELETE", **bearer(ADMIN))
        before = served.ask(path=KEYS, **bearer(ADMIN)).json
    with serving(auth=auth, data_dir=str(tmp_path)) as served:
        assert served.ask(path=KEYS, **bearer(ADMIN)).json == before
        assert [served.ask(chat(), **bearer(key)).status for key in keys] == [200, 401]


# What is set on a key holds


def refusal(admin: Admin, key: str, **asked: Any) -> tuple[int, str]:
    """A refusal, the same streamed and whole, with nothing sent."""
    sent = len(admin.served.sim.tape)
    replies = [admin.chat(key, stream=stream, **asked) for stream in (False, True)]
    assert len(admin.served.sim.tape) == sent
    assert len({(each.status, each.json["error"]["code"]) for each in replies}) == 1
    return replies[0].status, replies[0].json["error"]["code"]


def listed(admin: Admin, key: str) -> set[str]:
    reply = admin.served.ask(path="/v1/models", **bearer(key))
    return {each["id"] for each in reply.json["data"]}


def test_a_key_uses_its_models_alone(admin):
    key = admin.create(models=["mistral-small-*"])["key"]
    assert admin.chat(key, model="mistral-small-latest").status == 200
    assert admin.chat(key, model="mistral-small-latest", stream=True).status == 200
    assert refusal(admin, key, model="mistral-large-latest") == (403, "model_not_allowed")
    names = listed(admin, key)
    assert "mistral-small-latest" in names and "mistral-large-latest" not in names
    assert "gpt-5" not in names
    for name, status in (("mistral-small-latest", 200), ("mistral-large-latest", 403)):
        assert admin.served.ask(path=f"/v1/models/{name}", **bearer(key)).status == status
    assert admin.chat(key, model="auto").status == 200, "a route leads to what is open"
    every = listed(admin, CONFIGURED)
    assert names < every and "mistral-large-latest" in every


def test_what_is_listed_for_a_key_is_what_it_may_ask_for(admin):
    for terms in (
        {"models": ["mistral-small-*"]},
        {"routes": ["auto"]},
        {"models": ["codestral*"]},
    ):
        key = admin.create(**terms)["key"]
        names = listed(admin, key)
        for name in sorted(listed(admin, CONFIGURED)):
            asked = admin.served.ask(chat(model=name), path="/v1/route", **bearer(key))
            if name not in names:
                assert asked.status == 403, (terms, name)
            elif name != "auto":  # what a route leads to depends on the request
                assert asked.status == 200, (terms, name, asked.body)


def test_a_key_uses_its_routes_alone(admin):
    key = admin.create(routes=["auto"])["key"]
    assert admin.chat(key, model="auto").status == 200
    assert refusal(admin, key, model="mistral-small-latest") == (403, "model_not_allowed")
    assert listed(admin, key) == {"auto"}


def test_auto_is_another_route_for_a_key_that_says_so(admin):
    key = admin.create(route="fast", routes=["fast"])["key"]
    assert admin.chat(key, model="auto").headers["x-router-model"] == MODEL
    assert admin.chat(key, model="fast").status == 200
    assert refusal(admin, key, model=MODEL) == (403, "model_not_allowed")
    assert listed(admin, key) == {"auto", "fast"}


@pytest.mark.parametrize("endpoint", ["chat", "models", "route"])
def test_a_key_uses_its_endpoints_alone(admin, endpoint):
    # An explanation is of a chat request: whoever may ask for one may chat.
    allowed = {"chat", endpoint} if endpoint == "route" else {endpoint}
    key = admin.create(endpoints=sorted(allowed))["key"]
    asked = {
        "chat": ("/v1/chat/completions", chat()),
        "models": ("/v1/models", None),
        "route": ("/v1/route", chat()),
    }
    for name, (path, body) in asked.items():
        reply = admin.served.ask(body, path=path, **bearer(key))
        if name not in allowed:
            assert (reply.status, reply.json["error"]["code"]) == (403, "endpoint_not_allowed")
        else:
            assert reply.status == 200, reply.body
    if "chat" not in allowed:
        assert refusal(admin, key) == (403, "endpoint_not_allowed")


def test_a_change_holds_for_the_next_request(admin):
    made = admin.create()
    assert admin.chat(made["key"]).status == 200
    admin.ask(f"{KEYS}/{made['id']}", {"models": ["mistral-large-latest"]}, method="PATCH")
    assert refusal(admin, made["key"]) == (403, "model_not_allowed")
    admin.ask(f"{KEYS}/{made['id']}", {"models": None}, method="PATCH")
    assert admin.chat(made["key"]).status == 200


def standing(admin: Admin, name: str, period: str) -> dict[str, Any]:
    data = admin.ask(f"/admin/budgets?scope=key:{name}").json["data"]
    return next(each for each in data if each["period"] == period)


def test_a_budget_of_a_new_key_holds_at_once(admin):
    made = admin.create(budget={"total": "0.000000001"})
    assert refusal(admin, made["key"]) == (429, "budget_exceeded")


@pytest.mark.parametrize("period", ["daily", "monthly", "total"])
def test_a_budget_counts_what_was_spent_before_it_was_set(admin, period):
    made = admin.create()
    for _ in range(3):
        assert admin.chat(made["key"]).status == 200
    spent = admin.served.ask(path="/user/stats", **bearer(made["key"])).json["cost_nano_usd"]
    assert spent > 0
    limit = f"{spent / 1e9:.9f}"
    admin.ask(f"{KEYS}/{made['id']}", {"budget": {period: limit}}, method="PATCH")
    assert refusal(admin, made["key"]) == (429, "budget_exceeded")
    stands = standing(admin, made["name"], period)
    assert stands["spent_nano_usd"] == stands["limit_nano_usd"] == spent
    assert (stands["left_nano_usd"], stands["used_percent"]) == (0, 100.0)
    assert stands["key_name"] == made["name"]
    assert (stands["renews_at"] is None) == (period == "total")
    admin.ask(f"{KEYS}/{made['id']}", {"budget": {period: 1}}, method="PATCH")
    assert admin.chat(made["key"]).status == 200
    stands = standing(admin, made["name"], period)
    now = admin.served.ask(path="/user/stats", **bearer(made["key"])).json
    assert stands["spent_nano_usd"] == now["cost_nano_usd"] > spent
    assert stands["spent_nano_usd"] + stands["left_nano_usd"] == stands["limit_nano_usd"]
    assert now["budgets"] == [stands]


def test_a_caller_is_told_of_its_own_key_by_name_too(admin):
    """An id says nothing to whoever made a key by name; of others nothing more is told."""
    for terms in ({"budget": {"total": 0}}, {"rates": {"requests_per_minute": 1}}):
        made = admin.create(**terms)
        while (reply := admin.chat(made["key"])).status == 200:
            pass
        assert f"key:{made['id']} ({made['name']})" in reply.message
        assert reply.json["error"]["limit"]["scope"] == f"key:{made['id']}"


def test_rates_of_a_key_hold_at_once(admin):
    made = admin.create(rates={"requests_per_minute": 2})
    assert [admin.chat(made["key"]).status for _ in range(3)] == [200, 200, 429]
    rates = admin.served.ask(path="/user/stats", **bearer(made["key"])).json["rates"]
    assert rates["requests_per_minute"] == 2
    admin.ask(f"{KEYS}/{made['id']}", {"rates": None}, method="PATCH")
    assert admin.chat(made["key"]).status == 200


def test_budgets_are_filtered_by_scope_and_by_kind(admin):
    made = admin.create(budget={"daily": 5, "total": 50}, team="filtered")
    by_id = admin.ask(f"/admin/budgets?scope=key:{made['id']}").json["data"]
    by_name = admin.ask(f"/admin/budgets?scope=key:{made['name']}").json["data"]
    assert by_id == by_name and [each["period"] for each in by_id] == ["daily", "total"]
    kinds = {each["scope"].partition(":")[0] for each in admin.ask("/admin/budgets").json["data"]}
    assert kinds == {"key"}
    assert admin.ask("/admin/budgets?scope=team").json["data"] == []
    for wrong in ("teams", "colour:red", "key:", ""):
        assert admin.ask(f"/admin/budgets?scope={wrong}").json["error"]["param"] == "scope"
    assert admin.ask("/admin/budgets?scop=team").json["error"]["param"] == "scop"


def test_a_teams_budget_is_told_to_its_members_as_a_share_alone(tmp_path):
    auth = AuthConfig(admin_key=ADMIN)
    budgets = {
        "team:shared": BudgetConfig(daily=Decimal("0.5")),
        "key:*": BudgetConfig(monthly=Decimal(3)),
    }
    with serving(auth=auth, budgets=budgets, data_dir=str(tmp_path)) as served:
        one, two = (
            served.ask({"name": name, "team": "shared"}, path=KEYS, **bearer(ADMIN)).json
            for name in ("one", "two")
        )
        assert served.ask(chat(), **bearer(two["key"])).status == 200
        stats = served.ask(path="/user/stats", **bearer(one["key"])).json
        (share,) = stats["team_budgets"]
        assert share.keys() == {"period", "used_percent", "renews_at"}
        assert stats["requests"] == 0
        assert [each["scope"] for each in stats["budgets"]] == [f"key:{one['id']}"]
        told = served.ask(path="/admin/budgets", **bearer(ADMIN)).json["data"]
        scopes = {each["scope"] for each in told}
        assert scopes >= {"team:shared", f"key:{one['id']}", f"key:{two['id']}"}


# What is written down


def admin_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "windvane.admin"]


def test_every_change_is_logged_with_who_what_and_which(admin, caplog):
    """However little else is logged."""
    assert logging.getLogger("windvane.admin").level == logging.INFO
    names = {
        ("POST", KEYS): "create_key",
        ("PATCH", f"{KEYS}/{{key_id}}"): "change_key",
        ("DELETE", f"{KEYS}/{{key_id}}"): "revoke_key",
        ("POST", f"{KEYS}/{{key_id}}/rotate"): "rotate_key",
        ("DELETE", "/admin/cache"): "clear",
        ("POST", "/admin/ledger/rebuild"): "rebuild_ledger",
        ("POST", "/admin/reload"): "reload_configuration",
    }
    subjects = {"/admin/ledger/rebuild": "usage_daily", "/admin/reload": "configuration"}
    changing = [each for each in admin_routes(admin.served) if each[0] != "GET"]
    assert set(changing) == set(names)
    for method, path in changing:
        made = admin.create()
        for key, who in ((ADMIN, "admin"), (admin.local_key, "local-admin")):
            caplog.clear()
            reply = admin.served.ask(
                body_for(method, path),
                path=path.replace("{key_id}", made["id"]),
                method=method,
                **bearer(key),
            )
            which = reply.json.get("id") or reply.json.get("tag") or subjects[path]
            assert admin_lines(caplog) == [f"{who}: {names[method, path]} {which}: done"]
    caplog.clear()
    admin.ask(KEYS, {"name": "configured"})
    admin.ask(KEYS, {"nam": "x"})
    admin.ask(f"{KEYS}/nobody", method="DELETE")
    assert admin_lines(caplog) == [
        "admin: create_key -: refused (name_in_use)",
        "admin: create_key -: refused (invalid_request)",
        "admin: revoke_key -: refused (no_such_key)",
    ]
    caplog.clear()
    stranger = admin.create()  # of whom it has not been said in this minute
    caplog.clear()
    admin.served.ask({"name": "x"}, path=KEYS, **bearer(stranger["key"]))
    admin.ask(KEYS)
    assert admin_lines(caplog) == [f"{stranger['id']}: create_key -: refused (admin_only)"]


def spellings(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + secret).rstrip(b"=")[4:-4]


PROMPT = "zephyr-canary-prompt-7311"


def test_no_secret_and_no_digest_is_anywhere_but_in_a_keys_own_answer(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    shown: list[bytes] = []
    secrets: list[str] = [ADMIN, CONFIGURED]
    with serving(
        auth=AuthConfig(admin_key=ADMIN, keys=(KeyConfig(key=CONFIGURED, name="configured"),)),
        data_dir=str(tmp_path),
    ) as served:
        local = (tmp_path / ADMIN_FILE).read_text()
        pepper = bytes.fromhex((tmp_path / PEPPER_FILE).read_text())

        def ask(path: str, body: Any = None, key: str = ADMIN, method: str | None = None) -> Reply:
            reply = served.ask(body, path=path, method=method, **bearer(key))
            if reply.status < 400 and isinstance(reply.headers.get("content-type"), str):
                made = reply.json if "json" in reply.headers["content-type"] else None
                if isinstance(made, dict) and "key" in made and "secrets" in made:
                    secrets.append(made.pop("key"))
                    shown.append(json.dumps([made, reply.headers]).encode())
                    return reply
            shown.append(json.dumps(reply.headers).encode() + reply.body)
            return reply

        first = ask(KEYS, {"name": "one", "team": "t"}).json["key"]
        ask(f"{KEYS}/one/rotate", {"overlap_s": 60}, method="POST")
        ask(KEYS, {"name": "two"})
        for key in (*secrets, local):
            for stream in (False, True):
                ask("/v1/chat/completions", chat(PROMPT, stream=stream, user="someone"), key)
            for path in ("/user/stats", "/v1/models", KEYS, f"{KEYS}/one", "/admin/budgets"):
                ask(path, key=key)
            for text in ("by=key,user,day", "by=key&format=csv", "key=one", f"key={first}"):
                ask(f"/admin/usage?{text}", key=key)
            ask(f"{KEYS}/{key}")
            ask(f"{KEYS}/{key}", method="DELETE")
            ask(KEYS, {"name": key + ",", "key": key})
            ask(KEYS, {"name": "three", "models": ["nothing"]}, key)
            ask("/user/stats", key=f"{key}x")
        ask("/openapi.json")
        ask("/metrics")
        record = served.seen.ended[0].request_id
        ask(f"/admin/requests/{record}")
        ask(f"{KEYS}/one", {"budget": {"daily": 1}}, method="PATCH")
        ask(f"{KEYS}/one", method="DELETE")
        ask("/v1/chat/completions", chat(PROMPT), first)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(data.startswith(b"SQLite format 3") for data in files.values())
    logs = [
        formatter.format(logged).encode()
        for logged in caplog.records
        for formatter in (JsonFormatter(), TextFormatter())
    ]
    secrets = sorted({*secrets, local})
    assert len(secrets) >= 6
    digests = [key_digest(pepper, secret) for secret in secrets]
    for kind, canaries in (("secret", [s.encode() for s in secrets]), ("digest", digests)):
        spelt = [each for canary in canaries for each in spellings(canary)]
        for data in (*shown, *logs):
            assert [each for each in spelt if each in data and len(each) > 8] == [], kind
    kept = {ADMIN_FILE, PEPPER_FILE}
    for path, data in files.items():
        for secret in (*secrets, PROMPT):
            if path.name not in kept:
                assert secret.encode() not in data, path
    for data in logs:
        assert PROMPT.encode() not in data
    assert not any(found_in(data) for data in shown)


def test_what_is_kept_of_a_key_is_its_digest(admin):
    """The store holds what the keyring needs, and nothing a caller could show."""
    made = admin.create("kept")
    key = admin.served.engine.desk.get(made["id"])
    assert made["key"].encode() not in msgspec.json.encode(key)
    assert [each.hint for each in key.secrets] == [made["secrets"][0]["hint"]]
