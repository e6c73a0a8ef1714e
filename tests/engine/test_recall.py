"""What is remembered of bodies must never show: with it and without, the same answers."""

import gc
import random
import sys
import types
from decimal import Decimal

import msgspec
import pytest
from tests.engine.scene import COST, Got, Scene, fails

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig, RouterConfig
from windvane.core.cache.invalidation import ALL, key_tag, model_tag, scope_tag
from windvane.core.exchange import Reading
from windvane.core.faults import FaultKind
from windvane.core.keys import KeyTerms
from windvane.core.routing.table import Route, Rule
from windvane.engine.engine import ECONOMY
from windvane.engine.recall import BODY_BYTES_MAX, BYTES_MAX, Recall
from windvane.testing import run_virtual
from windvane.wire.chat_request import chat_request_of, decode_chat_request

KEYS = ("sk-number-one", "sk-number-two", "sk-number-three")
AUTH = AuthConfig(
    keys=(
        KeyConfig(key=KEYS[0], name="one", team="red"),
        KeyConfig(key=KEYS[1], name="two", team="red"),
        KeyConfig(key=KEYS[2], name="three", models=("large",)),
    )
)
ROUTES = {
    "plain": Route(rules=(Rule(use="large", when={"chars": {"gt": 12}}),), otherwise="small"),
    "by-key": Route(rules=(Rule(use="large", when={"key": "two"}),), otherwise="small"),
    "by-header": Route(rules=(Rule(use="large", when={"header.x-big": "1"}),), otherwise="small"),
}
TEXTS = ("why", "and why is that so")
HEADERS = (
    {},
    {},
    {},
    {b"cache-control": b"no-cache"},
    {b"cache-control": b"max-age=2"},
    {b"cache-control": b"no-store"},
    {b"cache-control": b"only-if-cached"},
    {b"x-windvane-cache-tags": b"news"},
    {b"x-big": b"1"},
)
TAGS = (ALL, model_tag("small"), scope_tag("team:red"), key_tag(b"x"))


async def ask(
    scene: Scene, said: dict[str, object], recalls: bool, **fields: object
) -> tuple[Got, bool]:
    """As a door does it. What the caller got, and whether its bytes were known."""
    body = msgspec.json.encode(said)
    exchange = scene.accept("", headers=fields["headers"], key=fields["key"])
    recall = scene.engine.recall
    known = recall.find(body) if recalls else None
    reading = known
    if reading is None:
        reading = Reading(decode_chat_request(body))
    exchange.request = reading.request
    exchange.reading = reading if recalls else None
    got = await scene.listen(exchange)
    if recalls and exchange.cache_status == "hit":
        recall.keep(body, reading)
    return got, known is not None


async def story(seed: int, recalls: bool, scope: str) -> tuple[list[object], int]:
    """What callers got in the course of some hours, and how often their bytes were known."""
    dice = random.Random(seed)
    scene = Scene(
        scope=scope,
        ttl_s=20,
        stale_while_revalidate_s=dice.choice((0, 10)),
        settings={"auth": AUTH, "routes": ROUTES},
        seed=seed,
    )
    told: list[object] = []
    remembered = 0
    for _ in range(200):
        act = dice.random()
        if act < 0.1:
            await scene.rest(dice.choice((1.0, 8.0, 25.0)))
        elif act < 0.14:
            await scene.engine.invalidate(dice.choice(TAGS))
        elif act < 0.16:
            scene.stage.clock.jump(dice.choice((-5.0, 7.0, 86_400.0)))
        else:
            said = {
                "model": dice.choice(("auto", *ROUTES)),
                "messages": [{"role": "user", "content": dice.choice(TEXTS)}],
                "stream": dice.random() < 0.1,
            }
            got, was_known = await ask(
                scene, said, recalls, key=dice.choice(KEYS), headers=dice.choice(HEADERS)
            )
            exchange = got.exchange
            remembered += was_known
            told.append((
                got.how, got.text, got.fault and got.fault.code, exchange.cost_nano_usd,
                exchange.cache_age_s, exchange.decision and exchange.decision.reason, got.at_s,
            ))  # fmt: skip
    await scene.rest(5.0)
    await scene.close()
    return told, remembered


@pytest.mark.parametrize("scope", ["key", "team", "shared"])
@pytest.mark.parametrize("seed", range(25))
def test_with_recall_and_without_it_callers_get_the_same(seed: int, scope: str) -> None:
    with_it, remembered = run_virtual(story(seed, True, scope))
    without, nothing = run_virtual(story(seed, False, scope))
    assert with_it == without
    assert remembered > 5 and not nothing
    assert sum(each[0] == "hit" for each in with_it) > 5  # type: ignore[index]


