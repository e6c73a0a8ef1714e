"""`MistralClient`: chat with routing, accounting and retries, in process.

The same engine, configuration and ledger as behind the gateway; no server, no Redis. The ledger is
kept in memory unless a configuration names a folder.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from windvane import system
from windvane.assembly import IN_MEMORY, open_engine
from windvane.config import Config, ConfigError, load_config
from windvane.config.check import Problem
from windvane.config.schema import CacheConfig, ProviderConfig
from windvane.core.chat import ChatRequest, Completion, JsonObject
from windvane.core.events import AttemptSettled, Event, ExchangeEnded, RequestEnded
from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.ledger import BYPASS, FREE, HIT, JOINED, MISS
from windvane.core.money import NANO_PER_USD
from windvane.core.usage import Usage
from windvane.core.usage_report import seconds
from windvane.engine.engine import CHAT, Engine
from windvane.ports.observer import EVERYTHING, Observer
from windvane.wire.chat_answer import with_ids
from windvane.wire.chat_request import chat_request_of

DIALECT = "python"
DEFAULT_MODEL = "mistral-small-latest"
"""What is asked when `auto_route` is off and no model is named."""
_AUTO = "auto"


class ChatResult(Mapping[str, object]):
    """An answer. Its parts are keys and attributes alike: `result["content"]`, `result.content`.

    `cost` is in dollars (None when the price is unknown); `cost_nano_usd` is exact. `usage` has
    `input_tokens`, `output_tokens`, `total_tokens` and `cache_read_input_tokens`.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: dict[str, object]) -> None:
        self._parts = parts

    def __getitem__(self, key: str) -> object:
        return self._parts[key]

    def __getattr__(self, name: str) -> object:
        try:
            return self._parts[name]
        except KeyError:
            raise AttributeError(f"an answer has no {name!r}; it has {list(self._parts)}") from None

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"ChatResult({self._parts!r})"


