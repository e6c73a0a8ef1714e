"""The Anthropic dialect of messages, as seen on the wire in 2026.

Known traits it keeps: the key in `x-api-key` or as a bearer token, and a version that must be said;
input that was read from the prompt cache or written to it is counted apart; a stream of named events,
its input counted in the first and its output in the last but one; tools cost a prompt of their own;
later models think without showing it; thinking is signed, and refused when it comes back changed.
A prompt is found in the cache only at the marks that this request and an earlier one both have.
"""

from datetime import UTC, datetime
from hashlib import blake2b
from typing import ClassVar

import msgspec

from windvane.simulator import clock, tokens
from windvane.simulator.anthropic_rules import check_message, signature_of
from windvane.simulator.catalogue import ANTHROPIC_MODELS, Kind, ModelCard, by_name
from windvane.simulator.dialect import Allowance, EmbeddingRequest
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import Answer, ChatRequest, Choice, ToolCall, Usage
from windvane.simulator.http_message import Received, bearer_of
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.prompt_cache import Mark
from windvane.simulator.refusal import Refusal, no_such_path
from windvane.simulator.reply import Frame
from windvane.simulator.sse import encode, grouped

TOOL_PROMPT_TOKENS = 346
"""What a request with tools costs besides them."""
FORMAT_PROMPT_TOKENS = 120
CALL_ID_LENGTH = 24
ANSWER_ID_LENGTH = 24

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_EVENT_END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class Anthropic:
    """Reads and writes Anthropic's API."""

    name = "anthropic"
    endpoints: ClassVar[dict[str, str]] = {
        "/v1/messages": "chat",
        "/v1/messages/count_tokens": "count",
    }
    last_frame: ClassVar[bytes] = _EVENT_END
    cards: ClassVar[dict[str, ModelCard]] = by_name(ANTHROPIC_MODELS)
    error_bodies: ClassVar[dict[int, tuple[str, str | None]]] = {
        status: (kind, None) for status, kind in _ERROR_TYPES.items()
    }

    def key_of(self, received: Received) -> str:
        """Return the key, empty when there is none: `x-api-key` before a bearer token."""
        return received.fields.get(b"x-api-key", b"").strip().decode("latin-1") or bearer_of(
            received
        )

    def check_headers(self, received: Received) -> None:
        """Refuse a request that does not say its version."""
        if b"anthropic-version" not in received.fields:
            raise Refusal(400, "anthropic-version: header is required")

    def read_chat(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Return the request, or raise Refusal."""
        card = self._card(body)
        if strict:
            check_message(body, card)
        messages, tools = _canonical(body), _tools(body.get("tools"))
        choice = body.get("tool_choice") or {"type": "auto"}
        form = (body.get("output_config") or {}).get("format")
        thinking = (body.get("thinking") or {}).get("type")
        return ChatRequest(
            card=card,
            model=body["model"],
            messages=messages,
            stream=bool(body.get("stream")),
            tools=tools,
            tool_choice=_tool_choice(choice),
            parallel_tools=not choice.get("disable_parallel_tool_use"),
            response_format=form and {"type": "json_schema", "json_schema": form},
            max_tokens=body.get("max_tokens"),
            stop=tuple(body.get("stop_sequences") or ()),
            temperature=body.get("temperature"),
            thinks=thinking in ("enabled", "adaptive"),
            shows_thinking=_shows_thinking(card, body),
            added_tokens=_added_tokens(body),
            marks=tuple(_marks(body)),
        )

    def read_fim(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Refuse: Anthropic has no such endpoint."""
        raise no_such_path("POST", "/v1/fim/completions")

    def read_embedding(self, body: JsonObject, *, strict: bool) -> EmbeddingRequest:
        """Refuse: Anthropic has no such endpoint."""
        raise no_such_path("POST", "/v1/embeddings")

    def too_long(self, prompt_tokens: int, card: ModelCard) -> Refusal:
        """Return the refusal of a prompt that does not fit the model."""
        says = f"prompt is too long: {prompt_tokens} tokens > {card.context_tokens} maximum"
        return Refusal(400, says)

    def rate_limited(self, resets_in_s: float | None) -> Refusal:
        """Return the refusal of a request over the limit."""
        wait_s = 60.0 if resets_in_s is None else resets_in_s
        return Refusal(
            429,
            "This request would exceed your organization's rate limit.",
            headers={"retry-after": f"{max(1, round(wait_s))}"},
        )

    def make_call_id(self, dice: Dice) -> str:
        """Return a tool-call id."""
        return "toolu_" + dice.letters(CALL_ID_LENGTH)

    def make_answer_id(self, dice: Dice) -> str:
        """Return an answer's id."""
        return "msg_" + dice.letters(ANSWER_ID_LENGTH)

    def chat_body(self, request: ChatRequest, answer: Answer) -> bytes:
        """Return the whole answer as one JSON document."""
        choice = answer.choices[0]
        body = _message(request, answer, _blocks(request, choice), _STOP_REASONS[choice.finish])
        if answer.usage is not None:
            body["usage"] = _usage(answer.usage, answer.usage.completion)
        return encode(body)

    def chat_frames(self, request: ChatRequest, answer: Answer, chunk_tokens: int) -> list[Frame]:
        """Return the answer as server-sent events."""
        choice, usage = answer.choices[0], answer.usage
        started = _message(request, answer, [], None)
        if usage is not None:
            started["usage"] = _usage(usage, min(1, usage.completion))
        frames = [(_event("message_start", message=started), 0), (_event("ping"), 0)]
        for place, block in enumerate(_blocks(request, choice)):
            frames += _block_frames(place, block, request, choice, chunk_tokens)
        ended: JsonObject = {
            "delta": {"stop_reason": _STOP_REASONS[choice.finish], "stop_sequence": None}
        }
        if usage is not None:
            ended["usage"] = {
                name: value
                for name, value in _usage(usage, usage.completion).items()
                if name not in ("cache_creation", "service_tier")
            }
        frames.append((_event("message_delta", **ended), 0))
        frames.append((_EVENT_END, 0))
        return frames

    def embedding_body(
        self, request: EmbeddingRequest, vectors: list[list[float] | list[int] | str], id_: str
    ) -> bytes:
        """Return nothing: Anthropic has no such endpoint."""
        raise NotImplementedError

    def models_body(self) -> bytes:
        """Return the list of models."""
        data = [_card_json(card) for card in self.cards.values()]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return encode({"data": data, "has_more": False, **ends})

    def model_body(self, card: ModelCard, name: str) -> bytes:
        """Return one model's card."""
        return encode(_card_json(card))

    def error_body(self, refusal: Refusal) -> bytes:
        """Return an error in Anthropic's envelope."""
        error: JsonObject = {
            "type": _ERROR_TYPES.get(refusal.status, "api_error"),
            "message": "invalid x-api-key" if refusal.status == 401 else refusal.message,
            "details": None,
        }
        if refusal.code == "insufficient_quota":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        return encode({"type": "error", "error": error, "request_id": "req_simulator"})

    def error_frame(self, refusal: Refusal) -> bytes:
        """Return an error as an event of a stream."""
        return b"event: error\ndata: " + self.error_body(refusal) + b"\n\n"

    def fields(self, request_id: str, allowance: Allowance, cost_tokens: int) -> str:
        """Return the provider's own header lines."""
        at = datetime.fromtimestamp(clock.now_s() + allowance.resets_in_s, UTC)
        reset = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        rates = {"requests": (allowance.requests_limit, allowance.requests_left)}
        for name in ("tokens", "input-tokens", "output-tokens"):
            rates[name] = (allowance.tokens_limit, allowance.tokens_left)
        lines = "".join(
            f"anthropic-ratelimit-{name}-limit: {limit}\r\n"
            f"anthropic-ratelimit-{name}-remaining: {left}\r\n"
            f"anthropic-ratelimit-{name}-reset: {reset}\r\n"
            for name, (limit, left) in rates.items()
        )
        return (
            f"request-id: req_{request_id.replace('-', '')}\r\n"
            "anthropic-organization-id: simulator\r\n"
            f"{lines}"
            "server: cloudflare\r\n"
        )

    def _card(self, body: JsonObject) -> ModelCard:
        name = body.get("model")
        if not isinstance(name, str):
            raise Refusal(400, "model: Field required")
        card = self.cards.get(name)
        if card is None or card.kind is not Kind.CHAT:
            raise Refusal(404, f"model: {name}")
        return card


def _shows_thinking(card: ModelCard, body: JsonObject) -> bool:
    display = (body.get("thinking") or {}).get("display")
    return display == "summarized" or (display is None and card.takes_sampling)


def _added_tokens(body: JsonObject) -> int:
    form = (body.get("output_config") or {}).get("format")
    return TOOL_PROMPT_TOKENS * bool(body.get("tools")) + FORMAT_PROMPT_TOKENS * bool(form)


def _canonical(body: JsonObject) -> list[JsonObject]:
    """Return the conversation as the parts of the simulator know it, results as messages of tools."""
    messages: list[JsonObject] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _parts(body["system"])})
    for message in body.get("messages") or ():
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        results = [block for block in blocks if block["type"] == "tool_result"]
        messages += [
            {
                "role": "tool",
                "tool_call_id": result["tool_use_id"],
                "content": _parts(result.get("content") or ""),
            }
            for result in results
        ]
        told: JsonObject = {"role": message["role"], "content": _parts(blocks)}
        calls = [_canonical_call(block) for block in blocks if block["type"] == "tool_use"]
        if calls:
            told["tool_calls"] = calls
        if told["content"] or calls:
            messages.append(told)
    return messages


