"""What an Anthropic stream is settled at, above all when it did not tell in the end what it used."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from tests.engine.scene import HEAD_S, Scene

from windvane.config.schema import Config, ModelConfig, PriceConfig, ProviderConfig
from windvane.core.ledger import LedgerEntry
from windvane.core.usage import Certainty
from windvane.testing import Call, run_virtual
from windvane.testing.answers import Breaks, Ends, Piece, Script, event_head, json_head

MODEL = "claude-sonnet-5-5"
FRESH, READ, WRITTEN, FOR_AN_HOUR = 10, 2_000, 1_000, 400
INPUT_COST = FRESH * 2_000 + READ * 100 + (WRITTEN - FOR_AN_HOUR) * 2_500 + FOR_AN_HOUR * 4_000


def event(kind: str, **members: Any) -> bytes:
    data = msgspec.json.encode({"type": kind, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def begun() -> bytes:
    usage = {
        "input_tokens": FRESH,
        "cache_read_input_tokens": READ,
        "cache_creation_input_tokens": WRITTEN,
        "cache_creation": {"ephemeral_1h_input_tokens": FOR_AN_HOUR},
        "output_tokens": 1,
        "service_tier": "standard",
    }
    message = {"id": "msg_1", "model": MODEL, "content": [], "stop_reason": None, "usage": usage}
    return event("message_start", message=message)


def block(kind: str, *said: str) -> bytes:
    """The beginning of a block, and what was said of it."""
    first = event("content_block_start", index=0, content_block={"type": kind, kind: ""})
    deltas = [
        event("content_block_delta", index=0, delta={"type": f"{kind}_delta", kind: piece})
        for piece in said
    ]
    return b"".join([first, *deltas])


def ended(**usage: Any) -> bytes:
    members = {"usage": usage} if usage else {}
    delta = {"stop_reason": "end_turn"}
    return event("message_delta", delta=delta, **members) + event("message_stop")


def settled(
    *events: bytes,
    last: Breaks | Ends = Ends(),  # noqa: B008
    ttl: str = "1h",
    model: str = MODEL,
) -> LedgerEntry:
    """The first attempt's entry, of a stream of these events."""

    def script(_: Call) -> Script:
        pieces = [(0.1, Piece(data=data)) for data in events]
        return [(HEAD_S, event_head()), *pieces, (0.1, last)]

    entries: list[LedgerEntry] = []

    async def main() -> None:
        price = PriceConfig(input=Decimal(2), output=Decimal(10))
        models = {MODEL: None, "plain": ModelConfig(price=price, context_window_tokens=100_000)}
        claude = ProviderConfig(
            kind="anthropic", api_base="http://one.test/v1", api_key="k", models=models
        )
        scene = Scene(config=Config(providers={"one": claude}, routes={}))
        scene.scripts = [script]
        text = "why " * 2_000
        mark = {"type": "ephemeral", "ttl": ttl}
        await scene.ask(text, model, stream=True, max_tokens=500, cache_control=mark)
        entries.extend(scene.entries)
        await scene.engine.aclose()

    run_virtual(main())
    return entries[0]


def test_a_stream_that_tells_is_settled_by_what_it_tells() -> None:
    entry = settled(begun(), block("text", "Because"), ended(output_tokens=9))
    assert entry.certainty is Certainty.EXACT
    assert entry.cost_nano_usd == INPUT_COST + 9 * 10_000
    assert entry.input_tokens == FRESH + READ + WRITTEN


@pytest.mark.parametrize("last", [ended(), None])
def test_one_that_does_not_is_settled_by_the_input_it_told_and_an_estimate(
    last: bytes | None,
) -> None:
    events = (begun(), block("text", "Because"), *([last] if last else []))
    entry = settled(*events, last=Ends() if last else Breaks())
    assert entry.certainty is Certainty.ESTIMATED
    assert entry.input_tokens == FRESH + READ + WRITTEN
    assert entry.cost_nano_usd == INPUT_COST + entry.output_tokens * 10_000
    assert 2 <= entry.output_tokens < 200


def test_an_estimate_of_few_and_long_pieces_is_not_below_their_tokens() -> None:
    """Its pieces are no tokens, and a character of Japanese is up to three; it was asked for 500."""
    entry = settled(begun(), block("text", "風" * 200, "向" * 200), last=Breaks())
    assert entry.output_tokens == 500


@pytest.mark.parametrize("last", [ended(), None])
@pytest.mark.parametrize("thoughts", [(), ("Hm.",)])
def test_one_that_thought_is_settled_at_its_hold(
    last: bytes | None, thoughts: tuple[str, ...]
) -> None:
    """What is shown of thinking, if anything, is a part of it."""
    said = block("thinking", *thoughts) + block("text", "Because")
    entry = settled(begun(), said, *([last] if last else []), last=Ends() if last else Breaks())
    assert entry.certainty is Certainty.ASSUMED
    assert entry.cost_nano_usd == entry.hold_nano_usd
    assert (entry.input_tokens, entry.output_tokens > 0) == (
        (FRESH + READ + WRITTEN, True) if last else (0, False)
    )


