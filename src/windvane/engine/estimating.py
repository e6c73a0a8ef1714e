"""What an attempt used at most, when its provider did not say: never less than the bill.

A bound like the hold, by the same premises, only tighter by what is known in the end. An average or a
usual ratio would be nearer to the truth, and below it at times: then a budget would pass its limit.

- Input: what the provider said of it at the stream's beginning, if it did; else the hold's own bound, at
  the dearest rates that such a request could meet.
- Output: every byte that came may have been a token, a form around it besides. What was cut off may be
  longer than what came: a provider goes on until it learns of the end. It is taken to go on as fast as
  it did, with pieces as long as the longest. Where tools are offered it may have written a call since it
  last said something, as fast as any: most show it when it is whole. Bytes that came and were not read are
  each a token too.
- Neither is above what was asked for, nor the amount above the hold; unless so much came that it cannot
  be the tokens that were asked for: then the limit was not heeded, and what came is what counts.

Thinking that is billed and not shown leaves no bytes: where there may be some, nothing is estimated, and
the hold is assumed. So it is when a provider was not read for a while, and may be far ahead; and when its
usage was said, and cannot be believed: who miscounts what it shows may have thought as well, if it can.
"""

import math

import msgspec

from windvane.core.analysis.tokens import bytes_of
from windvane.core.catalog.models import Capability
from windvane.core.catalog.prices import cost, dearest
from windvane.core.chat import ChatRequest, Completion, ToolCall
from windvane.core.exchange import Attempt, Exchange
from windvane.core.free_fields import hides_thinking
from windvane.core.money import NanoUsd
from windvane.core.usage import Usage
from windvane.engine.bounding import input_bound
from windvane.wire.fold import Fold

IN_FLIGHT_S = 0.05
"""How long a provider may go on until it learns that nobody listens."""
PIECES_UNSEEN_MIN = 4
"""As many pieces it may have made at least that never came."""
PIECE_TOKENS_MIN = 32
"""As many tokens a piece may be at least that nobody saw."""
TOKENS_PER_S_MAX = 20_000
"""Nobody is known to write an answer faster: chips that are one model are said to reach 17,000, and of
those that load a model the fastest some 3,000."""
CHOICE_TOKENS = 16
CALL_TOKENS = 64
"""What the form around an answer and around each call may take, which is never shown."""
CALL_BYTES_TIMES = 2
"""A call is shown as JSON; the form that it is written in may name each argument twice."""
TOKEN_BYTES_MAX = 128
"""The longest tokens of the vocabularies in use: runs of so many spaces or dashes."""
TOKEN_BYTES_USUAL_MAX = 16
"""No text has so many bytes to a token, in any script, but for such runs. In a stream those come in pieces
as long; where there are more pieces than tokens that were asked for as well, it is no run."""


class Came(msgspec.Struct, frozen=True):
    """What came of an answer: the most tokens that it can be, the bytes of its text, and in how many
    pieces that came of a stream."""

    tokens_max: int
    text_bytes: int
    pieces: int = 0

    def is_beyond(self, limit: int, said_bytes: int) -> bool:
        """Whether it cannot be `limit` tokens. An answer may begin with what the request said."""
        text_bytes = self.text_bytes - said_bytes
        return text_bytes > limit * TOKEN_BYTES_MAX or (
            self.pieces > limit and text_bytes > limit * TOKEN_BYTES_USUAL_MAX
        )


def came_whole(answer: Completion) -> Came:
    """What came of an answer that is no stream."""
    return Came(_tokens_written(answer), _text_bytes(answer))


def came_streamed(fold: Fold) -> Came:
    """What came of a stream: a piece may be a token without a byte to show."""
    answer = fold.completion()
    return Came(_tokens_written(answer) + fold.pieces, _text_bytes(answer), fold.chunks)


def _text_bytes(answer: Completion) -> int:
    """Of all that is text: what is none, as a picture, may be many bytes to a token."""
    total = 0
    for choice in answer.choices:
        said = choice.message
        texts = [said.content, said.reasoning, said.refusal]
        texts += [call.arguments for call in said.tool_calls]
        total += sum(bytes_of(text) for text in texts if text)
    return total


def _tokens_written(answer: Completion) -> int:
    """No vocabulary makes more tokens of all that `answer` says."""
    total = 0
    for choice in answer.choices:
        said = choice.message
        total += CHOICE_TOKENS + sum(
            bytes_of(text) for text in (said.content, said.reasoning, said.refusal) if text
        )
        # What is no text is a token a byte of its JSON at most.
        total += sum(len(msgspec.json.encode(more)) for more in (said.parts, said.audio) if more)
        total += sum(map(_tokens_of_call, said.tool_calls))
    return total