def _canonical_call(block: JsonObject) -> JsonObject:
    arguments = encode(block.get("input") or {}).decode()
    return {"id": block["id"], "function": {"name": block["name"], "arguments": arguments}}


def _parts(content: Json) -> Json:
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        kind = block["type"]
        if kind == "text":
            parts.append({"type": "text", "text": block["text"]})
        elif kind == "image":
            parts.append({"type": "image_url"})
        elif kind == "document":
            parts.append({"type": "file"})
        elif kind == "thinking":
            parts.append({"type": "thinking", "thinking": block["thinking"]})
    return parts


def _tools(given: Json) -> list[JsonObject]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema"),
            },
        }
        for tool in given or ()
    ]


def _tool_choice(choice: JsonObject) -> Json:
    if choice["type"] == "tool":
        return {"function": {"name": choice.get("name")}}
    return choice["type"]


def _marks(body: JsonObject) -> list[Mark]:
    """Return the marks of the prompt, in its order, each with what comes before it."""
    marks = []
    tools, messages = body.get("tools") or [], body.get("messages") or []
    system: Json = body.get("system")
    for place, tool in enumerate(tools):
        if mark := tool.get("cache_control"):
            marks.append(_mark(mark, tools[: place + 1], None, []))
    for place, block in enumerate(system if isinstance(system, list) else ()):
        if mark := block.get("cache_control"):
            marks.append(_mark(mark, tools, system[: place + 1], []))
    for number, message in enumerate(messages):
        content = message.get("content")
        for place, block in enumerate(content if isinstance(content, list) else ()):
            if mark := block.get("cache_control"):
                until = [*messages[:number], {**message, "content": content[: place + 1]}]
                marks.append(_mark(mark, tools, system, until))
    if mark := body.get("cache_control"):
        marks.append(_mark(mark, tools, system, messages))
    return marks


