"""Conditions of rules: what matches, and what is refused with its place."""

import pytest

from windvane.core.analysis import Analysis, lexicon
from windvane.core.routing.table import Route, RouteTable, Rule, compile_rule, first_match

ASKED = Analysis(
    chars=150,
    tools=2,
    images=0,
    code=True,
    language="fr",
    input_tokens=900,
    difficulty=0.5,
    output_tokens_max=None,
)
FACTS = {
    "key": "k1",
    "team": None,
    "tag": ("prod", "eu"),
    "hour": 14,
    "weekday": 0,
    "requested_model": "auto",
    "header.x-tier": "gold",
}

CASES: list[tuple[dict[str, object], bool]] = [
    ({}, True),
    ({"tools": True}, True),
    ({"tools": False}, False),
    ({"images": True}, False),
    ({"images": False}, True),
    ({"tools": 2}, True),
    ({"tools": 3}, False),
    ({"code": True}, True),
    ({"language": "fr"}, True),
    ({"language": "de"}, False),
    ({"language": ["de", "fr"]}, True),
    ({"language": None}, False),
    ({"language": {"in": ["fr"]}}, True),
    ({"language": {"not": "fr"}}, False),
    ({"language": {"not": ["de", "es"]}}, True),
    ({"language": {"contains": "f"}}, True),
    ({"chars": {"gt": 149}}, True),
    ({"chars": {"gt": 150}}, False),
    ({"chars": {"gte": 150}}, True),
    ({"chars": {"lt": 150}}, False),
    ({"chars": {"lte": 150}}, True),
    ({"chars": {"gt": 100, "lt": 200}}, True),
    ({"chars": {"gt": 100, "lt": 120}}, False),
    ({"chars": {"not": {"gt": 100}}}, False),
    ({"difficulty": {"gte": 0.5}}, True),
    ({"output_tokens_max": {"gt": 0}}, False),
    ({"output_tokens_max": {"lt": 10}}, False),
    ({"output_tokens_max": False}, True),
    ({"key": "k1"}, True),
    ({"team": "blue"}, False),
    ({"tag": "eu"}, True),
    ({"tag": "us"}, False),
    ({"tag": ["us", "prod"]}, True),
    ({"tag": {"not": "eu"}}, False),
    ({"tag": {"contains": "ro"}}, True),
    ({"hour": {"gte": 9, "lt": 17}}, True),
    ({"weekday": [5, 6]}, False),
    ({"code": {"not": [False]}}, True),
    ({"code": 1}, True),
    ({"difficulty": 0.5}, True),
    ({"team": None}, True),
    ({"header.x-tier": "gold"}, True),
    ({"header.x-other": "gold"}, False),
    ({"header.x-other": {"not": "gold"}}, True),
    ({"header.x-other": {"contains": "g"}}, False),
    ({"tools": True, "language": "fr", "tag": "prod"}, True),
    ({"tools": True, "language": "de", "tag": "prod"}, False),
]


