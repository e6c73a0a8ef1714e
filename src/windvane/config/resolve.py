"""From a checked configuration to the snapshot the engine works by.

What can only be seen by looking across sections is checked here: routes that name models nobody
serves, providers without an address, prices that are not whole nano-dollars.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from importlib import resources
from urllib.parse import urlsplit

import msgspec

from windvane.config.accounts import ModelNames, budgets_of, keys_of, rates_of
from windvane.config.check import Problem
from windvane.config.load import ConfigError
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
from windvane.core.routing.presets import PRESETS
from windvane.core.routing.table import Route, RouteTable, compile_rule
from windvane.core.upstream_limits import UpstreamTerms
from windvane.engine.snapshot import CacheRules, Snapshot, Upstream
from windvane.providers import PROVIDERS, Provider

AUTO = "auto"


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
    catalog = shipped_catalog()
    upstreams: dict[str, Upstream] = {}
    deployments: dict[str, list[Deployment]] = {}
    for name, settings in config.providers.items():
        upstream = _upstream(name, settings, config, problems)
        if upstream is None:
            continue
        upstreams[name] = upstream
        for public, deployment in _deployments(upstream, settings, catalog, day, problems):
            deployments.setdefault(public, []).append(deployment)
            deployments.setdefault(f"{name}/{public}", []).append(deployment)
    routes = _routes(config, problems)
    _check_routes(config, deployments, catalog, day, problems)
    keys = keys_of(config, pepper, problems)
    names = ModelNames({**deployments, **(running or {})}, catalog, day)
    budgets = budgets_of(config, names, problems)
    rates = rates_of(config, names, problems)
    upstream_terms = _upstream_terms(config, problems)
    cache = _cache_rules(config, routes, problems)
    _check_keys(config, routes, problems)
    if problems:
        raise ConfigError(problems, "the configuration")
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


def _upstream(
    name: str, settings: ProviderConfig, config: Config, problems: list[Problem]
) -> Upstream | None:
    place = f"providers.{name}"
    kind = settings.kind or (name if name in PROVIDERS else None)
    if kind is None or kind not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        problems.append(
            Problem(f"{place}.kind", f"must be one of {known}; got {kind or 'nothing'}")
        )
        return None
    provider = PROVIDERS[kind]
    base = settings.api_base or provider.api_base
    if base is None or not _is_address(base):
        problems.append(Problem(f"{place}.api_base", "an http(s) address is needed"))
        return None
    is_brought = config.auth.passthrough == name
    if not (settings.api_key or settings.api_base or is_brought) and provider.key_variable:
        hint = f"set it, or {provider.key_variable} in the environment"
        problems.append(Problem(f"{place}.api_key", hint))
        return None
    headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", "windvane"),
        ("via", "1.1 windvane"),
        *provider.headers,
    ]
    bare_headers = tuple(headers)
    if settings.api_key:
        if not settings.api_key.isascii() or any(sign.isspace() for sign in settings.api_key):
            problems.append(Problem(f"{place}.api_key", "it has a space or a non-ASCII character"))
            return None
        headers.append(provider.authorize(settings.api_key))
    return Upstream(
        name=name,
        provider=provider,
        chat_url=base.rstrip("/") + provider.chat_path,
        origin=origin_of(name, kind, base),
        headers=tuple(headers),
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
                tiers = ", ".join(provider.tiers) or "none: state limits instead"
                problems.append(Problem(f"providers.{name}.tier", f"must be one of {tiers}"))
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


def _deployments(
    upstream: Upstream,
    settings: ProviderConfig,
    catalog: Catalog,
    day: date,
    problems: list[Problem],
) -> Iterable[tuple[str, Deployment]]:
    """Public names, and what serves them: the catalog's models, then the configured ones."""
    factor = _factor(upstream, settings, problems)
    own = settings.models
    for name, card in _catalog_names(upstream.provider, catalog, day):
        if name not in own:
            yield name, _deployment(upstream, name, name, card, None, factor)
    for name, model in own.items():
        spec = model or ModelConfig()
        told = spec.model or name
        known = catalog.resolve(spec.card or told, day)
        if spec.card and known is None:
            place = f"providers.{upstream.name}.models.{name}.card"
            problems.append(Problem(place, f"the catalog has no model {spec.card!r}"))
        known = _with_sizes(known, spec, upstream, told)
        place = f"providers.{upstream.name}.models.{name}.price"
        price = _own_price(spec.price, upstream.provider.billing, place, problems)
        yield name, _deployment(upstream, name, told, known, price, factor)