class _Counts(Observer):
    """Observes the engine for `get_stats`."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.by_cache: Counter[str] = Counter()
        self.saved_nano_usd = self.saved_tokens = self.saved_us = 0
        self.fallbacks = 0
        self.seconds = 0.0
        self.by_model: dict[str, int] = {}
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_nano_usd = 0
        self.unpriced = 0

    def on(self, event: Event) -> None:
        if isinstance(event, AttemptSettled):
            entry = event.entry
            self.input_tokens += entry.input_tokens
            self.output_tokens += entry.output_tokens
            self.cost_nano_usd += entry.cost_nano_usd or 0
            self.unpriced += entry.cost_nano_usd is None
            self.saved_nano_usd += entry.saved_nano_usd or 0
            self.saved_tokens += entry.saved_tokens or 0
            self.saved_us += entry.saved_us or 0
            return
        if not isinstance(event, (ExchangeEnded, RequestEnded)):
            return
        if isinstance(event, ExchangeEnded) and event.is_refresh:
            return
        self.requests += 1
        self.errors += event.status >= 400
        if isinstance(event, RequestEnded):
            self.by_cache[BYPASS] += 1
            return
        self.by_cache[event.counted_as] += 1
        self.seconds += event.duration_s
        self.fallbacks += len(set(event.models_tried)) > 1
        if event.model:
            self.by_model[event.model] = self.by_model.get(event.model, 0) + 1

    def stats(self) -> dict[str, object]:
        """What was counted, as `get_stats` tells it."""
        requests = self.requests
        by_cache = self.by_cache
        hit_rate = (by_cache[HIT] + by_cache[JOINED]) / requests if requests else 0.0
        total_cost = self.cost_nano_usd / NANO_PER_USD
        return {
            "requests": requests,
            "cache_hits": by_cache[HIT],
            "cache_joins": by_cache[JOINED],
            "cache_misses": by_cache[MISS],
            "cache_bypasses": by_cache[BYPASS],
            "cache_hit_rate": f"{hit_rate:.1%}",
            "errors": self.errors,
            "fallbacks": self.fallbacks,
            "tokens_input": self.input_tokens,
            "tokens_output": self.output_tokens,
            "total_cost": total_cost,
            "total_cost_nano_usd": self.cost_nano_usd,
            "unpriced_attempts": self.unpriced,
            "saved_cost": self.saved_nano_usd / NANO_PER_USD,
            "saved_cost_nano_usd": self.saved_nano_usd,
            "saved_tokens": self.saved_tokens,
            "saved_seconds": seconds(self.saved_us),
            "avg_cost_per_request": total_cost / requests if requests else 0.0,
            "avg_latency_ms": self.seconds / requests * 1000 if requests else 0.0,
            "requests_by_model": dict(self.by_model),
        }


class MistralClient:
    """A client of Mistral (and of whatever else the configuration names) with the engine inside.

    `api_key` defaults to `MISTRAL_API_KEY`; `api_base` to Mistral's own address; `config` is a path
    or a loaded `Config`, for everything else. Use it as `async with`, or call `aclose`.

    Answers are kept and given again to the same request, as the configuration's `cache` says; without
    a `cache.scope` there, for an hour in this process's memory. What is said here wins over both:
    `enable_cache` turns it on or off, `cache_ttl` is in seconds, and `redis_url` shares answers among all
    who share that Redis.

    Raises ConfigError at the first call when neither key nor configuration gives a provider, and
    RuntimeError when the ledger cannot be opened.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_base: str | None = None,
        enable_cache: bool | None = None,
        cache_ttl: int | None = None,
        redis_url: str | None = None,
        config: Config | str | Path | None = None,
    ) -> None:
        loaded = _configuration(api_key, api_base, config)
        cache = _cache(loaded.cache, enable_cache, cache_ttl, redis_url)
        self._config = msgspec.structs.replace(loaded, cache=cache)
        self.enable_cache = cache.scope is not None
        self.cache_ttl = cache.ttl_s
        self.redis_url = cache.redis
        self._counts = _Counts()
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections and the ledger; the client may be used again afterwards."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.aclose()

    async def chat(
        self,
        messages: Sequence[Mapping[str, object]] | str,
        model: str | None = None,
        auto_route: bool = True,
        temperature: float | None = None,
        max_tokens: int | None = None,
        use_cache: bool = True,
        **options: object,
    ) -> ChatResult:
        """Ask, and return the whole answer.

        `messages` are OpenAI's or Mistral's; a string is one user message. Without `model`, the
        route `auto` chooses when `auto_route` is on. `options` are further fields of the request
        (`tools`, `response_format`, `random_seed`, ...), checked as the gateway checks them.

        Raises a WindvaneError: see `windvane.core.faults`.
        """
        engine = self._engine or await self._running_engine()
        exchange = self._accept(
            engine, _body(messages, model, auto_route, temperature, max_tokens, options), use_cache
        )
        answer = await engine.handle(exchange)
        if not isinstance(answer, Completion):
            await answer.aclose()
            raise refuse(
                FaultKind.INVALID_REQUEST,
                "stream: chat() returns whole answers; leave stream out",
                param="stream",
            )
        return _result(exchange, answer)

    def _accept(self, engine: Engine, body: JsonObject, use_cache: bool) -> Exchange:
        try:
            request, body_bytes = _request(body)
        except WindvaneError as error:
            engine.tell_of(engine.new_request_id(), CHAT, error.fault.status, error.fault)
            raise
        return engine.accept(
            request,
            dialect=DIALECT,
            credentials=Credentials(is_in_process=True),
            body_bytes=body_bytes,
            headers={} if use_cache else {b"cache-control": b"no-store"},
        )

    def get_stats(self) -> dict[str, object]:
        """What this client has done since it was made.

        `total_cost`, `saved_cost` and `avg_cost_per_request` are dollars; those in nano-dollars are
        exact. Hits, joins, misses and bypasses of the cache add up to `requests`.
        """
        return self._counts.stats()

    def clear_cache(self) -> int:
        """Forget all cached answers; returns how many this process had in memory.

        Where they are shared, the others are told at once, in the background.
        """
        if self._engine is None or self._engine.cache is None:
            return 0
        return self._engine.clear_cache_now()

    async def _running_engine(self) -> Engine:
        async with self._opening:
            if self._engine is None:
                if not self._config.providers:
                    hint = "give one, or set MISTRAL_API_KEY in the environment"
                    raise ConfigError([Problem("api_key", hint)], "the client's configuration")
                self._engine = await open_engine(self._config, (self._counts,))
            return self._engine


