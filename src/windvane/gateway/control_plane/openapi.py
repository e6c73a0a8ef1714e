"""The data plane's part of the OpenAPI document, from the very Structs that requests are read by."""

from typing import Any

import msgspec

from windvane.wire.chat_request import ChatBody

_REF = "#/components/schemas/{name}"

_COMPLETION: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": "object"},
        "router_metadata": {"type": "object"},
    },
}
_DATA_PLANE_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["object", "message", "type", "param", "code", "error", "request_id"],
    "properties": {
        "object": {"const": "error"},
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
        "error": {"type": "object"},
        "request_id": {"type": "string"},
        "detail": {"type": "array", "items": {"type": "object"}},
    },
}
_STATUSES = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No key, or not one of this gateway's.",
    "402": "The provider asks for payment.",
    "403": "The provider refuses this request.",
    "404": "No such model; the message names near ones.",
    "405": "Wrong method; `Allow` names the right one.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "Not JSON, or an encoded body.",
    "422": "The request is wrong (told so to Mistral's clients, with `detail`).",
    "429": "A limit; `Retry-After` says when to come back.",
    "500": "The gateway failed.",
    "502": "The provider failed.",
    "503": "The provider is overloaded, or the ledger cannot be written.",
    "504": "The provider did not answer in time.",
    "508": "A provider's address is this gateway's own.",
}


def merge_data_plane(document: dict[str, Any]) -> dict[str, Any]:
    """The control plane's document with the data plane's paths and schemas added."""
    (body_schema,), components = msgspec.json.schema_components(
        (ChatBody,), ref_template=_REF, schema_hook=_anything
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= components
    schemas["ChatCompletion"] = _COMPLETION
    schemas["DataPlaneError"] = _DATA_PLANE_ERROR
    _forget_framework_errors(document)
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["paths"] = {**_paths(body_schema), **document["paths"]}
    return document


def _forget_framework_errors(document: dict[str, Any]) -> None:
    """FastAPI documents answers that this gateway never gives: a wrong field is told as any error."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _anything(kind: type) -> dict[str, Any]:
    """The schema of a value that is carried, not read."""
    if kind is object:
        return {"description": "any JSON value"}
    raise NotImplementedError(f"no schema for {kind}")


def _paths(body_schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": body_schema}}}
    completion = {"schema": {"$ref": _REF.format(name="ChatCompletion")}}
    stream = {"schema": {"type": "string", "description": "server-sent events, then `[DONE]`"}}
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "Chat, whole or streamed, by any provider",
                {"application/json": completion, "text/event-stream": stream},
                body,
            )
        },
        "/v1/route": {
            "post": _operation(
                "What would be decided for a chat request, and why",
                {"application/json": {"schema": {"type": "object"}}},
                body,
            )
        },
        "/v1/models": {
            "get": _operation(
                "Routes and models", {"application/json": {"schema": {"type": "object"}}}
            )
        },
        "/v1/models/{model}": {
            "get": {
                **_operation("One model", {"application/json": {"schema": {"type": "object"}}}),
                "parameters": [
                    {
                        "name": "model",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                    }
                ],
            }
        },
    }


def _operation(
    summary: str, content: dict[str, Any], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    error = {"schema": {"$ref": _REF.format(name="DataPlaneError")}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status, text in _STATUSES.items():
        responses[status] = {"description": text, "content": {"application/json": error}}
    operation: dict[str, Any] = {
        "tags": ["data plane"],
        "summary": summary,
        "security": [{"bearer": []}],
        "responses": responses,
    }
    if body is not None:
        operation["requestBody"] = body
    return operation
