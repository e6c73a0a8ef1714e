"""Loading configuration: file, then environment, then the check.

The environment alone is enough: `MISTRAL_API_KEY` makes Mistral usable. Any key of the file can be
set as `WINDVANE__SECTION__KEY`, and the names that users bring along work too (see `VARIABLES`).
Any variable may be given as `NAME_FILE`, the path of a mounted secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from windvane.config.check import ConfigError, Doubts, Problem, build, is_in
from windvane.config.resolve import problems_besides
from windvane.config.schema import KEYS_VARIABLE, Config
from windvane.config.yaml_text import parse_yaml
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
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(\}|:-)")
_BRACE = re.compile(r"\$\{|\}")


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
    overlay = _Overlay(tree, environment, unread)
    overlay.lay()
    mistaken: list[Problem] = []
    config = build(tree, Config, "", mistaken)
    assert isinstance(config, Config)
    config = _at_home(config, environment, mistaken)
    unknown = Doubts(unread)
    problems += unread
    problems += [each for each in mistaken if not unknown.cover(each.place)]
    besides = problems_besides(config, problems)
    # What is wrong with the file alone is told by whoever resolves it, with what it knows besides.
    if problems or any(_sayer(each.path, overlay.said) for each in besides):
        raise ConfigError(_with_variables(problems + besides, overlay.said), source)
    return config


def _at_home(config: Config, environment: Mapping[str, str], problems: list[Problem]) -> Config:
    """The configuration with its folder's whole path."""
    try:
        folder = expand_home(config.data_dir, environment)
    except ValueError as error:
        problems.append(Problem("data_dir", str(error)))
        return config
    is_short = config.data_dir.startswith("~")
    return msgspec.structs.replace(config, data_dir=str(folder)) if is_short else config


def _read_file(path: Path, problems: list[Problem]) -> dict[str, object]:
    """What the file says; of one that cannot be read nothing is known, and only the environment is
    looked at."""
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem("", f"cannot be read: {error.strerror}"))
        return {}
    except ValueError as error:
        problems.append(Problem("", f"is not valid YAML: {error}"))
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
        return _variable(value.removeprefix("env:"), environment, path, problems)
    if value.startswith("file:"):
        return _secret_file(value.removeprefix("file:"), environment, path, problems)
    return _filled(value, environment, path, problems)