@pytest.mark.parametrize(("when", "matches"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_rule_matches_when_each_condition_holds(when: dict[str, object], matches: bool) -> None:
    rule = compile_rule(Rule(use="m", when=when))
    assert first_match((rule,), ASKED, FACTS) == (1 if matches else None)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"tool": True}, r'tool: no such field of a request; did you mean "tools"\?'),
    ({"charz": 1}, r'charz: no such field of a request; did you mean "chars"\?'),
    ({"zzzzzzzz": 1}, "zzzzzzzz: no such field of a request$"),
    (
        {"chars": {"above": 3}},
        "chars: unknown comparison 'above'; one of gt, gte, lt, lte, in, not, contains",
    ),
    ({"chars": {"gt": "120"}}, "chars: `gt` needs a number, not '120'"),
    ({"chars": {"gt": True}}, "chars: `gt` needs a number, not True"),
    ({"chars": {"lte": None}}, "chars: `lte` needs a number, not None"),
    ({"chars": {}}, "chars: an empty condition"),
    ({"language": {"in": "fr"}}, "language: `in` needs a list"),
    ({"language": {"not": {}}}, "language: an empty condition"),
    ({"hour": {"past": 3}}, "hour: unknown comparison"),
    ({"code": "maybe"}, "code: it is true or false, never 'maybe'$"),
    ({"code": 2}, "code: it is true or false, never 2$"),
    ({"chars": "abc"}, "chars: it is a number, never 'abc'$"),
    ({"chars": [100, "200"]}, "chars: it is a number, never '200'$"),
    ({"chars": {"not": "120"}}, "chars: it is a number, never '120'$"),
    ({"chars": None}, "chars: it is a number, never None$"),
    ({"tools": [True]}, "tools: it is a number, never True$"),
    ({"language": 5}, "language: it is a text, never 5$"),
    ({"language": [["fr"]]}, r"language: it is a text, never \['fr'\]$"),
    ({"language": []}, "language: an empty list matches nothing$"),
    ({"language": {"in": []}}, "language: an empty list matches nothing$"),
    ({"language": {"gt": 5}}, "language: `gt` compares numbers, and it is a text$"),
    ({"header.x-tier": 1}, "header.x-tier: it is a text, never 1$"),
    ({"weekday": "monday"}, "weekday: it is a number from 0 to 6, never 'monday'$"),
    ({"weekday": 7}, "weekday: it is a number from 0 to 6, never 7$"),
    ({"hour": 25}, "hour: it is a number from 0 to 23, never 25$"),
    ({"hour": [1, 24]}, "hour: it is a number from 0 to 23, never 24$"),
    ({"hour": {"not": 24}}, "hour: it is a number from 0 to 23, never 24$"),
    ({"hour": {"gt": 23}}, "hour: it is a number from 0 to 23, never gt 23$"),
    ({"hour": {"gt": 3, "lt": 4}}, "hour: it is a number from 0 to 23, never gt 3 and lt 4$"),
    ({"difficulty": {"gt": 2}}, "difficulty: it is a number from 0 to 1, never gt 2$"),
    ({"difficulty": {"gt": 1}}, "difficulty: it is a number from 0 to 1, never gt 1$"),
    ({"difficulty": {"lt": 0}}, "difficulty: it is a number from 0 to 1, never lt 0$"),
    ({"chars": {"gt": 5, "lt": 3}}, "chars: it is a number, never gt 5 and lt 3$"),
    ({"chars": {"gt": float("nan")}}, "chars: it is a number, never gt nan$"),
    ({"chars": {"gt": float("inf")}}, "chars: it is a number, never gt inf$"),
    ({"chars": {"gt": 10**400}}, "chars: it is a number, never gt 1000"),
    ({"chars": 5.5}, "chars: it is a number, never 5.5$"),
    ({"chars": -1}, "chars: it is a number, never -1$"),
    ({"code": {"gt": 1}}, "code: it is true or false, never gt 1$"),
    ({"language": "EN"}, "language: it is one of en, .*, never 'EN'$"),
    ({"language": {"not": "EN"}}, "language: it is one of en, .*, never 'EN'$"),
    ({"language": "latin"}, "language: it is one of en, .*, never 'latin'$"),
    ({"script": "Latin"}, "script: it is one of latin, .*, never 'Latin'$"),
]


@pytest.mark.parametrize(
    "when",
    [
        {"hour": 23},
        {"weekday": [0, 6]},
        {"hour": {"gte": 23, "lt": 24}},
        {"difficulty": {"gt": 0.5, "lt": 0.6}},
        {"difficulty": {"gte": 1}},
        {"chars": {"gt": 3, "lt": 5}},
        {"chars": {"gte": 3, "lte": 3}},
        {"chars": {"gt": 2.5, "lt": 3.5}},
        {"chars": {"lt": float("inf")}},
        {"chars": 5.0},
        {"language": [*(each for each, _ in lexicon.LANGUAGE_WORDS), "greek", None]},
        {"script": ["latin", "hangul"]},
    ],
    ids=str,
)
def test_a_condition_that_some_request_meets_is_taken(when: dict[str, object]) -> None:
    compile_rule(Rule(use="m", when=when))


@pytest.mark.parametrize(("when", "problem"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_condition_without_meaning_is_refused_with_its_place(
    when: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        compile_rule(Rule(use="m", when=when))
    routes = {"auto": Route(rules=(Rule(use="a"), Rule(use="b", when=when)))}
    with pytest.raises(ValueError, match=rf"^routes\.auto\.rules\[1\]\.when\.{next(iter(when))}: "):
        RouteTable.of(routes)


def test_a_table_knows_its_routes() -> None:
    table = RouteTable.of({"auto": Route(otherwise="m")})
    assert "auto" in table
    assert "m" not in table


def test_a_table_knows_what_each_route_asks_of_the_analysis() -> None:
    rules = (
        Rule(use="a", when={"code": True, "hour": 3, "header.x": "y"}),
        Rule(use="b", when={"code": False, "chars": {"gt": 3}}),
    )
    table = RouteTable.of({"auto": Route(rules=rules), "other": Route(otherwise="m")})
    assert table.asked == {"auto": {"code", "chars"}, "other": frozenset()}


def test_use_is_one_model_or_several() -> None:
    assert Rule(use="a").models == ("a",)
    assert Rule(use=("a", "b")).models == ("a", "b")
    assert Route(otherwise="a").default_models == ("a",)
    assert Route().default_models == ()
