"""Taking answers back: what was made before is void, what is made after is not."""

from hypothesis import given
from hypothesis import strategies as st

from windvane.core.cache.invalidation import (
    ALL,
    Invalidations,
    key_tag,
    model_tag,
    route_tag,
    scope_tag,
)

TAGS = ("a", "b", "c")


def after(*tags: str) -> Invalidations:
    known = Invalidations()
    for tag in tags:
        version = known.version + 1
        known = Invalidations(version=version, by_tag={**known.by_tag, tag: version})
    return known


def test_nothing_is_void_at_first() -> None:
    assert not after().voids(TAGS, 0)


def test_what_was_made_before_is_void_and_what_is_made_after_is_not() -> None:
    known = after("a")
    assert known.voids(("a",), 0)
    assert not known.voids(("a",), 1)
    assert not known.voids(("b",), 0)


def test_all_voids_everything_even_what_has_no_tags() -> None:
    assert after(ALL).voids((), 0)
    assert not after(ALL).voids((), 1)


def test_a_maker_who_had_not_heard_makes_what_is_void() -> None:
    """It knew of the first invalidation; the second came before its answer was stored."""
    assert after("x", "a").voids(("a",), 1)


@given(st.lists(st.sampled_from([*TAGS, ALL])), st.sets(st.sampled_from(TAGS)), st.integers(0, 9))
def test_void_is_what_was_invalidated_since(
    history: list[str], tags: set[str], version: int
) -> None:
    since = history[version:]
    expected = any(tag == ALL or tag in tags for tag in since)
    assert after(*history).voids(tuple(tags), version) == expected


def test_tags_of_different_kinds_never_meet() -> None:
    made = {ALL, "tag:all", model_tag("all"), route_tag("all"), scope_tag("all"), key_tag(b"all")}
    assert len(made) == 6
