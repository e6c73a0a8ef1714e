"""Folding a stream of chunks into the completion it amounts to.

The law, tested by property: `fold(stream(x)) == complete(x)`.
"""

from collections.abc import Iterator
from itertools import chain

import msgspec

from windvane.core.analysis.tokens import bytes_of
from windvane.core.chat import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    CustomCall,
    FinishReason,
    FunctionCall,
    JsonObject,
    ReplyMessage,
    ToolCall,
    ToolCallDelta,
)
from windvane.core.usage import Usage
from windvane.wire.content_parts import grown, more_than_text, split_thinking

PIECES_LOOSE = 64
"""So many pieces are kept as they came, before they are joined: each alone takes 70 bytes besides its
text, and of a long answer there are thousands."""


class _Text(list[str]):
    """A text in the pieces it came in; but for the last of them, they are joined."""

    __slots__ = ("_joined", "longest")

    def __init__(self) -> None:
        super().__init__()
        self._joined = 0
        """How many of its members are joined pieces."""
        self.longest = 0
        """Bytes of the longest piece that is joined."""

    def longest_piece(self) -> int:
        """The bytes of the longest piece it came in."""
        loose = map(bytes_of, self[self._joined :])
        return max(self.longest, max(loose, default=0))

    def join_loose(self) -> None:
        """Join what has come since this was last done, when it is much."""
        if len(self) - self._joined >= PIECES_LOOSE:
            self.longest = self.longest_piece()
            self[self._joined :] = ["".join(self[self._joined :])]
            self._joined += 1


class _CallFold:
    """One tool call as it grows."""

    __slots__ = ("arguments", "id", "index", "name", "type")

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.type = kind
        self.id: str | None = None
        self.name: str | None = None
        self.arguments = _Text()

    def call(self) -> ToolCall:
        name, arguments = self.name or "", "".join(self.arguments)
        if self.type == "custom":
            custom = CustomCall(name, arguments)
            return ToolCall(id=self.id, index=self.index, type=self.type, custom=custom)
        function = FunctionCall(name, arguments)
        return ToolCall(id=self.id, index=self.index, type=self.type, function=function)


class _ChoiceFold:
    """One choice as it grows. Text is kept in pieces and joined now and then. Where content comes as a
    list, its parts are kept in the order they came in, and so is the text among them."""

    __slots__ = (
        "audio",
        "content",
        "current",
        "finish_reason",
        "has_thought",
        "parts",
        "reasoning",
        "refusal",
        "thinking_blocks",
        "tool_calls",
    )

    def __init__(self) -> None:
        self.content = _Text()
        self.parts: list[str | JsonObject] | None = None
        """What has come since content came as a part; before it stands `content`."""
        self.audio: list[JsonObject] = []
        self.reasoning = _Text()
        self.has_thought = False
        self.refusal = _Text()
        self.thinking_blocks: list[JsonObject] = []
        self.tool_calls: list[_CallFold] = []
        self.current: dict[int, _CallFold] = {}
        self.finish_reason: FinishReason | None = None

    def add(self, piece: ChunkChoice) -> None:
        if piece.parts is not None:
            if self.parts is None:
                self.parts = []
            self.parts += piece.parts
        elif piece.content:
            (self.content if self.parts is None else self.parts).append(piece.content)
        if piece.audio is not None:
            self.audio.append(piece.audio)
        if piece.reasoning is not None:
            self._add_thinking(piece.reasoning, piece.thinking_blocks)
        if piece.refusal:
            self.refusal.append(piece.refusal)
        if piece.tool_calls:
            for delta in piece.tool_calls:
                self._add_tool_call(delta)
        if (reason := piece.finish_reason) is not None:
            before = self.finish_reason
            self.finish_reason = reason if before is None else before.then(reason)

    def _add_thinking(self, text: str, blocks: list[JsonObject] | None) -> None:
        self.has_thought = True
        if text:
            self.reasoning.append(text)
        if blocks:
            self.thinking_blocks += blocks

    def _add_tool_call(self, delta: ToolCallDelta) -> None:
        """A new id under a known index begins another call: some servers number none of them."""
        call = self.current.get(delta.index)
        if call is None or (delta.id and call.id and delta.id != call.id):
            place = delta.index if call is None else len(self.tool_calls)
            call = self.current[delta.index] = _CallFold(place, delta.type)
            self.tool_calls.append(call)
        call.id = call.id or delta.id
        call.name = call.name or delta.name
        call.arguments.append(delta.arguments)

    def calls(self) -> list[ToolCall]:
        in_order = sorted(self.tool_calls, key=lambda call: call.index)
        return [call.call() for call in in_order]

    def _texts(self) -> Iterator[_Text]:
        calls = (call.arguments for call in self.tool_calls)
        return chain((self.content, self.reasoning, self.refusal), calls)

    def join_loose(self) -> None:
        """Join the pieces of long texts."""
        for text in self._texts():
            text.join_loose()

    def longest_piece(self) -> int:
        """The bytes of the longest piece; of what is no text, as JSON."""
        said = chain(self.parts or (), self.audio)
        rest = (one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in said)
        texts = max(text.longest_piece() for text in self._texts())
        return max(texts, max(map(bytes_of, rest), default=0))

    def choice(self, index: int) -> Choice:
        content, parts = self._content()
        message = ReplyMessage(
            content=content,
            tool_calls=self.calls(),
            reasoning="".join(self.reasoning) or None,
            refusal="".join(self.refusal) or None,
            thinking_blocks=self.thinking_blocks,
            parts=parts,
            audio=_audio(self.audio),
        )
        return Choice(index=index, message=message, finish_reason=self.finish_reason)

    def _content(self) -> tuple[str | None, list[JsonObject] | None]:
        if self.parts is None:
            return "".join(self.content) or None, None
        parts = grown([*self.content, *self.parts])
        return split_thinking(parts)[0] or None, more_than_text(parts)


