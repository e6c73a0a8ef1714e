"""A configuration is checked whole: every mistake at once, each with its place."""

import copy
import itertools
import json
import logging
import re
from datetime import date

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from windvane.assembly import snapshot_of
from windvane.cli.main import windvane
from windvane.cli.price_findings import Kind, findings
from windvane.cli.serving import _engine_of
from windvane.config import ConfigError, load_config
from windvane.config.resolve import resolve
from windvane.core.analysis import Analysis
from windvane.core.budgets import BudgetTerms
from windvane.core.limits import RateTerms
from windvane.gateway.data_plane.models import model_object

SECRET = "sk-canary-in-config"


def read(tmp_path, text, **environment):
    path = tmp_path / "windvane.yaml"
    path.write_text(text)
    return load_config(environment, path)


def problems_of(tmp_path, text, **environment):
    """What is wrong, by place: first in reading, else in resolving."""
    with pytest.raises(ConfigError) as caught:
        snapshot_of(read(tmp_path, text, **environment))
    assert SECRET not in str(caught.value)
    return {problem.path: problem.what for problem in caught.value.problems}


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    found = problems_of(
        tmp_path,
        """
        prot: 8000
        port: 99999
        host: 5
        providers:
          mistral: {api_kee: x, price_factor: lots}
          other: [1]
        router: {metadata: perhaps}
        limits: {body_bytes_max: 0, head_timeout_s: -1, body_timeout_s: .nan}
        routes:
          auto:
            rules:
              - {when: tools, use: a}
              - {when: {tools: true}}
            otherwise: {a: b}
        auth: {keys: sk-canary-in-config}
        log: {level: loud}
        """,
    )
    assert set(found) == {
        "prot",
        "port",
        "host",
        "providers.mistral.api_kee",
        "providers.mistral.price_factor",
        "providers.other",
        "router.metadata",
        "limits.body_bytes_max",
        "limits.head_timeout_s",
        "limits.body_timeout_s",
        "routes.auto.rules[0].when",
        "routes.auto.rules[1].use",
        "routes.auto.otherwise",
        "auth.keys",
        "log.level",
    }
    assert 'did you mean "port"' in found["prot"]
    assert 'did you mean "api_key"' in found["providers.mistral.api_kee"]
    assert found["routes.auto.rules[1].use"] == "this key is required"


def test_all_mistakes_across_sections_are_told_at_once(tmp_path):
    found = problems_of(
        tmp_path,
        """
        providers:
          mistral:
            api_key: a key with spaces
          openai: {}
          local: {kind: homemade}
          far: {kind: compatible, api_base: "ftp://example"}
          near:
            kind: compatible
            api_base: http://127.0.0.1:9
            models: {mine: {card: no-such-card, price: {input: .nan, output: 1}}}
        router: {preset: clever}
        routes:
          fast:
            rules:
              - when: {tool: true, chars: {above: 5}}
                use: mistral-smal-latest
              - when: {chars: {gt: many}, language: {}}
                use: mine
            fallbacks: [nobody]
          empty: {}
        auth:
          admin_key: sk-the-same
          keys: [{key: short}, {key: sk-the-same, name: a}, {key: "sk-ключ-ключ", name: a}]
        """,
    )
    assert set(found) == {
        "providers.mistral.api_key",
        "providers.openai.api_key",
        "providers.local.kind",
        "providers.far.api_base",
        "providers.near.models.mine.card",
        "providers.near.models.mine.price.input",
        "router.preset",
        "routes.fast.rules[0].when.tool",
        "routes.fast.rules[0].when.chars",
        "routes.fast.rules[1].when.chars",
        "routes.fast.rules[1].when.language",
        "routes.fast.rules[0].use",
        "routes.fast.fallbacks",
        "routes.empty",
        "auth.keys[0]",
        "auth.keys[2]",
        "auth.admin_key",
    }
    assert "mistral-small-latest" in found["routes.fast.rules[0].use"]
    assert 'did you mean "tools"' in found["routes.fast.rules[0].when.tool"]


