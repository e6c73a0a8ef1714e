"""From a checked configuration to the snapshot the engine works by.

What can only be seen by looking across sections is checked here: routes that name models nobody
serves, providers without an address, prices that are not whole nano-dollars.
"""

import ipaddress
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib import resources
from urllib.parse import urlsplit

import msgspec

from windvane.config.check import Problem
from windvane.config.load import ConfigError
from windvane.config.schema import Config, ModelConfig, PriceConfig, ProviderConfig
from windvane.core.catalog.models import Capability, Catalog, ModelCard
from windvane.core.catalog.prices import PERMILLE, Price
from windvane.core.deployment import Deployment
from windvane.core.money import nano_per_million
from windvane.core.principal import Principal, VirtualKey
from windvane.core.routing.presets import PRESETS
from windvane.core.routing.table import Route, RouteTable, compile_rule
from windvane.engine.admission import key_digest
from windvane.engine.snapshot import Snapshot, Upstream
from windvane.providers import PROVIDERS, Provider

AUTO = "auto"
ADMIN = "admin"
"""What reports call the admin's key."""
KEY_CHARS_MIN = 8


def shipped_catalog() -> Catalog:
    """The catalog that comes with this version."""
    text = resources.files("windvane.core.catalog").joinpath("data/models.json").read_bytes()
    return Catalog.from_json(text)


def resolve(config: Config, *, pepper: bytes, day: date, version: int = 1) -> Snapshot:
    """The snapshot of `config`. Raises ConfigError with every problem found."""
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
    keys = _keys(config, pepper, problems)
    if problems:
        raise ConfigError(problems, "the configuration")
    return Snapshot(
        catalog=catalog,
        routes=routes,
        deployments={name: tuple(serving) for name, serving in deployments.items()},
        upstreams=upstreams,
        keys=keys,
        key_pepper=pepper,
        is_open=not keys,
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
    if (
        base is None
        or urlsplit(base).scheme not in ("http", "https")
        or not urlsplit(base).hostname
    ):
        problems.append(Problem(f"{place}.api_base", "an http(s) address is needed"))
        return None
    if not (settings.api_key or settings.api_base) and provider.key_variable is not None:
        hint = f"set it, or {provider.key_variable} in the environment"
        problems.append(Problem(f"{place}.api_key", hint))
        return None
    headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", "windvane"),
        ("via", "1.1 windvane"),
    ]
    if settings.api_key:
        if not settings.api_key.isascii() or any(sign.isspace() for sign in settings.api_key):
            problems.append(Problem(f"{place}.api_key", "it has a space or a non-ASCII character"))
            return None
        headers.append(("authorization", f"Bearer {settings.api_key}"))
    return Upstream(
        name=name,
        provider=provider,
        chat_url=base.rstrip("/") + provider.chat_path,
        headers=tuple(headers),
        timeouts=settings.timeouts or config.timeouts,
    )


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
        price = _own_price(spec.price, f"providers.{upstream.name}.models.{name}.price", problems)
        yield name, _deployment(upstream, name, told, known, price, factor)


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


def _own_price(price: PriceConfig | None, place: str, problems: list[Problem]) -> Price | None:
    if price is None:
        return None

    def rate(name: str, usd: Decimal | None) -> int:
        try:
            return nano_per_million(usd or Decimal(0))
        except (ValueError, ArithmeticError) as error:
            problems.append(Problem(f"{place}.{name}", str(error)))
            return 0

    return Price(
        since=date.min,
        input=rate("input", price.input),  # type: ignore[arg-type]
        output=rate("output", price.output),  # type: ignore[arg-type]
        cache_read=None if price.cache_read is None else rate("cache_read", price.cache_read),  # type: ignore[arg-type]
        cache_write=None if price.cache_write is None else rate("cache_write", price.cache_write),  # type: ignore[arg-type]
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


def _keys(config: Config, pepper: bytes, problems: list[Problem]) -> dict[bytes, VirtualKey]:
    """Keys by digest. Two keys of one name would see each other's requests; one key of two names
    would be counted under either."""
    named = [
        (
            f"auth.keys[{place}]",
            spec.key,
            Principal(key_id=spec.name or f"key-{place + 1}", team=spec.team, tags=spec.tags),
        )
        for place, spec in enumerate(config.auth.keys)
    ]
    if config.auth.admin_key is not None:
        admin = Principal(key_id=ADMIN, is_admin=True)
        named.append(("auth.admin_key", config.auth.admin_key, admin))
    keys: dict[bytes, VirtualKey] = {}
    names: set[str] = set()
    for place, secret, principal in named:
        digest = key_digest(pepper, secret)
        if len(secret) < KEY_CHARS_MIN:
            problems.append(Problem(place, f"a key has at least {KEY_CHARS_MIN} characters"))
        elif not secret.isascii() or not secret.isprintable() or " " in secret:
            problems.append(Problem(place, "it has a space or a character that is not ASCII"))
        if digest in keys:
            problems.append(Problem(place, "this key is there twice"))
        if principal.key_id in names:
            problems.append(Problem(place, f'another key is named "{principal.key_id}"'))
        names.add(principal.key_id)
        keys[digest] = VirtualKey(digest=digest, principal=principal)
    return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
