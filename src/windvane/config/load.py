"""Loading configuration: file, then environment, then the check.

The environment alone is enough: `MISTRAL_API_KEY` makes Mistral usable. Any key of the file can be
set as `WINDVANE__SECTION__KEY`, and the names that users bring along work too (see `VARIABLES`).
Any variable may be given as `NAME_FILE`, the path of a mounted secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from windvane.config.check import ConfigError, Doubts, Problem, build
from windvane.config.resolve import problems_besides
from windvane.config.schema import KEYS_VARIABLE, Config
from windvane.providers import PROVIDERS

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "WINDVANE_HOST": ("host",),
    "WINDVANE_PORT": ("port",),
    "PORT": ("port",),
    "WINDVANE_DATA_DIR": ("data_dir",),
    "WINDVANE_ADMIN_KEY": ("auth", "admin_key"),
    "WINDVANE_LOG_LEVEL": ("log", "level"),
    "WINDVANE_LOG_FORMAT": ("log", "format"),
    "ROUTER_PRESET": ("router", "preset"),
    "ROUTER_LENGTH_THRESHOLD": ("router", "length_threshold"),
    "ROUTER_MAX_INPUT_TOKENS": ("limits", "input_tokens_max"),
    "ROUTER_CLIENT_TIMEOUT_S": ("timeouts", "total_s"),
    "REDIS_URL": ("cache", "redis"),
    "DEFAULT_DAILY_BUDGET": ("budgets", "key:*", "daily"),
    "DEFAULT_MONTHLY_BUDGET": ("budgets", "key:*", "monthly"),
}
"""Environment variable -> place in the configuration. The environment wins over the file, and
`WINDVANE_PORT` over `PORT`."""

CONFIG_VARIABLE = "WINDVANE_CONFIG"
DEFAULT_FILE = "windvane.yaml"
_OVERLAY = "WINDVANE__"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def load_config(environment: Mapping[str, str], path: Path | None = None) -> Config:
    """Read and check the configuration.

    `path` wins over `WINDVANE_CONFIG`, which wins over `./windvane.yaml` when that exists.
    Raises ConfigError with every problem found.
    """
    named = environment.get(CONFIG_VARIABLE)
    chosen = path or (Path(named) if named else None)
    if chosen is None and Path(DEFAULT_FILE).is_file():
        chosen = Path(DEFAULT_FILE)
    source = str(chosen) if chosen else "the environment"
    problems: list[Problem] = []
    read = _read_file(chosen, problems) if chosen else {}
    unread: list[Problem] = []
    tree = _interpolate(read, environment, "", unread)
    assert isinstance(tree, dict)
    _overlay(tree, environment, unread)
    mistaken: list[Problem] = []
    config = build(tree, Config, "", mistaken)
    assert isinstance(config, Config)
    unknown = Doubts(unread)
    problems += unread
    problems += [each for each in mistaken if not unknown.cover(each.place)]
    if problems:
        problems += problems_besides(config, problems)
        raise ConfigError(_with_variables(problems, environment), source)
    return config


class _Loader(yaml.SafeLoader):
    """YAML that does not let one key be said twice."""


def _mapping_once(loader: _Loader, node: yaml.MappingNode) -> dict[str, object]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = _text_of(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is there twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return {_text_of(key): loader.construct_object(value, deep=True) for key, value in node.value}


def _text_of(key: yaml.Node) -> str:
    """A key as it is written: a route may be named `off`, and a model `1.10`."""
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
    return str(key.value)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_once)


def _parse(text: str) -> object:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _said(error: Exception) -> str:
    """What a YAML error says, and where, without the line itself: it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)