GOOD = {
    "port": 8000,
    "providers": {
        "mistral": {
            "api_key": "sk-mistral",
            "models": {"mine": {"price": {"input": 1, "output": 2}}},
        },
        "near": {"kind": "compatible", "api_base": "http://127.0.0.1:9", "models": {"b": None}},
    },
    "router": {"preset": "task"},
    "routes": {
        "fast": {
            "rules": [
                {"when": {"code": True, "chars": {"gt": 5, "lt": 9}}, "use": ["mine"]},
                {"when": {"language": "fr"}, "use": "b"},
            ],
            "otherwise": "near/b",
            "fallbacks": ["mistral-small-latest"],
        },
        "slow": {"otherwise": "mine"},
        "last": {"otherwise": "mine"},
    },
    "auth": {
        "keys": [
            {"key": "sk-number-1", "tags": ["x"], "route": "fast", "budget": {"daily": 1}},
            {"key": "sk-number-2", "name": "two", "route": "auto"},
        ],
        "admin_key": "sk-number-3",
    },
    "budgets": {"key:*": {"daily": 1, "monthly": 5}},
    "rates": {"team:a": {"concurrency": 3}},
    "cache": {"scope": "key", "routes": {"slow": {"ttl_s": 5}}},
    "alerts": {"webhook": "http://127.0.0.1:9/hook"},
    "limits": {"body_bytes_max": 1000},
}
RULES = ("routes", "fast", "rules")
MISTAKES = {
    # what is wrong when it is read
    ("port",): 99_999,
    ("providers", "mistral", "timeouts"): {"total_s": -1},
    ("providers", "near", "models", "b"): {"context_window_tokens": 0},
    ("router", "metadata"): "perhaps",
    ("router", "economy"): 5,
    (*RULES, 0, "reason"): 5,
    (*RULES, 1, "use"): {"a": "b"},
    ("routes", "slow", "otherwise_reason"): 1,
    ("auth", "keys", 1, "priority"): "highest",
    ("auth", "keys", 0, "rates"): {"concurrency": 0},
    ("rates", "team:a", "concurrency"): -3,
    ("cache", "routes", "slow", "ttl_s"): 0,
    ("limits",): 5,
    ("providers", "mistral", "abort_billing"): "sometimes",
    # and what is when it is understood
    ("providers", "mistral", "api_key"): "a key",
    ("providers", "mistral", "price_factor"): 101,
    ("providers", "mistral", "tier"): "gold",
    ("providers", "mistral", "models", "mine", "price", "output"): 150_000_000,
    ("providers", "near", "api_base"): "ftp://near",
    ("providers", "odd"): {"kind": "homemade", "models": {"c": {"card": "no-such-card"}}},
    ("router", "preset"): "clever",
    (*RULES, 0, "when", "code"): "maybe",
    (*RULES, 0, "when", "chars", "gt"): "abc",
    (*RULES, 0, "use"): [],
    (*RULES, 1, "when", "languag"): "fr",
    ("routes", "fast", "fallbacks"): ["nobody"],
    ("routes", "fast", "otherwise"): "mistral-embed",
    ("routes", "last"): {},
    ("auth", "keys", 0, "tags"): ["a,b"],
    ("auth", "keys", 0, "route"): "nowhere",
    ("auth", "keys", 0, "budget", "daily"): -1,
    ("auth", "keys", 1, "key"): "short",
    ("auth", "passthrough"): "nobody",
    ("auth", "admin_key"): "sk-ключ-ключ",
    ("budgets", "key:*", "daily"): -1,
    ("budgets", "kee:*"): {"daily": 1},
    ("cache", "routes", "nowhere"): {"ttl_s": 5},
    ("alerts", "webhook"): "hook",
}


def found_with(tmp_path, *mistakes):
    tree = copy.deepcopy(GOOD)
    for path in mistakes:
        place = tree
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = MISTAKES[path]
    path = tmp_path / "windvane.yaml"
    path.write_text(json.dumps(tree))
    try:
        snapshot_of(load_config({}, path))
    except ConfigError as error:
        return {str(problem) for problem in error.problems}
    return set()


@pytest.fixture(scope="module")
def told_of(tmp_path_factory):
    """What is told of each mistake by itself."""
    folder = tmp_path_factory.mktemp("alone")
    assert not found_with(folder)
    return {mistake: found_with(folder, mistake) for mistake in MISTAKES}


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_told_alike_by_itself_and_among_all_others(tmp_path, told_of, mistake):
    """So it neither hides one of them, nor makes one."""
    others = [each for each in MISTAKES if each != mistake]
    assert told_of[mistake]
    assert found_with(tmp_path, *others) == set(itertools.chain(*map(told_of.get, others)))


def test_all_mistakes_are_told_together(tmp_path, told_of):
    assert found_with(tmp_path, *MISTAKES) == set(itertools.chain(*told_of.values()))


