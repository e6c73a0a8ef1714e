"""The credential that a provider is asked with: quoted in its errors, it goes no further."""

import asyncio
from typing import Any

import msgspec
import pytest

from windvane.config.schema import AuthConfig, Config
from windvane.core.faults import WindvaneError
from windvane.engine.relay import ChunkStream
from windvane.testing import Call, Stage, run_virtual
from windvane.testing.answers import Ends, Piece, Script, chunk, error_body, event_head, json_head
from windvane.testing.stage import two_providers
from windvane.wire.errors import MESSAGE_CHARS_MAX

OURS, OWN = "the-operators-own-key-0123456789", "a-callers-own-key-0123456789"
QUOTES = {
    "in the midst": "what is {key} supposed to be?",
    "twice": "{key} {key}",
    "cut off": "x" * (MESSAGE_CHARS_MAX - 20) + "{key}",
}


def config(key: str) -> Config:
    """Asked with the operator's own key, or open to those who bring one."""
    one = msgspec.structs.replace(two_providers().providers["one"], api_key=OURS)
    auth = AuthConfig(passthrough="one") if key == OWN else AuthConfig()
    return two_providers(providers={"one": one}, routes={}, auth=auth)


def told(script: Script, key: str, **fields: Any) -> str:
    """All that an error says, wherever it is known, after a provider has played its script."""
    said: list[str] = []
    shown = OWN if key == OWN else None

    async def story() -> None:
        def play(call: Call) -> None:
            call.play(script)

        stage = Stage(config(key), on_sent=play)
        exchange = stage.accept("small", "Hello?", key=shown, **fields)
        with pytest.raises(WindvaneError) as raised:
            answer = await stage.engine.handle(exchange)
            assert isinstance(answer, ChunkStream)
            async for _ in answer:
                pass
        faults = [raised.value.fault, exchange.fault, *(each.fault for each in exchange.attempts)]
        said.append(repr((str(raised.value), faults)))
        await asyncio.sleep(0)

    run_virtual(story())
    return said[0]


@pytest.mark.parametrize("quote", QUOTES)
@pytest.mark.parametrize("key", [OURS, OWN])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 503])
def test_a_credential_that_a_refusal_quotes_is_told_to_nobody(
    status: int, stream: bool, key: str, quote: str
) -> None:
    body = error_body(QUOTES[quote].format(key=key), code=key)
    said = told([(0, json_head(status)), (0, Piece(data=body)), (0, Ends())], key, stream=stream)
    assert key[:8] not in said


@pytest.mark.parametrize("key", [OURS, OWN])
@pytest.mark.parametrize("words", [0, 1])
def test_a_credential_that_a_stream_quotes_is_told_to_nobody(words: int, key: str) -> None:
    begun = [(0.0, Piece(data=chunk("one"), output_tokens=1))] * words
    data = b"data: " + error_body(f"what is {key}?") + b"\n\n"
    script: Any = [(0, event_head()), *begun, (1.0, Piece(data=data)), (0, Ends())]
    said = told(script, key, stream=True)
    assert key not in said and "what is ***?" in said
