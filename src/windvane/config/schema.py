"""What may be configured: one typed tree. Field names are the keys of `windvane.yaml`.

Unknown keys are errors. A secret is a reference (`env:NAME`, `file:PATH` or `${NAME}`), so that the
file itself can be shown to anyone; a plain value works too.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from windvane.core.priority import Priority
from windvane.core.retry import RetryPolicy
from windvane.core.routing.table import Route
from windvane.engine.snapshot import Timeouts

Positive = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=86_400)]


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars per million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of one provider that the catalog does not know, or knows otherwise.

    `model` is the name the provider is told, when it is not the public one. `card` is a catalog id
    whose abilities and price it shares. Without a price its cost is unknown, not zero.
    `context_window_tokens` and `output_tokens_max` say how long input and answer may be.
    """

    model: str | None = None
    card: str | None = None
    price: PriceConfig | None = None
    context_window_tokens: Positive | None = None
    output_tokens_max: Positive | None = None


class UpstreamLimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider allows all our requests together."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider to use. `kind` is one of mistral, openai, anthropic, compatible; the provider's own name
    serves when it is one of those. `price_factor` multiplies list prices (1.1 for Mistral's
    regional hosts). `abort_billing` says what an answer costs there whose connection is closed
    midway: what had been made of it (stop), or all of it (run_to_end). `free_fields` names fields of
    requests that cost nothing there, beside those that are known to. `tier` is Mistral's (hobbyist,
    standard, enterprise), with its limits; `limits` states others."""

    kind: str | None = None
    api_base: str | None = None
    api_key: str | None = None
    models: dict[str, ModelConfig | None] = {}
    timeouts: Timeouts | None = None
    price_factor: Decimal | None = None
    abort_billing: Literal["stop", "run_to_end"] = "stop"
    free_fields: tuple[str, ...] = ()
    tier: str | None = None
    limits: UpstreamLimitsConfig | None = None

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return "ProviderConfig(...)"


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`preset` gives the route `auto` when `routes` does not: unless said, `default`, or `mux` where the
    providers serve only that one's models. `length_threshold` replaces the preset's own (120
    characters, 100 in `small-large`). `metadata` puts `router_metadata`
    into JSON answers. From `economy_at_percent` of a budget on, a route asks its cheapest model
    first; 101 turns that off."""

    preset: str | None = None
    economy_at_percent: Annotated[int, Meta(ge=0, le=101)] = 80
    length_threshold: Positive | None = None
    metadata: bool = True


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one request, and of the slowness of its arrival; and of stopping: told to by SIGTERM, the
    gateway takes requests for `unready_s` yet, and waits `grace_s` for those under way."""

    body_bytes_max: Positive = 10 * 1024 * 1024
    input_tokens_max: Positive | None = None
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    connections_max: Positive = 20_000
    unready_s: SecondsOrNone = 0.0
    grace_s: SecondsOrNone = 30.0


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars that may be spent in a UTC day, a UTC month, and ever."""

    daily: Decimal | None = None
    monthly: Decimal | None = None
    total: Decimal | None = None


class RateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests and tokens a minute, and requests at once. `burst_requests` is how many requests may
    come in one moment: as many as a minute's, unless said otherwise."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrency: Positive | None = None
    burst_requests: Positive | None = None


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gateway key. `name` is how reports call it.

    `models`, `routes` and `endpoints` (chat, models, route) are what it may use, all when empty; a
    trailing `*` stands for any ending. `route` is what `auto` means for it. `clamp: false` refuses a
    request whose answer the budget does not cover, rather than asking for a shorter one.
    """

    key: str
    name: str | None = None
    owner: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    budget: BudgetConfig | None = None
    rates: RateConfig | None = None
    route: str | None = None
    priority: Priority = Priority.NORMAL
    output_tokens_max: Positive | None = None
    clamp: bool = True

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return "KeyConfig(...)"


KEYS_VARIABLE = "ALLOWED_API_KEYS"
"""The variable of the environment that names callers' keys, beside `auth.keys`."""


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call. Without any key the gateway serves loopback alone, to anyone there.

    `admin_key` may call too, sees every key's requests, and makes keys. `passthrough` names a provider
    whose own keys callers may bring: such a key is forwarded, and never kept. `pepper` is the secret
    that digests of made keys depend on; without it one is kept in the data folder. `open_metrics`
    answers `/metrics` and `/providers` on loopback without a key although there are keys: not behind
    a proxy.
    """

    keys: tuple[KeyConfig, ...] = ()
    admin_key: str | None = None
    passthrough: str | None = None
    pepper: str | None = None
    open_metrics: bool = False

    @property
    def is_open(self) -> bool:
        return not self.keys and self.admin_key is None

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return "AuthConfig(...)"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class AlertsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When, and where, to tell of a budget that nears its end: percent of it, and an address that a
    JSON object is posted to."""

    at_percent: tuple[Annotated[int, Meta(ge=1, le=100)], ...] = (50, 80, 100)
    webhook: str | None = None


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`retention_days`: single attempts older than this are deleted; their sums stay for ever."""

    retention_days: Positive | None = None


class WaitingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Waiting for room at a provider's limit: how many may wait at once, and for how long."""

    size: Annotated[int, Meta(ge=0)] = 1_000
    max_wait_s: Annotated[float, Meta(ge=0, le=600)] = 90.0