@pytest.mark.parametrize(
    ("text", "environment", "places"),
    [
        ("providers: 5\nroutes: {auto: {otherwise: mine}}", {}, {"providers"}),
        ("providers: {a: 5}\nroutes: {auto: {otherwise: mine}}", {}, {"providers.a"}),
        (
            "providers: {a: {kind: compatible, modls: {mine: }}}\nroutes: {auto: {otherwise: mine}}",
            {},
            {"providers.a.modls", "providers.a.api_base"},
        ),
        (
            "provider: {mistral: {models: {mine: }}}\nroutes: {auto: {otherwise: [mine, a/mine]}}",
            {},
            {"provider"},
        ),
        ("routs: {fast: {}}\nauth: {keys: [{key: sk-12345678, route: fast}]}", {}, {"routs"}),
        ("routs: {fast: {}}\ncache: {routes: {fast: {}}}", {}, {"routs"}),
        ("auth: {keys: [{keey: sk-12345678, route: auto}]}", {}, {"auth.keys[0].keey"}),
        ("auth: {keys: [5, 5]}", {}, {"auth.keys[0]", "auth.keys[1]"}),
        (
            "auth: {keys: [5, {key: short}, {key: sk-12345678, name: a, tags: 5}]}",
            {},
            {"auth.keys[0]", "auth.keys[1]", "auth.keys[2].tags"},
        ),
        ("auth: {passthrough: [openai]}\nproviders: {openai: {}}", {}, {"auth.passthrough"}),
        ("auth: {passthrough: openai}\nproviders: 5", {}, {"providers"}),
        ("auth: {admin_key: 'env:NOWHERE'}", {}, {"auth.admin_key"}),
        ("port: ${NOWHERE}", {}, {"port"}),
        ("port: env:A", {"A_FILE": "/no/such/file"}, {"A_FILE"}),
        ("providers: {mistral: {api_key: 'env:NOWHERE'}}", {}, {"providers.mistral.api_key"}),
        (
            "providers: {mistral: {}}",
            {"MISTRAL_API_KEY_FILE": "/no/such/file"},
            {"MISTRAL_API_KEY_FILE"},
        ),
        (
            "providers: {a: {kind: compatible}}",
            {"WINDVANE__PROVIDERS__A__API_BASE": "a: b: c"},
            {"WINDVANE__PROVIDERS__A__API_BASE"},
        ),
        (
            "routes: {a: {rules: [{when: {code: maybe}}]}}",
            {},
            {"routes.a.rules[0].use", "routes.a.rules[0].when.code"},
        ),
        ("routes: {a: {otherwise: 5}}", {}, {"routes.a.otherwise"}),
        (
            "provider: {a: {models: {mine: }}}\nproviders: {}\nroutes: {auto: {otherwise: mine}}",
            {},
            {"provider"},
        ),
        ("a: [", {"PORT": "abc", "ROUTER_PRESET": "clever"}, {"", "port"}),
        (
            "routes: {auto: {otherwise: nobody}}",
            {"PORT": "abc", "ROUTER_PRESET": "clever", "DEFAULT_DAILY_BUDGET": "-1"},
            {"port", "router.preset", "budgets.key:*.daily", "routes.auto.otherwise"},
        ),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_told(tmp_path, text, environment, places):
    """Of what could not be read nothing is known; so nothing is said of it, or of what names it."""
    assert set(problems_of(tmp_path, text, **environment)) == places


def nested(item):
    """Ten of ten of ten, a hundred million in all, in a few lines."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    lines = [f"{name}: &{name} {item.format(', '.join([f'*{of}'] * 10))}" for of, name in pairs]
    return "\n".join(["a: &a {x: 1}", *lines])


NESTED_ALIASES = nested("[{}]")
NESTED_MERGES = nested("{{<<: [{}]}}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port: 1\nport: 2", "line 2, column 1: the key 'port' is there twice"),
        ("auth:\n  keys: []\n  keys: []", "line 3, column 3: the key 'keys' is there twice"),
        ("? [a]\n: 1", "a key must be a text"),
        ("a: 2026-99-99", "line 1, column 4: month must be in 1..12"),
        ("a: [", "line 1"),
        (f"api_key: {SECRET}: b", "line 1"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: the tag"),
        ("- 1", "must be a mapping"),
        ("hello", "must be a mapping"),
        ("[" * 3000, "line 1, column 101: this is nested too deeply"),
        ("[" * 150 + "]" * 150, "line 1, column 101: this is nested too deeply"),
        (NESTED_ALIASES, "line 6, column 4: these are more than 100,000 values"),
        (NESTED_MERGES, "these are more than 100,000 values"),
        ("a: &a [*a]", "line 1, column 8: an alias stands within what it means"),
        ("a: &a {<<: *a}", "line 1, column 12: an alias stands within what it means"),
        ("a: {<<: {b: 1, b: 2}}", "the key 'b' is there twice"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "line 2, column 13: the key '<<' is there twice"),
        ("a: {<<: 1}", "line 1, column 9: expected a mapping or list of mappings"),
        ("? !!timestamp x\n: 1", "line 1, column 3: the tag"),
        ("port: !!int x", "line 1, column 7: the tag"),
        ("a: \x01", "is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line_and_without_its_text(
    tmp_path, text, says
):
    assert says in problems_of(tmp_path, text)[""]


@pytest.mark.parametrize(
    "text",
    [
        "log: {<<: &base {level: error, format: json}, level: debug}",
        "log: {<<: [{format: json}, {format: text, level: error}], level: debug}",
        "log: {level: debug, <<: {<<: {level: error, format: json}, level: warning}}",
        "log: {<<: &one {<<: &two {format: text, level: error}, format: json}, level: debug}",
    ],
)
def test_a_merge_key_gives_what_its_mapping_does_not_say_itself(tmp_path, text):
    log = read(tmp_path, text).log
    assert (log.level, log.format) == ("debug", "json")


def test_an_alias_of_what_merges_is_read_as_it_was_written(tmp_path):
    """Though what it merges has the same keys."""
    config = read(
        tmp_path,
        """
        rates:
          key:a: &a {<<: &base {concurrency: 1, requests_per_minute: 5}, concurrency: 2}
          key:b: {<<: *a, tokens_per_minute: 9}
          key:c: *a
          key:d: *base
        """,
    )
    rates = {
        name: (each.concurrency, each.requests_per_minute, each.tokens_per_minute)
        for name, each in config.rates.items()
    }
    assert rates == {
        "key:a": (2, 5, None),
        "key:b": (2, 5, 9),
        "key:c": (2, 5, None),
        "key:d": (1, 5, None),
    }


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config({}, path)


def test_the_environment_wins_over_the_file(tmp_path):
    config = read(
        tmp_path,
        "port: 1\nhost: file.example\nlog: {level: info}\nlimits:\nrouter:\n",
        PORT="2",
        WINDVANE_PORT="3",
        WINDVANE__LOG__LEVEL="debug",
        WINDVANE__LIMITS__BODY_BYTES_MAX="5",
        ROUTER_LENGTH_THRESHOLD="77",
        WINDVANE__AUTH__KEYS="[{key: sk-from-overlay, name: o}]",
    )
    assert (config.port, config.host, config.log.level) == (3, "file.example", "debug")
    assert config.limits.body_bytes_max == 5
    assert config.router.length_threshold == 77
    assert [key.name for key in config.auth.keys] == ["o"]


@pytest.mark.parametrize(
    ("environment", "path", "name"),
    [
        ({"PORT": "abc"}, "port", "PORT"),
        ({"WINDVANE_PORT": "abc", "PORT": "80"}, "port", "WINDVANE_PORT"),
        ({"DEFAULT_DAILY_BUDGET": "ten"}, "budgets.key:*.daily", "DEFAULT_DAILY_BUDGET"),
        ({"WINDVANE__LIMITS": "5"}, "limits", "WINDVANE__LIMITS"),
        ({"WINDVANE__LOG__LEVEL": "loud"}, "log.level", "WINDVANE__LOG__LEVEL"),
        ({"WINDVANE__FOO__BAR": "1"}, "foo", "WINDVANE__FOO__BAR"),
        ({"WINDVANE__LOG__LEVL__X": "1"}, "log.levl", "WINDVANE__LOG__LEVL__X"),
        ({"WINDVANE__LIMITS": "{body_max: 1}"}, "limits.body_max", "WINDVANE__LIMITS"),
        ({"WINDVANE__AUTH__KEYS": "[{key: short}]"}, "auth.keys[0]", "WINDVANE__AUTH__KEYS"),
        ({"WINDVANE__PROVIDERS__A__TIER": "x"}, "providers.a.kind", "WINDVANE__PROVIDERS__A__TIER"),
        ({"ROUTER_PRESET": "clever"}, "router.preset", "ROUTER_PRESET"),
        (
            {"MISTRAL_API_KEY": "sk-x", "MISTRAL_TIER": "gold"},
            "providers.mistral.tier",
            "MISTRAL_TIER",
        ),
        ({"MISTRAL_API_KEY": "a key"}, "providers.mistral.api_key", "MISTRAL_API_KEY"),
    ],
)
def test_a_wrong_value_of_the_environment_is_told_with_its_variable(
    tmp_path, environment, path, name
):
    found = problems_of(tmp_path, "", **environment)
    assert found[path].endswith(f"(by {name})")


@pytest.mark.parametrize("pepper", ["x", "sk-canary-in-config"[:15], "é" * 7])
def test_a_short_pepper_is_refused_and_not_told(tmp_path, pepper):
    found = problems_of(tmp_path, f"auth: {{pepper: {pepper}}}")
    assert "at least 16 bytes" in found["auth.pepper"] and "openssl" in found["auth.pepper"]
    assert pepper not in found["auth.pepper"].split()


@pytest.mark.parametrize("pepper", ["p" * 16, "é" * 8, "p" * 200])
def test_a_pepper_that_is_long_enough_is_taken(tmp_path, pepper):
    snapshot_of(read(tmp_path, f"auth: {{pepper: {pepper}}}"))


def test_an_empty_pepper_is_refused(tmp_path):
    """It would make digests that anyone can make."""
    assert set(problems_of(tmp_path, "auth: {pepper: ''}")) == {"auth.pepper"}


@pytest.mark.parametrize("section", ["", "auth:", "auth: {}", "auth:\n  keys:", "auth: {keys: []}"])
def test_keys_of_the_environment_are_never_lost(tmp_path, section):
    """An empty section in the file must not leave the gateway open."""
    config = read(tmp_path, section, ALLOWED_API_KEYS="sk-first-one, sk-second-one,")
    assert [key.key for key in config.auth.keys] == ["sk-first-one", "sk-second-one"]
    assert snapshot_of(config).keys


def test_a_wrong_key_of_the_environment_is_told_by_its_variable(tmp_path):
    file = "auth: {keys: [{key: sk-in-the-file}]}"
    found = problems_of(tmp_path, file, ALLOWED_API_KEYS="sk-first-one,short")
    what = "a key has at least 8 characters (by ALLOWED_API_KEYS, key 2)"
    assert found == {"auth.keys[2]": what}


def ids_of(tmp_path, listed, file="", pepper=b"a pepper"):
    """What keys without a name are called, by their secrets, and the limits they have."""
    config = read(tmp_path, file, ALLOWED_API_KEYS=",".join(listed))
    snapshot = resolve(config, pepper=pepper, day=date(2026, 6, 20))
    ids = [principal.key_id for principal in snapshot.keys.values()]
    secrets = [key.key for key in config.auth.keys]
    return dict(zip(secrets, ids, strict=True)), snapshot


def test_a_key_without_a_name_keeps_its_id_wherever_it_stands(tmp_path):
    """Its budget, its usage and its requests go by it, and must not become another's."""
    ann, ben, cat = "sk-ann-0001", "sk-ben-0002", "sk-cat-0003"
    whole, _ = ids_of(tmp_path, (ann, ben))
    assert len(set(whole.values())) == 2
    for listed in ((ben,), (ben, ann), (cat, ann, ben), (cat, ben)):
        ids, _ = ids_of(tmp_path, listed)
        assert {key: ids[key] for key in listed if key in whole}.items() <= whole.items()
        assert ids.get(cat) not in whole.values()
    in_the_file, snapshot = ids_of(
        tmp_path, (ann,), f"auth: {{keys: [{{key: {ben}, budget: {{daily: 3}}}}]}}"
    )
    assert in_the_file == whole
    assert snapshot.budgets == {f"key:{whole[ben]}": BudgetTerms(daily=3 * 10**9)}


def test_the_id_of_a_key_without_a_name_tells_nothing_of_it(tmp_path):
    (one,) = ids_of(tmp_path, (SECRET,))[0].values()
    (other,) = ids_of(tmp_path, (SECRET,), pepper=b"another pepper")[0].values()
    assert one != other
    assert re.fullmatch("unnamed-[0-9a-f]{16}", one)


def test_a_limit_by_the_place_of_a_key_is_refused_and_one_by_its_id_holds(tmp_path):
    """It would be one of nobody, and the key meant would have none."""
    for name in ("env-1", "key-1"):
        limits = (
            f"budgets: {{'key:{name}': {{daily: 1}}}}\nrates: {{'key:{name}': {{concurrency: 1}}}}"
        )
        found = problems_of(tmp_path, limits, ALLOWED_API_KEYS="sk-first-one")
        assert set(found) == {f"budgets.key:{name}", f"rates.key:{name}"}
        assert "windvane keys list" in found[f"budgets.key:{name}"]
        named = f"auth: {{keys: [{{key: sk-of-a-name, name: {name}}}]}}\n{limits}"
        assert snapshot_of(read(tmp_path, named, ALLOWED_API_KEYS="sk-first-one")).budgets
    (key_id,) = ids_of(tmp_path, ("sk-first-one",))[0].values()
    _, snapshot = ids_of(tmp_path, ("sk-first-one",), f"budgets: {{'key:{key_id}': {{daily: 1}}}}")
    assert set(snapshot.budgets) == {f"key:{key_id}"}


@pytest.mark.parametrize(
    ("usd", "says"),
    [
        ("9999999999999", "must be dollars, 9223372036 at most; got 9999999999999"),
        ("-1", "must be dollars, 0 or more, in whole nano-dollars; got -1"),
        ("0.0000000001", "must be dollars, 0 or more, in whole nano-dollars; got 1E-10"),
    ],
)
def test_an_amount_that_cannot_be_is_told_with_what_is_wrong_with_it(tmp_path, usd, says):
    found = problems_of(tmp_path, f"budgets: {{global: {{daily: '{usd}'}}}}")
    assert found == {"budgets.global.daily": says}


def test_keys_that_amount_to_none_are_a_problem(tmp_path):
    assert "no key in it" in problems_of(tmp_path, "", ALLOWED_API_KEYS=" , ")["ALLOWED_API_KEYS"]


@pytest.mark.parametrize("section", ["", "providers:", "providers: {mistral: }"])
def test_a_provider_needs_only_its_key_in_the_environment(tmp_path, section):
    config = read(tmp_path, section, MISTRAL_API_KEY="sk-mistral")
    assert config.providers["mistral"].api_key == "sk-mistral"


def test_a_secret_may_be_a_file_or_a_reference(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    admin = tmp_path / "admin"
    admin.write_text(f"{SECRET}-of-admin\n")
    config = read(
        tmp_path,
        f"providers: {{mistral: {{api_key: 'file:{secret}'}}, openai: {{api_key: '${{MINE}}'}}}}",
        MINE_FILE=str(secret),
        ALLOWED_API_KEYS_FILE=str(secret),
        WINDVANE__AUTH__ADMIN_KEY_FILE=str(admin),
    )
    assert config.providers["mistral"].api_key == SECRET
    assert config.providers["openai"].api_key == SECRET
    assert config.auth.keys[0].key == SECRET
    assert config.auth.admin_key == f"{SECRET}-of-admin"


@pytest.mark.parametrize(
    ("text", "environment", "place"),
    [
        ("host: ${NOWHERE}", {}, "host"),
        ("auth: {admin_key: 'env:NOWHERE'}", {}, "auth.admin_key"),
        ("auth: {admin_key: 'file:/no/such/file'}", {}, "auth.admin_key"),
        ("", {"ALLOWED_API_KEYS_FILE": "/no/such/file"}, "ALLOWED_API_KEYS_FILE"),
        ("", {"WINDVANE__AUTH__ADMIN_KEY_FILE": "/no"}, "WINDVANE__AUTH__ADMIN_KEY_FILE"),
        ("port: 1", {"WINDVANE__PORT__X": "1"}, "WINDVANE__PORT__X"),
        ("", {"WINDVANE__LOG__LEVEL": "a: b: c"}, "WINDVANE__LOG__LEVEL"),
        ("", {"WINDVANE__LOG__LEVL": "info"}, "log.levl"),
        ("", {"WINDVANE_PORT": "many"}, "port"),
        ("auth: 5", {"ALLOWED_API_KEYS": "sk-one-two"}, "auth"),
        ("auth: {keys: 5}", {"ALLOWED_API_KEYS": "sk-one-two"}, "auth.keys"),
        ("auth: {keys: sk-canary-in-config}", {"ALLOWED_API_KEYS": "sk-one-two"}, "auth.keys"),
    ],
)
def test_a_wrong_reference_or_variable_is_told_by_its_name(tmp_path, text, environment, place):
    assert place in problems_of(tmp_path, text, **environment)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (
            "provider: {}\nproviders: {mistral: {api_key: k, tier: gold}, foo: {}}",
            {"provider", "providers.mistral.tier", "providers.foo.kind"},
        ),
        ("auth: {key: x, keys: [{key: short}]}", {"auth.key", "auth.keys[0]"}),
        ("logs: {}\nlog: {level: loud}", {"logs", "log.level"}),
    ],
)
def test_a_misspelt_key_hides_nothing_of_the_one_that_is_there_too(tmp_path, text, places):
    assert set(problems_of(tmp_path, text)) == places


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("log: {format: JSON}", "must be one of text, json"),
        ("log: {level: INFO}", "must be one of debug, info, warning, error"),
        ("cache: {scope: all}", "must be one of key, team, shared"),
        ("cache: {replay: 5}", "must be one of immediate, natural"),
        ("auth: {keys: [{key: sk-12345678, priority: High}]}", "must be one of high, normal, low"),
        (
            "providers: {openai: {api_key: k, tier: one}}",
            "it has no tiers; say its `limits` instead",
        ),
        (
            "providers: {mistral: {api_key: k, tier: gold}}",
            "must be one of hobbyist, standard, enterprise",
        ),
        ("limits: 2026-01-01", "expected a mapping, got a date"),
        ("auth: {keys: 2026-01-01 10:00:00}", "expected a list, got a date"),
        ("limits: 5.5", "expected a mapping, got a number"),
        ("limits: yes", "expected a mapping, got a truth value"),
    ],
)
def test_what_a_value_may_be_is_told_with_what_it_is_not(tmp_path, text, says):
    assert list(problems_of(tmp_path, text).values()) == [says]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A:-${B:-x}}", "x"),
        ("${A:-${B:-x}}-${B:-y}", "x-y"),
        ("${A:-${SET}}", "set"),
        ("${SET:-${NOWHERE}}", "set"),
        ("${A:-}${A:-b}", "b"),
        ("${SET}.${SET:-}", "set.set"),
        ("${ODD}", "${SET}"),
        ("${A:-un", "${A:-un"),
        ("{}${}$x", "{}${}$x"),
    ],
)
def test_a_default_may_be_a_reference(tmp_path, text, value):
    config = read(tmp_path, f"auth: {{admin_key: '{text}'}}", SET="set", ODD="${SET}")
    assert config.auth.admin_key == value