def _configuration(
    api_key: str | None, api_base: str | None, config: Config | str | Path | None
) -> Config:
    """The configuration given, or the environment's; the arguments win over both."""
    if isinstance(config, Config):
        loaded = config
    else:
        loaded = load_config(system.environment(), Path(config) if config else None)
        if config is None:
            loaded = msgspec.structs.replace(loaded, data_dir=IN_MEMORY)
    if api_key is None and api_base is None:
        return loaded
    known = loaded.providers.get("mistral", ProviderConfig())
    mistral = msgspec.structs.replace(
        known,
        api_key=api_key if api_key is not None else known.api_key,
        api_base=api_base if api_base is not None else known.api_base,
    )
    return msgspec.structs.replace(loaded, providers={**loaded.providers, "mistral": mistral})


def _cache(
    said: CacheConfig, enable_cache: bool | None, cache_ttl: int | None, redis_url: str | None
) -> CacheConfig:
    """How answers are kept: as the arguments say, else as the configuration does."""
    is_whole = isinstance(cache_ttl, int) and not isinstance(cache_ttl, bool)
    if cache_ttl is not None and not (is_whole and cache_ttl > 0):
        raise ValueError(f"cache_ttl is a whole number of seconds above 0, not {cache_ttl!r}")
    if enable_cache is False:
        return CacheConfig()
    if said.scope is None:
        # An address alone turns nothing on: REDIS_URL may be meant for something else.
        said = msgspec.structs.replace(said, scope="key", redis=None)
    return msgspec.structs.replace(
        said,
        ttl_s=said.ttl_s if cache_ttl is None else cache_ttl,
        redis=said.redis if redis_url is None else redis_url,
    )


def _body(
    messages: Sequence[Mapping[str, object]] | str,
    model: str | None,
    auto_route: bool,
    temperature: float | None,
    max_tokens: int | None,
    options: dict[str, object],
) -> JsonObject:
    said: object = messages
    if isinstance(messages, str):
        said = [{"role": "user", "content": messages}]
    elif isinstance(messages, Iterable) and not isinstance(messages, Mapping):
        said = list(messages)
    body: JsonObject = {
        "model": model or (_AUTO if auto_route else DEFAULT_MODEL),
        "messages": said,
    }
    if temperature is not None:
        body["temperature"] = temperature
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return {**body, **options}


def _request(body: JsonObject) -> tuple[ChatRequest, int]:
    """The request that `body` is, and its size. Raises BadRequestError.

    Through JSON and back: what a gateway's caller could not send is refused here as well.
    """
    try:
        _check_numbers(msgspec.to_builtins(body))
        text = msgspec.json.encode(body)
        fields = msgspec.json.decode(text)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"the request cannot be written as JSON: {error}"
        raise refuse(FaultKind.INVALID_REQUEST, message) from error
    if fields.get("stream"):
        raise refuse(
            FaultKind.INVALID_REQUEST,
            "stream: chat() returns whole answers; leave stream out",
            param="stream",
        )
    return chat_request_of(fields), len(text)


def _check_numbers(body: object) -> None:
    """Raise ValueError where a number is none that JSON has: it would be written as null."""
    unseen = [("", body)]
    while unseen:
        place, value = unseen.pop()
        if isinstance(value, dict):
            unseen += [(f"{place}.{name}" if place else name, each) for name, each in value.items()]
        elif isinstance(value, list | tuple):
            unseen += [(f"{place}[{number}]", each) for number, each in enumerate(value)]
        elif isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{place} is {value}")


def _result(exchange: Exchange, answer: Completion) -> ChatResult:
    attempt, decision = exchange.final_attempt, exchange.decision
    assert attempt is not None and decision is not None
    usage = answer.usage or attempt.usage or Usage()
    first = answer.choices[0]
    cost = exchange.cost_nano_usd
    assert exchange.ended_s is not None
    return ChatResult(
        {
            "content": first.message.content or "",
            "cost": None if cost is None else cost / NANO_PER_USD,
            "cost_nano_usd": cost,
            "model": attempt.deployment.model,
            "provider": attempt.deployment.provider,
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
                "cache_read_input_tokens": usage.cache_read_input_tokens,
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
            },
            "cached": exchange.cache_status in FREE,
            "reason": decision.reason,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in with_ids(first.message.tool_calls, answer.id, first.index)
            ],
            "reasoning": first.message.reasoning,
            "finish_reason": first.finish_reason.told if first.finish_reason else None,
            "attempts": len(exchange.attempts),
            "latency_ms": (exchange.ended_s - exchange.received_s) * 1000,
            "request_id": exchange.id,
        }
    )
