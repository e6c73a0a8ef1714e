"""A gateway as one writes it by hand in an afternoon: what that much costs in Python, and nothing else.

uvicorn, one ASGI function, orjson, aiohttp. It reads the request, looks the key up, counts the messages,
puts a model's name in, sends it on, prices the usage of the answer, and adds three headers. It holds
nothing, writes nothing down, and has no deadline. Run in an environment of its own:
``python -P by_hand.py PORT UPSTREAM_PORT KEY``.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import orjson
import uvicorn

INPUT_NANO_USD, OUTPUT_NANO_USD = 100, 300
"""Of a token."""


class ByHand:
    """The ASGI application."""

    def __init__(self, upstream: str, keys: dict[str, str]) -> None:
        self._upstream = upstream
        self._keys = keys
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        who = self._keys.get(headers.get(b"authorization", b"").decode().removeprefix("Bearer "))
        if who is None:
            await _answer(send, 401, b'{"error":"who is it?"}', [])
            return
        request = orjson.loads(body)
        chars = sum(len(message["content"]) for message in request["messages"])
        request["model"] = "small" if chars < 4_000 else "large"
        told = {"content-type": "application/json", "authorization": f"Bearer {who}"}
        async with self._session.post(
            self._upstream, data=orjson.dumps(request), headers=told
        ) as response:
            said, status = await response.read(), response.status
        usage = orjson.loads(said).get("usage") or {}
        cost = INPUT_NANO_USD * usage.get("prompt_tokens", 0)
        cost += OUTPUT_NANO_USD * usage.get("completion_tokens", 0)
        added = [
            (b"x-model", request["model"].encode()),
            (b"x-chars", b"%d" % chars),
            (b"x-cost-nano-usd", b"%d" % cost),
        ]
        await _answer(send, status, said, added)


async def _answer(send: Any, status: int, body: bytes, added: list[tuple[bytes, bytes]]) -> None:
    lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": lines + added})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until stopped."""
    port, upstream_port, key = sys.argv[1:]
    upstream = f"http://127.0.0.1:{upstream_port}/v1/chat/completions"
    uvicorn.run(
        ByHand(upstream, {key: "upstream-key"}),
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )


if __name__ == "__main__":
    main()