Count = Annotated[int, Meta(ge=0)]


class CacheRouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one route says of its own; `enabled: false` keeps none of its answers."""

    enabled: bool = True
    ttl_s: Positive | None = None
    ttl_max_s: Positive | None = None
    stale_while_revalidate_s: Count | None = None
    stale_if_error_s: Count | None = None
    deterministic_only: bool | None = None
    replay: Literal["immediate", "natural"] | None = None


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are kept, and given again to the same request.

    `scope` says whose answers may be shared: those of one `key`, of one `team`, or `shared` by all.
    Without it nothing is kept: that is never guessed. `redis` (or `REDIS_URL`) lets several gateways
    share them; while one cannot hear by it what others take back, it gives nothing from its memory, unless
    `memory_without_redis`. `disk` keeps them in the data folder when there is no Redis. `early_refresh` is
    XFetch's beta: 1 fetches a much-used answer anew shortly before its end, 0 never does. `wait_s` is how
    long another gateway's request for the same answer is waited for. `ttl_max_s` is how long a caller may
    ask for (`s-maxage`); `ttl_s`, unless said otherwise.
    """

    scope: Literal["key", "team", "shared"] | None = None
    ttl_s: Positive = 3_600
    ttl_max_s: Positive | None = None
    memory_bytes_max: Positive = 64 * 1024 * 1024
    memory_entries_max: Positive | None = None
    disk: bool = True
    disk_bytes_max: Annotated[int, Meta(ge=4 * 1024 * 1024)] = 1024 * 1024 * 1024
    disk_entries_max: Positive | None = None
    entry_bytes_max: Positive = 256 * 1024
    redis: str | None = None
    memory_without_redis: bool = False
    stale_while_revalidate_s: Count = 0
    stale_if_error_s: Count = 0
    early_refresh: Annotated[float, Meta(ge=0, le=10)] = 0.0
    deterministic_only: bool = False
    replay: Literal["immediate", "natural"] = "immediate"
    wait_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    routes: dict[str, CacheRouteConfig] = {}

    def __repr__(self) -> str:
        """Without what is secret in it: an address may hold a password."""
        return "CacheConfig(...)"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration.

    `budgets` and `rates` are by scope: `global`, `key:NAME`, `team:NAME`, `user:NAME`, `tag:NAME`,
    `model:ID`; `key:*` is for each key that does not say otherwise, and so for the other kinds.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    insecure: bool = False
    data_dir: str = ".windvane"
    providers: dict[str, ProviderConfig] = {}
    router: RouterConfig = RouterConfig()
    routes: dict[str, Route] = {}
    limits: LimitsConfig = LimitsConfig()
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    auth: AuthConfig = AuthConfig()
    budgets: dict[str, BudgetConfig] = {}
    rates: dict[str, RateConfig] = {}
    waiting: WaitingConfig = WaitingConfig()
    cache: CacheConfig = CacheConfig()
    alerts: AlertsConfig = AlertsConfig()
    ledger: LedgerConfig = LedgerConfig()
    log: LogConfig = LogConfig()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `windvane.yaml`."""
    schema = _with_numbers(msgspec.json.schema(Config, schema_hook=_anything))
    assert isinstance(schema, dict)
    return schema


def _with_numbers(schema: object) -> object:
    """In YAML an amount is written as a number."""
    if isinstance(schema, list):
        return [_with_numbers(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return schema | {"type": ["number", "string"]}
    return {name: _with_numbers(each) for name, each in schema.items()}


def _anything(kind: type) -> dict[str, Any]:
    """The schema of what is checked elsewhere: the conditions of rules."""
    if kind is object:
        return {"description": "a value, a list of values, or comparisons"}
    raise NotImplementedError(f"no schema for {kind}")
