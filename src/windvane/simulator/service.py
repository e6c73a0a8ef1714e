"""The simulated provider: takes a received request, returns a planned reply.

It decides and writes nothing to any socket. The order is that of a real service: key, body,
model, faults asked for, context, answer, limits; only then is anything worth billing.
"""

from collections.abc import Callable
from typing import cast

import msgspec

from windvane.simulator import clock, embedding, tokens
from windvane.simulator.anthropic import Anthropic
from windvane.simulator.bill import Bill, Metered
from windvane.simulator.catalogue import ModelCard
from windvane.simulator.compose import compose, question_key
from windvane.simulator.config import SimulatorConfig
from windvane.simulator.dialect import Dialect, EmbeddingRequest
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import Answer, ChatRequest, Choice, Usage, last_user_text
from windvane.simulator.fault import Fault, FaultSchedule, faults_in
from windvane.simulator.fault_effects import ANSWERS, DELIVERIES, REPLIES, USAGES
from windvane.simulator.http_message import Received
from windvane.simulator.json_types import JsonObject
from windvane.simulator.limits import Limits
from windvane.simulator.mistral import Mistral
from windvane.simulator.openai import OpenAI
from windvane.simulator.prompt_cache import Marked, PromptCache
from windvane.simulator.received_json import AmbiguousJson, DuplicateKey, read_json
from windvane.simulator.refusal import Refusal, no_such_path, unauthorized
from windvane.simulator.reply import Reply
from windvane.simulator.tape import Tape, TapeEntry, Violation

VIOLATIONS_MAX = 1_000
"""Violations kept; one is already too many."""
KNOWN_MAX = 1_024
KNOWN_BODY_BYTES_MAX = 16 * 1024
"""Requests remembered with their answers, and their largest size: at most 16 MB of bodies."""
CHOICES_MAX = 32
"""Alternatives in one answer."""

_SAID_ONCE = (b"authorization", b"content-length", b"content-type", b"host", b"x-request-id")
_SHAPE_ERRORS = (TypeError, AttributeError, KeyError, ValueError, IndexError, RecursionError)
"""What an oddly shaped body or tool schema raises where no rule has looked at it."""
_MISSHAPEN = (
    "The request cannot be understood: something in it, such as a tool's schema, has another type than"
    " is documented, or lacks what it needs."
)

_EVENT_STREAM = "text/event-stream; charset=utf-8"


class _Call(msgspec.Struct):
    """One request on its way through the service."""

    dialect: Dialect
    received: Received
    request_id: str
    entry: TapeEntry
    key: str
    now: float
    model: str = ""


class _Understood(msgspec.Struct):
    """A chat request read, and the answer to it; nothing here depends on who asks or when."""

    request: ChatRequest
    prompt_tokens: int
    words: list[Fault]
    choices: list[Choice]


