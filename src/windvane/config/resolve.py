"""From a checked configuration to the snapshot the engine works by.

What can only be seen by looking across sections is checked here and in the files beside: providers
without an address, prices that are not whole nano-dollars, routes that name models nobody serves. Each
is looked at whatever is wrong with the others.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from windvane.config.accounts import ModelNames, budgets_of, keys_of, rates_of
from windvane.config.addresses import wrong_base, wrong_host, wrong_url
from windvane.config.check import ConfigError, Doubts, Problem
from windvane.config.routes import check_routes, route_names, routes_of
from windvane.config.schema import (
    CacheRouteConfig,
    Config,
    ModelConfig,
    PriceConfig,
    ProviderConfig,
)
from windvane.core.cache.freshness import CachePolicy
from windvane.core.cache.key import origin_of
from windvane.core.catalog.models import Capability, Catalog, ModelCard, Status
from windvane.core.catalog.prices import PERMILLE, Price
from windvane.core.deployment import Billing, Deployment
from windvane.core.money import NanoUsdPerMillion, nano_per_million
from windvane.core.upstream_limits import UpstreamTerms
from windvane.engine.snapshot import CacheRules, Snapshot, Upstream
from windvane.providers import PROVIDERS, Provider

PRICE_FACTOR_MAX = 100


def shipped_catalog() -> Catalog:
    """The catalog that comes with this version."""
    text = resources.files("windvane.core.catalog").joinpath("data/models.json").read_bytes()
    return Catalog.from_json(text)


def resolve(
    config: Config,
    *,
    pepper: bytes,
    day: date,
    running: Mapping[str, tuple[Deployment, ...]] | None = None,
    version: int = 1,
) -> Snapshot:
    """The snapshot of `config`. Raises ConfigError with every problem found.

    `running` is what serves while a configuration is read again, by public name: limits of models
    must be those of what serves.
    """
    problems: list[Problem] = []
    snapshot = _resolve(config, pepper, day, version, Doubts(), problems, running or {})
    if problems:
        raise ConfigError(problems, "the configuration")
    return snapshot


def problems_besides(config: Config, told: list[Problem]) -> list[Problem]:
    """What else is wrong with a configuration of which `told` was found as it was read: what only
    follows from that is left out."""
    doubts, found = Doubts(told), list[Problem]()
    _resolve(config, b"", shipped_catalog().as_of, 0, doubts, found, {})
    return [problem for problem in found if not doubts.touch(problem)]


def _resolve(
    config: Config,
    pepper: bytes,
    day: date,
    version: int,
    doubts: Doubts,
    problems: list[Problem],
    running: Mapping[str, tuple[Deployment, ...]],
) -> Snapshot:
    """The snapshot, as far as there is one, its mistakes added to `problems`."""
    catalog = shipped_catalog()
    if (wrong := wrong_host(config.host)) is not None:
        problems.append(Problem("host", wrong))
    upstreams: dict[str, Upstream] = {}
    deployments: dict[str, list[Deployment]] = {}
    for name, settings in config.providers.items():
        provider = _provider(name, settings, problems)
        own = _own_models(name, settings, provider, catalog, day, problems)
        factor = _factor(name, settings, problems)
        if provider is None:
            continue
        upstream = _upstream(name, settings, provider, config, doubts, problems)
        if upstream is None:
            continue
        upstreams[name] = upstream
        for public, deployment in _deployments(upstream, own, factor, catalog, day):
            deployments.setdefault(public, []).append(deployment)
            deployments.setdefault(f"{name}/{public}", []).append(deployment)
    routes = routes_of(config, deployments, problems)
    check_routes(config, deployments, catalog, day, doubts, problems)
    keys = keys_of(config, pepper, problems)
    names = ModelNames({**deployments, **running}, catalog, day)
    budgets = budgets_of(config, names, pepper, problems)
    rates = rates_of(config, names, pepper, problems)
    upstream_terms = _upstream_terms(config, problems)
    cache = _cache_rules(config, doubts, problems)
    _check_keys(config, doubts, problems)
    return Snapshot(
        catalog=catalog,
        routes=routes,
        deployments={name: tuple(serving) for name, serving in deployments.items()},
        upstreams=upstreams,
        keys=keys,
        key_pepper=pepper,
        passthrough=config.auth.passthrough,
        budgets=budgets,
        rates=rates,
        cache=cache,
        upstream_terms=upstream_terms,
        waiting_max=config.waiting.size,
        wait_max_s=config.waiting.max_wait_s,
        economy_at_permille=config.router.economy_at_percent * 10,
        alert_at_permille=tuple(percent * 10 for percent in config.alerts.at_percent),
        retry=config.retry,
        input_tokens_max=config.limits.input_tokens_max,
        has_metadata=config.router.metadata,
        version=version,
    )


def _provider(name: str, settings: ProviderConfig, problems: list[Problem]) -> Provider | None:
    kind = settings.kind or name
    provider = PROVIDERS.get(kind)
    if provider is None:
        known = ", ".join(PROVIDERS)
        what = f"must be one of {known}; got {settings.kind or 'nothing'}"
        problems.append(Problem(f"providers.{name}.kind", what))
        return None
    billing = msgspec.structs.replace(
        provider.billing,
        runs_to_end=settings.abort_billing == "run_to_end",
        free_fields=provider.billing.free_fields.union(settings.free_fields),
    )
    return msgspec.structs.replace(provider, billing=billing)


def _upstream(
    name: str,
    settings: ProviderConfig,
    provider: Provider,
    config: Config,
    doubts: Doubts,
    problems: list[Problem],
) -> Upstream | None:
    """The provider, ready to be asked; None when its address or its key is none."""
    place = f"providers.{name}"
    told = len(problems)
    base, key = settings.api_base or provider.api_base, settings.api_key
    if (wrong := wrong_base(base)) is not None:
        problems.append(Problem(f"{place}.api_base", wrong))
    is_brought = config.auth.passthrough == name or doubts.cover("auth.passthrough")
    if key:
        if not key.isascii() or any(sign.isspace() for sign in key):
            problems.append(Problem(f"{place}.api_key", "it has a space or a non-ASCII character"))
    elif provider.key_variable and not (settings.api_base or is_brought):
        hint = f"set it, or {provider.key_variable} in the environment"
        problems.append(Problem(f"{place}.api_key", hint))
    if base is None or len(problems) > told:
        return None
    bare_headers = (
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", "windvane"),
        ("via", "1.1 windvane"),
        *provider.headers,
    )
    return Upstream(
        name=name,
        provider=provider,
        chat_url=base.rstrip("/") + provider.chat_path,
        origin=origin_of(name, settings.kind or name, base),
        headers=(*bare_headers, provider.authorize(key)) if key else bare_headers,
        timeouts=settings.timeouts or config.timeouts,
        bare_headers=bare_headers,
        shares_limits=provider.shares_limits or settings.limits is not None,
    )


def _upstream_terms(config: Config, problems: list[Problem]) -> dict[str, UpstreamTerms]:
    """What providers allow, by their name, where the configuration says so."""
    found: dict[str, UpstreamTerms] = {}
    for name, settings in config.providers.items():
        provider = PROVIDERS.get(settings.kind or name)
        terms = UpstreamTerms()
        if settings.tier is not None and provider is not None:
            known = provider.tiers.get(settings.tier.lower())
            if known is None:
                tiers = f"must be one of {', '.join(provider.tiers)}"
                what = tiers if provider.tiers else "it has no tiers; say its `limits` instead"
                problems.append(Problem(f"providers.{name}.tier", what))
            else:
                terms = known
        if settings.limits is not None:
            terms = UpstreamTerms(
                requests_per_minute=settings.limits.requests_per_minute
                or terms.requests_per_minute,
                tokens_per_minute=settings.limits.tokens_per_minute or terms.tokens_per_minute,
                is_ceiling=True,
            )
        if not terms.is_empty:
            found[name] = terms
    return found


class _OwnModel(NamedTuple):
    """A configured model: the name its provider is told, what is known of it, and its own price."""

    told: str
    card: ModelCard | None
    price: Price | None


def _own_models(
    name: str,
    settings: ProviderConfig,
    provider: Provider | None,
    catalog: Catalog,
    day: date,
    problems: list[Problem],
) -> dict[str, _OwnModel]:
    """The configured models of a provider, by public name. What is wrong with them is told whether or
    not the provider can be asked."""
    billing = Billing() if provider is None else provider.billing
    found = {}
    for public, model in settings.models.items():
        place = f"providers.{name}.models.{public}"
        spec = model or ModelConfig()
        told = spec.model or public
        known = catalog.resolve(spec.card or told, day)
        if spec.card and known is None:
            problems.append(Problem(f"{place}.card", f"the catalog has no model {spec.card!r}"))
        if known and provider and known.provider != provider.serves_catalog:
            known = known.served_by_others()
        price = _own_price(spec.price, billing, f"{place}.price", problems)
        found[public] = _OwnModel(told, _with_sizes(known, spec, name, told), price)
    return found


def _deployments(
    upstream: Upstream,
    own: dict[str, _OwnModel],
    stated_factor: int | None,
    catalog: Catalog,
    day: date,
) -> Iterable[tuple[str, Deployment]]:
    """Public names, and what serves them: the catalog's models, then the configured ones."""
    host = urlsplit(upstream.chat_url).hostname or ""
    usual = upstream.provider.billing.hosts_permille.get(host, PERMILLE)
    factor = usual if stated_factor is None else stated_factor
    for name, card in _catalog_names(upstream.provider, catalog, day):
        if name not in own:
            yield name, _deployment(upstream, name, name, card, None, factor)
    for name, model in own.items():
        yield name, _deployment(upstream, name, model.told, model.card, model.price, factor)


