"""The OpenAI dialect of chat completions and embeddings, as seen on the wire in 2026.

Known traits it keeps: usage in a stream only when asked, as one more chunk without choices; tool
calls in fragments; hidden reasoning that is counted but not shown; errors under `error`.
"""

from typing import ClassVar

from windvane.simulator import tokens
from windvane.simulator.catalogue import OPENAI_MODELS, Kind, ModelCard, Reasoning, by_name
from windvane.simulator.dialect import Allowance, EmbeddingRequest
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import Answer, ChatRequest, Choice, ToolCall, Usage
from windvane.simulator.http_message import Received, bearer_of
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.openai_rules import check_chat, check_embedding
from windvane.simulator.refusal import Refusal
from windvane.simulator.reply import Frame
from windvane.simulator.sse import DONE, encode, grouped

FINGERPRINT = "fp_simulator"
CALL_ID_LENGTH = 24
ANSWER_ID_LENGTH = 29


class OpenAI:
    """Reads and writes OpenAI's API."""

    name = "openai"
    endpoints: ClassVar[dict[str, str]] = {
        "/v1/chat/completions": "chat",
        "/v1/fim/completions": "fim",
        "/v1/embeddings": "embeddings",
    }
    last_frame: ClassVar[bytes] = DONE
    cards: ClassVar[dict[str, ModelCard]] = by_name(OPENAI_MODELS)
    error_bodies: ClassVar[dict[int, tuple[str, str | None]]] = {
        429: ("requests", "rate_limit_exceeded"),
        500: ("server_error", None),
        502: ("server_error", None),
        503: ("service_unavailable_error", None),
        504: ("server_error", None),
        529: ("server_error", None),
    }

    def key_of(self, received: Received) -> str:
        """Return the bearer token, empty when there is none."""
        return bearer_of(received)

    def check_headers(self, received: Received) -> None:
        """Accept all headers."""

    def read_chat(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Return the request, or raise Refusal."""
        card = self._card(body, Kind.CHAT)
        if strict:
            check_chat(body, card)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "Missing required parameter: 'messages'.", param="messages")
        options = body.get("stream_options") or {}
        effort = body.get("reasoning_effort")
        limit = body.get("max_completion_tokens")
        return ChatRequest(
            card=card,
            model=body["model"],
            messages=messages,
            stream=bool(body.get("stream")),
            usage_chunk=bool(options.get("include_usage")),
            tools=[t for t in body.get("tools") or () if t.get("type") == "function"],
            tool_choice=body.get("tool_choice") or "auto",
            parallel_tools=body.get("parallel_tool_calls") is not False,
            response_format=body.get("response_format"),
            max_tokens=limit if limit is not None else body.get("max_tokens"),
            stop=_stops(body.get("stop")),
            n=body.get("n") or 1,
            seed=body.get("seed"),
            temperature=body.get("temperature"),
            thinks=card.reasoning is not Reasoning.NEVER and effort in _THINKING_EFFORTS,
            cache_key=body.get("prompt_cache_key"),
        )

    def read_fim(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Refuse: OpenAI has no such endpoint."""
        raise Refusal(404, "Invalid URL (POST /v1/fim/completions)", code="unknown_url")

    def read_embedding(self, body: JsonObject, *, strict: bool) -> EmbeddingRequest:
        """Return the request, or raise Refusal."""
        card = self._card(body, Kind.EMBEDDING)
        if strict:
            check_embedding(body)
        texts, sizes = _embedding_inputs(body.get("input"))
        dimensions = body.get("dimensions") or card.dimensions
        if dimensions > card.dimensions_max:
            message = f"'dimensions' must be at most {card.dimensions_max}"
            raise Refusal(400, message, param="dimensions")
        return EmbeddingRequest(
            card=card,
            model=body["model"],
            texts=texts,
            sizes=sizes,
            dimensions=dimensions,
            base64=body.get("encoding_format") == "base64",
        )

    def too_long(self, prompt_tokens: int, card: ModelCard) -> Refusal:
        """Return the refusal of a prompt that does not fit the model."""
        return Refusal(
            400,
            f"This model's maximum context length is {card.context_tokens} tokens. However, your"
            f" messages resulted in {prompt_tokens} tokens. Please reduce the length of the"
            " messages.",
            code="context_length_exceeded",
            param="messages",
        )

    def rate_limited(self, resets_in_s: float | None) -> Refusal:
        """Return the refusal of a request over the limit."""
        wait_s = 60.0 if resets_in_s is None else resets_in_s
        return Refusal(
            429,
            f"Rate limit reached. Please try again in {wait_s:.3g}s.",
            type_="requests",
            code="rate_limit_exceeded",
            headers={
                "retry-after": f"{max(1, round(wait_s))}",
                "retry-after-ms": f"{max(1, round(wait_s * 1000))}",
            },
        )

    def make_call_id(self, dice: Dice) -> str:
        """Return a tool-call id."""
        return "call_" + dice.letters(CALL_ID_LENGTH)

    def make_answer_id(self, dice: Dice) -> str:
        """Return an answer's id."""
        return "chatcmpl-" + dice.letters(ANSWER_ID_LENGTH)

    def chat_body(self, request: ChatRequest, answer: Answer) -> bytes:
        """Return the whole answer as one JSON document."""
        body: JsonObject = {
            "id": answer.id,
            "object": "chat.completion",
            "created": answer.created,
            "model": request.model,
            "choices": [_choice(i, choice) for i, choice in enumerate(answer.choices)],
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }
        if answer.usage is not None:
            body["usage"] = _usage(answer.usage)
        return encode(body)

    def chat_frames(self, request: ChatRequest, answer: Answer, chunk_tokens: int) -> list[Frame]:
        """Return the answer as server-sent events."""
        start = (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,'
            b'"service_tier":"default","system_fingerprint":"%b",'
            % (answer.id.encode(), answer.created, encode(request.model), FINGERPRINT.encode())
        )
        end = b',"usage":null}\n\n' if request.usage_chunk else b"}\n\n"
        frames: list[Frame] = []
        for index, choice in enumerate(answer.choices):
            writer = _ChunkWriter(start, index, end)
            frames += _choice_frames(writer, choice, chunk_tokens)
        if request.usage_chunk and answer.usage is not None:
            usage = encode(_usage(answer.usage))
            frames.append((b'%b"choices":[],"usage":%b}\n\n' % (start, usage), 0))
        frames.append((DONE, 0))
        return frames

    def embedding_body(
        self, request: EmbeddingRequest, vectors: list[list[float] | list[int] | str], id_: str
    ) -> bytes:
        """Return the vectors as JSON."""
        size = sum(request.sizes)
        return encode(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": vector}
                    for i, vector in enumerate(vectors)
                ],
                "model": request.model,
                "usage": {"prompt_tokens": size, "total_tokens": size},
            }
        )

    def models_body(self) -> bytes:
        """Return the list of models."""
        data = [_card_json(name) for name in self.cards]
        return encode({"object": "list", "data": data})

    def model_body(self, card: ModelCard, name: str) -> bytes:
        """Return one model's card."""
        return encode(_card_json(name))

    def error_body(self, refusal: Refusal) -> bytes:
        """Return an error in OpenAI's envelope."""
        message = refusal.message
        if refusal.status == 401:
            message = "Incorrect API key provided."
        error = {
            "message": message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
        return encode({"error": error})

    def error_frame(self, refusal: Refusal) -> bytes:
        """Return an error as an event of a stream."""
        return b"data: " + self.error_body(refusal) + b"\n\n"

    def fields(self, request_id: str, allowance: Allowance, cost_tokens: int) -> str:
        """Return the provider's own header lines."""
        reset = f"{max(allowance.resets_in_s, 0.001):.3g}s"
        return (
            f"x-request-id: req_{request_id.replace('-', '')}\r\n"
            "openai-organization: simulator\r\n"
            "openai-processing-ms: 1\r\n"
            "openai-version: 2020-10-01\r\n"
            f"x-ratelimit-limit-requests: {allowance.requests_limit}\r\n"
            f"x-ratelimit-remaining-requests: {allowance.requests_left}\r\n"
            f"x-ratelimit-reset-requests: {reset}\r\n"
            f"x-ratelimit-limit-tokens: {allowance.tokens_limit}\r\n"
            f"x-ratelimit-remaining-tokens: {allowance.tokens_left}\r\n"
            f"x-ratelimit-reset-tokens: {reset}\r\n"
            "set-cookie: __cf_bm=simulated; path=/; HttpOnly; Secure; SameSite=None\r\n"
            "server: cloudflare\r\n"
        )

    def _card(self, body: JsonObject, kind: Kind) -> ModelCard:
        name = body.get("model")
        if not isinstance(name, str):
            raise Refusal(400, "you must provide a model parameter", param="model")
        card = self.cards.get(name)
        if card is None or card.kind is not kind:
            raise Refusal(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
            )
        return card


_THINKING_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})


