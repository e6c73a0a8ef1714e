"""What an entry is worth keeping for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.core.cache.value import WORTH_MAX, gain_of, worth_of

WORTH = st.floats(0, 1e15)
SIZE = st.integers(1, 10**9)


@given(WORTH, WORTH, SIZE)
def test_what_saves_more_is_worth_more(one: float, other: float, size: int) -> None:
    if one < other:
        assert gain_of(one, size) <= gain_of(other, size)


@given(WORTH, SIZE, SIZE)
def test_what_is_smaller_is_worth_more(worth: float, one: int, other: int) -> None:
    if one < other:
        assert gain_of(worth, one) > gain_of(worth, other)


@given(WORTH, SIZE)
def test_the_worth_is_known_again(worth: float, size: int) -> None:
    assert worth_of(gain_of(worth, size), size) == pytest.approx(worth, rel=1e-6, abs=1e-6)


def test_odd_numbers_do_no_harm() -> None:
    assert gain_of(-5.0, 10) == gain_of(0.0, 10) == 0.1
    assert gain_of(float("inf"), 1) == gain_of(WORTH_MAX, 1)
    assert gain_of(1.0, 0) == gain_of(1.0, 1)