async def hard_story(seed: int, recalls: bool) -> tuple[list[object], int]:
    """As above, in bad times: providers fail, a budget comes to its end, keys change and are revoked,
    limits are read anew, and the day ends."""
    dice = random.Random(seed)
    budgets = {"team:red": BudgetConfig(daily=Decimal(COST * 400) / 10**9)}
    router = RouterConfig(economy_at_percent=1)
    routes = {
        "plain": Route(
            rules=(Rule(use=("small", "large"), when={"language": "en"}),),
            otherwise="large",
            fallbacks=("small",),
        ),
        "auto": Route(otherwise="small", fallbacks=("large",)),
    }
    settings = {"auth": AUTH, "routes": routes, "budgets": budgets, "router": router}
    scene = Scene(scope="team", ttl_s=600, settings=settings, seed=seed, stale_if_error_s=600)
    desk = scene.engine.desk
    terms = KeyTerms(name="four", team="red")
    key, secret = await desk.create(terms)
    secrets = [KEYS[0], secret, secret]
    told: list[object] = []
    remembered = 0
    for _ in range(150):
        act = dice.random()
        if act < 0.04:
            scene.scripts += [fails(500)] * dice.randrange(1, 8)
        elif act < 0.08:
            await scene.rest(dice.choice((1.0, 40.0, 700.0)))
        elif act < 0.12:
            models = dice.choice(((), ("small",), ("large",)))
            terms = msgspec.structs.replace(
                terms, models=models, route=dice.choice((None, "plain"))
            )
            await desk.update(key.id, terms)
        elif act < 0.14:
            await desk.revoke(key.id)
            key, secret = await desk.create(terms)
            secrets.append(secret)
        elif act < 0.17:
            before = scene.engine.snapshot
            await desk.configure(before.budgets, before.rates)
            scene.engine.snapshot = msgspec.structs.replace(before, version=before.version + 1)
        elif act < 0.19:
            scene.stage.clock.jump(86_400.0)
        else:
            said: dict[str, object] = {
                "model": dice.choice(("auto", "plain", "small")),
                "messages": [{"role": "user", "content": dice.choice(TEXTS)}],
            }
            got, was_known = await ask(
                scene, said, recalls, key=dice.choice(secrets[-3:]), headers={}
            )
            exchange = got.exchange
            remembered += was_known
            attempt, decision = exchange.final_attempt, exchange.decision
            told.append((
                got.how, got.text, got.fault and got.fault.kind, exchange.cost_nano_usd,
                decision and decision.reason, decision and decision.candidates,
                attempt and attempt.deployment.model, got.at_s,
            ))  # fmt: skip
    await scene.rest(5.0)
    await scene.close()
    return told, remembered


def test_in_bad_times_as_well_callers_get_the_same() -> None:
    reasons, faults, hits, remembered = set(), set(), 0, 0
    for seed in range(40):
        with_it, known = run_virtual(hard_story(seed, True))
        without, nothing = run_virtual(hard_story(seed, False))
        assert with_it == without
        assert not nothing
        remembered += known
        for how, _, fault, _, reason, *_ in with_it:  # type: ignore[misc]
            reasons.add(reason)
            faults.add(fault)
            hits += how == "hit"
    assert hits > 400 and remembered > 400
    assert ECONOMY in reasons
    assert {FaultKind.UNAUTHENTICATED, FaultKind.FORBIDDEN, FaultKind.UPSTREAM_ERROR} <= faults


def reading() -> Reading:
    return Reading(chat_request_of({"model": "m", "messages": [{"role": "user", "content": "?"}]}))


def test_the_oldest_makes_room_unless_it_is_used() -> None:
    recall = Recall()
    bodies = [b"%03d" % number * 10_000 for number in range(300)]
    first = reading()
    recall.keep(bodies[0], first)
    for body in bodies[1:]:
        recall.keep(body, reading())
        recall.keep(bodies[0], first)  # it is used, again and again
    assert recall.find(bodies[0]) is first
    assert recall.find(bodies[1]) is None
    kept = [body for body in bodies if recall.find(body) is not None]
    assert BYTES_MAX - first.size < len(kept) * first.size <= BYTES_MAX
    assert kept[1:] == bodies[-len(kept) + 1 :]


