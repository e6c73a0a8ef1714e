"""Answers that come in pieces: commitment, silence, ends good and bad."""

import msgspec
import pytest
from tests.engine.scene import Scene, plays

from windvane.testing import Call
from windvane.testing.answers import DONE, Ends, Head, Piece, Script, chunk, error_body
from windvane.testing.playbook import (
    Connecting,
    Failed,
    Finished,
    HungUp,
    Left,
    Playbook,
    Said,
    Sent,
    Settled,
    Slept,
    answer,
    ask,
    breaks,
    connects,
    done,
    ends,
    finishes,
    head,
    leaves,
    opens,
    passes,
    refuses,
    says,
    sends,
    slow_network,
    status,
)

STREAM = {"stream": True}

FORM = 16
"""What the form around an answer may take, in tokens."""
UNSEEN = 4 * 32
"""What a provider may have made that nobody saw, when pieces were few and short."""
GARBAGE = len(b"data: {nonsense\n\n")


def test_a_plain_stream() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("", "Hel")
        << Said("Hel")
        >> passes(1.0)
        >> says("lo")
        << Said("lo")
        >> finishes(output_tokens=3)
        >> done()
        >> ends()
        << Settled("exact", "ok", cost=9 * 150 + 3 * 600)
        << Finished()
    ).run()


def test_retry_after_holds_for_streams() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> status(429, retry_after=2)
        << Settled("exact", "rate_limited", cost=0)
        << Slept(2.0)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


def test_a_refused_connection_is_hidden_from_a_stream_too() -> None:
    (
        Playbook()
        >> slow_network()
        >> ask("auto", stream=True)
        << Connecting("one/small")
        >> refuses()
        << Settled("exact", "connect_failed", cost=0)
        << Slept(0.1, 0.3)
        << Connecting("one/small")
        >> connects()
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


def test_usage_and_finish_without_the_marker_are_a_good_end() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> ends()
        << Settled("exact", "ok")
        << Finished()
    ).run()


def test_a_marker_without_a_finish_is_no_good_end() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> done()
        << HungUp("one/small")
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_a_body_that_ends_early_is_no_good_end() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> ends()
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_a_finish_that_nobody_counted_needs_the_marker() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes()
        >> ends()
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_a_stream_without_usage_is_estimated() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("one ", "two ", "three")
        << Said("one two three")
        >> finishes()
        >> done()
        << Settled("estimated", "ok")
        << Finished()
    ).run()


def test_no_first_token_in_time() -> None:
    """The head and a role are not words: only words end the wait."""
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> passes(50.0)
        >> opens()
        >> passes(50.0)
        >> sends(chunk("", role="assistant"))
        << Slept(20.0)
        << HungUp("one/small")
        << Settled("assumed", "timeout")
        << Sent("two/large")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


def test_a_stream_whose_head_never_comes_waits_no_longer_than_for_a_first_token() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        << Slept(120.0)
        << HungUp("one/small")
        << Settled("assumed", "timeout")
        << Failed("timeout", 504)
    ).run()


def test_comments_are_not_a_first_token() -> None:
    book = Playbook() >> ask("small", stream=True) << Sent("one/small") >> opens()
    for _ in range(11):
        book >> passes(10.0) >> sends(b": processing\n\n")
    book << Slept(10.0) << HungUp("one/small") << Settled("assumed", "timeout")
    (book << Failed("timeout")).run()


def test_no_next_token_in_time() -> None:
    """Once words were given, a silence is an error for the caller; nobody else is asked."""
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> passes(30.0)
        >> sends(b": still here\n\n")
        << Slept(30.0)
        << HungUp("one/small")
        << Settled("estimated", "timeout")
        << Failed("timeout")
    ).run()


def test_an_empty_stream_goes_to_a_stronger_model_once() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("", role="assistant"))
        >> finishes(output_tokens=0)
        >> done()
        << Settled("exact", "low_quality", cost=9 * 150)
        << Sent("two/large")
        >> opens()
        >> says("better")
        << Said("better")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