def _filled(text: str, environment: Mapping[str, str], path: str, problems: list[Problem]) -> str:
    """The text, with its references replaced; a default may have references of its own."""
    pieces, at = [], 0
    while (found := _REFERENCE.search(text, at)) is not None:
        name, end, default = found[1], found.end(), None
        if found[2] == ":-":
            closing = _closing_brace(text, found.end())
            if closing is None:
                break
            default, end = text[found.end() : closing], closing + 1
        pieces.append(text[at : found.start()])
        pieces.append(_variable(name, environment, path, problems, default))
        at = end
    return "".join((*pieces, text[at:]))


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace is that closes one opened before `start`."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "${" else -1
        if depth == 0:
            return brace.start()
    return None


def _variable(
    name: str,
    environment: Mapping[str, str],
    path: str,
    problems: list[Problem],
    default: str | None = None,
) -> str:
    told = len(problems)
    value = read_variable(name, environment, problems, path)
    if value is not None or len(problems) > told:
        return value or ""
    if default is not None:
        return _filled(default, environment, path, problems)
    problems.append(Problem(path, f"the environment variable {name} is not set"))
    return ""


def read_variable(
    name: str, environment: Mapping[str, str], problems: list[Problem], about: str | None = None
) -> str | None:
    """A variable, or the content of the file that `NAME_FILE` names; empty counts as unset. `about` is
    the place in the configuration that it is for."""
    if value := environment.get(name):
        return value
    if path := environment.get(f"{name}_FILE"):
        return _secret_file(path, environment, f"{name}_FILE", problems, about) or None
    return None


def _secret_file(
    path: str,
    environment: Mapping[str, str],
    place: str,
    problems: list[Problem],
    about: str | None = None,
) -> str:
    try:
        return expand_home(path, environment).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problems.append(Problem(place, f"the file {path} cannot be read: {error}", about))
        return ""


def expand_home(path: str, environment: Mapping[str, str]) -> Path:
    """The path, in which `~/` stands for the home folder. Raises ValueError when that is not known."""
    if path == "~" or path.startswith("~/"):
        home = environment.get("HOME")
        if not home:
            raise ValueError("~ is HOME, which the environment does not say")
        return Path(home + path.removeprefix("~"))
    if path.startswith("~"):
        raise ValueError(f"write ./{path}, or the whole path: only ~/ stands for a home folder")
    return Path(path)


class _Overlay:
    """The environment, put over what the file says, in place. `said` is which variable said what, by place
    in the configuration: the sections too that are there for what is in them."""

    def __init__(
        self, tree: dict[str, object], environment: Mapping[str, str], problems: list[Problem]
    ) -> None:
        self.said: dict[str, str] = {}
        self._tree, self._environment, self._problems = tree, environment, problems

    def lay(self) -> None:
        for name in reversed(list(VARIABLES)):
            value = self._read(name)
            if value is not None:
                self._put(VARIABLES[name], value, name)
        for name, value in self._environment.items():
            if name.startswith(_OVERLAY) and value:
                self._put_any(name, value)
        self._add_providers()
        if keys := self._read(KEYS_VARIABLE):
            self._add_keys(keys)

    def _read(self, name: str, about: str | None = None) -> str | None:
        return read_variable(name, self._environment, self._problems, about)

    def _put_any(self, name: str, value: str) -> None:
        """One `WINDVANE__SECTION__KEY`, its value in YAML; with `_FILE` behind, a secret's path."""
        plain = name.removesuffix("_FILE")
        path = tuple(part.lower() for part in plain.removeprefix(_OVERLAY).split("__"))
        about = ".".join(path)
        if plain != name:
            text = _secret_file(value, self._environment, name, self._problems, about)
            self._put(path, text, name)
            return
        try:
            parsed = parse_yaml(value)
        except ValueError as error:
            self._problems.append(Problem(name, f"is not valid YAML: {error}", about))
            return
        self._put(path, parsed, name)

    def _put(self, path: tuple[str, ...], value: object, name: str) -> None:
        place = self._tree
        for depth, step in enumerate(path[:-1], start=1):
            at = ".".join(path[:depth])
            if place.get(step) is None:
                self.said.setdefault(at, name)
            section = _section(place, step)
            if section is None:
                self._problems.append(Problem(name, f"{at} is not a section", ".".join(path)))
                return
            place = section
        place[path[-1]] = value
        self.said[".".join(path)] = name

    def _add_keys(self, keys: str) -> None:
        """The keys of `ALLOWED_API_KEYS`. Were they lost, the gateway would serve anyone."""
        given = [key.strip() for key in keys.split(",") if key.strip()]
        if not given:
            self._problems.append(Problem(KEYS_VARIABLE, "it is set, but there is no key in it"))
        auth = _section(self._tree, "auth")
        configured = [] if auth is None else auth.get("keys") or []
        if auth is not None and isinstance(configured, list):
            auth["keys"] = [*configured, *({"key": key} for key in given)]
            for n in range(len(given)):
                place = f"auth.keys[{len(configured) + n}]"
                self.said[place] = f"{KEYS_VARIABLE}, key {n + 1}"

    def _add_providers(self) -> None:
        """A provider whose key is in the environment is usable without being configured."""
        providers = _section(self._tree, "providers")
        if providers is None:
            return
        auth = self._tree.get("auth")
        brought = auth.get("passthrough") if isinstance(auth, dict) else None
        for kind, provider in PROVIDERS.items():
            if provider.key_variable is None:
                continue
            place = f"providers.{kind}"
            key = self._read(provider.key_variable, f"{place}.api_key")
            settings = providers.get(kind, {} if key or kind == brought else None)
            if settings is None and kind in providers:
                settings = {}
            if not isinstance(settings, dict):
                continue
            if settings.get("kind", kind) == kind:
                self._add(settings, place, "api_key", key, provider.key_variable)
                if provider.tier_variable is not None:
                    tier = self._read(provider.tier_variable)
                    self._add(settings, place, "tier", tier, provider.tier_variable)
            providers[kind] = settings

    def _add(
        self, settings: dict[str, object], place: str, field: str, value: str | None, name: str
    ) -> None:
        """What the file does not say itself."""
        if value and field not in settings:
            settings[field] = value
            self.said[f"{place}.{field}"] = name


def _section(tree: dict[str, object], name: str) -> dict[str, object] | None:
    """The section `name`, made when it is not there or empty; None when it is no section."""
    section = tree.get(name)
    if section is None:
        section = tree[name] = {}
    return section if isinstance(section, dict) else None


def _with_variables(problems: list[Problem], said: Mapping[str, str]) -> list[Problem]:
    """The problems, those of values from the environment with the variable's name."""
    return [
        each if (name := _sayer(each.path, said)) is None else _told_with(each, name)
        for each in problems
    ]


def _sayer(place: str, said: Mapping[str, str]) -> str | None:
    """Which variable said what is at `place`, or the nearest that it is in."""
    around = [each for each in said if is_in(place, each)]
    return said[max(around, key=len)] if around else None


def _told_with(problem: Problem, name: str) -> Problem:
    return msgspec.structs.replace(problem, what=f"{problem.what} (by {name})")