_IN_PIECES = ("data", "transcript")


def _audio(pieces: list[JsonObject]) -> JsonObject | None:
    """Spoken words: of an audio's members these come in pieces, the others whole."""
    if not pieces:
        return None
    whole = {name: value for piece in pieces for name, value in piece.items() if value is not None}
    for name in _IN_PIECES:
        if name in whole:
            whole[name] = "".join(str(piece.get(name) or "") for piece in pieces)
    return whole


class Fold:
    """Chunks in, the completion so far out."""

    __slots__ = (
        "_choices",
        "_chunks_counted",
        "chunks",
        "created",
        "id",
        "is_miscounted",
        "model",
        "pieces",
        "unread_bytes",
        "usage",
    )

    def __init__(self) -> None:
        self._choices: dict[int, _ChoiceFold] = {}
        self.id = ""
        self.model = ""
        self.created = 0
        self.usage: Usage | None = None
        self._chunks_counted = 0
        """How many of `chunks` had come when the usage did."""
        self.is_miscounted = False
        """Whether the last usage that was said cannot be believed; `usage` is an earlier one."""
        self.pieces = 0
        self.chunks = 0
        """Pieces that said something."""
        self.unread_bytes: int | None = 0
        """What came and is not in here, when no more will be taken; None when that is not known."""

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if not self.id:
            self.id, self.model, self.created = chunk.id, chunk.model, chunk.created
        for piece in chunk.choices:
            grown = self._choices.get(piece.index)
            if grown is None:
                grown = self._choices[piece.index] = _ChoiceFold()
            self.pieces += 1
            if piece.content or piece.reasoning or piece.refusal or piece.tool_calls or piece.audio:
                self.chunks += 1
                grown.finish_reason = None  # an end that more follows was none
            grown.add(piece)
            if not self.pieces % PIECES_LOOSE:
                for choice in self._choices.values():
                    choice.join_loose()
        if chunk.usage is not None:
            self.usage = chunk.usage
            self._chunks_counted = self.chunks
            self.is_miscounted = False
        elif chunk.is_miscounted:
            self.is_miscounted = True

    @property
    def final_usage(self) -> Usage | None:
        """The whole answer's usage, when it has come: one was a count so far that words came after, or
        another that cannot be believed."""
        usage = self.usage
        if usage is None or usage.is_so_far or self.is_miscounted:
            return None
        return None if self.chunks > self._chunks_counted else usage

    def is_covered_by(self, usage: Usage) -> bool:
        """Whether a usage can be that of all that came: not, if it knows of no word, or of fewer tokens
        than had been counted before."""
        least = 0 if self.usage is None else self.usage.output_tokens
        return usage.output_tokens >= (least or min(self.chunks, 1))

    @property
    def has_thought(self) -> bool:
        """Whether the model is seen to have thought, be it without a word of it."""
        return any(choice.has_thought for choice in self._choices.values())

    @property
    def longest_piece(self) -> int:
        """The bytes of the longest text that came in one piece."""
        return max((choice.longest_piece() for choice in self._choices.values()), default=0)

    def calls_of(self, index: int) -> list[ToolCall]:
        """The tool calls of choice `index` so far, whole as far as they have come."""
        grown = self._choices.get(index)
        return grown.calls() if grown else []

    def thinking_blocks_of(self, index: int) -> list[JsonObject]:
        """The signed thinking of choice `index` so far."""
        grown = self._choices.get(index)
        return grown.thinking_blocks if grown else []

    @property
    def is_finished(self) -> bool:
        """Whether every choice seen has its finish reason, and there is one at least."""
        return bool(self._choices) and all(
            choice.finish_reason is not None for choice in self._choices.values()
        )

    def has_all(self, choices: int) -> bool:
        """Whether so many choices have come, and each to its end."""
        return len(self._choices) >= choices and self.is_finished

    def completion(self) -> Completion:
        """The completion the chunks so far amount to."""
        return Completion(
            id=self.id,
            model=self.model,
            created=self.created,
            choices=[choice.choice(index) for index, choice in sorted(self._choices.items())],
            usage=self.usage,
            is_miscounted=self.is_miscounted,
        )
