"""What a key may use: of all that could serve, the part that is open to its caller."""

import msgspec

from windvane.core.faults import FaultKind, refuse
from windvane.core.principal import Principal, allows
from windvane.core.routing.decision import Candidate, Decision, RuledOut

AUTO = "auto"
NOT_ALLOWED = "this key may not use it"


def meant(requested: str, principal: Principal) -> str:
    """What a caller means by a name: `auto` may be another route for some keys."""
    return principal.route if requested == AUTO and principal.route is not None else requested


def permitted(decision: Decision, requested: str, principal: Principal) -> Decision:
    """The decision without what the key may not use. Raises PermissionDeniedError (403)."""
    if not (principal.models or principal.routes or principal.provider):
        return decision
    if decision.route is not None and not allows(principal.routes, decision.route):
        allowed = ", ".join(principal.routes)
        raise refuse(
            FaultKind.FORBIDDEN,
            f'this key may not use the route "{decision.route}"; it may use: {allowed}',
            status=403,
            code="route_not_allowed",
            param="model",
        )
    if decision.route is None and principal.routes and not principal.models:
        allowed = ", ".join(principal.routes)
        raise refuse(
            FaultKind.FORBIDDEN,
            f"this key may not choose a model itself; it may use the routes: {allowed}",
            status=403,
            code="model_not_allowed",
            param="model",
        )
    open_to_it = tuple(each for each in decision.candidates if _is_open(each, principal))
    if not open_to_it:
        allowed = ", ".join(principal.models) or f"models of {principal.provider}"
        raise refuse(
            FaultKind.FORBIDDEN,
            f'this key may not use "{requested[:128]}"; it may use: {allowed}',
            status=403,
            code="model_not_allowed",
            param="model",
        )
    if len(open_to_it) == len(decision.candidates):
        return decision
    closed = [each for each in decision.candidates if each not in open_to_it]
    ruled_out = tuple(RuledOut(model=each.model, why=NOT_ALLOWED) for each in closed)
    return msgspec.structs.replace(
        decision, candidates=open_to_it, ruled_out=(*decision.ruled_out, *ruled_out)
    )


def _is_open(candidate: Candidate, principal: Principal) -> bool:
    deployment = candidate.deployment
    if principal.provider is not None and deployment.provider != principal.provider:
        return False
    return any(
        allows(principal.models, name)
        for name in (candidate.model, deployment.model, deployment.resolved_model)
    )
