"""Usage adds up."""

from windvane.core.usage import NOTHING_USED, Usage


def test_the_total_is_input_and_output_with_the_cached_counted_once() -> None:
    usage = Usage(
        input_tokens=10, output_tokens=5, cache_read_input_tokens=8, reasoning_output_tokens=3
    )
    assert usage.total_tokens == 15
    assert NOTHING_USED.total_tokens == 0