@pytest.mark.parametrize("has_marker", [True, False])
def test_the_empty_stream_stands_when_the_stronger_model_fails(has_marker: bool) -> None:
    """Its connection was given back meanwhile, and must not be read again."""
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> finishes(output_tokens=0)
        >> (done() if has_marker else ends())
        << Settled("exact", "low_quality")
        << Sent("two/large")
        >> status(503)
        << Settled("exact", "overloaded")
        << Finished()
    ).run()


def test_an_error_before_the_first_word_is_hidden_by_another_model() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("", role="assistant"))
        >> sends(b"data: " + error_body("overloaded") + b"\n\n")
        << HungUp("one/small")
        << Settled("assumed", "stream_broken")
        << Sent("two/large")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


def test_an_error_that_comes_with_the_first_word_is_hidden_as_well() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> slow_network()
        >> opens()
        >> sends(chunk("hel") + b"data: " + error_body("overloaded") + b"\n\n")
        << HungUp("one/small")
        << Settled("estimated", "stream_broken")
        << Connecting("two/large")
        >> refuses()
        << Settled("exact", "connect_failed")
        << Slept(0.1, 0.3)
        << Connecting("two/large")
        >> refuses()
        << Settled("exact", "connect_failed")
        << Failed("connect_failed")
    ).run()


@pytest.mark.parametrize(
    "what", [b"data: " + error_body("overloaded") + b"\n\n", b"data: {nonsense\n\n"]
)
@pytest.mark.parametrize("count", [3, 20])
def test_what_came_in_the_read_that_failed_is_counted(what: bytes, count: int) -> None:
    """It was made, and is on the bill, though nobody was given it."""
    words = chunk("wo ") * count
    play = (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("", role="assistant"))
        >> sends(words + what)
        << HungUp("one/small")
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()
    (entry,) = play.stage.ledger.entries
    assert len("wo ") * count <= entry.output_tokens < len(words)


def test_after_the_first_word_an_error_is_told_and_not_hidden() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> sends(b"data: " + error_body("overloaded") + b"\n\n")
        << HungUp("one/small")
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_words_that_come_with_an_error_are_given_and_counted_before_it() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("one ")
        << Said("one ")
        >> sends(chunk("two ") + chunk("three ") + b"data: {nonsense\n\n")
        << Said("two three ")
        << HungUp("one/small")
        << Settled("estimated", "stream_broken", output_tokens=FORM + 14 + 3 + UNSEEN + GARBAGE)
        << Failed("stream_broken")
    ).run()


def test_a_connection_that_breaks_after_the_first_word() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> breaks()
        << HungUp("one/small")
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_an_answer_that_is_no_stream_is_not_a_stream() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> answer("hello")
        << HungUp("one/small")
        << Settled("assumed", "upstream_error")
        << Sent("two/large")
        >> head(content_type="text/html")
        << HungUp("two/large")
        << Settled("assumed", "upstream_error")
        << Failed("upstream_error", 502)
    ).run()


@plays()
async def test_a_stream_may_come_without_its_type(scene: Scene) -> None:
    def untyped(call: Call) -> Script:
        call.input_tokens = 9
        data = chunk("Hi") + chunk(finish="stop", usage=(9, 1)) + DONE
        head = Head(headers={})
        return [(0, head), (0, Piece(data=data, output_tokens=1)), (0, Ends())]

    scene.scripts = [untyped]
    assert (await scene.ask("why", stream=True)).text == "Hi"


def test_a_caller_who_leaves_before_the_first_word() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> passes(3.0)
        >> leaves()
        << HungUp("one/small")
        << Settled("assumed", "cancelled")
        << Left()
    ).run()


def test_one_choice_of_two_that_is_counted_is_not_all_of_the_answer() -> None:
    """The other may be under way, without a word yet: its tokens are in no count that came."""
    (
        Playbook()
        >> ask("small", stream=True, n=2)
        << Sent("one/small")
        >> opens()
        >> says("one ")
        << Said("one ")
        >> finishes(output_tokens=1)
        >> leaves()
        << Settled("estimated", "cancelled")
        << Left()
    ).run()


