"""The routes of a configuration: what is wrong with them, and what only looks so.

A mistake is an error: a condition that cannot hold, a model that nobody knows. What may be meant, or
comes about by itself, is a note: a model is retired one day, and a gateway that served until then must
start on the next; a name may be taken from a model on purpose.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import msgspec

from windvane.config.check import Doubts, Problem
from windvane.config.schema import CacheConfig, Config
from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Catalog, ModelCard
from windvane.core.deployment import Deployment
from windvane.core.routing.decide import why_unserved
from windvane.core.routing.presets import PRESETS, USUAL_PRESETS
from windvane.core.routing.table import Route, RouteTable, Rule, compile_rule
from windvane.engine.snapshot import Snapshot

AUTO = "auto"


def route_names(config: Config) -> tuple[str, ...]:
    """All routes: `auto` is there without being configured."""
    return tuple(dict.fromkeys((AUTO, *config.routes)))


def routes_of(
    config: Config, deployments: Mapping[str, Sequence[Deployment]], problems: list[Problem]
) -> RouteTable:
    """The routes, ready to match; none when a condition is wrong."""
    routes = dict(config.routes)
    preset = PRESETS.get(config.router.preset or usual_preset(deployments))
    if preset is None:
        known = ", ".join(PRESETS)
        problems.append(Problem("router.preset", f"must be one of {known}"))
    elif AUTO not in routes:
        threshold = config.router.length_threshold
        routes = {AUTO: preset() if threshold is None else preset(threshold), **routes}
    wrong = list(_wrong_conditions(routes))
    problems += wrong
    return RouteTable({}) if wrong else RouteTable.of(routes)


def usual_preset(deployments: Mapping[str, Sequence[Deployment]]) -> str:
    """The preset of whoever names none: the first of the usual ones that those who serve lead somewhere."""
    for name in USUAL_PRESETS:
        if leads_on(PRESETS[name](), deployments):
            return name
    return USUAL_PRESETS[0]


def leads_on(route: Route, deployments: Mapping[str, Sequence[Deployment]]) -> bool:
    """Whether somebody serves a request that no rule of the route is about."""
    return any(model in deployments for model in (*route.default_models, *route.fallbacks))


def _wrong_conditions(routes: dict[str, Route]) -> Iterable[Problem]:
    """Each comparison is tried alone, so that none hides another; then those that may exclude each other
    together."""
    for name, route in routes.items():
        for place, rule in enumerate(route.rules):
            for field, wanted in rule.when.items():
                alone = _whats(rule, field, _comparisons(wanted))
                for what in alone or _whats(rule, field, [wanted]):
                    yield Problem(f"routes.{name}.rules[{place}].when.{field}", what)


def _whats(rule: Rule, field: str, tried: list[object]) -> list[str]:
    """What is wrong with conditions on one field, each by itself."""
    errors = (_error_of(msgspec.structs.replace(rule, when={field: each})) for each in tried)
    return list(dict.fromkeys(str(error).removeprefix(f"{field}: ") for error in errors if error))


def _comparisons(wanted: object) -> list[object]:
    if isinstance(wanted, dict) and wanted:
        return [{name: limit} for name, limit in wanted.items()]
    return [wanted]


def _error_of(rule: Rule) -> ValueError | None:
    try:
        compile_rule(rule)
    except ValueError as error:
        return error
    return None


def check_routes(
    config: Config,
    deployments: Mapping[str, Sequence[Deployment]],
    catalog: Catalog,
    day: date,
    doubts: Doubts,
    problems: list[Problem],
) -> None:
    """A configured route must name models that exist, and that chat; one without any leads nowhere."""
    are_all_known = not doubts.cover("providers") and not any(
        doubts.cover(f"providers.{name}.models") for name in config.providers
    )
    for name, route in config.routes.items():
        named = list(_named(route))
        if not any(models for _, models in named):
            problems.append(Problem(f"routes.{name}", "it names no model"))
            continue
        for place, models in named:
            at = f"routes.{name}.{place}"
            if not models and place.startswith("rules"):
                problems.append(Problem(at, "it names no model"))
            for model in models:
                cards = _cards_of(model, config, deployments, catalog, day)
                if not cards and are_all_known:
                    near = catalog.near(model, sorted({*deployments, *catalog.names()}))
                    hint = f'; did you mean "{near[0]}"?' if near else ""
                    problems.append(Problem(at, f'there is no model "{model}"{hint}'))
                elif cards and (obstacle := _never_chats(cards, day)) is not None:
                    problems.append(Problem(at, f'"{model}" {obstacle}'))


def _named(route: Route) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The models that a route names, by their place in it."""
    for number, rule in enumerate(route.rules):
        yield f"rules[{number}].use", rule.models
    yield "otherwise", route.default_models
    yield "fallbacks", route.fallbacks


