"""A key that is revoked ends what runs by it, wherever that is; what others wait for goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.engine.scene import HEAD_S, PIECE_S, Got, Scene, fails

from windvane.config.schema import UpstreamLimitsConfig
from windvane.core.keys import KeyTerms
from windvane.core.priority import Priority
from windvane.testing import run_virtual
from windvane.testing.answers import Piece, chunk, event_head, json_head
from windvane.testing.stage import two_providers

SOON_S = 0.6
"""By when who ran is told: its task may have to come to a wait first."""
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SHARED = pytest.mark.parametrize("scope", [None, "key", "shared"])

Change = Callable[[Scene, str], Awaitable[object]]


async def revoke(scene: Scene, key_id: str) -> None:
    await scene.stage.desk.revoke(key_id)


async def replace(scene: Scene, key_id: str) -> None:
    await scene.stage.desk.rotate(key_id, 0)


async def new_key(scene: Scene, name: str) -> tuple[str, str]:
    key, secret = await scene.stage.desk.create(KeyTerms(name=name))
    return key.id, secret


def never(_: Any) -> list[Any]:
    return [(500.0, json_head())]


def endless(_: Any) -> list[Any]:
    words = [(PIECE_S, Piece(data=chunk("on "), output_tokens=1)) for _ in range(500)]
    return [(HEAD_S, event_head()), *words]


def told(got: Got) -> None:
    """That its key was revoked, and nothing else."""
    assert got.fault is not None
    assert (got.fault.status, got.fault.code) == (401, "key_revoked")


def limited() -> dict[str, Any]:
    one = two_providers().providers["one"]
    limits = UpstreamLimitsConfig(requests_per_minute=1)
    return {"providers": {"one": msgspec.structs.replace(one, limits=limits)}, "routes": {}}


@STREAMED
@SHARED
@pytest.mark.parametrize("after_s", [0.0, HEAD_S / 2, HEAD_S + 1.5 * PIECE_S])
@pytest.mark.parametrize("change", [revoke, replace])
def test_who_is_being_answered_is_told_and_pays_for_what_had_come(
    change: Change, after_s: float, scope: str | None, stream: bool
) -> None:
    async def main() -> None:
        scene = Scene(scope=scope)
        key_id, secret = await new_key(scene, "one")
        _, others = await new_key(scene, "two")
        if not stream:
            scene.scripts = [never]
        asking = scene.start("why", "small", key=secret, stream=stream)
        stays = scene.start("what", "small", key=others, stream=stream)
        await scene.rest(after_s)
        began_s = scene.now_s()
        await change(scene, key_id)
        got = await asking
        told(got)
        assert got.at_s - began_s < SOON_S
        await scene.rest()
        outcomes = {entry.key_id: entry.outcome for entry in scene.entries if entry.cost_nano_usd}
        if after_s:
            assert outcomes[key_id] in ("unauthenticated", "cancelled")
        assert len(scene.stage.transport.open_calls) == (0 if stays.done() else 1)
        assert (await stays).fault is None
        await scene.close()

    run_virtual(main())


@STREAMED
@SHARED
def test_who_waits_for_room_is_told_and_leaves_its_place(scope: str | None, stream: bool) -> None:
    async def main() -> None:
        scene = Scene(scope=scope, settings=limited())
        key_id, secret = await new_key(scene, "one")
        _, others = await new_key(scene, "two")
        assert (await scene.ask("first", "small", key=others)).fault is None
        asking = scene.start("why", "small", key=secret, stream=stream)
        await scene.rest(1.0)
        room = scene.engine.room
        assert sum(room.depth(priority) for priority in Priority) == 1
        began_s = scene.now_s()
        await revoke(scene, key_id)
        got = await asking
        told(got)
        assert got.at_s - began_s < SOON_S
        await scene.rest()
        assert sum(room.depth(priority) for priority in Priority) == 0
        assert len(scene.calls) == 1
        await scene.close()

    run_virtual(main())


@STREAMED
@SHARED
def test_who_waits_to_try_again_is_told(scope: str | None, stream: bool) -> None:
    async def main() -> None:
        scene = Scene(scope=scope)
        key_id, secret = await new_key(scene, "one")
        scene.scripts = [_is_busy]
        asking = scene.start("why", "small", key=secret, stream=stream)
        await scene.rest(HEAD_S + 5.0)
        assert len(scene.calls) == 1 and not scene.stage.transport.open_calls
        await revoke(scene, key_id)
        got = await asking
        told(got)
        assert got.at_s < HEAD_S + 5.0 + SOON_S
        await scene.rest(30.0)
        assert len(scene.calls) == 1
        await scene.close()

    run_virtual(main())


def _is_busy(call: Any) -> list[Any]:
    _, *rest = fails(503, HEAD_S)(call)
    return [(HEAD_S, json_head(503, **{"retry-after": "20"})), *rest]


@STREAMED
@pytest.mark.parametrize("who", ["the leader", "the joiner"])
def test_what_another_waits_for_too_goes_on(who: str, stream: bool) -> None:
    async def main() -> None:
        scene = Scene(scope="shared")
        keys = [await new_key(scene, name) for name in ("one", "two")]
        tasks = []
        for _, secret in keys:
            tasks.append(scene.start("why", "small", key=secret, stream=stream))
            await scene.rest(0.1)
        await scene.rest(HEAD_S / 2)
        gone = 0 if who == "the leader" else 1
        await revoke(scene, keys[gone][0])
        told(await tasks[gone])
        stayed = await tasks[1 - gone]
        assert (stayed.text, stayed.fault) == ("why #1", None)
        assert len(scene.calls) == 1
        assert [entry.outcome for entry in scene.entries if entry.cost_nano_usd] == ["ok"]
        await scene.close()

    run_virtual(main())


@STREAMED
@SHARED
def test_an_overlap_and_other_changes_end_nothing(scope: str | None, stream: bool) -> None:
    async def main() -> None:
        scene = Scene(scope=scope)
        nobodys = scene.start("nobody's", "small", stream=stream)
        await scene.rest(0.1)
        key_id, secret = await new_key(scene, "one")
        asking = scene.start("why", "small", key=secret, stream=stream)
        await scene.rest(HEAD_S / 2)
        await scene.stage.desk.rotate(key_id, 60)
        await scene.stage.desk.update(key_id, KeyTerms(name="another", owner="ann"))
        got = await asking, await nobodys
        assert [each.fault for each in got] == [None, None]
        await scene.close()

    run_virtual(main())


def test_a_reader_who_is_slow_is_told_at_its_next_word() -> None:
    """Its task waits for the reader, not for the provider, and must not be broken off there."""

    async def main() -> None:
        scene = Scene(scope=None)
        key_id, secret = await new_key(scene, "one")
        scene.scripts = [endless]
        slow = asyncio.get_running_loop().create_task(
            scene.ask("why", "small", key=secret, stream=True, pause_s=3.0)
        )
        await scene.rest(HEAD_S + PIECE_S + 1.0)
        await revoke(scene, key_id)
        got = await slow
        told(got)
        assert 1 <= len(got.heard) <= 8  # what had come by then, and no more
        await scene.close()

    run_virtual(main())
