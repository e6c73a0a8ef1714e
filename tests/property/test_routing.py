"""Routing: junk is refused by its place, and a decision is an order of what was offered."""

from datetime import date
from operator import ge, gt, le, lt

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Capability, Catalog, ModelCard, Status
from windvane.core.deployment import Deployment
from windvane.core.faults import NoRouteError
from windvane.core.routing.decide import decide
from windvane.core.routing.fields import ANALYSIS_FIELDS, FACT_FIELDS
from windvane.core.routing.table import Route, RouteTable, Rule, first_match

DAY = date(2026, 11, 20)
NAMES = ["a", "b", "c", "d", "nobody"]
EMPTY_CATALOG = Catalog((), DAY)

FIELD = st.sampled_from([*ANALYSIS_FIELDS, *FACT_FIELDS, "header.x"]) | st.text(max_size=8)
SCALAR = st.none() | st.booleans() | st.integers(-5, 500) | st.floats() | st.text(max_size=5)
COMPARISON = st.sampled_from(["gt", "gte", "lt", "lte", "in", "not", "contains"]) | st.text(
    max_size=4
)
CONDITION = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(COMPARISON, inner, max_size=3),
    max_leaves=6,
)
JUNK_RULE = st.builds(
    Rule, use=st.sampled_from(NAMES), when=st.dictionaries(FIELD, CONDITION, max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.integers(-3, 26) | st.floats(-3, 26),
        min_size=1,
    )
)
def test_a_range_is_refused_exactly_when_no_value_is_in_it(limits: dict[str, float]) -> None:
    try:
        routes = {"auto": Route(rules=(Rule(use="a", when={"hour": limits}),))}
        rules = RouteTable.of(routes).routes["auto"][1]
        is_refused = False
    except ValueError:
        is_refused = True
    tests = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
    met = [
        hour
        for hour in range(24)
        if all(tests[name](hour, limit) for name, limit in limits.items())
    ]
    assert is_refused is not bool(met)
    for hour in met:
        assert first_match(rules, Analysis(), {"hour": hour}) == 1


@settings(deadline=None, max_examples=300)
@given(st.lists(JUNK_RULE, max_size=3), SCALAR)
def test_junk_is_refused_by_its_place_or_can_be_asked(rules: list[Rule], fact: object) -> None:
    facts = {**dict.fromkeys(FACT_FIELDS, fact), "tag": ("x", "y")}
    try:
        table = RouteTable.of({"auto": Route(rules=tuple(rules))})
    except ValueError as error:
        assert str(error).startswith("routes.auto.rules[")
        return
    for compiled in table.routes["auto"][1]:
        for analysis in (Analysis(), Analysis(language="fr", tools=3, output_tokens_max=9)):
            assert first_match((compiled,), analysis, facts) in (compiled.place, None)


def deployment(name: str, provider: str, *, chats: bool) -> Deployment:
    card = ModelCard(
        id=name,
        provider=provider,
        name=name,
        status=Status.GA,
        source="s",
        capabilities=frozenset((Capability.CHAT,) if chats else ()),
    )
    return Deployment(id=f"{provider}/{name}", provider=provider, model=name, card=card)


@st.composite
def offers(draw: st.DrawFn) -> dict[str, tuple[Deployment, ...]]:
    return {
        name: tuple(
            deployment(name, provider, chats=draw(st.booleans()))
            for provider in draw(st.lists(st.sampled_from(["p", "q"]), min_size=1, unique=True))
        )
        for name in draw(st.lists(st.sampled_from(NAMES[:-1]), unique=True))
    }


MODELS = st.lists(st.sampled_from(NAMES), max_size=4).map(tuple)
RULE = st.builds(Rule, use=MODELS, when=st.sampled_from([{}, {"tools": True}, {"tools": False}]))
ROUTE = st.builds(
    Route, rules=st.lists(RULE, max_size=3).map(tuple), otherwise=MODELS, fallbacks=MODELS
)


@settings(deadline=None, max_examples=200)
@given(ROUTE, offers(), st.sets(st.sampled_from([f"{p}/{n}" for p in "pq" for n in NAMES])))
def test_a_decision_is_an_order_of_what_was_offered(
    route: Route, offered: dict[str, tuple[Deployment, ...]], resting: set[str]
) -> None:
    analysis = Analysis()
    matching = [rule for rule in route.rules if rule.when in ({}, {"tools": False})]
    first = matching[0].models if matching else route.default_models
    chain = list(dict.fromkeys((*first, *route.fallbacks)))
    able = [
        one for name in chain for one in offered.get(name, ()) if one.why_not(analysis, DAY) is None
    ]
    try:
        decision = decide(
            "auto",
            analysis,
            routes=RouteTable.of({"auto": route}),
            deployments=offered,
            catalog=EMPTY_CATALOG,
            facts={},
            day=DAY,
            is_available=lambda one: one.id not in resting,
        )
    except NoRouteError as error:
        assert able == []
        assert all(name in error.fault.message for name in chain)
        return
    chosen = [candidate.deployment.id for candidate in decision.candidates]
    awake = [one.id for one in able if one.id not in resting]
    asleep = [one.id for one in able if one.id in resting]
    assert chosen == awake + asleep != []
    assert decision.rule == (route.rules.index(matching[0]) + 1 if matching else None)
    told_of = {candidate.model for candidate in decision.candidates} | {
        item.model for item in decision.ruled_out
    }
    assert told_of == set(chain)