def test_a_default_that_is_needed_and_leads_nowhere_is_told(tmp_path):
    found = problems_of(tmp_path, "auth: {admin_key: '${A:-${NOWHERE}}'}")
    assert found == {"auth.admin_key": "the environment variable NOWHERE is not set"}


def test_a_tilde_stands_for_the_home_folder(tmp_path):
    (tmp_path / "secret").write_text("sk-of-a-file")
    text = "data_dir: ~/x\nauth: {admin_key: 'file:~/secret'}"
    config = read(tmp_path, text, HOME=str(tmp_path))
    assert config.data_dir == str(tmp_path / "x")
    assert config.auth.admin_key == "sk-of-a-file"
    assert read(tmp_path, "", WINDVANE_DATA_DIR="~/y", HOME="/home/ada").data_dir == "/home/ada/y"


@pytest.mark.parametrize(
    ("folder", "says"),
    [("~/x", "HOME, which the environment does not say"), ("~ada/x", "only ~/ stands for")],
)
def test_a_home_that_is_not_known_is_a_problem(tmp_path, folder, says):
    assert says in problems_of(tmp_path, f"data_dir: {folder}")["data_dir"]


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("http://one.test/v1?key=sk-canary-in-config", "it cannot have a ? or a #"),
        ("http://one.test/v1#x", "it cannot have a ? or a #"),
        ("http://one.test/a path", "a space or a non-ASCII character"),
        ("http://one.test/v1\\n", "a space or a non-ASCII character"),
        ("http://bücher.test/v1", "a space or a non-ASCII character"),
        ("http://ada:sk-canary-in-config@one.test/v1", "would not be sent"),
        ("one.test/v1", "an http(s) address is needed"),
        ("http://one.test:99999", "an http(s) address is needed"),
    ],
)
def test_an_address_that_would_not_be_asked_as_written_is_refused(tmp_path, base, says):
    found = problems_of(tmp_path, f'providers: {{one: {{kind: compatible, api_base: "{base}"}}}}')
    assert list(found) == ["providers.one.api_base"]
    assert says in found["providers.one.api_base"]