@pytest.mark.parametrize("usage", [None, {"input_tokens": -1}])
def test_an_answer_that_nobody_counted_tells_what_was_seen_of_it(usage: Any) -> None:
    """Beside the hold, no tokens at all would be a lie."""
    text = "It is so."

    def script(_: Call) -> Script:
        content = [{"type": "text", "text": text}]
        said = {"id": "msg_1", "model": MODEL, "content": content, "usage": usage}
        data = msgspec.json.encode({**said, "stop_reason": "end_turn"})
        return [(HEAD_S, json_head()), (0, Piece(data=data)), (0, Ends())]

    async def main() -> None:
        claude = ProviderConfig(
            kind="anthropic", api_base="http://one.test/v1", api_key="k", models={MODEL: None}
        )
        scene = Scene(config=Config(providers={"one": claude}, routes={}))
        scene.scripts = [script]
        await scene.ask("why", MODEL, max_tokens=500)
        (entry,) = scene.entries
        assert entry.certainty is Certainty.ASSUMED
        assert entry.cost_nano_usd == entry.hold_nano_usd
        assert entry.input_tokens >= len("why")
        assert len(text) <= entry.output_tokens < 100
        await scene.engine.aclose()

    run_virtual(main())


@pytest.mark.parametrize("last", [{"output_tokens": -1}, {"output_tokens": 10**19}, {"new": 9}])
def test_one_whose_count_cannot_be_believed_is_settled_at_its_hold(last: dict[str, int]) -> None:
    """Though no thinking was seen: who says this in the end is not known to show it."""
    entry = settled(begun(), block("text", "Because"), ended(**last))
    assert entry.certainty is Certainty.ASSUMED
    assert entry.cost_nano_usd == entry.hold_nano_usd
    assert entry.input_tokens == FRESH + READ + WRITTEN and entry.output_tokens > 0


def test_one_that_fails_with_its_first_words_is_settled_like_one_that_fails_later() -> None:
    """The error is told in the read that brings the words: nobody is given them, and they were made."""
    words = begun() + block("text", "Because", " it", " does")
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    together, apart = settled(words + error), settled(words, error)
    for entry in (together, apart):
        assert entry.certainty is Certainty.ESTIMATED
        assert entry.input_tokens == FRESH + READ + WRITTEN
        assert entry.cost_nano_usd == INPUT_COST + entry.output_tokens * 10_000
    said = len("Because it does")
    assert said <= together.output_tokens <= together.hold_nano_usd // 10_000
    assert said <= apart.output_tokens <= together.output_tokens  # of which nothing was left unread


@pytest.mark.parametrize("model", [MODEL, "plain"])
def test_one_that_broke_before_a_word_is_settled_at_its_hold(model: str) -> None:
    """It may have begun to think, and that would not have been shown; and where a model does not think,
    what stands in between may have kept its words."""
    entry = settled(begun(), last=Breaks(), model=model)
    assert entry.certainty is Certainty.ASSUMED
    assert entry.cost_nano_usd == entry.hold_nano_usd


def test_what_is_to_be_kept_for_an_hour_is_held_at_that_price() -> None:
    hour = settled(begun(), block("text", "x"), ended(output_tokens=1)).hold_nano_usd
    short = settled(begun(), block("text", "x"), ended(output_tokens=1), ttl="5m").hold_nano_usd
    assert hour is not None and short is not None
    output = 500 * 10_000
    assert (hour - output) * 2_500 == (short - output) * 4_000


@pytest.mark.parametrize(("longest", "sent"), [(None, 20_000), (4_096, 4_096), (64_000, 20_000)])
@pytest.mark.parametrize("said", [{}, {"max_tokens": 0}])
def test_a_model_is_asked_for_no_more_than_it_can_say(
    longest: int | None, sent: int, said: dict[str, int]
) -> None:
    """Anthropic must be told a limit, and refuses one above the model's own."""

    async def main() -> None:
        models = {"brief": ModelConfig(card=MODEL, output_tokens_max=longest)}
        claude = ProviderConfig(
            kind="anthropic", api_base="http://one.test/v1", api_key="k", models=models
        )
        scene = Scene(config=Config(providers={"one": claude}, routes={}))
        scene.scripts = [lambda _: [(HEAD_S, event_head()), (0.1, Ends())]]
        await scene.ask("why", "brief", stream=True, **said)
        (call,) = scene.calls
        assert call.body["max_tokens"] == sent
        await scene.engine.aclose()

    run_virtual(main())