def test_having_been_used_spares_once() -> None:
    recall = Recall()
    bodies = [b"%03d" % number * 10_000 for number in range(600)]
    first = reading()
    recall.keep(bodies[0], first)
    recall.keep(bodies[0], first)
    for body in bodies[1:300]:
        recall.keep(body, reading())
    assert recall.find(bodies[0]) is first
    for body in bodies[300:]:
        recall.keep(body, reading())
    assert recall.find(bodies[0]) is None
    assert recall.find(bodies[-1]) is not None


def weight(root: object, besides: tuple[object, ...]) -> int:
    """The bytes of all that hangs on `root`, but for what hangs on others as well."""
    seen: set[int] = set()

    def weigh(root: object) -> int:
        size, todo = 0, [root]
        while todo:
            each = todo.pop()
            if id(each) not in seen and not isinstance(each, type | types.FunctionType):
                seen.add(id(each))
                # Of these two msgspec tells neither Python nor its collector all.
                if isinstance(each, msgspec.Raw):
                    size += msgspec.Raw.__basicsize__ + sys.getsizeof(bytes(each))
                    continue
                size += sys.getsizeof(each)
                is_struct = isinstance(each, msgspec.Struct)
                todo += msgspec.structs.astuple(each) if is_struct else gc.get_referents(each)
        return size

    for each in besides:
        weigh(each)
    return weigh(root)


PART = {"type": "text", "text": "a"}
HEAVY: dict[str, list[dict[str, object]]] = {
    "short": [{"role": "user", "content": "q"}],
    "usual": [{"role": "user", "content": "Why is the wind " * 60}],
    "wide": [{"role": "user", "content": "z" * 8_000 + "\N{WIND BLOWING FACE}"}],
    "many messages": [{"role": "user", "content": "a"}] * 500,
    "many parts": [{"role": "user", "content": [PART] * 300}],
    "many numbers": [{"role": "user", "content": "a", "x": [1] * 3_000}],
}


@pytest.mark.parametrize("case", HEAVY)
def test_a_reading_takes_no_more_than_it_is_counted_as(case: str) -> None:
    """With the entry that was unpacked for it, however small that was packed."""

    async def story() -> None:
        scene = Scene(scope="shared", settings={"auth": AUTH, "routes": ROUTES})
        said: dict[str, object] = {"model": "small", "messages": HEAVY[case]}
        for _ in range(3):
            await ask(scene, said, True, key=KEYS[0], headers={})
        known = scene.engine.recall.find(msgspec.json.encode(said))
        assert known is not None and known.kept is not None and known.decided is not None
        asked = known.asked
        assert isinstance(asked, tuple)
        taken = weight(known, (known.decided[0], known.decided[2], *asked[:3]))
        assert taken < known.size < 5 * taken
        await scene.close()

    run_virtual(story())


def test_an_entry_that_is_found_again_is_not_unpacked_again_nor_weighed() -> None:
    """Though each look-up is given a copy of its bytes: memory has them in no object."""

    async def story() -> None:
        scene = Scene(scope="shared", settings={"auth": AUTH, "routes": ROUTES})
        said: dict[str, object] = {"model": "small", "messages": HEAVY["short"]}
        for _ in range(2):
            await ask(scene, said, True, key=KEYS[0], headers={})
        known = scene.engine.recall.find(msgspec.json.encode(said))
        assert known is not None and not known.is_used
        kept = known.kept
        await ask(scene, said, True, key=KEYS[0], headers={})
        assert known.kept is kept is known.sized
        assert known.is_used, "it is spared when room is short"
        await scene.close()

    run_virtual(story())


def test_one_body_read_twice_is_counted_once() -> None:
    """Two who come at once each read it."""
    recall = Recall()
    body = b"x" * 30_000
    for _ in range(1_000):
        recall.keep(body, reading())
    assert recall.find(body) is not None
    recall.keep(b"y", reading())
    assert recall.find(body) is not None


def test_long_bodies_are_not_remembered() -> None:
    recall = Recall()
    long = b"x" * (BODY_BYTES_MAX + 1)
    recall.keep(b"x", reading())
    recall.keep(long, reading())
    assert recall.find(long) is None
    assert recall.find(b"x") is not None


def test_what_is_forgotten_is_gone() -> None:
    recall = Recall()
    recall.keep(b"x", reading())
    recall.forget()
    assert recall.find(b"x") is None
    recall.keep(b"x", reading())
    assert recall.find(b"x") is not None
