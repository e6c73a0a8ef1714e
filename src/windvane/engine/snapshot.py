"""All that configuration says, as of one moment: immutable, and swapped whole on reload."""

from typing import Annotated

import msgspec
from msgspec import Meta

from windvane.core.catalog.models import Catalog
from windvane.core.deployment import Deployment
from windvane.core.principal import VirtualKey
from windvane.core.retry import RetryPolicy
from windvane.core.routing.table import RouteTable
from windvane.providers.provider import Provider

Seconds = Annotated[float, Meta(gt=0)]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds. `total_s` bounds all waiting for providers in one exchange, retries included, from the
    first attempt on (a caller slow to send or to read has bounds of its own, in the server);
    `first_token_s` and `inter_token_s` bound a stream's silences."""

    connect_s: Seconds = 5.0
    first_token_s: Seconds = 120.0
    inter_token_s: Seconds = 60.0
    total_s: Seconds = 600.0


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One configured provider, ready to be asked. `headers` carry its credential: not for logs."""

    name: str
    provider: Provider
    chat_url: str
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts

    def __repr__(self) -> str:
        return f"Upstream({self.name})"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Routes, models, providers, keys and limits of one moment.

    `deployments` are found by public model name. `keys` are found by digest; with none, and
    `is_open`, any caller is served (the server then listens on loopback only).
    """

    catalog: Catalog
    routes: RouteTable
    deployments: dict[str, tuple[Deployment, ...]]
    upstreams: dict[str, Upstream]
    keys: dict[bytes, VirtualKey] = {}
    key_pepper: bytes = b""
    is_open: bool = False
    retry: RetryPolicy = RetryPolicy()
    input_tokens_max: int | None = None
    has_metadata: bool = True
    version: int = 1