@pytest.mark.parametrize(
    ("webhook", "says"),
    [("http://ada:b@one.test", "would not be sent"), ("http://one.test/a b", "a space")],
)
def test_so_is_that_of_a_webhook_but_for_its_query(tmp_path, webhook, says):
    found = problems_of(tmp_path, f"alerts: {{webhook: '{webhook}'}}")
    assert says in found["alerts.webhook"]
    snapshot_of(read(tmp_path, "alerts: {webhook: 'http://one.test/a?b=c'}"))


@pytest.mark.parametrize(
    "host", ["[::1]", "127.0.0.1:80", "a b", "|\n a\n", "''", "1.2.3", "http://a"]
)
def test_a_host_that_nothing_can_listen_at_is_a_problem(tmp_path, host):
    text = f"host: {host}" if "|" in host else f"host: {json.dumps(host.strip(chr(39)))}"
    assert "without port or brackets" in problems_of(tmp_path, text)["host"]


@pytest.mark.parametrize("host", ["::1", "0.0.0.0", "::", "localhost", "my_host.example.", "a-b"])
def test_an_address_or_a_name_is_a_host(tmp_path, host):
    snapshot_of(read(tmp_path, f"host: '{host}'"))


HOUSE = """
providers:
  mistral: {api_key: sk-x, models: {my-tuned: {model: "ft:a", card: mistral-small-2603}}}
  one: {kind: compatible, api_base: "http://127.0.0.1:1/v1", models: {house: {model: llama}, two: }}
  other: {kind: compatible, api_base: "http://127.0.0.1:2/v1", models: {two: {model: other-two}}}
"""


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("mistral-small-2603", "mistral-small-2603"),
        ("mistral-small-latest", "mistral-small-2603"),
        ("mistral/mistral-small-latest", "mistral-small-2603"),
        ("my-tuned", "mistral-small-2603"),
        ("mistral/my-tuned", "mistral-small-2603"),
        ("ft:a", "mistral-small-2603"),
        ("house", "llama"),
        ("one/house", "llama"),
        ("llama", "llama"),
        ("other/two", "other-two"),
        ("claude-haiku-5-5", "claude-haiku-5-5"),
        ("*", "*"),
    ],
)
def test_a_limit_of_a_model_is_of_what_its_attempts_are_counted_by(tmp_path, name, counted):
    """Whichever of its names is said. What is counted by another name would never be held to it."""
    limits = (
        f"budgets: {{'model:{name}': {{daily: 1}}}}\nrates: {{'model:{name}': {{concurrency: 1}}}}"
    )
    snapshot = snapshot_of(read(tmp_path, f"{HOUSE}\n{limits}"))
    assert list(snapshot.budgets) == list(snapshot.rates) == [f"model:{counted}"]


