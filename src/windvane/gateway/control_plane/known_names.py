"""What a key's terms may name: models, routes and endpoints that are there.

A name that nothing has is a mistake worth telling at once: it would shut its key out of everything,
or, as a route, make each of its requests fail.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.keys import KeyTerms
from windvane.core.principal import allows
from windvane.engine.engine import CHAT
from windvane.engine.snapshot import Snapshot
from windvane.gateway.control_plane.access import METRICS
from windvane.gateway.data_plane.models import MODELS
from windvane.gateway.data_plane.route import ROUTE

ENDPOINTS = (CHAT, MODELS, ROUTE, METRICS)


def check_names(terms: KeyTerms, given: Iterable[str], snapshot: Snapshot) -> None:
    """Raise BadRequestError, with the nearest name, for one of the `given` fields that names what
    is not there."""
    known: Mapping[str, Sequence[str]] = {
        "models": _models(snapshot),
        "routes": list(snapshot.routes.routes),
        "endpoints": ENDPOINTS,
        "route": list(snapshot.routes.routes),
    }
    for field in given:
        if field not in known:
            continue
        value = getattr(terms, field)
        for name in (value,) if isinstance(value, str) else value or ():
            if not _is_there(name, known[field], allows_endings=field != "route"):
                raise _unknown(field, name, known[field], snapshot)
    if terms.route is not None and not allows(terms.routes, terms.route):
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f'route: "{terms.route}" is not among the routes that the key may use',
            param="route",
        )


def _models(snapshot: Snapshot) -> list[str]:
    """Names that lead to a model, here or, once its provider is configured, in the catalog."""
    serving = [each for group in snapshot.deployments.values() for each in group]
    told = {name for each in serving for name in (each.model, each.resolved_model)}
    return sorted({*snapshot.deployments, *told, *snapshot.catalog.names()})


def _is_there(name: str, known: Sequence[str], *, allows_endings: bool) -> bool:
    if allows_endings and name.endswith("*"):
        return any(each.startswith(name[:-1]) for each in known)
    return name in known


def _unknown(field: str, name: str, known: Sequence[str], snapshot: Snapshot) -> WindvaneError:
    near = get_close_matches(name.rstrip("*"), known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    if field == "models" and name in snapshot.routes:
        hint = "; it is a route: say it under routes"
    elif not near and len(known) <= NAMED_MAX:
        hint = f"; there are: {', '.join(known)}"
    what = field.removesuffix("s")
    return refuse(
        FaultKind.INVALID_REQUEST,
        f'{field}: there is no {what} "{name}"{hint}',
        code=f"unknown_{what}",
        param=field,
    )


NAMED_MAX = 12
"""So many names are told in full when none is near."""
