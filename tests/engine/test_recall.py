"""What is remembered of bodies must never show: with it and without, the same answers."""

import random

import msgspec
import pytest
from tests.engine.scene import Got, Scene

from windvane.config.schema import AuthConfig, KeyConfig
from windvane.core.cache.invalidation import ALL, key_tag, model_tag, scope_tag
from windvane.core.exchange import Reading
from windvane.core.routing.table import Route, Rule
from windvane.engine.recall import BODY_BYTES_MAX, BYTES_MAX, Recall
from windvane.testing import run_virtual
from windvane.wire.chat_request import chat_request_of

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
        reading = Reading(chat_request_of(msgspec.json.decode(body)))
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


def reading() -> Reading:
    return Reading(chat_request_of({"model": "m", "messages": [{"role": "user", "content": "?"}]}))


def test_the_longest_unused_makes_room() -> None:
    recall = Recall()
    bodies = [bytes([number]) * 30_000 for number in range(100)]
    first = reading()
    recall.keep(bodies[0], first)
    for body in bodies[1:]:
        recall.keep(body, reading())
        recall.keep(bodies[0], first)  # it is used, again and again
    assert recall.find(bodies[0]) is first
    assert recall.find(bodies[1]) is None
    kept = [body for body in bodies if recall.find(body) is not None]
    assert BYTES_MAX - 30_000 < sum(map(len, kept)) <= BYTES_MAX
    assert kept[1:] == bodies[-len(kept) + 1 :]


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
