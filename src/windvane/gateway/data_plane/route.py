"""`POST /v1/route`: what would be decided for a chat request, and why; no model is called."""

from typing import cast

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.chat import JsonObject
from windvane.core.routing.decision import Candidate, Decision
from windvane.engine.admission import check_endpoint
from windvane.gateway.data_plane.asgi import JSON
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.outgoing import id_headers, lines_of
from windvane.wire.chat_request import chat_request_of, dialect_of
from windvane.wire.json_body import read_object

ROUTE = "route"
"""The endpoint, as keys name it in what they may use."""


async def explain_route(door: Door, body: bytes) -> None:
    """Serve an explanation. Raises what the request itself would raise."""
    assert door.principal is not None
    check_endpoint(door.principal, ROUTE)
    fields = read_object(body)
    incoming = door.incoming
    door.dialect = dialect_of(fields, incoming.user_agent)
    analysis, decision = door.engine.explain(
        chat_request_of(fields), credentials=incoming.credentials(), headers=incoming.headers
    )
    written = msgspec.json.encode(decision_object(analysis, decision))
    await door.caller.answer(200, lines_of([*id_headers(door.request_id), JSON]), written)


def decision_object(analysis: Analysis, decision: Decision) -> JsonObject:
    """A decision as data: the chosen model, all candidates in order, what was ruled out and why."""
    chosen = decision.candidates[0]
    return {
        "model": chosen.model,
        "provider": chosen.deployment.provider,
        "reason": decision.reason,
        "route": decision.route,
        "rule": decision.rule,
        "candidates": [_candidate_object(candidate) for candidate in decision.candidates],
        "ruled_out": [{"model": item.model, "why": item.why} for item in decision.ruled_out],
        "analysis": cast(JsonObject, msgspec.to_builtins(analysis)),
    }


def _candidate_object(candidate: Candidate) -> JsonObject:
    deployment = candidate.deployment
    return {
        "model": candidate.model,
        "deployment": deployment.id,
        "resolved_model": deployment.resolved_model,
        "quality": deployment.quality,
    }