def _with_sizes(
    card: ModelCard | None, spec: ModelConfig, provider: str, told: str
) -> ModelCard | None:
    """The card with the sizes that the configuration states."""
    if spec.context_window_tokens is None and spec.output_tokens_max is None:
        return card
    if card is None:
        card = ModelCard(
            id=told,
            provider=provider,
            name=told,
            status=Status.GA,
            source="configuration",
            capabilities=frozenset(Capability),
        )
    return msgspec.structs.replace(
        card,
        context_window_tokens=spec.context_window_tokens or card.context_window_tokens,
        output_tokens_max=spec.output_tokens_max or card.output_tokens_max,
    )


def _deployment(
    upstream: Upstream,
    public: str,
    told: str,
    card: ModelCard | None,
    price: Price | None,
    factor: int,
) -> Deployment:
    return Deployment(
        id=f"{upstream.name}/{public}",
        provider=upstream.name,
        model=told,
        card=card,
        own_price=price,
        multiplier_permille=factor,
        billing=upstream.provider.billing,
        origin=upstream.origin,
    )


def _catalog_names(
    provider: Provider, catalog: Catalog, day: date
) -> Iterable[tuple[str, ModelCard]]:
    """Ids and current aliases of the models that `provider` serves for chat."""
    if provider.serves_catalog is None:
        return
    for name in catalog.names():
        card = catalog.resolve(name, day)
        if (
            card is not None
            and card.provider == provider.serves_catalog
            and Capability.CHAT in card.capabilities
            and not card.is_retired(day)
        ):
            yield name, card


