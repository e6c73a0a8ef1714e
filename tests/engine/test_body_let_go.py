"""Who waits for an answer does not hold the bytes of its request (S7): there may be minutes of that."""

import asyncio
import sys
from typing import Any, ClassVar

import msgspec
import pytest
from tests.engine.scene import HEAD_S, PIECE_S, Scene

from windvane.core.chat import ChatRequest
from windvane.engine.recall import BODY_BYTES_MAX
from windvane.gateway.data_plane import chat
from windvane.gateway.data_plane.app import DataPlane
from windvane.gateway.data_plane.incoming import Incoming
from windvane.testing import run_virtual
from windvane.wire.chat_request import chat_request_of


class Body(bytes):
    """Bytes that tell how many of them there are."""

    alive: ClassVar[int] = 0

    @classmethod
    def of(cls, said: object) -> "Body":
        cls.alive += 1
        return cls(msgspec.json.encode(said))

    def __del__(self) -> None:
        Body.alive -= 1


class Caller:
    """One whose body came at once, and who takes what it is given."""

    method = "POST"
    path = "/v1/chat/completions"
    response_started = False
    keep_alive = True

    def __init__(self, body: Body) -> None:
        self._body: Body | None = body
        self.status = 0
        self.incoming = Incoming([(b"content-type", b"application/json")])

    def whole_body(self) -> bytes | None:
        body, self._body = self._body, None
        return body

    async def receive(self) -> Any:
        raise AssertionError("it has all come")

    async def answer(self, status: int, lines: bytes, body: bytes) -> None:
        self.status = status

    def begin(self, status: int, lines: bytes, *, sign_of_life: bytes) -> None:
        self.status = status

    async def send(self, piece: bytes) -> None: ...

    async def end(self, piece: bytes) -> None: ...


def opened(cache: bool) -> tuple[Scene, DataPlane]:
    """An engine, with or without a cache, and the plane before it."""
    scene = Scene()
    if not cache:
        scene.engine.cache = None
    clock = scene.stage.clock
    return scene, DataPlane(scene.engine, clock, body_bytes_max=10_000_000, body_timeout_s=1.0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("cache", "bytes_count", "is_held"),
    [(False, 100, False), (True, 2 * BODY_BYTES_MAX, False), (True, 100, True)],
    ids=["without a cache", "too long to be remembered", "for the case of a hit"],
)
def test_a_request_in_flight_does_not_hold_its_body(
    cache: bool, bytes_count: int, is_held: bool, stream: bool
) -> None:
    async def story() -> None:
        scene, plane = opened(cache)
        messages = [{"role": "user", "content": "x" * bytes_count}]
        caller = Caller(Body.of({"model": "auto", "messages": messages, "stream": stream}))
        serving = asyncio.get_running_loop().create_task(plane.serve(caller))
        await asyncio.sleep(HEAD_S / 2)
        assert scene.calls and not caller.status
        assert Body.alive == is_held
        await serving
        assert caller.status == 200
        assert not Body.alive
        await scene.engine.aclose()

    run_virtual(story())


@pytest.mark.parametrize("cache", [False, True], ids=["without a cache", "too long for the cache"])
def test_a_stream_under_way_does_not_hold_what_was_asked(
    cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []

    def reading(*read: Any) -> ChatRequest:
        request = chat_request_of(*read)
        said.extend((request.messages, request.body["messages"]))
        return request

    monkeypatch.setattr(chat, "chat_request_of", reading)

    async def story() -> None:
        scene, plane = opened(cache)
        messages = [{"role": "user", "content": "x" * 2 * BODY_BYTES_MAX}]
        caller = Caller(Body.of({"model": "auto", "messages": messages, "stream": True}))
        serving = asyncio.get_running_loop().create_task(plane.serve(caller))
        await asyncio.sleep(HEAD_S / 2)
        assert all(_holders(said))
        await asyncio.sleep(HEAD_S / 2 + 1.5 * PIECE_S)
        assert caller.status == 200 and not serving.done()
        assert _holders(said) == [0, 0]
        await serving
        await scene.engine.aclose()

    run_virtual(story())


def _holders(said: list[object]) -> list[int]:
    """How many hold each of them, besides the list, the loop and the count itself."""
    return [sys.getrefcount(each) - 3 for each in said]