def test_what_a_key_does_not_say_of_itself_is_taken_from_the_sections(tmp_path):
    """Of its rates as of its budget."""
    snapshot = snapshot_of(
        read(
            tmp_path,
            """
            auth:
              keys: [{key: sk-12345678, name: a, budget: {daily: 1}, rates: {concurrency: 1}}]
            budgets: {key:a: {daily: 5, total: 9}}
            rates: {key:a: {concurrency: 5, requests_per_minute: 9}}
            """,
        )
    )
    assert snapshot.budgets == {"key:a": BudgetTerms(daily=10**9, total=9 * 10**9)}
    assert snapshot.rates == {"key:a": RateTerms(concurrency=1, requests_per_minute=9)}


def test_a_limit_of_a_model_that_nothing_has_is_a_problem(tmp_path):
    limits = (
        "{'model:mistral-smal-latest': {}, 'model:hous': {}, 'model:two': {}, 'model:qqqq': {}}"
    )
    found = problems_of(tmp_path, f"{HOUSE}\nbudgets: {limits}\nrates: {limits}")
    for section in ("budgets", "rates"):
        assert "mistral-small-latest" in found[f"{section}.model:mistral-smal-latest"]
        assert 'did you mean "house"' in found[f"{section}.model:hous"]
        assert "name one of other-two, two" in found[f"{section}.model:two"]
        assert found[f"{section}.model:qqqq"] == 'there is no model "qqqq"'


