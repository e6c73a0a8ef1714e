"""All that configuration says, as of one moment: immutable, and swapped whole on reload."""

from typing import Annotated

import msgspec
from msgspec import Meta

from windvane.core.budgets import BudgetTerms
from windvane.core.cache.freshness import CachePolicy
from windvane.core.catalog.models import Catalog
from windvane.core.deployment import Deployment
from windvane.core.limits import RateTerms
from windvane.core.principal import Principal, Scope
from windvane.core.retry import RetryPolicy
from windvane.core.routing.table import RouteTable
from windvane.core.upstream_limits import UpstreamTerms
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
    origin: str
    """Its name, kind and address in one spelling, for the keys of answers."""
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts
    bare_headers: tuple[tuple[str, str], ...] = ()
    """The same without the credential, for callers who bring their own."""

    shares_limits: bool = False
    """Whether all its models share one limit, or each has its own."""

    def limits_key(self, deployment_id: str) -> str:
        """Whose limits a request to this deployment counts against."""
        return self.name if self.shares_limits else deployment_id

    def __repr__(self) -> str:
        return f"Upstream({self.name})"


class CacheRules(msgspec.Struct, frozen=True, kw_only=True):
    """Whose answers may be shared (`key`, `team` or `shared`), and how long they are kept, by route."""

    scope: str
    policy: CachePolicy = CachePolicy()
    routes: dict[str, CachePolicy | None] = {}
    """None: the route's answers are not kept."""
    wait_s: float = 30.0
    """How long another process's request for the same answer is waited for."""

    def policy_of(self, route: str | None) -> CachePolicy | None:
        return self.policy if route is None else self.routes.get(route, self.policy)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Routes, models, providers, configured keys and limits of one moment.

    `deployments` are found by public model name, `keys` by digest. `passthrough` names the provider
    whose own keys callers may bring. From `economy_at_permille` of a budget on, a route's cheapest
    candidate goes first.
    """

    catalog: Catalog
    routes: RouteTable
    deployments: dict[str, tuple[Deployment, ...]]
    upstreams: dict[str, Upstream]
    keys: dict[bytes, Principal] = {}
    key_pepper: bytes = b""
    passthrough: str | None = None
    budgets: dict[Scope, BudgetTerms] = {}
    rates: dict[Scope, RateTerms] = {}
    upstream_terms: dict[str, UpstreamTerms] = {}
    waiting_max: int = 1_000
    wait_max_s: float = 90.0
    economy_at_permille: int = 800
    alert_at_permille: tuple[int, ...] = (500, 800, 1000)
    retry: RetryPolicy = RetryPolicy()
    input_tokens_max: int | None = None
    cache: CacheRules | None = None
    has_metadata: bool = True
    version: int = 1