def _factor(name: str, settings: ProviderConfig, problems: list[Problem]) -> int | None:
    """Thousandths of the list price, where the configuration says so."""
    if settings.price_factor is None:
        return None
    permille = settings.price_factor * PERMILLE
    if not permille.is_finite() or permille != permille.to_integral_value():
        permille = Decimal(0)
    if not 0 < permille <= PRICE_FACTOR_MAX * PERMILLE:
        problem = f"must be above 0 and at most {PRICE_FACTOR_MAX}, with at most three decimals"
        problems.append(Problem(f"providers.{name}.price_factor", problem))
        return None
    return int(permille)


def _own_price(
    price: PriceConfig | None, billing: Billing, place: str, problems: list[Problem]
) -> Price | None:
    if price is None:
        return None

    def rate(name: str, usd: Decimal) -> NanoUsdPerMillion:
        try:
            return nano_per_million(usd)
        except (ValueError, ArithmeticError) as error:
            problems.append(Problem(f"{place}.{name}", str(error)))
            return NanoUsdPerMillion(0)

    def writes(name: str, usd: Decimal | None, permille: int | None) -> NanoUsdPerMillion | None:
        """What is said, or what the provider takes as a rule, rounded up."""
        if usd is not None:
            return rate(name, usd)
        return None if permille is None else NanoUsdPerMillion(-(-of_input * permille // PERMILLE))

    of_input = rate("input", price.input)
    return Price(
        since=date.min,
        input=of_input,
        output=rate("output", price.output),
        cache_read=None if price.cache_read is None else rate("cache_read", price.cache_read),
        cache_write=writes("cache_write", price.cache_write, billing.cache_write_permille),
        cache_write_1h=writes(
            "cache_write_1h", price.cache_write_1h, billing.cache_write_1h_permille
        ),
        source="configuration",
    )


def _check_keys(config: Config, doubts: Doubts, problems: list[Problem]) -> None:
    """What keys lead to must be there."""
    routes = route_names(config)
    for place, spec in enumerate(config.auth.keys):
        if spec.route is not None and spec.route not in routes and not doubts.cover("routes"):
            known = ", ".join(routes)
            problems.append(
                Problem(f"auth.keys[{place}].route", f'there is no route "{spec.route}"; {known}')
            )
    webhook = config.alerts.webhook
    if webhook is not None and (wrong := wrong_url(webhook)) is not None:
        problems.append(Problem("alerts.webhook", wrong))
    brought = config.auth.passthrough
    if not (brought is None or brought in config.providers or doubts.cover("providers")):
        problems.append(Problem("auth.passthrough", f'no provider "{brought}" is configured'))


def _cache_rules(config: Config, doubts: Doubts, problems: list[Problem]) -> CacheRules | None:
    """How answers are kept; None when they are not."""
    said = config.cache
    routes = route_names(config)
    for name in said.routes:
        if name not in routes and not doubts.cover("routes"):
            known = ", ".join(routes)
            problems.append(Problem(f"cache.routes.{name}", f"there is no such route; {known}"))
    if said.scope is None:
        return None
    policy = CachePolicy(
        ttl_s=said.ttl_s,
        ttl_max_s=said.ttl_max_s,
        stale_while_revalidate_s=said.stale_while_revalidate_s,
        stale_if_error_s=said.stale_if_error_s,
        early_refresh=said.early_refresh,
        deterministic_only=said.deterministic_only,
        entry_bytes_max=said.entry_bytes_max,
        is_paced=said.replay == "natural",
    )
    return CacheRules(
        scope=said.scope,
        policy=policy,
        routes={name: _route_policy(policy, each) for name, each in said.routes.items()},
        wait_s=said.wait_s,
    )


def _route_policy(policy: CachePolicy, said: CacheRouteConfig) -> CachePolicy | None:
    if not said.enabled:
        return None
    changes = {
        name: value
        for name in (
            "ttl_s",
            "ttl_max_s",
            "stale_while_revalidate_s",
            "stale_if_error_s",
            "deterministic_only",
        )
        if (value := getattr(said, name)) is not None
    }
    if said.replay is not None:
        changes["is_paced"] = said.replay == "natural"
    return msgspec.structs.replace(policy, **changes)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
