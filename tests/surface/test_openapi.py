"""The OpenAPI document of both planes is true: schemathesis asks what it allows, and what it does not."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.surface.served import WAIT_S, Served, chat, serving

from windvane.config.schema import AuthConfig, KeyConfig
from windvane.gateway.data_plane.app import ENDPOINTS
from windvane.gateway.data_plane.caller import DATA_PLANE

KEY = "sk-openapi-tests"
ADMIN_KEY = "sk-openapi-admin"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    auth = AuthConfig(keys=(KeyConfig(key=KEY, name="o"),), admin_key=ADMIN_KEY)
    with serving(auth=auth) as running:
        running.headers = {"authorization": f"Bearer {KEY}"}
        yield running


@pytest.fixture(scope="module")
def document(served: Served) -> Any:
    reply = served.ask(path="/openapi.json")
    assert reply.status == 200
    return reply.json


@pytest.fixture(scope="module")
def api(document: Any, served: Served) -> Any:
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=served.url)
    return loaded


OPERATIONS = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/route"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/providers"),
    ("GET", "/user/stats"),
    ("GET", "/admin/requests/{request_id}"),
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys"),
    ("GET", "/admin/keys/{key_id}"),
    ("PATCH", "/admin/keys/{key_id}"),
    ("DELETE", "/admin/keys/{key_id}"),
    ("POST", "/admin/keys/{key_id}/rotate"),
    ("GET", "/admin/budgets"),
    ("GET", "/admin/usage"),
    ("GET", "/admin/cache"),
    ("DELETE", "/admin/cache"),
    ("GET", "/admin/ledger/verification"),
    ("POST", "/admin/ledger/rebuild"),
    ("POST", "/admin/reload"),
)
HAVE_INPUT = ("POST", "PATCH")
HAVE_QUESTIONS = ("/admin/usage", "/admin/budgets", "/admin/cache", "/admin/keys")


def test_the_operations_tested_below_are_all_there_are(document):
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert listed == set(OPERATIONS)


def with_known_model(body: Any) -> None:
    """In half of the cases a model that exists, so that answers are tested as well as refusals."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2:
        body["model"] = "mistral-small-latest"


def says_one_or_nothing(value: Any) -> bool:
    """A list that in a query is what it holds, or is not there: schemathesis means it to be refused."""
    return isinstance(value, list | dict) and len(value) < 2


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in GenerationMode
        if mode.is_positive or method in HAVE_INPUT or path in HAVE_QUESTIONS
    ],
)
def test_what_is_served_is_what_is_documented(served, api, method, path, mode):
    """Requests the document allows, and requests it does not."""
    operation = api[path][method]
    has_input = method in HAVE_INPUT or "{" in path or path in HAVE_QUESTIONS
    key = ADMIN_KEY if path.startswith("/admin/") else KEY

    @settings(
        max_examples=20 if has_input else 2,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode.is_positive:
            with_known_model(case.body)
        else:
            assume(not any(map(says_one_or_nothing, (case.query or {}).values())))
        case.call_and_validate(
            headers={"Authorization": f"Bearer {key}"}, checks=CHECKS, timeout=WAIT_S
        )

    ask()
    assert served.sim.violations == []


def test_every_endpoint_of_the_data_plane_is_documented(document):
    paths = {*ENDPOINTS, "/v1/models/{model}"}
    assert {path for path in document["paths"] if path.startswith(DATA_PLANE)} == paths
    for path, (method, _) in ENDPOINTS.items():
        assert set(document["paths"][path]) == {method.lower()}


def test_every_reference_of_the_document_leads_somewhere(document):
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    found = set(references(document))
    assert found
    for reference in found:
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_documented_request_takes_ours_and_refuses_others(document):
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    wanted = {**body["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema.validate(chat(temperature=1, tools=None, stream=True), wanted)
    for wrong in ({"messages": []}, {"temperature": 3}, {"model": ""}, {"stream": "yes"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**chat(), **wrong}, wanted)


def test_what_needs_a_key_is_documented_to_need_one(document, served):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            shown = path.format(model="auto", request_id="x", key_id="x")
            data = chat() if method in ("post", "patch") else None
            reply = served.ask(
                data, path=shown, method=method.upper(), authorization="", host="gateway.example"
            )
            assert (reply.status == 401) == bool(operation.get("security")), path
