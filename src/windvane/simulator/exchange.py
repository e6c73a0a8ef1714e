"""What flows between the parts: a chat request, and the answer to it, in no dialect."""

from msgspec import Struct

from windvane.simulator.catalogue import ModelCard
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.prompt_cache import Mark


class ChatRequest(Struct, kw_only=True, gc=False):
    """A chat or fill-in-the-middle request after validation, the same for all dialects.

    `marks` are the places up to which the prompt is to be cached; `added_tokens` what the provider puts
    into it unasked.
    """

    card: ModelCard
    model: str
    messages: list[JsonObject]
    stream: bool = False
    usage_chunk: bool = False
    tools: list[JsonObject] = []
    tool_choice: Json = "auto"
    parallel_tools: bool = True
    response_format: JsonObject | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    temperature: float | None = None
    thinks: bool = False
    shows_thinking: bool = True
    added_tokens: int = 0
    marks: tuple[Mark, ...] = ()
    cache_key: str | None = None
    completes_code: bool = False


class ToolCall(Struct, gc=False):
    """A call the model wants made; `arguments` is JSON text, or should be."""

    id: str
    name: str
    arguments: str


class Choice(Struct, kw_only=True):
    """One alternative of an answer, its text already in tokens."""

    thinking: list[str] = []
    text: list[str] = []
    calls: list[ToolCall] = []
    call_tokens: int = 0
    finish: str = "stop"

    @property
    def tokens(self) -> int:
        """Return how many tokens were generated for it."""
        return len(self.thinking) + len(self.text) + self.call_tokens


class Usage(Struct, frozen=True, gc=False):
    """Tokens; `cached` and what is written to the cache (for minutes, for an hour) are part of
    `prompt`."""

    prompt: int
    completion: int
    cached: int
    thinking: int
    written: int = 0
    written_1h: int = 0


class Answer(Struct, kw_only=True):
    """A whole answer, before a dialect writes it down."""

    id: str
    created: int
    choices: list[Choice]
    usage: Usage | None


def text_of(content: Json) -> str:
    """Return the text in a message's content, its parts joined by lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
    return "\n".join(part for part in parts if isinstance(part, str))


def last_user_text(messages: list[JsonObject]) -> str:
    """Return the text of the last user message, or nothing."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return ""
