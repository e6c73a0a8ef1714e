"""`analyze(request) -> Analysis`: all that routing rules may ask about.

The last user message tells what is asked; the whole conversation tells how much. The field names of
`Analysis` are the words of `when:` in routing rules.
"""

from functools import lru_cache

import msgspec

from windvane.core.analysis.lexicon import ALL_WORDS, SIGN_WORDS, Lexicon
from windvane.core.analysis.shape import Shape, shape_of
from windvane.core.analysis.tokens import (
    IMAGE_TOKENS,
    MESSAGE_OVERHEAD_TOKENS,
    REPLY_OVERHEAD_TOKENS,
    estimate_tokens,
)
from windvane.core.chat import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    Role,
    TextPart,
)

LONG_CHARS = 2_000
MANY_TURNS = 10
MANY_TOOLS = 8

_USER = Role.USER  # a member of an enum is slow to get at, and here it is asked for a message
_SCHEMAS = ("tools", "functions", "response_format")
"""Fields that the model reads beside the messages."""


class Analysis(msgspec.Struct, frozen=True):
    """What is known of a request without asking anyone.

    `chars` counts the last user message, `input_chars` the whole conversation; `input_tokens` is an
    estimate (core/analysis/tokens.py says how good); `difficulty` is 0..1.
    """

    input_tokens: int = 0
    chars: int = 0
    input_chars: int = 0
    turns: int = 0
    messages: int = 0
    tools: int = 0
    images: int = 0
    audio: int = 0
    documents: int = 0
    json_schema: bool = False
    json: bool = False
    code: bool = False
    math: bool = False
    reasoning_words: int = 0
    question: bool = False
    language: str | None = None
    script: str = "latin"
    prefix: bool = False
    stream: bool = False
    output_tokens_max: int | None = None
    difficulty: float = 0.0


EVERYTHING = frozenset(Analysis.__struct_fields__)
NOTHING: frozenset[str] = frozenset()
LOOKED_FOR = frozenset(
    ("code", "math", "reasoning_words", "question", "language", "script", "difficulty")
)
"""The fields that tell what the last user message looks like: three quarters of the work."""
_OF_LANGUAGE = frozenset(("language", "script"))
_NOT_LOOKED_AT = Shape()


def analyze(request: ChatRequest, asked: frozenset[str] = EVERYTHING) -> Analysis:
    """Read a request; pure, linear in its size, and cheap for the usual one.

    `asked` names the fields that will be asked for. Of those that are `LOOKED_FOR`, no other need be
    true of the request; all the rest always are.
    """
    texts: list[str] = []
    messages = request.messages
    tokens: float = REPLY_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS * len(messages)
    turns = images = audio = documents = 0
    last: Message | None = None
    for message in messages:
        content = message.content
        if type(content) is str:
            texts.append(content)
        else:
            for part in content or ():
                if isinstance(part, TextPart):
                    texts.append(part.text)
                elif isinstance(part, ImagePart):
                    images += 1
                elif isinstance(part, AudioPart):
                    audio += 1
                elif isinstance(part, DocumentPart | FilePart):
                    documents += 1
        if message.role is _USER:
            turns += 1
            last = message
        elif message.tool_calls:
            tokens += _tool_call_tokens(message)
    everything = "\n".join(texts)
    tokens += estimate_tokens(everything)
    tokens += images * IMAGE_TOKENS
    tools, form = len(request.tools), request.response_format
    if tools or form is not None or "functions" in request.body:
        tools += _functions(request.body)
        tokens += _schema_tokens(request.body)
    question = _text_of(last)
    words = _words_for(asked)
    if words is None:
        shape, difficulty = _NOT_LOOKED_AT, 0.0
    else:
        shape = shape_of(question, words)
        difficulty = difficulty_of(shape, len(question), turns, tools)
    # In the order of the fields: to name so many would cost more than to look at the text for code.
    return Analysis(
        int(tokens) + 1,
        len(question),
        len(everything) - len(texts) + 1 if texts else 0,
        turns,
        len(messages),
        tools,
        images,
        audio,
        documents,
        form is not None and form.type == "json_schema",
        form is not None and form.is_json,
        shape.has_code,
        shape.has_math,
        shape.reasoning_words,
        shape.is_question,
        shape.language,
        shape.script,
        messages[-1].prefix is True,
        request.stream,
        request.output_tokens_max,
        difficulty,
    )


@lru_cache
def _words_for(asked: frozenset[str]) -> Lexicon | None:
    """The words to look for when these fields are asked for; None when there is nothing to look for."""
    if asked.isdisjoint(LOOKED_FOR):
        return None
    return SIGN_WORDS if asked.isdisjoint(_OF_LANGUAGE) else ALL_WORDS


def difficulty_of(shape: Shape, chars: int, turns: int, tools: int) -> float:
    """How hard the question seems, 0..1.

    A sum of capped signs, weighted so that one reasoning word in a short question stays below a
    half, and reasoning over a long mathematical text comes near one.
    """
    score = 0.25 * chars / LONG_CHARS if chars < LONG_CHARS else 0.25
    score += 0.1 * turns / MANY_TURNS if turns < MANY_TURNS else 0.1
    if tools:
        score += 0.1 * min(tools / MANY_TOOLS, 1.0)
    if shape.reasoning_words:
        score += 0.25 * min(shape.reasoning_words, 2)
    if shape.has_math:
        score += 0.35
    if shape.has_code:
        score += 0.15
    return round(score, 3) if score < 1.0 else 1.0


def _text_of(message: Message | None) -> str:
    if message is None:
        return ""
    content = message.content
    return content if type(content) is str else "\n".join(message.texts())


def _tool_call_tokens(message: Message) -> float:
    total = 0.0
    for call in message.tool_calls or ():
        total += estimate_tokens(call.name) + estimate_tokens(call.arguments) + 8
    return total


def _functions(body: JsonObject) -> int:
    """How many tools are offered by their old name."""
    functions = body.get("functions")
    return len(functions) if isinstance(functions, list) else 0


def _schema_tokens(body: JsonObject) -> float:
    total = 0.0
    for field in _SCHEMAS:
        if value := body.get(field):
            total += estimate_tokens(msgspec.json.encode(value).decode())
    return total
