"""Canonical chat: the request, the completion, and the chunks a completion is streamed in.

The request keeps two faces of one thing. `body` is everything the caller said, unknown fields and
all, as plain JSON values: it is what dialects translate, what a cache key covers and what is sent
on. The typed fields beside it are the view the engine reads. Neither is ever changed in place.

Knows no dialect: spellings (`max_completion_tokens`, `random_seed`) are `wire`'s business. What has come
as JSON holds no circles: the collector need not look at it.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from windvane.core.usage import Usage

JsonObject = dict[str, object]

TOOLS_MAX = 128
"""Mistral's and OpenAI's documented maximum."""

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}(?!\n)$")]
"""Python's `$` alone lets a line end follow. It is the one pattern of requests: see `TOOL_NAME_RULE`."""
TOOL_NAME_RULE = "1 to 64 letters of ASCII, digits, `_` and `-`"
"""The pattern in words."""
NonNegative = Annotated[int, Meta(ge=0)]


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    FUNCTION = "function"


class FinishReason(StrEnum):
    """Why a choice ends. One that fails (Mistral's `error`) is no answer."""

    STOP = "stop"
    LENGTH = "length"
    MODEL_LENGTH = "model_length"
    """Mistral's: not the caller's limit was reached, but the model's."""
    TOOL_CALLS = "tool_calls"
    FUNCTION_CALL = "function_call"
    """OpenAI's old name, for those who ask for `functions`."""
    CONTENT_FILTER = "content_filter"
    OTHER = "other"
    """What the provider says is no word of ours: told as `stop`, and never kept, since it may be a cut."""

    @property
    def told(self) -> str:
        """What a caller is told."""
        return "stop" if self is FinishReason.OTHER else self.value

    def then(self, after: "FinishReason") -> "FinishReason":
        """The end of a choice that is ended twice: some servers say `stop` again on their usage chunk, also
        of what was cut or calls a tool."""
        return after if self is FinishReason.STOP else self


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImageUrl(msgspec.Struct, frozen=True):
    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: str | ImageUrl


class InputAudio(msgspec.Struct, frozen=True):
    data: str
    format: str | None = None


