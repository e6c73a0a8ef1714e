"""`GET /v1/models[/{id}]`: the routes and models this gateway serves, as both SDKs read them."""

import msgspec

from windvane.core.catalog.models import Capability, ModelCard
from windvane.core.chat import JsonObject
from windvane.core.routing.decide import unknown_model
from windvane.engine.snapshot import Snapshot
from windvane.gateway.data_plane.asgi import JSON, Send, send_whole
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import id_headers

OWNER = "windvane"
_CREATED = 1_760_000_000
"""OpenAI's clients want a number; what a route was created at means nothing."""


async def list_models(door: Door, incoming: Incoming, body: bytes, send: Send) -> None:
    door.engine.identify(incoming.credentials())
    snapshot = door.engine.snapshot
    data = [model_object(name, snapshot) for name in public_names(snapshot)]
    await _send(door, incoming, send, {"object": "list", "data": data})


async def get_model(door: Door, incoming: Incoming, name: str, send: Send) -> None:
    """One model. Raises NotFoundError with near names."""
    door.engine.identify(incoming.credentials())
    snapshot = door.engine.snapshot
    if name not in snapshot.routes and name not in snapshot.deployments:
        raise unknown_model(name, snapshot.deployments, snapshot.catalog, snapshot.catalog.as_of)
    await _send(door, incoming, send, model_object(name, snapshot))


async def _send(door: Door, incoming: Incoming, send: Send, value: JsonObject) -> None:
    request_id = incoming.request_id or door.engine.new_request_id()
    await send_whole(send, 200, [*id_headers(request_id), JSON], msgspec.json.encode(value))


def public_names(snapshot: Snapshot) -> list[str]:
    """Routes first, then models; a model is listed under its plain name alone."""
    models = [name for name in snapshot.deployments if "/" not in name]
    return [*snapshot.routes.routes, *sorted(models)]


def model_object(name: str, snapshot: Snapshot) -> JsonObject:
    serving = snapshot.deployments.get(name)
    if not serving:
        return {
            "id": name,
            "object": "model",
            "created": _CREATED,
            "owned_by": OWNER,
            "type": "base",
            "capabilities": _capabilities(frozenset(Capability)),
            "description": "a route: the gateway chooses the model",
        }
    card = serving[0].card
    written: JsonObject = {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": serving[0].provider,
        "type": "base",
        "capabilities": _capabilities(card.capabilities if card else frozenset((Capability.CHAT,))),
    }
    if card is not None:
        written |= _card_fields(card)
    return written


def _card_fields(card: ModelCard) -> JsonObject:
    written: JsonObject = {"name": card.id, "aliases": [alias.name for alias in card.aliases]}
    if card.context_window_tokens:
        written["max_context_length"] = card.context_window_tokens
    if card.retires_on:
        written["deprecation"] = f"{card.retires_on}T00:00:00Z"
        written["deprecation_replacement_model"] = card.replacement
    return written


def _capabilities(able: frozenset[Capability]) -> JsonObject:
    return {
        "completion_chat": Capability.CHAT in able,
        "function_calling": Capability.TOOLS in able,
        "vision": Capability.VISION in able,
        "reasoning": Capability.REASONING in able,
        "completion_fim": False,
        "fine_tuning": False,
        "classification": False,
    }
