"""What may be configured: one typed tree. Field names are the keys of `windvane.yaml`.

Unknown keys are errors. A secret is a reference (`env:NAME`, `file:PATH` or `${NAME}`), so that the
file itself can be shown to anyone; a plain value works too.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from windvane.core.retry import RetryPolicy
from windvane.core.routing.table import Route
from windvane.engine.snapshot import Timeouts

Positive = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars per million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of one provider that the catalog does not know, or knows otherwise.

    `model` is the name the provider is told, when it is not the public one. `card` is a catalog id
    whose abilities and price it shares. Without a price its cost is unknown, not zero.
    """

    model: str | None = None
    card: str | None = None
    price: PriceConfig | None = None


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider to use. `kind` is one of mistral, openai, compatible; the provider's own name
    serves when it is one of those. `price_factor` multiplies list prices (1.1 for Mistral's
    regional hosts)."""

    kind: str | None = None
    api_base: str | None = None
    api_key: str | None = None
    models: dict[str, ModelConfig | None] = {}
    timeouts: Timeouts | None = None
    price_factor: Decimal | None = None

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return "ProviderConfig(...)"


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`preset` gives the route `auto` when `routes` does not; `length_threshold` replaces the preset's
    own (120 characters, 100 in `small-large`). `metadata` puts `router_metadata`
    into JSON answers."""

    preset: str = "default"
    length_threshold: Positive | None = None
    metadata: bool = True


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one request, and of the slowness of its arrival."""

    body_bytes_max: Positive = 10 * 1024 * 1024
    input_tokens_max: Positive | None = None
    head_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    connections_max: Positive = 20_000


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gateway key. `name` is how reports call it."""

    key: str
    name: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return "KeyConfig(...)"


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call. Without any key the gateway serves loopback alone, to anyone there.

    `admin_key` may call too, and sees every key's requests. `open_metrics` answers `/metrics` and
    `/providers` on loopback without a key although there are keys: not behind a proxy.
    """

    keys: tuple[KeyConfig, ...] = ()
    admin_key: str | None = None
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


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

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