class AudioPart(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """OpenAI sends an object, Mistral its `data` alone, which is base64."""

    input_audio: str | InputAudio


class File(msgspec.Struct, frozen=True):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(File, frozen=True, tag_field="type", tag="file"):
    """OpenAI nests `{file: {...}}`, Mistral says the same in the part itself."""

    file: File | None = None


class DocumentPart(msgspec.Struct, frozen=True, tag_field="type", tag="document_url"):
    document_url: str
    document_name: str | None = None


class ReferencePart(msgspec.Struct, frozen=True, tag_field="type", tag="reference"):
    reference_ids: list[int | str]


class ToolReferencePart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_reference"):
    """What a tool of Mistral's own found, as its models cite it while they think."""

    tool: str
    title: str
    url: str | None = None
    favicon: str | None = None
    description: str | None = None


class ThinkingPart(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str | list[TextPart | ReferencePart | ToolReferencePart]
    signature: str | None = None
    closed: bool | None = None


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


Part = (
    TextPart
    | ImagePart
    | AudioPart
    | FilePart
    | DocumentPart
    | ReferencePart
    | ThinkingPart
    | RefusalPart
)


class FunctionCall(msgspec.Struct, frozen=True):
    """`arguments` is JSON text; Mistral's schema also allows an object."""

    name: str
    arguments: str | JsonObject = ""


class CustomCall(msgspec.Struct, frozen=True):
    """`input` is any text: OpenAI's custom tools take no JSON."""

    name: str
    input: str = ""


OLD_CALL = "function_call"
"""The type, here, of a call under OpenAI's old name: one a message, without an id."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a function, or of a custom tool: it has one of the two. `type` is as on the wire, or
    `OLD_CALL`."""

    function: FunctionCall | None = None
    custom: CustomCall | None = None
    id: str | None = None
    type: str | None = "function"
    index: int | None = None

    @property
    def name(self) -> str:
        called = self.function or self.custom
        return "" if called is None else called.name

    @property
    def arguments(self) -> str:
        """What is called with, as text."""
        if self.function is None:
            return "" if self.custom is None else self.custom.input
        said = self.function.arguments
        return said if isinstance(said, str) else msgspec.json.encode(said).decode()


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    role: Role
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    prefix: bool | None = None
    name: str | None = None
    reasoning_content: str | None = None

    def texts(self) -> Iterator[str]:
        """The text in this message, part by part."""
        if isinstance(self.content, str):
            yield self.content
        elif self.content:
            for part in self.content:
                if isinstance(part, TextPart):
                    yield part.text


class Function(msgspec.Struct, frozen=True, kw_only=True):
    name: ToolName
    parameters: JsonObject | None = None
    description: str | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function the model may call; other kinds of tool have no `function`."""

    type: str | None = "function"
    function: Function | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    name: str | None = None
    schema: JsonObject | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    type: str | None = None
    json_schema: JsonSchema | None = None

    @property
    def is_json(self) -> bool:
        return self.type in ("json_object", "json_schema")


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """One chat request, of any dialect."""

    model: str
    messages: list[Message]
    body: JsonObject
    tools: list[Tool] = []
    response_format: ResponseFormat | None = None
    output_tokens_max: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    """The caller asked for usage as an extra chunk, in OpenAI's manner."""
    is_plain_talk: bool = False
    """Its messages have a role and a text and nothing else; they are of user and assistant, after at most
    one of the system; none of the assistant's is empty; the user speaks last. No dialect of the OpenAI
    family says them otherwise."""
    messages_json: msgspec.Raw | None = None
    """The messages of plain talk as JSON, if they have been written already."""

    def without_messages(self) -> "ChatRequest":
        """The same request, but for what was said: that is mostly all there is of it."""
        body = {name: value for name, value in self.body.items() if name != "messages"}
        return msgspec.structs.replace(self, messages=[], body=body, messages_json=None)


class ReplyMessage(msgspec.Struct, omit_defaults=True, gc=False):
    """What the model said in one choice. `reasoning` is its thinking, as plain text; `thinking_blocks`
    the same as its provider signed it, to be said back to it word for word.

    `parts` is Mistral's list of parts, when it is more than thinking and then text: `content` and
    `reasoning` are what is text in it.
    """

    content: str | None = None
    tool_calls: list[ToolCall] = []
    reasoning: str | None = None
    refusal: str | None = None
    thinking_blocks: list[JsonObject] = []
    parts: list[JsonObject] | None = None
    audio: JsonObject | None = None

    @property
    def is_empty(self) -> bool:
        if self.tool_calls or self.audio or (self.content and not self.content.isspace()):
            return False
        return self.parts is None or all(part.get("type") in _OF_TEXT for part in self.parts)


_OF_TEXT = ("text", "thinking")


class Choice(msgspec.Struct, gc=False):
    message: ReplyMessage
    index: int = 0
    finish_reason: FinishReason | None = None


class Completion(msgspec.Struct, gc=False):
    """A whole answer. `raw` is the provider's own bytes, when it speaks the callers' dialects;
    `is_everybodys`, when they are an answer by themselves, to every client of the family.
    `is_miscounted`: a usage came with it that nobody can believe, so there is none."""

    id: str
    model: str
    created: int
    choices: list[Choice]
    usage: Usage | None = None
    raw: bytes | None = None
    is_everybodys: bool = False
    is_miscounted: bool = False


class ToolCallDelta(msgspec.Struct, kw_only=True):
    """A piece of a tool call: OpenAI sends many, Mistral one."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    type: str = "function"
    """As `ToolCall.type`."""


class ChunkChoice(msgspec.Struct, gc=False):
    """A piece of one choice. `reasoning` is empty when the model thinks and does not show it; signed
    `thinking_blocks` come with it, be it empty. `parts` are those that `content` and `reasoning` were
    read from; pieces of `audio` are put together by `wire.fold`."""

    index: int = 0
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    role: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    finish_reason: FinishReason | None = None
    thinking_blocks: list[JsonObject] | None = None
    parts: list[JsonObject] | None = None
    audio: JsonObject | None = None


class Chunk(msgspec.Struct, gc=False):
    """A piece of a streamed completion.

    `raw` is the provider's own event, blank line included, when it speaks the callers' dialects;
    `is_plain` when it is a mere piece of text that every one of them writes the same way, so that it
    may be relayed as it is. `is_miscounted` as of a completion.
    """

    id: str
    model: str
    created: int
    choices: list[ChunkChoice]
    usage: Usage | None = None
    raw: bytes | None = None
    is_plain: bool = False
    is_miscounted: bool = False