@pytest.mark.parametrize("section", ["budgets", "rates"])
def test_limits_of_two_names_of_one_model_are_a_problem(tmp_path, section):
    """The second would undo the first, however strict it is."""
    names = ("mistral-small-latest", "mistral-small-2603", "my-tuned", "house", "*")
    limits = ", ".join(f"'model:{name}': {{}}" for name in names)
    found = problems_of(tmp_path, f"{HOUSE}\n{section}: {{{limits}}}")
    said = 'it is the model of "model:mistral-small-latest"; say it under one name'
    assert found == {f"{section}.model:{name}": said for name in ("mistral-small-2603", "my-tuned")}


def check(tmp_path, *arguments, **environment):
    clean = {
        "MISTRAL_API_KEY": None,
        "OPENAI_API_KEY": None,
        "ANTHROPIC_API_KEY": None,
        "ALLOWED_API_KEYS": None,
    }
    return CliRunner(env={**clean, **environment}).invoke(windvane, ["check", *arguments])


def test_check_tells_what_a_good_file_amounts_to(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("providers: {mistral: {api_key: sk-x}}\nauth: {admin_key: sk-admin-1}")
    result = check(tmp_path, str(path))
    assert result.exit_code == 0
    assert "no problems: 1 provider(s), 1 route(s)" in result.output
    assert "1 key(s)" in result.output
    assert "sk-" not in result.output


@pytest.mark.parametrize(
    "address", ["http://x:1", "redis://h:99999", "redis://h:abc", "", "unix://",
                "redis://h/0?nonsense=1", "redis://h?ssl_cert_reqs=none", "redis://h/abc"],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["", "routes: {a: {otherwise: none-such}}"])
def test_check_tells_of_an_address_that_serve_would_refuse(tmp_path, address, beside):
    pytest.importorskip("redis")
    path = tmp_path / "windvane.yaml"
    key = "providers: {mistral: {api_key: sk-x}}"
    path.write_text(f"{key}\ncache: {{scope: key, redis: '{address}'}}\n{beside}")
    result = check(tmp_path, str(path))
    assert result.exit_code == 1
    assert "cache.redis: " in result.output
    assert ("otherwise" in beside) == ("routes.a" in result.output)
    path.write_text(f"{key}\ncache: {{redis: '{address}'}}")
    assert check(tmp_path, str(path)).exit_code == 0, "the cache is off"


NOTED = """
data_dir: ":memory:"
providers: {mistral: {api_base: "http://127.0.0.1:9/v1", api_key: sk-x}}
routes:
  auto: {otherwise: open-mistral-nemo}
  part: {otherwise: mistral-small-latest, fallbacks: [mistral/devstral-latest]}
  elsewhere:
    rules:
      - {when: {code: true}, use: [gpt-6-luna, gpt-6.1-sol]}
      - {when: {math: true}, use: mistral-small-latest}
  codestral-latest: {otherwise: mistral-small-latest}
"""
NOTES = [
    (
        "routes.auto: what comes here is refused with 400 no_route (open-mistral-nemo: it was retired on"
        " 2026-07-31; its replacement is ministral-8b-2512)"
    ),
    (
        'routes.part.fallbacks: "mistral/devstral-latest": it was retired on 2026-07-31; its replacement is'
        " mistral-medium-3-5"
    ),
    (
        "routes.elsewhere.rules[0].use: what comes here is refused with 400 no_route"
        " (gpt-6-luna, gpt-6.1-sol: no configured provider serves it)"
    ),
    "routes.elsewhere.otherwise: what comes here is refused with 400 no_route (it names no model)",
    (
        'routes.codestral-latest: it hides the model of that name; "mistral/codestral-latest" asks for the'
        " model itself"
    ),
]


def test_check_notes_what_may_be_meant_and_finds_no_problem(tmp_path):
    """A model retires by itself, and a gateway that served until then must start on the next day."""
    path = tmp_path / "noted.yaml"
    path.write_text(NOTED)
    result = check(tmp_path, str(path))
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines() if line.startswith("note: ")] == [
        f"note: {note}" for note in NOTES
    ]


async def test_what_is_noted_is_in_the_log_of_the_start(tmp_path, caplog):
    path = tmp_path / "noted.yaml"
    path.write_text(NOTED)
    with caplog.at_level(logging.WARNING):
        async with _engine_of(load_config({}, path), None):
            pass
    assert [each.getMessage() for each in caplog.records] == NOTES