def _tokens_of_call(call: ToolCall) -> int:
    return CALL_TOKENS + CALL_BYTES_TIMES * (bytes_of(call.name) + bytes_of(call.arguments))


def tokens_unseen(exchange: Exchange, attempt: Attempt, fold: Fold, now_s: float) -> int:
    """The most tokens that were made of a stream and never came into `fold`, which is cut off now."""
    streamed_s = 0.0 if attempt.first_chunk_s is None else now_s - attempt.first_chunk_s
    pieces = max(
        math.ceil(fold.pieces * IN_FLIGHT_S / max(streamed_s, IN_FLIGHT_S)), PIECES_UNSEEN_MIN
    )
    tokens = pieces * max(fold.longest_piece, PIECE_TOKENS_MIN)
    since_s = attempt.calling_since_s
    if since_s is not None and not fold.has_all(exchange.request.n):
        written_s = now_s - since_s + IN_FLIGHT_S
        tokens = max(tokens, math.ceil(written_s * TOKENS_PER_S_MAX) * exchange.request.n)
    return tokens + (fold.unread_bytes or 0)


def may_call(request: ChatRequest) -> bool:
    """Whether the answer may be a call of a tool: what is written of it comes whole, at the end of it."""
    body = request.body
    if "none" in (body.get("tool_choice"), body.get("function_call")):
        return False
    return bool(body.get("tools") or body.get("functions"))


def may_think(exchange: Exchange, attempt: Attempt, answer: Completion | Fold) -> bool:
    """Whether thinking that is not shown may be on the bill: the model can think, and either that is not
    shown here, or what was counted is not what is shown."""
    deployment = attempt.deployment
    card = deployment.card
    is_able = card is None or Capability.REASONING in card.capabilities
    if answer.is_miscounted:
        return is_able
    is_hidden = deployment.billing.hides_reasoning or hides_thinking(exchange.request.body)
    return is_hidden and is_able


def may_have_thought(exchange: Exchange, attempt: Attempt, fold: Fold) -> bool:
    """The same, of an answer that came as far as `fold`, but for its usage."""
    is_counted = fold.usage is not None and not fold.is_miscounted
    if is_counted and fold.chunks and attempt.deployment.billing.hides_reasoning:
        # A provider that counts from the start tells when it thinks.
        return fold.has_thought
    return may_think(exchange, attempt, fold)


def used_at_most(
    exchange: Exchange, attempt: Attempt, came: Came, unseen: int = 0, said: Usage | None = None
) -> tuple[Usage, NanoUsd | None]:
    """The most that an attempt used, and the most that it cost; None when its price is not known.

    `unseen` are the most tokens that did not come. `said` is what the provider said before the end: its
    input, and its output so far. The amount is above the hold only where more came than was asked for.
    """
    request, is_beyond = exchange.request, False
    output_tokens = max(came.tokens_max, said.output_tokens if said else 0) + unseen
    if limit := (attempt.output_tokens_max or request.output_tokens_max or 0) * request.n:
        is_beyond = came.is_beyond(limit, exchange.body_bytes * request.n)
        if not is_beyond:
            output_tokens = min(output_tokens, limit)
    if request.body.get("prediction"):
        # Foretold words that are rejected are billed as output, whatever the limit says.
        output_tokens += exchange.body_bytes * request.n
    if said is None or not said.input_tokens:
        usage = Usage(input_bound(exchange, attempt.deployment), output_tokens)
        amount = _amount(exchange, attempt, usage, is_input_said=False)
    else:
        usage = msgspec.structs.replace(said, output_tokens=output_tokens, is_so_far=False)
        amount = _amount(exchange, attempt, usage, is_input_said=True)
    held = attempt.hold.hold_nano_usd
    if amount is not None and held is not None and not is_beyond:
        amount = min(amount, held)
    return usage, amount


def is_more_than_held(attempt: Attempt, used: tuple[Usage, NanoUsd | None]) -> bool:
    """Whether so much came that even the hold is too little."""
    held, amount = attempt.hold.hold_nano_usd, used[1]
    return held is not None and amount is not None and amount > held


def _amount(
    exchange: Exchange, attempt: Attempt, usage: Usage, *, is_input_said: bool
) -> NanoUsd | None:
    """The most that `usage` costs, in whichever service tier the request may have been served; the hold,
    where that is not known."""
    price, held = attempt.price, attempt.hold.hold_nano_usd
    if price is None or held is None:
        return held
    deployment, served = attempt.deployment, usage.service_tier
    if served is None:
        factor = deployment.factor_asked(exchange.request.body.get("service_tier"))
    else:
        factor = deployment.factor_served(served)
    if factor is None:
        return held
    if is_input_said:
        return cost(price, usage, factor)
    rates = dearest(price, factor, input_tokens_max=usage.input_tokens)
    return rates.worst_case(usage.input_tokens).of(usage.output_tokens)
