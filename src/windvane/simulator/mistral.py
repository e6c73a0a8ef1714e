"""The Mistral dialect, as seen on the wire in 2026.

Known traits it keeps: `model` echoes the name asked for; a streamed tool call comes whole in one
delta, without `type`; usage is in the last chunk that has a choice, unasked; a thinking model's
content is a list of chunks; the service sets cookies and three request-id headers.
"""

from typing import ClassVar

from windvane.simulator import tokens
from windvane.simulator.catalogue import MISTRAL_MODELS, Kind, ModelCard, Reasoning, by_name
from windvane.simulator.dialect import Allowance, EmbeddingRequest
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import Answer, ChatRequest, Choice, ToolCall, Usage
from windvane.simulator.http_message import Received, bearer_of
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.message_order import check_messages
from windvane.simulator.mistral_rules import (
    chat_problems,
    embedding_problems,
    fim_problems,
    problem,
)
from windvane.simulator.refusal import Refusal
from windvane.simulator.reply import Frame
from windvane.simulator.sse import DONE, encode, grouped

CALL_ID_LENGTH = 9
MONTH_TOKENS = 1_000_000_000
"""The monthly allowance shown in headers; the simulator does not enforce one."""


class Mistral:
    """Reads and writes Mistral's API."""

    name = "mistral"
    endpoints: ClassVar[dict[str, str]] = {
        "/v1/chat/completions": "chat",
        "/v1/fim/completions": "fim",
        "/v1/embeddings": "embeddings",
    }
    last_frame: ClassVar[bytes] = DONE
    cards: ClassVar[dict[str, ModelCard]] = by_name(MISTRAL_MODELS)
    error_bodies: ClassVar[dict[int, tuple[str, str | None]]] = {
        429: ("rate_limited", "1300"),
        500: ("server_error", None),
        502: ("server_error", None),
        503: ("service_tier_capacity_exceeded", "3505"),
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
        if strict:
            _refuse(chat_problems(body))
        card = self._card(body, Kind.CHAT)
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            _refuse([problem("missing", ("body", "messages"), "Field required", None)])
        if strict:
            check_messages(body["messages"])
        return ChatRequest(
            card=card,
            model=body["model"],
            messages=body["messages"],
            stream=bool(body.get("stream")),
            tools=body.get("tools") or [],
            tool_choice=body.get("tool_choice") or "auto",
            parallel_tools=body.get("parallel_tool_calls") is not False,
            response_format=body.get("response_format"),
            max_tokens=body.get("max_tokens"),
            stop=_stops(body.get("stop")),
            n=body.get("n") or 1,
            seed=body.get("random_seed"),
            temperature=body.get("temperature"),
            thinks=_thinks(card, body),
            cache_key=body.get("prompt_cache_key"),
        )

    def read_fim(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Return the request, or raise Refusal."""
        if strict:
            _refuse(fim_problems(body))
        card = self._card(body, Kind.CHAT)
        if not card.fills_in_middle:
            raise _invalid_model(card.id)
        prompt = {"role": "user", "content": str(body.get("prompt") or "")}
        suffix = {"role": "user", "content": str(body.get("suffix") or "")}
        return ChatRequest(
            card=card,
            model=body["model"],
            messages=[suffix, prompt],
            stream=bool(body.get("stream")),
            max_tokens=body.get("max_tokens"),
            stop=_stops(body.get("stop")),
            seed=body.get("random_seed"),
            temperature=body.get("temperature"),
            cache_key=body.get("prompt_cache_key"),
            completes_code=True,
        )

    def read_embedding(self, body: JsonObject, *, strict: bool) -> EmbeddingRequest:
        """Return the request, or raise Refusal."""
        if strict:
            _refuse(embedding_problems(body))
        card = self._card(body, Kind.EMBEDDING)
        given = body.get("input")
        texts = [given] if isinstance(given, str) else [str(one) for one in given or ()]
        dimensions = body.get("output_dimension") or card.dimensions
        if not texts or dimensions > card.dimensions_max:
            words = f"output_dimension must be at most {card.dimensions_max}" if texts else "Empty"
            raise Refusal(400, words, code="3000")
        return EmbeddingRequest(
            card=card,
            model=body["model"],
            texts=texts,
            sizes=[max(1, tokens.count(one)) for one in texts],
            dimensions=dimensions,
            dtype=body.get("output_dtype") or "float",
            base64=body.get("encoding_format") == "base64",
        )

    def too_long(self, prompt_tokens: int, card: ModelCard) -> Refusal:
        """Return the refusal of a prompt that does not fit the model."""
        return Refusal(
            400,
            f"Prompt contains {prompt_tokens} tokens, too large for model with"
            f" {card.context_tokens} maximum context length",
            type_="invalid_request_prompt",
            code="3051",
        )

    def rate_limited(self, resets_in_s: float | None) -> Refusal:
        """Return the refusal of a request over the limit."""
        headers = {} if resets_in_s is None else {"retry-after": f"{max(1, round(resets_in_s))}"}
        message = "Rate limit exceeded"
        return Refusal(429, message, type_="rate_limited", code="1300", headers=headers)

    def make_call_id(self, dice: Dice) -> str:
        """Return a tool-call id."""
        return dice.letters(CALL_ID_LENGTH)

    def make_answer_id(self, dice: Dice) -> str:
        """Return an answer's id."""
        return f"{dice.below(1 << 128):032x}"

    def chat_body(self, request: ChatRequest, answer: Answer) -> bytes:
        """Return the whole answer as one JSON document."""
        body: JsonObject = {
            "id": answer.id,
            "object": "chat.completion",
            "created": answer.created,
            "model": request.model,
            "choices": [_choice(i, choice) for i, choice in enumerate(answer.choices)],
        }
        if answer.usage is not None:
            body["usage"] = _usage(answer.usage)
        return encode(body)

    def chat_frames(self, request: ChatRequest, answer: Answer, chunk_tokens: int) -> list[Frame]:
        """Return the answer as server-sent events."""
        start = (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
            % (answer.id.encode(), answer.created, encode(request.model))
        )
        frames: list[Frame] = []
        for index, choice in enumerate(answer.choices):
            opening = b'%b{"index":%d,"delta":' % (start, index)
            frames.append((_delta(opening, b'"role":"assistant","content":""'), 0))
            for piece, size in grouped(choice.thinking, chunk_tokens):
                frames.append((_delta(opening, _THOUGHT % piece), size))
            for piece, size in grouped(choice.text, chunk_tokens):
                frames.append((_delta(opening, b'"content":' + piece), size))
            is_last = index == len(answer.choices) - 1
            usage = answer.usage if is_last else None
            frames.append((_last_delta(opening, choice, usage), choice.call_tokens))
        frames.append((DONE, 0))
        return frames

    def embedding_body(
        self, request: EmbeddingRequest, vectors: list[list[float] | list[int] | str], id_: str
    ) -> bytes:
        """Return the vectors as JSON."""
        size = sum(request.sizes)
        return encode(
            {
                "id": id_,
                "object": "list",
                "data": [
                    {"object": "embedding", "embedding": vector, "index": i}
                    for i, vector in enumerate(vectors)
                ],
                "model": request.model,
                "usage": {"prompt_tokens": size, "total_tokens": size, "completion_tokens": 0},
            }
        )

    def models_body(self) -> bytes:
        """Return the list of models, one entry for every name."""
        data = [_card_json(card, name) for name, card in self.cards.items()]
        return encode({"object": "list", "data": data})

    def model_body(self, card: ModelCard, name: str) -> bytes:
        """Return one model's card."""
        return encode(_card_json(card, name))

    def error_body(self, refusal: Refusal) -> bytes:
        """Return an error in one of the envelopes the service uses."""
        if refusal.status == 401:
            return b'{"detail":"Unauthorized"}'
        detail = refusal.detail
        if detail and any(one["type"] == "extra_forbidden" for one in detail):
            message: Json = {"detail": detail}
        elif detail:
            return encode({"detail": detail})
        else:
            message = refusal.message
        body = {
            "object": "error",
            "message": message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
        if refusal.status == 429:
            body["raw_status_code"] = 429
        return encode(body)

    def error_frame(self, refusal: Refusal) -> bytes:
        """Return an error as an event of a stream."""
        return b"data: " + self.error_body(refusal) + b"\n\n"

    def fields(self, request_id: str, allowance: Allowance, cost_tokens: int) -> str:
        """Return the provider's own header lines."""
        return (
            f"mistral-correlation-id: {request_id}\r\n"
            f"x-kong-request-id: {request_id}\r\n"
            f"x-ratelimit-limit-req-minute: {allowance.requests_limit}\r\n"
            f"x-ratelimit-remaining-req-minute: {allowance.requests_left}\r\n"
            f"x-ratelimit-limit-tokens-minute: {allowance.tokens_limit}\r\n"
            f"x-ratelimit-remaining-tokens-minute: {allowance.tokens_left}\r\n"
            f"x-ratelimit-limit-tokens-month: {MONTH_TOKENS}\r\n"
            f"x-ratelimit-remaining-tokens-month: {MONTH_TOKENS}\r\n"
            f"x-ratelimit-tokens-query-cost: {cost_tokens}\r\n"
            "x-envoy-upstream-service-time: 1\r\n"
            "x-kong-upstream-latency: 2\r\n"
            "access-control-allow-origin: *\r\n"
            "cf-cache-status: DYNAMIC\r\n"
            "set-cookie: __cf_bm=simulated; path=/; HttpOnly; Secure; SameSite=None\r\n"
            "set-cookie: _cfuvid=simulated; path=/; HttpOnly; Secure; SameSite=None\r\n"
            "server: cloudflare\r\n"
        )

    def _card(self, body: JsonObject, kind: Kind) -> ModelCard:
        name = body.get("model")
        card = self.cards.get(name) if isinstance(name, str) else None
        if card is None or card.kind is not kind:
            raise _invalid_model(name)
        return card


_THOUGHT = b'"content":[{"type":"thinking","thinking":[{"type":"text","text":%b}]}]'


def _delta(opening: bytes, inside: bytes) -> bytes:
    return b'%b{%b},"finish_reason":null}]}\n\n' % (opening, inside)


def _last_delta(opening: bytes, choice: Choice, usage: Usage | None) -> bytes:
    delta: JsonObject = {"content": ""}
    if choice.calls:
        delta["tool_calls"] = [_call(i, call) for i, call in enumerate(choice.calls)]
    tail = b',"usage":' + encode(_usage(usage)) if usage is not None else b""
    return b'%b%b,"finish_reason":"%b"}]%b}\n\n' % (
        opening,
        encode(delta),
        choice.finish.encode(),
        tail,
    )


def _choice(index: int, choice: Choice) -> JsonObject:
    said = "".join(choice.text)
    content: Json = said
    if choice.thinking:
        thought = {"type": "text", "text": "".join(choice.thinking)}
        content = [{"type": "thinking", "thinking": [thought]}, {"type": "text", "text": said}]
    calls = [_call(i, call) for i, call in enumerate(choice.calls)] or None
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "tool_calls": calls},
        "finish_reason": choice.finish,
    }


def _call(index: int, call: ToolCall) -> JsonObject:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "function": function, "index": index}


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.prompt,
        "total_tokens": usage.prompt + usage.completion,
        "completion_tokens": usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _card_json(card: ModelCard, name: str) -> JsonObject:
    is_chat = card.kind is Kind.CHAT
    return {
        "id": name,
        "object": "model",
        "created": 1_760_000_000,
        "owned_by": "mistralai",
        "type": "base",
        "name": card.id,
        "description": f"Simulated {card.id}",
        "capabilities": {
            "completion_chat": is_chat,
            "function_calling": is_chat,
            "reasoning": card.reasoning is not Reasoning.NEVER,
            "completion_fim": card.fills_in_middle,
            "vision": is_chat and card.sees_images,
            "ocr": False,
            "classification": False,
            "moderation": False,
            "audio": False,
            "fine_tuning": False,
        },
        "max_context_length": card.context_tokens,
        "aliases": [other for other in (card.id, *card.aliases) if other != name],
        "deprecation": None,
        "deprecation_replacement_model": None,
        "default_model_temperature": 0.3 if is_chat else None,
    }


def _stops(stop: Json) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _thinks(card: ModelCard, body: JsonObject) -> bool:
    effort = body.get("reasoning_effort")
    if card.reasoning is Reasoning.NEVER or effort in {"none", "minimal"}:
        return False
    asked = effort is not None or body.get("prompt_mode") == "reasoning"
    return asked or card.reasoning is Reasoning.BY_DEFAULT


def _invalid_model(name: Json) -> Refusal:
    return Refusal(400, f"Invalid model: {name}", type_="invalid_model", code="1500")


def _refuse(problems: list[JsonObject]) -> None:
    if problems:
        raise Refusal(422, "Validation failed", detail=problems)