def _read_file(path: Path, problems: list[Problem]) -> dict[str, object]:
    """What the file says; of one that cannot be read nothing is known, and only the environment is
    looked at."""
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem("", f"cannot be read: {error.strerror}"))
        return {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(Problem("", f"is not valid YAML: {_said(error)}"))
        return {}
    if tree is not None and not isinstance(tree, dict):
        problems.append(Problem("", "must be a mapping of keys to values"))
    return tree if isinstance(tree, dict) else {}


def _interpolate(
    value: object, environment: Mapping[str, str], path: str, problems: list[Problem]
) -> object:
    """Replace `${NAME}`, `${NAME:-default}`, and whole values `env:NAME` and `file:PATH`."""
    if isinstance(value, dict):
        return {
            name: _interpolate(
                member, environment, f"{path}.{name}" if path else str(name), problems
            )
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [
            _interpolate(member, environment, f"{path}[{place}]", problems)
            for place, member in enumerate(value)
        ]
    if not isinstance(value, str):
        return value
    if value.startswith("env:"):
        return _variable(value.removeprefix("env:"), None, environment, path, problems)
    if value.startswith("file:"):
        return _secret_file(value.removeprefix("file:"), path, problems)
    return _REFERENCE.sub(
        lambda found: _variable(found[1], found[2], environment, path, problems), value
    )


def _variable(
    name: str,
    default: str | None,
    environment: Mapping[str, str],
    path: str,
    problems: list[Problem],
) -> str:
    told = len(problems)
    value = read_variable(name, environment, problems, path)
    if value is None and default is None and len(problems) == told:
        problems.append(Problem(path, f"the environment variable {name} is not set"))
    return value if value is not None else default or ""


def read_variable(
    name: str, environment: Mapping[str, str], problems: list[Problem], about: str | None = None
) -> str | None:
    """A variable, or the content of the file that `NAME_FILE` names; empty counts as unset. `about` is
    the place in the configuration that it is for."""
    if value := environment.get(name):
        return value
    if path := environment.get(f"{name}_FILE"):
        return _secret_file(path, f"{name}_FILE", problems, about) or None
    return None


def _secret_file(path: str, place: str, problems: list[Problem], about: str | None = None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(place, f"the file {path} cannot be read: {error}", about))
        return ""


def _overlay(
    tree: dict[str, object], environment: Mapping[str, str], problems: list[Problem]
) -> None:
    """Put the environment over the file, in place."""
    for name in reversed(list(VARIABLES)):
        value = read_variable(name, environment, problems)
        if value is not None:
            _put(tree, VARIABLES[name], value, name, problems)
    for name, value in environment.items():
        if name.startswith(_OVERLAY) and value:
            _overlay_one(tree, name, value, problems)
    _add_providers(tree, environment, problems)
    if keys := read_variable(KEYS_VARIABLE, environment, problems):
        _add_keys(tree, keys, problems)


def _overlay_one(tree: dict[str, object], name: str, value: str, problems: list[Problem]) -> None:
    """One `WINDVANE__SECTION__KEY`, its value in YAML; with `_FILE` behind, a secret's path."""
    plain = name.removesuffix("_FILE")
    about = _dotted(plain)
    path = tuple(about.split("."))
    if plain != name:
        _put(tree, path, _secret_file(value, name, problems, about), name, problems)
        return
    try:
        parsed = _parse(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(Problem(name, f"is not valid YAML: {_said(error)}", about))
        return
    _put(tree, path, parsed, name, problems)


def _with_variables(problems: list[Problem], environment: Mapping[str, str]) -> list[Problem]:
    """The problems, those of values from the environment with the variable's name."""
    known = [name for name in VARIABLES if environment.get(name)]
    said = {".".join(VARIABLES[name]): name for name in reversed(known)}
    said |= {_dotted(name): name for name in environment if name.startswith(_OVERLAY)}
    return [
        msgspec.structs.replace(each, what=f"{each.what} (by {said[each.path]})")
        if each.path in said
        else each
        for each in problems
    ]


def _dotted(name: str) -> str:
    return ".".join(part.lower() for part in name.removeprefix(_OVERLAY).split("__"))


def _add_keys(tree: dict[str, object], keys: str, problems: list[Problem]) -> None:
    """The keys of `ALLOWED_API_KEYS`. Were they lost, the gateway would serve anyone."""
    given = [key.strip() for key in keys.split(",") if key.strip()]
    if not given:
        problems.append(Problem(KEYS_VARIABLE, "it is set, but there is no key in it"))
    auth = _section(tree, "auth")
    configured = [] if auth is None else auth.get("keys") or []
    if auth is not None and isinstance(configured, list):
        named = ({"key": key, "name": f"env-{n}"} for n, key in enumerate(given, start=1))
        auth["keys"] = [*configured, *named]


def _section(tree: dict[str, object], name: str) -> dict[str, object] | None:
    """The section `name`, made when it is not there or empty; None when it is no section."""
    section = tree.get(name)
    if section is None:
        section = tree[name] = {}
    return section if isinstance(section, dict) else None


def _add_providers(
    tree: dict[str, object], environment: Mapping[str, str], problems: list[Problem]
) -> None:
    """A provider whose key is in the environment is usable without being configured."""
    providers = _section(tree, "providers")
    if providers is None:
        return
    auth = tree.get("auth")
    brought = auth.get("passthrough") if isinstance(auth, dict) else None
    for kind, provider in PROVIDERS.items():
        if provider.key_variable is None:
            continue
        about = f"providers.{kind}.api_key"
        key = read_variable(provider.key_variable, environment, problems, about)
        settings = providers.get(kind, {} if key or kind == brought else None)
        if settings is None and kind in providers:
            settings = {}
        if isinstance(settings, dict):
            if key and settings.get("kind", kind) == kind:
                settings.setdefault("api_key", key)
            if provider.tier_variable is not None and settings.get("kind", kind) == kind:
                tier = read_variable(provider.tier_variable, environment, problems)
                settings.setdefault("tier", tier and tier.lower())
            providers[kind] = settings


def _put(
    tree: dict[str, object],
    path: tuple[str, ...],
    value: object,
    name: str,
    problems: list[Problem],
) -> None:
    place = tree
    for depth, step in enumerate(path[:-1], start=1):
        section = _section(place, step)
        if section is None:
            what = f"{'.'.join(path[:depth])} is not a section"
            problems.append(Problem(name, what, ".".join(path)))
            return
        place = section
    place[path[-1]] = value