def _mark(mark: JsonObject, tools: Json, system: Json, messages: list[JsonObject]) -> Mark:
    before = {"tools": tools, "system": system, "messages": messages}
    talk, offered = _canonical(before), _tools(tools)
    return Mark(
        digest=blake2b(encode((offered, talk)), digest_size=16).digest(),
        tokens=tokens.count_prompt(talk, [offered]) + _added_tokens(before),
        for_an_hour=mark.get("ttl") == "1h",
    )


def _message(
    request: ChatRequest, answer: Answer, blocks: list[JsonObject], reason: str | None
) -> JsonObject:
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": request.card.id,
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
    }


def _blocks(request: ChatRequest, choice: Choice) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    if choice.thinking:
        shown = "".join(choice.thinking) if request.shows_thinking else ""
        signature = signature_of(shown)
        blocks.append({"type": "thinking", "thinking": shown, "signature": signature})
    if choice.text:
        blocks.append({"type": "text", "text": "".join(choice.text)})
    blocks += [_call_block(call) for call in choice.calls]
    return blocks


def _call_block(call: ToolCall) -> JsonObject:
    """Return a call; arguments that do not parse cannot be said whole, and come as an empty object."""
    try:
        given = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        given = {}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _block_frames(
    place: int, block: JsonObject, request: ChatRequest, choice: Choice, chunk_tokens: int
) -> list[Frame]:
    """Return one block: its beginning, its pieces, its end."""
    kind = block["type"]
    first: JsonObject
    if kind == "thinking":
        first = {"type": "thinking", "thinking": "", "signature": ""}
        pieces = grouped(choice.thinking, chunk_tokens) if request.shows_thinking else []
        deltas = [(b'{"type":"thinking_delta","thinking":%b}' % piece, n) for piece, n in pieces]
        unseen = 0 if request.shows_thinking else len(choice.thinking)
        signed = encode({"type": "signature_delta", "signature": block["signature"]})
        deltas.append((signed, unseen))
        name_tokens = 0
    elif kind == "text":
        first = {"type": "text", "text": ""}
        pieces = grouped(choice.text, chunk_tokens)
        deltas = [(b'{"type":"text_delta","text":%b}' % piece, n) for piece, n in pieces]
        name_tokens = 0
    else:
        call = next(each for each in choice.calls if each.id == block["id"])
        first = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        pieces = grouped(tokens.split(call.arguments), chunk_tokens)
        deltas = [(b'{"type":"input_json_delta","partial_json":""}', 0)]
        deltas += [
            (b'{"type":"input_json_delta","partial_json":%b}' % piece, n) for piece, n in pieces
        ]
        name_tokens = tokens.count(call.name)
    start = _event("content_block_start", index=place, content_block=first)
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
    frames: list[Frame] = [(start, name_tokens)]
    frames += [(head % place + delta + b"}\n\n", size) for delta, size in deltas]
    frames.append((_event("content_block_stop", index=place), 0))
    return frames


def _event(name: str, **members: Json) -> bytes:
    data = encode({"type": name, **members})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _usage(usage: Usage, output_tokens: int) -> JsonObject:
    written = usage.written + usage.written_1h
    return {
        "input_tokens": usage.prompt - usage.cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.written,
            "ephemeral_1h_input_tokens": usage.written_1h,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": min(usage.thinking, output_tokens)},
        "service_tier": "standard",
    }


def _card_json(card: ModelCard) -> JsonObject:
    return {
        "type": "model",
        "id": card.id,
        "display_name": card.id,
        "created_at": "2026-01-01T00:00:00Z",
    }