class Service:
    """The providers, their shared limits, faults, cache, bill and tape."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._mistral: Dialect = Mistral()
        self._others: dict[str, Dialect] = {
            f"/{other.name}": other for other in (OpenAI(), Anthropic())
        }
        self._served = 0
        self._known: dict[tuple[str, bytes], _Understood] = {}
        self._limits = Limits(config.requests_per_minute, config.tokens_per_minute)
        self._cache = PromptCache()
        self.schedule = FaultSchedule(config.seed, config.faults)
        self.bill = Bill(price_date=config.price_date)
        self.tape = Tape()
        self.violations: list[Violation] = []
        self.by_status: dict[int, int] = {}
        self._posts: dict[str, Callable[[_Call], Reply]] = {
            "chat": lambda call: self._chat(call, call.dialect.read_chat),
            "fim": lambda call: self._chat(call, call.dialect.read_fim),
            "embeddings": self._embeddings,
            "count": self._count,
        }

    def respond(self, received: Received, now: float) -> tuple[Reply, TapeEntry]:
        """Return the planned reply to a request, and its place on the tape."""
        self._served += 1
        at_s = clock.now_s()
        request_id = clock.uuid7(at_s, self._served)
        attempt = received.fields.get(b"x-request-id", b"").decode("latin-1") or request_id
        entry = self.tape.record(received, attempt, at_s)
        path, dialect = received.path, self._mistral
        prefix = path[: path.find("/", 1)]
        if prefix in self._others:
            path, dialect = path.removeprefix(prefix), self._others[prefix]
        call = _Call(dialect, received, request_id, entry, "", now)
        try:
            reply = self._route(call, path.rstrip("/"))
        except Refusal as refusal:
            reply = self._refused(call, refusal)
        except _SHAPE_ERRORS:
            reply = self._refused(call, Refusal(400, _MISSHAPEN))
        entry.status = reply.status
        self.by_status[reply.status] = self.by_status.get(reply.status, 0) + 1
        return reply, entry

    def settle(self, reply: Reply, *, generated: int, delivered: int, ending: str) -> None:
        """Bill a reply that has ended; `generated` is what was made when it did."""
        metered = reply.metered
        if metered is None:
            return
        output = metered.output_tokens if ending == "finished" else generated
        if ending == "aborted" and self._config.abort_billing == "run_to_end":
            output = metered.output_tokens
        self.bill.post(metered, output_tokens=output, delivered_tokens=delivered, ending=ending)

    def violate(self, attempt: str, kind: str, says: str) -> None:
        """Note a request that no well-behaved client sends."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(attempt, kind, says))

    def reset(self) -> None:
        """Forget everything but the configuration; faults are those configured."""
        self.bill.clear()
        self.tape.entries.clear()
        self.violations.clear()
        self.by_status.clear()
        self._limits.clear()
        self._cache.clear()
        self.schedule.replace(self._config.faults)

    def _route(self, call: _Call, path: str) -> Reply:
        self._check_headers(call)
        call.key = self._authorized(call)
        call.dialect.check_headers(call.received)
        method = call.received.method
        post = self._posts.get(call.dialect.endpoints.get(path, ""))
        if post is not None and method == "POST":
            return post(call)
        if path == "/v1/models" and method == "GET":
            return self._plain(call, call.dialect.models_body())
        if path.startswith("/v1/models/") and method == "GET":
            return self._model(call, path.removeprefix("/v1/models/"))
        if post is not None or path == "/v1/models":
            raise Refusal(405, f"Method {method} not allowed")
        raise no_such_path(method, path)

    def _check_headers(self, call: _Call) -> None:
        fields, headers = call.received.fields, call.received.headers
        if len(fields) == len(headers):
            return
        names = [name.lower() for name, _ in headers]
        for name in _SAID_ONCE:
            if names.count(name) > 1:
                says = f"header {name.decode()} sent {names.count(name)} times"
                self.violate(call.entry.attempt, "duplicate_header", says)
                raise Refusal(400, says)

    def _authorized(self, call: _Call) -> str:
        token = call.dialect.key_of(call.received)
        if not token:
            raise unauthorized()
        if self._config.api_keys is not None and token not in self._config.api_keys:
            raise unauthorized()
        return token

    def _body(self, call: _Call) -> JsonObject:
        try:
            body = read_json(call.received.body)
        except AmbiguousJson as error:
            kind = "duplicate_key" if isinstance(error, DuplicateKey) else "invalid_json"
            self.violate(call.entry.attempt, kind, str(error))
            detail = [{"type": "json_invalid", "loc": ["body"], "msg": str(error), "input": {}}]
            raise Refusal(422, f"JSON decode error: {error}", detail=detail) from error
        if not isinstance(body, dict):
            words = "Input should be a valid dictionary"
            detail = [{"type": "dict_type", "loc": ["body"], "msg": words, "input": body}]
            raise Refusal(422, words, detail=detail)
        call.model = str(body.get("model", ""))
        return cast(JsonObject, body)

    def _chat(self, call: _Call, read: Callable[..., ChatRequest]) -> Reply:
        understood = self._understood(call, read)
        request, prompt_tokens = understood.request, understood.prompt_tokens
        faults = self._faults(call, request.model, understood.words)
        instead = self._instead(call, faults, request.card, request.stream)
        if instead is not None:
            return instead
        if prompt_tokens + (request.max_tokens or 0) > request.card.context_tokens:
            raise call.dialect.too_long(prompt_tokens, request.card)
        choices = understood.choices
        for fault in faults:
            if fault.kind in ANSWERS:
                choices = ANSWERS[fault.kind](fault, request, list(choices))
        usage = self._usage(call, request, prompt_tokens, choices)
        self._admit(call, usage.prompt + usage.completion)
        reply = self._chat_reply(call, request, choices, usage, faults)
        return self._delivered(call, reply, faults)

    def _understood(self, call: _Call, read: Callable[..., ChatRequest]) -> _Understood:
        """Return the request read and its answer thought out: at once, if it was seen before."""
        place = (call.received.target, call.received.body)
        known = self._known.get(place)
        if known is not None:
            call.model = known.request.model
            return known
        request = read(self._body(call), strict=self._config.strict)
        request.n = min(request.n, CHOICES_MAX)
        key = question_key(self._config.seed, request)
        understood = _Understood(
            request=request,
            prompt_tokens=_prompt_tokens(request),
            words=faults_in(last_user_text(request.messages)),
            choices=compose(request, key, call.dialect.make_call_id),
        )
        if len(place[1]) <= KNOWN_BODY_BYTES_MAX:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[place] = understood
        return understood

    def _usage(
        self, call: _Call, request: ChatRequest, prompt_tokens: int, choices: list[Choice]
    ) -> Usage:
        cached, marked = 0, Marked()
        if request.marks:
            marked = self._cache.marked(call.key, request.card.id, request.marks, prompt_tokens)
            cached = marked.read
        if request.cache_key:
            prompt = msgspec.json.encode((request.tools, request.messages))
            place = (call.key, request.card.id, request.cache_key)
            cached = self._cache.cached_tokens(place, prompt, prompt_tokens)
        completion = sum(choice.tokens for choice in choices)
        thinking = sum(len(choice.thinking) for choice in choices)
        written = (marked.written, marked.written_1h)
        return Usage(prompt_tokens, completion, cached, thinking, *written)

    def _chat_reply(
        self,
        call: _Call,
        request: ChatRequest,
        choices: list[Choice],
        usage: Usage,
        faults: list[Fault],
    ) -> Reply:
        dialect = call.dialect
        shown: Usage | None = usage
        for fault in faults:
            if fault.kind in USAGES and shown is not None:
                shown = USAGES[fault.kind](shown)
        id_ = dialect.make_answer_id(Dice(b"id %d %d" % (self._config.seed, self._served)))
        answer = Answer(id=id_, created=int(clock.now_s()), choices=choices, usage=shown)
        if request.stream:
            frames = dialect.chat_frames(request, answer, self._config.chunk_tokens)
            content_type = _EVENT_STREAM
        else:
            frames = [(dialect.chat_body(request, answer), usage.completion)]
            content_type = "application/json"
        return Reply(
            status=200,
            frames=frames,
            content_type=content_type,
            streamed=request.stream,
            fields=self._fields(call, usage.prompt + usage.completion),
            metered=Metered(
                attempt=call.entry.attempt,
                model=request.card.id,
                stream=request.stream,
                status=200,
                input_tokens=usage.prompt,
                cached_tokens=usage.cached,
                written_tokens=usage.written,
                written_1h_tokens=usage.written_1h,
                output_tokens=usage.completion,
            ),
        )

    def _count(self, call: _Call) -> Reply:
        """Tell how long a prompt is: it is read as if it were to be answered, and nothing is billed."""
        body = {"max_tokens": 1, **self._body(call)}
        request = call.dialect.read_chat(body, strict=self._config.strict)
        return self._plain(call, msgspec.json.encode({"input_tokens": _prompt_tokens(request)}))

    def _embeddings(self, call: _Call) -> Reply:
        request = call.dialect.read_embedding(self._body(call), strict=self._config.strict)
        words = faults_in(request.texts[0]) if request.texts else []
        faults = self._faults(call, request.model, words)
        instead = self._instead(call, faults, request.card, False)
        if instead is not None:
            return instead
        if max(request.sizes) > request.card.context_tokens:
            raise call.dialect.too_long(max(request.sizes), request.card)
        size = sum(request.sizes)
        self._admit(call, size)
        body = call.dialect.embedding_body(request, self._vectors(request), call.request_id)
        reply = self._plain(call, body, size)
        reply.metered = Metered(
            attempt=call.entry.attempt,
            model=request.card.id,
            stream=False,
            status=200,
            input_tokens=size,
        )
        return self._delivered(call, reply, faults)

    def _vectors(self, request: EmbeddingRequest) -> list[list[float] | list[int] | str]:
        vectors: list[list[float] | list[int] | str] = []
        for text in request.texts:
            vector = embedding.vector_of(text, self._config.seed, request.dimensions)
            typed = embedding.as_type(vector, request.dtype)
            as_text = request.base64
            vectors.append(embedding.as_base64(typed, request.dtype) if as_text else typed)
        return vectors

    def _model(self, call: _Call, name: str) -> Reply:
        card = call.dialect.cards.get(name)
        if card is None:
            message = f"The model '{name}' does not exist"
            raise Refusal(404, message, code="model_not_found", param="model")
        return self._plain(call, call.dialect.model_body(card, name))

    def _faults(self, call: _Call, model: str, words: list[Fault]) -> list[Fault]:
        faults = words + self.schedule.faults_for(model)
        if not faults:
            return faults
        call.entry.faults = [fault.kind for fault in faults]
        return faults

    def _instead(
        self, call: _Call, faults: list[Fault], card: ModelCard, stream: bool
    ) -> Reply | None:
        """Return the reply of a fault that strikes before anything is generated."""
        for fault in faults:
            if fault.kind in REPLIES:
                reply = REPLIES[fault.kind](fault, call.dialect, self._fields(call, 0))
                reply.is_whole = False
                reply.first_delay_s = self._config.ttft_ms / 1000.0
                reply.metered = Metered(
                    attempt=call.entry.attempt, model=card.id, stream=stream, status=reply.status
                )
                return reply
        return None

    def _admit(self, call: _Call, cost_tokens: int) -> None:
        if not self._limits.admit(call.key, cost_tokens, call.now):
            raise call.dialect.rate_limited(self._limits.reset_hint_s(call.key, call.now))

    def _delivered(self, call: _Call, reply: Reply, faults: list[Fault]) -> Reply:
        """Give the reply its pace, then let the faults of delivery at it."""
        config = self._config
        reply.first_delay_s = config.ttft_ms / 1000.0
        if config.jitter and config.ttft_ms:
            dice = Dice(b"pace %d %d" % (config.seed, self._served))
            reply.first_delay_s *= dice.lognormal(config.jitter)
        if config.tokens_per_s:
            reply.token_delay_s = 1.0 / config.tokens_per_s
        for fault in faults:
            if fault.kind in DELIVERIES:
                DELIVERIES[fault.kind](fault, call.dialect, reply)
        return reply

    def _plain(self, call: _Call, body: bytes, cost_tokens: int = 0) -> Reply:
        return Reply(status=200, frames=[(body, 0)], fields=self._fields(call, cost_tokens))

    def _refused(self, call: _Call, refusal: Refusal) -> Reply:
        fields = self._fields(call, 0)
        fields += "".join(f"{name}: {value}\r\n" for name, value in refusal.headers.items())
        metered = Metered(
            attempt=call.entry.attempt, model=call.model, stream=False, status=refusal.status
        )
        body = call.dialect.error_body(refusal)
        return Reply(
            status=refusal.status,
            frames=[(body, 0)],
            fields=fields,
            metered=metered,
            is_whole=False,
        )

    def _fields(self, call: _Call, cost_tokens: int) -> str:
        allowance = self._limits.allowance(call.key, call.now)
        return call.dialect.fields(call.request_id, allowance, cost_tokens)


def _prompt_tokens(request: ChatRequest) -> int:
    extras = [request.tools, request.response_format]
    return tokens.count_prompt(request.messages, extras) + request.added_tokens