def _cards_of(
    model: str,
    config: Config,
    deployments: Mapping[str, Sequence[Deployment]],
    catalog: Catalog,
    day: date,
) -> list[ModelCard | None]:
    """What is known of each model of that name: None of a configured one, nothing of a name that is
    none. A provider that something is wrong with has its models all the same."""
    if model in deployments:
        return [deployment.card for deployment in deployments[model]]
    provider, _, rest = model.partition("/")
    if any(model in settings.models for settings in config.providers.values()):
        return [None]
    if provider in config.providers and rest in config.providers[provider].models:
        return [None]
    known = catalog.of_name if provider in config.providers else catalog.resolve
    card = known(model, day)
    return [] if card is None else [card]


def _never_chats(cards: list[ModelCard | None], day: date) -> str | None:
    """Why none of these can be asked, where that is not a matter of time."""
    for card in cards:
        if card is None or card.is_retired(day) or (obstacle := card.obstacle(day)) is None:
            return None
    return obstacle


def notes_of(config: Config, snapshot: Snapshot, day: date) -> list[Problem]:
    """What is no mistake, and may not be meant. Without a provider there is no telling of routes."""
    notes: list[Problem] = []
    if config.cache.scope is None and config.cache != CacheConfig():
        what = "without cache.scope (key, team or shared) nothing is kept, whatever else it says"
        notes.append(Problem("cache", what))
    for name, (route, _) in snapshot.routes.routes.items() if snapshot.upstreams else ():
        place = f"routes.{name}" if name in config.routes else "router.preset"
        serving = snapshot.deployments.get(name)
        if serving:
            own = f"{serving[0].provider}/{name}"
            what = f'it hides the model of that name; "{own}" asks for the model itself'
            notes.append(Problem(place, what))
        notes += _obstacles(place, route, snapshot, day)
    return [*notes, *_never_asked(config, snapshot, day)]


def _never_asked(config: Config, snapshot: Snapshot, day: date) -> Iterable[Problem]:
    """Configured models that no request can be served by."""
    for provider, settings in config.providers.items():
        for model in settings.models:
            if (what := _why_not(f"{provider}/{model}", snapshot, day)) is not None:
                said = f"every request for it is refused with 400 no_route: {what}"
                yield Problem(f"providers.{provider}.models.{model}", said)


def _obstacles(place: str, route: Route, snapshot: Snapshot, day: date) -> Iterable[Problem]:
    """Where a route leads nowhere, and which of its models are retired."""
    why = {model: _why_not(model, snapshot, day) for _, models in _named(route) for model in models}
    ways = [(at, models) for at, models in _named(route) if at != "fallbacks"]
    if any(not rule.when for rule in route.rules):
        ways.pop()  # a rule without conditions leaves nothing over
    dead = [
        (at, models)
        for at, models in ways
        if all(why[each] for each in (*models, *route.fallbacks))
    ]
    if len(dead) == len(ways):
        dead = [("", tuple(why))]
    told: set[str] = set()
    for at, models in dead:
        tried = dict.fromkeys((*models, *route.fallbacks))
        told.update(tried)
        alike: dict[str | None, list[str]] = {}
        for each in tried:
            alike.setdefault(why[each], []).append(each)
        reasons = "; ".join(f"{', '.join(models)}: {said}" for said, models in alike.items())
        what = f"what comes here is refused with 400 no_route ({reasons or 'it names no model'})"
        yield Problem(f"{place}.{at}" if at else place, what)
    for at, models in _named(route):
        for model in models:
            if model not in told and (what := why[model] or "").startswith("it was retired"):
                yield Problem(f"{place}.{at}", f'"{model}": {what}')


def _why_not(model: str, snapshot: Snapshot, day: date) -> str | None:
    """Why nobody serves a plain request for the model; None when somebody does."""
    serving = snapshot.deployments.get(model)
    if not serving:
        return why_unserved(model, snapshot.catalog, day)
    reasons = [deployment.why_not(Analysis(), day) for deployment in serving]
    return None if None in reasons else reasons[0]
