"""`decide`: from what was asked and what is known to the ordered plan, with why.

Pure. A route's name goes through its rules; any other name is a manual override and leads to that
model alone, never silently to another.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Catalog
from windvane.core.deployment import TOO_LONG, Deployment
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.routing.decision import Candidate, Decision, RuledOut
from windvane.core.routing.table import Facts, RouteTable, first_match

Deployments = Mapping[str, tuple[Deployment, ...]]
"""Public model name -> the deployments that serve it, in order of preference."""

RESTING = "it rests: its circuit breaker is open, or its provider has barred it"


class Decider:
    """Decides, by the routes and deployments of one snapshot, on one day.

    Most requests ask for nothing a model could lack: what each rule leads to is worked out for such
    a request once, and kept.
    """

    def __init__(
        self, routes: RouteTable, deployments: Deployments, catalog: Catalog, day: date
    ) -> None:
        self._routes = routes
        self._deployments = deployments
        self._catalog = catalog
        self.day = day
        self.asking_facts = routes.asking_facts
        """The routes whose decisions may depend on more than the request itself."""
        self._plain: dict[tuple[str, int | None], tuple[int, Decision]] = {}

    def decide(
        self,
        requested: str,
        analysis: Analysis,
        facts: Facts,
    ) -> Decision:
        """The plan for a request that asks for `requested`, when all are well.

        Raises NotFoundError for a name that is neither route nor model, and NoRouteError, saying what
        ruled out what, when no candidate is left.
        """
        known = self._routes.routes.get(requested)
        rule = None if known is None else first_match(known[1], analysis, facts)
        is_plain = not (analysis.tools or analysis.images or analysis.audio or analysis.json_schema)
        if is_plain and (plain := self._plain.get((requested, rule))) is not None:
            window, decision = plain
            if analysis.input_tokens + (analysis.output_tokens_max or 0) < window:
                return decision
        route = None if known is None else requested
        decision = self._work_out(requested, route, rule, analysis)
        if is_plain and not any(item.why.startswith(TOO_LONG) for item in decision.ruled_out):
            self._plain[requested, rule] = (_smallest_window(decision), decision)
        return decision

    def _work_out(
        self,
        requested: str,
        route: str | None,
        rule: int | None,
        analysis: Analysis,
    ) -> Decision:
        reason, models = self._plan_of(requested, route, rule)
        fitting: list[Candidate] = []
        ruled_out: list[RuledOut] = []
        for model in models:
            serving = self._deployments.get(model)
            if not serving:
                if route is None:
                    names = {*self._deployments, *self._routes.routes}
                    raise unknown_model(requested, names, self._catalog, self.day)
                why = why_unserved(model, self._catalog, self.day)
                ruled_out.append(RuledOut(model=model, why=why))
                continue
            for deployment in serving:
                why_not = deployment.why_not(analysis, self.day)
                if why_not is not None:
                    ruled_out.append(RuledOut(model=model, why=why_not))
                else:
                    fitting.append(Candidate(model=model, deployment=deployment))
        if not fitting:
            raise _no_route(requested, ruled_out, self._too_long(models, analysis))
        return Decision(
            route=route,
            rule=rule,
            reason=reason,
            candidates=tuple(fitting),
            ruled_out=tuple(ruled_out),
        )

    def _too_long(self, models: tuple[str, ...], analysis: Analysis) -> str:
        """The field to shorten when no model has room for the request: the answer asked for, if one of
        them would serve it with an ordinary one."""
        ordinary = msgspec.structs.replace(analysis, output_tokens_max=None)
        serving = [each for model in models for each in self._deployments.get(model, ())]
        would_do = any(each.why_not(ordinary, self.day) is None for each in serving)
        return "max_tokens" if would_do else "messages"

    def _plan_of(
        self, requested: str, route: str | None, rule: int | None
    ) -> tuple[str, tuple[str, ...]]:
        """The reason, and the names of the models to ask, in order."""
        if route is None:
            return "asked for by name", (requested,)
        known, rules = self._routes.routes[route]
        if rule is None:
            reason, models = known.otherwise_reason, known.default_models
        else:
            matched = rules[rule - 1].rule
            reason, models = matched.reason or f"rule {rule}", matched.models
        return reason, tuple(dict.fromkeys((*models, *known.fallbacks)))


def decide(
    requested: str,
    analysis: Analysis,
    *,
    routes: RouteTable,
    deployments: Deployments,
    catalog: Catalog,
    facts: Facts,
    day: date,
    is_available: Callable[[Deployment], bool] | None = None,
) -> Decision:
    """`Decider.decide`, for a single decision; `is_available` None says that all are."""
    decision = Decider(routes, deployments, catalog, day).decide(requested, analysis, facts)
    return decision if is_available is None else rested(decision, is_available)


def rested(decision: Decision, is_available: Callable[[Deployment], bool]) -> Decision:
    """The same candidates, but those that are not available (their breaker is open) go last, rather than
    away: when all are sick one is still tried."""
    resting = [each for each in decision.candidates if not is_available(each.deployment)]
    if not resting:
        return decision
    others = [each for each in decision.candidates if each not in resting]
    why = tuple(RuledOut(model=each.model, why=RESTING) for each in resting)
    plan = reordered(decision, (*others, *resting), decision.reason)
    return msgspec.structs.replace(plan, ruled_out=(*decision.ruled_out, *why))


def reordered(decision: Decision, candidates: tuple[Candidate, ...], reason: str) -> Decision:
    """The decision with its candidates in another order; it remembers the route's own, should another
    go first now."""
    own = decision.own or decision
    is_first = candidates[0] is own.candidates[0]
    return msgspec.structs.replace(
        decision, candidates=candidates, reason=reason, own=None if is_first else own
    )


def _smallest_window(decision: Decision) -> int:
    windows = [
        candidate.deployment.card.context_window_tokens
        for candidate in decision.candidates
        if candidate.deployment.card is not None
    ]
    return min((window for window in windows if window is not None), default=1 << 62)


def why_unserved(model: str, catalog: Catalog, day: date) -> str:
    """Why a model is ruled out that no deployment serves."""
    card = catalog.of_name(model, day)
    obstacle = None if card is None else card.obstacle(day)
    return "no configured provider serves it" if obstacle is None else f"it {obstacle}"


def unknown_model(
    requested: str, names: Iterable[str], catalog: Catalog, day: date
) -> WindvaneError:
    """The error for what is none of the `names` of models and routes: near ones, and why when it is a
    known model."""
    shown = requested[:128]
    card = catalog.of_name(requested, day)
    if card is not None and (obstacle := card.obstacle(day)) is not None:
        why = f'the model "{shown}" {obstacle}'
    elif (card := catalog.resolve(requested, day)) is not None:
        why = f'the model "{shown}" is {card.provider}\'s, and that provider is not configured'
    else:
        why = f'there is no model "{shown}"'
    near = catalog.near(requested, sorted(names))
    hint = f"; did you mean {' or '.join(near)}?" if near and card is None else ""
    return refuse(
        FaultKind.NOT_FOUND,
        f"{why}{hint}",
        status=404,
        code="model_not_found",
        param="model",
    )


def _no_route(requested: str, ruled_out: list[RuledOut], too_long: str) -> WindvaneError:
    """`too_long` names what to shorten, should each of them have been ruled out by its window."""
    if ruled_out and all(item.why.startswith(TOO_LONG) for item in ruled_out):
        return refuse(
            FaultKind.CONTEXT_TOO_LONG, f"{too_long}: {ruled_out[-1].why}", param=too_long
        )
    reasons = "; ".join(f"{item.model}: {item.why}" for item in ruled_out) or "the route is empty"
    return refuse(
        FaultKind.NO_ROUTE,
        f'no model can serve this request for "{requested}" ({reasons})',
        code="no_route",
        param="model",
    )
