"""A configuration of any kind is taken, or its problems are told: it never fails in another way."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.config.test_problems import GOOD

from windvane.assembly import snapshot_of
from windvane.config import ConfigError
from windvane.config.check import build
from windvane.config.resolve import problems_besides
from windvane.config.schema import Config

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**30)
    | st.floats()
    | st.sampled_from(
        ["", "auto", "mine", "mistral", "mistral/mistral-embed", "1e999", "nan", "-1"]
    )
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["use", "key", "input", "kind", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [path] if path else []
    for step, member in steps:
        if isinstance(member, dict | list):
            found += places(member, (*path, step))
        else:
            found.append((*path, step))
    return found


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """The good configuration with junk in a few places."""
    tree: Any = copy.deepcopy(GOOD)
    for path in draw(st.lists(st.sampled_from(places(GOOD)), min_size=1, max_size=4)):
        place = tree
        for step in path[:-1]:
            try:
                place = place[step]
            except (KeyError, IndexError, TypeError):
                break
        if isinstance(place, dict):
            place[str(path[-1])] = draw(JUNK)
    return tree  # type: ignore[no-any-return]


@settings(deadline=None, max_examples=100)
@given(spoilt())
def test_a_spoilt_configuration_is_taken_or_its_problems_are_told(tree: dict[str, Any]) -> None:
    told: list[Any] = []
    config = build(tree, Config, "", told)
    assert isinstance(config, Config), "as much as could be read"
    besides = problems_besides(config, told)
    if not told:
        try:
            snapshot_of(config)
        except ConfigError as error:
            assert error.problems == besides
        else:
            assert not besides