def test_a_caller_who_leaves_midway_pays_for_what_came() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("one ", "two ")
        << Said("one two ")
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled", output_tokens=FORM + 8 + 2 + UNSEEN)
        << Left()
    ).run()


def test_a_caller_who_leaves_after_the_usage_pays_exactly() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("one ", "two ")
        << Said("one two ")
        >> finishes(output_tokens=2)
        >> leaves()
        << HungUp("one/small")
        << Settled("exact", "cancelled", cost=9 * 150 + 2 * 600)
        << Left()
    ).run()


@pytest.mark.parametrize("counted", [(9, 0), (9, 1)])
def test_usage_that_words_came_after_is_not_the_usage_of_a_whole_stream(
    counted: tuple[int, int],
) -> None:
    """It may stand anywhere; what came after it is not in it."""
    play = (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("", usage=counted))
        >> says(*["word "] * 30)
        >> finishes()
        >> done()
        >> ends()
        << Said("word " * 30)
        << Settled("estimated", "ok")
        << Finished()
    ).run()
    (entry,) = play.stage.auditor.settlements.values()
    assert entry.output_tokens >= 30


@pytest.mark.parametrize(
    ("counted", "certainty"), [(0, "estimated"), (39, "estimated"), (40, "exact")]
)
def test_a_usage_beside_an_error_that_counts_less_than_came_is_not_the_bill(
    counted: int, certainty: str
) -> None:
    """Some servers say what they knew at the beginning."""
    usage = {"prompt_tokens": 9, "completion_tokens": counted}
    error = msgspec.json.encode({"error": {"message": "boom"}, "choices": [], "usage": usage})
    play = (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("one ", usage=(9, 40)), output_tokens=40)
        << Said("one ")
        >> sends(b"data: " + error + b"\n\n")
        << Settled(certainty, "stream_broken")
        << Failed("stream_broken")
    ).run()
    (entry,) = play.stage.auditor.settlements.values()
    assert entry.output_tokens >= 40


def test_usage_so_far_is_not_the_usage() -> None:
    """Some servers count in every chunk; what they made after the last one is not known."""
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("one ", usage=(9, 40)))
        << Said("one ")
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled", output_tokens=40 + UNSEEN)
        << Left()
    ).run()


def test_the_arguments_of_a_call_are_counted_in_the_form_they_may_have() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "x" * 299}}
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk(tool_calls=[call]))
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled", output_tokens=FORM + 64 + 2 * 300 + 1 + 4 * 299)
        << Left()
    ).run()


def test_the_last_bytes_are_waited_for_only_briefly() -> None:
    """The answer is whole at its marker; a body that does not end takes its connection with it."""
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << HungUp("one/small")
        << Finished()
    ).run()


@pytest.mark.parametrize("word", ["", "null", "eos"])
def test_an_end_with_each_piece_is_no_end(word: str) -> None:
    """Some servers say an empty reason, or one of their own, where others say null."""
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("The ", finish=word, usage=(9, 1)), output_tokens=1)
        << Said("The ")
        >> sends(chunk("whole", finish=word, usage=(9, 2)), output_tokens=1)
        << Said("whole")
        >> done()
        >> ends()
        << Settled("exact", "ok", cost=9 * 150 + 2 * 600)
        << Finished()
    ).run()


@pytest.mark.parametrize("words", [("", ""), ("stop", None), ("stop", "eos")])
def test_a_stream_that_is_cut_after_such_an_end_is_no_good_end(
    words: tuple[str, str | None],
) -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("The ", finish=words[0], usage=(9, 1)))
        << Said("The ")
        >> sends(chunk("who", finish=words[1], usage=(9, 2)))
        << Said("who")
        >> ends()
        << Settled("estimated", "stream_broken")
        << Failed("stream_broken")
    ).run()


def test_who_leaves_after_an_end_that_was_none_does_not_pay_by_its_count() -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(chunk("The ", finish="", usage=(9, 40)))
        << Said("The ")
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled", output_tokens=40 + UNSEEN)
        << Left()
    ).run()