def _with_sizes(
    card: ModelCard | None, spec: ModelConfig, upstream: Upstream, told: str
) -> ModelCard | None:
    """The card with the sizes that the configuration states."""
    if spec.context_window_tokens is None and spec.output_tokens_max is None:
        return card
    if card is None:
        card = ModelCard(
            id=told,
            provider=upstream.name,
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


def _factor(upstream: Upstream, settings: ProviderConfig, problems: list[Problem]) -> int:
    host = urlsplit(upstream.chat_url).hostname or ""
    if settings.price_factor is None:
        return upstream.provider.billing.hosts_permille.get(host, PERMILLE)
    permille = settings.price_factor * PERMILLE
    if permille != permille.to_integral_value() or permille <= 0:
        place = f"providers.{upstream.name}.price_factor"
        problems.append(Problem(place, "must be positive, with at most three decimals"))
        return PERMILLE
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


def _routes(config: Config, problems: list[Problem]) -> RouteTable:
    routes = dict(config.routes)
    preset = PRESETS.get(config.router.preset)
    if preset is None:
        known = ", ".join(PRESETS)
        problems.append(Problem("router.preset", f"must be one of {known}"))
    elif AUTO not in routes:
        threshold = config.router.length_threshold
        routes = {AUTO: preset() if threshold is None else preset(threshold), **routes}
    wrong = list(_wrong_conditions(routes))
    problems += wrong
    return RouteTable({}) if wrong else RouteTable.of(routes)


def _wrong_conditions(routes: dict[str, Route]) -> Iterable[Problem]:
    """Each condition is tried alone, so that none hides another."""
    for name, route in routes.items():
        for place, rule in enumerate(route.rules):
            for field, wanted in rule.when.items():
                try:
                    compile_rule(msgspec.structs.replace(rule, when={field: wanted}))
                except ValueError as error:
                    what = str(error).removeprefix(f"{field}: ")
                    yield Problem(f"routes.{name}.rules[{place}].when.{field}", what)


def _check_routes(
    config: Config,
    deployments: dict[str, list[Deployment]],
    catalog: Catalog,
    day: date,
    problems: list[Problem],
) -> None:
    """A configured route must name models that exist; one without any model leads nowhere."""
    for name, route in config.routes.items():
        named = [
            (f"rules[{n}].use", model)
            for n, rule in enumerate(route.rules)
            for model in rule.models
        ]
        named += [("otherwise", model) for model in route.default_models]
        named += [("fallbacks", model) for model in route.fallbacks]
        if not named:
            problems.append(Problem(f"routes.{name}", "it names no model"))
        for place, model in named:
            if model not in deployments and catalog.resolve(model, day) is None:
                near = catalog.near(model, sorted({*deployments, *catalog.names()}))
                hint = f'; did you mean "{near[0]}"?' if near else ""
                problems.append(
                    Problem(f"routes.{name}.{place}", f'there is no model "{model}"{hint}')
                )


def _check_keys(config: Config, routes: RouteTable, problems: list[Problem]) -> None:
    """What keys lead to must be there."""
    for place, spec in enumerate(config.auth.keys):
        if spec.route is not None and routes.routes and spec.route not in routes:
            known = ", ".join(routes.routes)
            problems.append(
                Problem(f"auth.keys[{place}].route", f'there is no route "{spec.route}"; {known}')
            )
    webhook = config.alerts.webhook
    if webhook is not None and not _is_address(webhook):
        problems.append(Problem("alerts.webhook", "an http(s) address is needed"))
    brought = config.auth.passthrough
    if brought is not None and brought not in config.providers:
        problems.append(Problem("auth.passthrough", f'no provider "{brought}" is configured'))


def _cache_rules(config: Config, routes: RouteTable, problems: list[Problem]) -> CacheRules | None:
    """How answers are kept; None when they are not."""
    said = config.cache
    for name in said.routes:
        if routes.routes and name not in routes:
            known = ", ".join(routes.routes)
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


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65,535, a bracket too few
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
