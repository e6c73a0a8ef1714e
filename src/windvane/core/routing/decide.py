"""`decide`: from what was asked and what is known to the ordered plan, with why.

Pure. A route's name goes through its rules; any other name is a manual override and leads to that
model alone, never silently to another.
"""

from collections.abc import Callable, Mapping
from datetime import date

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Catalog
from windvane.core.deployment import Deployment
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.routing.decision import Candidate, Decision, RuledOut
from windvane.core.routing.table import Facts, RouteTable

Deployments = Mapping[str, tuple[Deployment, ...]]
"""Public model name -> the deployments that serve it, in order of preference."""


def decide(
    requested: str,
    analysis: Analysis,
    *,
    routes: RouteTable,
    deployments: Deployments,
    catalog: Catalog,
    facts: Facts,
    day: date,
    is_available: Callable[[Deployment], bool],
) -> Decision:
    """The plan for a request that asks for `requested`.

    Deployments whose breaker is open go last, rather than away: when all are sick one is still
    tried. Raises NotFoundError for a name that is neither route nor model, and NoRouteError, saying
    what ruled out what, when no candidate is left.
    """
    route: str | None = None
    rule: int | None = None
    reason = "asked for by name"
    models: tuple[str, ...] = (requested,)
    if requested in routes:
        route = requested
        rule, reason, models = _by_rules(requested, analysis, routes, facts)
    fitting: list[Candidate] = []
    resting: list[Candidate] = []
    ruled_out: list[RuledOut] = []
    for model in models:
        serving = deployments.get(model)
        if not serving:
            if route is None:
                raise unknown_model(requested, deployments, catalog, day)
            ruled_out.append(RuledOut(model=model, why="no configured provider serves it"))
            continue
        for deployment in serving:
            why_not = deployment.why_not(analysis, day)
            if why_not is not None:
                ruled_out.append(RuledOut(model=model, why=why_not))
            elif is_available(deployment):
                fitting.append(Candidate(model=model, deployment=deployment))
            else:
                resting.append(Candidate(model=model, deployment=deployment))
                ruled_out.append(RuledOut(model=model, why="its circuit breaker is open"))
    if not fitting and not resting:
        raise _no_route(requested, ruled_out)
    return Decision(
        route=route,
        rule=rule,
        reason=reason,
        candidates=tuple(fitting + resting),
        ruled_out=tuple(ruled_out),
    )


def _by_rules(
    requested: str, analysis: Analysis, routes: RouteTable, facts: Facts
) -> tuple[int | None, str, tuple[str, ...]]:
    route, rules = routes.routes[requested]
    place, reason, models = None, route.otherwise_reason, route.default_models
    for number, compiled in enumerate(rules, start=1):
        if compiled.matches(analysis, facts):
            place, models = number, compiled.rule.models
            reason = compiled.rule.reason or f"rule {number}"
            break
    chain = dict.fromkeys((*models, *route.fallbacks))
    return place, reason, tuple(chain)


def unknown_model(
    requested: str, deployments: Deployments, catalog: Catalog, day: date
) -> WindvaneError:
    """The error for a model nobody here serves: near names, and why when it is a known one."""
    shown = requested[:128]
    card = catalog.resolve(requested, day)
    if card is not None and card.is_retired(day):
        instead = f"; its replacement is {card.replacement}" if card.replacement else ""
        why = f'the model "{shown}" was retired{instead}'
    elif card is not None:
        why = f'the model "{shown}" is {card.provider}\'s, and that provider is not configured'
    else:
        why = f'there is no model "{shown}"'
    near = catalog.near(requested, sorted(deployments))
    hint = f"; did you mean {' or '.join(near)}?" if near and card is None else ""
    return refuse(
        FaultKind.NOT_FOUND,
        f"{why}{hint}",
        status=404,
        code="model_not_found",
        param="model",
    )


def _no_route(requested: str, ruled_out: list[RuledOut]) -> WindvaneError:
    reasons = "; ".join(f"{item.model}: {item.why}" for item in ruled_out) or "the route is empty"
    return refuse(
        FaultKind.NO_ROUTE,
        f'no model can serve this request for "{requested}" ({reasons})',
        code="no_route",
        param="model",
    )