class _ChunkWriter:
    """Writes the chunks of one choice around the parts that never change."""

    __slots__ = ("_end", "_start")

    def __init__(self, start: bytes, index: int, end: bytes) -> None:
        self._start = b'%b"choices":[{"index":%d,"delta":{' % (start, index)
        self._end = b"}]" + end

    def chunk(self, inside: bytes, finish: bytes = b"null") -> bytes:
        """Return one event with that delta."""
        return b'%b%b},"logprobs":null,"finish_reason":%b%b' % (
            self._start,
            inside,
            finish,
            self._end,
        )


def _choice_frames(writer: _ChunkWriter, choice: Choice, chunk_tokens: int) -> list[Frame]:
    opening = b'"role":"assistant","content":"","refusal":null'
    if choice.calls and not choice.text:
        opening = b'"role":"assistant","content":null'
    frames: list[Frame] = [(writer.chunk(opening), len(choice.thinking))]
    for piece, size in grouped(choice.text, chunk_tokens):
        frames.append((writer.chunk(b'"content":' + piece), size))
    for place, call in enumerate(choice.calls):
        frames += _call_frames(writer, place, call, chunk_tokens)
    frames.append((writer.chunk(b"", b'"%b"' % choice.finish.encode()), 0))
    return frames


def _call_frames(
    writer: _ChunkWriter, place: int, call: ToolCall, chunk_tokens: int
) -> list[Frame]:
    """Return a tool call in fragments: first its name, then pieces of its arguments."""
    first = {"index": place, **_call(call), "function": {"name": call.name, "arguments": ""}}
    name_tokens = tokens.count(call.name)
    frames = [(writer.chunk(b'"tool_calls":[' + encode(first) + b"]"), name_tokens)]
    for piece, size in grouped(tokens.split(call.arguments), chunk_tokens):
        inside = b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (place, piece)
        frames.append((writer.chunk(inside), size))
    return frames


def _choice(index: int, choice: Choice) -> JsonObject:
    said = "".join(choice.text)
    message: JsonObject = {
        "role": "assistant",
        "content": None if choice.calls and not said else said,
        "refusal": None,
        "annotations": [],
    }
    if choice.calls:
        message["tool_calls"] = [_call(call) for call in choice.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.finish,
    }


def _call(call: ToolCall) -> JsonObject:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.thinking,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _card_json(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 1_760_000_000, "owned_by": "openai"}


def _stops(stop: Json) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _embedding_inputs(given: Json) -> tuple[list[str], list[int]]:
    """Return the texts and their sizes; a list of numbers is one text in tokens."""
    if isinstance(given, str):
        given = [given]
    if given and isinstance(given[0], int):
        given = [given]
    texts = [one if isinstance(one, str) else " ".join(map(str, one)) for one in given or ()]
    sizes = [max(1, tokens.count(one)) if isinstance(one, str) else len(one) for one in given or ()]
    return texts, sizes
