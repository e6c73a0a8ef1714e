"""`GET /v1/models[/{id}]`: the routes and models this gateway serves, as both SDKs read them."""

import msgspec

from windvane.core.catalog.models import Capability, ModelCard
from windvane.core.chat import JsonObject
from windvane.core.faults import PermissionDeniedError
from windvane.core.principal import Principal
from windvane.core.routing.decide import unknown_model
from windvane.core.routing.decision import Candidate, Decision
from windvane.core.routing.permits import meant, permitted
from windvane.engine.snapshot import Snapshot
from windvane.gateway.data_plane.asgi import JSON
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.outgoing import id_headers, lines_of

PATH = "/v1/models/"
MODELS = "models"
"""The endpoint, as keys name it in what they may use."""
OWNER = "windvane"
_CREATED = 1_760_000_000
"""OpenAI's clients want a number; what a route was created at means nothing."""


async def list_models(door: Door, body: bytes) -> None:
    principal = door.engine.identify(door.incoming.credentials(), MODELS)
    snapshot = door.engine.snapshot
    names = [name for name in public_names(snapshot) if _is_open(name, snapshot, principal)]
    data = [model_object(name, snapshot) for name in names]
    await _send(door, {"object": "list", "data": data})


async def get_model(door: Door, body: bytes) -> None:
    """One model. Raises NotFoundError with near names, PermissionDeniedError when it is not open to
    the key."""
    principal = door.engine.identify(door.incoming.credentials(), MODELS)
    snapshot = door.engine.snapshot
    name = door.caller.path.removeprefix(PATH).removesuffix("/")
    if name not in snapshot.routes and name not in snapshot.deployments:
        names = {*snapshot.deployments, *snapshot.routes.routes}
        raise unknown_model(name, names, snapshot.catalog, snapshot.catalog.as_of)
    _check_open(name, snapshot, principal)
    await _send(door, model_object(name, snapshot))


async def _send(door: Door, value: JsonObject) -> None:
    lines = lines_of([*id_headers(door.request_id), JSON])
    await door.caller.answer(200, lines, msgspec.json.encode(value))


def public_names(snapshot: Snapshot) -> list[str]:
    """Routes first, then models; a model is listed under its plain name alone, unless a route has it."""
    routes = snapshot.routes
    models = [name for name in snapshot.deployments if "/" not in name and name not in routes]
    return [*snapshot.routes.routes, *sorted(models)]


def _is_open(name: str, snapshot: Snapshot, principal: Principal) -> bool:
    try:
        _check_open(name, snapshot, principal)
    except PermissionDeniedError:
        return False
    return True


def _check_open(name: str, snapshot: Snapshot, principal: Principal) -> None:
    """Raise what a request for `name` would, were every model it can lead to able to serve it."""
    requested = meant(name, principal)
    leading_to = [requested]
    known = snapshot.routes.routes.get(requested)
    if known is not None:
        route, rules = known
        ruled = [model for compiled in rules for model in compiled.rule.models]
        leading_to = [*ruled, *route.default_models, *route.fallbacks]
    candidates = tuple(
        Candidate(model=model, deployment=deployment)
        for model in dict.fromkeys(leading_to)
        for deployment in snapshot.deployments.get(model, ())
    )
    decision = Decision(
        route=None if known is None else requested,
        rule=None,
        reason="",
        candidates=candidates,
        ruled_out=(),
    )
    permitted(decision, requested, principal)


def model_object(name: str, snapshot: Snapshot) -> JsonObject:
    """What a request for `name` gets: the route of that name, should it hide a model."""
    if name in snapshot.routes:
        return {
            "id": name,
            "object": "model",
            "created": _CREATED,
            "owned_by": OWNER,
            "type": "base",
            "capabilities": _capabilities(frozenset(Capability)),
            "description": "a route: the gateway chooses the model",
        }
    serving = snapshot.deployments[name]
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