@pytest.mark.parametrize(
    "model",
    [
        "open-mistral-nemo: {}",
        "nemo: {model: open-mistral-nemo}",
        "own: {card: open-mistral-nemo}",
    ],
)
@pytest.mark.parametrize("kind", ["compatible", "openai", "mistral"])
def test_a_model_ends_where_its_maker_serves_it_and_nowhere_else(tmp_path, kind, model):
    """Whoever has the weights goes on; that price and abilities come from the catalog changes nothing."""
    path = tmp_path / "own.yaml"
    path.write_text(
        f"providers: {{own: {{kind: {kind}, api_base: 'http://127.0.0.1:9/v1', models: {{{model}}}}}}}"
    )
    public = model.partition(":")[0]
    notes = [each for each in check(tmp_path, str(path)).output.splitlines() if ".models." in each]
    day = date(2026, 11, 20)
    snapshot = resolve(load_config({}, path), pepper=b"p" * 16, day=day)
    [deployment] = snapshot.deployments[f"own/{public}"]
    shown = model_object(public, snapshot)
    if kind == "mistral":
        assert notes == [
            (
                f"note: providers.own.models.{public}: every request for it is refused with 400 no_route:"
                " it was retired on 2026-07-31; its replacement is ministral-8b-2512"
            )
        ]
        assert shown["deprecation"] == "2026-07-31T00:00:00Z"
    else:
        assert notes == []
        assert "deprecation" not in shown
        assert deployment.why_not(Analysis(), day) is None
        assert deployment.card.deprecated_on is None
        found = [
            each for each in findings(snapshot, day) if each.model == deployment.resolved_model
        ]
        assert {each.kind for each in found} <= {Kind.STALE_PRICE}
    assert deployment.price_on(day) is not None


def test_a_configured_model_that_does_not_chat_is_noted(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "providers: {own: {kind: compatible, api_base: 'http://127.0.0.1:9/v1', models: {e: {card:"
        " mistral-embed}}}}"
    )
    notes = [each for each in check(tmp_path, str(path)).output.splitlines() if ".models." in each]
    assert notes == [
        (
            "note: providers.own.models.e: every request for it is refused with 400 no_route:"
            " it does not chat: it is for embeddings"
        )
    ]


def test_a_preset_that_no_provider_serves_is_noted(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    result = check(tmp_path, str(path), OPENAI_API_KEY="sk-x", ROUTER_PRESET="default")
    [note] = [line for line in result.output.splitlines() if line.startswith("note: ")]
    assert note.startswith(
        "note: router.preset: what comes here is refused with 400 no_route (mistral-"
    )


@pytest.mark.parametrize(
    ("text", "environment", "is_noted"),
    [
        ("cache: {ttl_s: 5}", {}, True),
        ("cache: {redis: 'redis://127.0.0.1:1'}", {}, True),
        ("", {"REDIS_URL": "redis://127.0.0.1:1"}, True),
        ("cache: {}", {}, False),
        ("cache: {scope: key, ttl_s: 5}", {}, False),
        ("", {}, False),
    ],
)
def test_a_cache_without_a_scope_is_noted(tmp_path, text, environment, is_noted):
    path = tmp_path / "cache.yaml"
    path.write_text(text)
    result = check(tmp_path, str(path), MISTRAL_API_KEY="k", **environment)
    assert result.exit_code == 0
    assert ("note: cache: without cache.scope" in result.output) is is_noted


@pytest.mark.parametrize("name", ["off", "Yes", "null", "~", "1.10", "010", "2026-11-21"])
def test_a_name_is_what_is_written(tmp_path, name):
    """YAML would read some as truth values, as numbers and as days."""
    path = tmp_path / "names.yaml"
    path.write_text(
        f"providers: {{mistral: {{api_key: k}}}}\nroutes:\n  {name}: {{otherwise: small}}"
    )
    assert list(load_config({}, path).routes) == [name]
    twice = f'"{name}"'
    path.write_text(f"routes:\n  {name}: {{otherwise: small}}\n  {twice}: {{otherwise: small}}")
    with pytest.raises(ConfigError, match="is there twice"):
        load_config({}, path)


@pytest.mark.parametrize("text", ["port: x\nhots: y", "routes: {a: {}, b: {}}"])
def test_check_prints_every_problem_and_fails(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    result = check(tmp_path, str(path))
    assert result.exit_code == 1
    assert result.output.count("  - ") == 2


def test_check_notes_that_there_is_no_provider(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = check(tmp_path)
    assert result.exit_code == 0
    assert "no provider is configured" in result.output


EXAMPLE = """
port: 8080
providers:
  mistral: {api_key: env:MISTRAL_API_KEY, price_factor: 1.1}
  mine: {kind: compatible, api_base: "http://127.0.0.1:1/v1", models: {a: , b: {price: {input: 0.1, output: "2"}}}}
routes:
  auto:
    rules: [{when: {chars: {gt: 5}, tools: true, language: [fr]}, use: a}]
    otherwise: [b, a]
auth: {keys: [{key: sk-12345678, tags: [x]}]}
"""  # noqa: E501


def test_the_schema_parses_and_agrees_with_the_reader(tmp_path):
    schema = json.loads(check(tmp_path, "--schema").output)
    jsonschema.Draft202012Validator.check_schema(schema)
    read(tmp_path, EXAMPLE, MISTRAL_API_KEY="sk-x")
    jsonschema.validate(yaml.safe_load(EXAMPLE), schema)
    for wrong in ({"prot": 1}, {"port": 99999}, {"log": {"level": "loud"}}, {"auth": {"keys": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("model", ["open-mixtral-8x22b", "open-codestral-mamba", "codestral-2405"])
def test_own_weights_of_a_model_whose_abilities_nobody_told_can_be_asked(tmp_path, model):
    path = tmp_path / "own.yaml"
    own = f"{{kind: compatible, api_base: 'http://127.0.0.1:9/v1', models: {{{model}: {{}}}}}}"
    path.write_text(f"providers: {{own: {own}}}")
    day = date(2026, 11, 20)
    [deployment] = resolve(load_config({}, path), pepper=b"p" * 16, day=day).deployments[
        f"own/{model}"
    ]
    assert deployment.why_not(Analysis(tools=True), day) is None
