"""Translation, whole: recorded files in, golden files out.

A case is a folder under its client's dialect. What it holds says what is tested:

- `client.json`: a client's request. `upstream.<provider>.json` is what that provider is sent.
- `reply.json`: a provider's answer. `client_reply.json` is what the client gets.
- `reply.sse`: a provider's stream. `client_reply.sse` is what the client gets, `chunks.json` what
  was understood. `include_usage` in `client.json`, when there is one, is honoured.

The name of a case with an answer begins with its provider's; without one it is OpenAI's.
"""

from pathlib import Path

import msgspec
import pytest

from windvane.core.faults import WindvaneError
from windvane.core.usage import Usage
from windvane.providers import PROVIDERS, Provider
from windvane.wire.chat_request import decode_chat_request
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.errors import render_error_event
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion

HERE = Path(__file__).parent
NOW_S = 1_790_000_000
METADATA: dict[str, object] = {"model": "mistral-small-2603", "reason": "short and simple"}


def cases(given: str) -> list[str]:
    return sorted(str(path.parent.relative_to(HERE)) for path in HERE.glob(f"*/*/{given}"))


def pretty(body: bytes) -> bytes:
    return msgspec.json.format(body, indent=2) + b"\n"


def check(path: Path, made: bytes, writes: bool) -> None:
    if writes:
        path.write_bytes(made)
    assert path.read_bytes() == made, f"{path.relative_to(HERE)}: see `make golden`"


UPSTREAM_MODELS = {
    "mistral": "mistral-small-2603",
    "openai": "gpt-6.1-terra",
    "anthropic": "claude-sonnet-5-5",
    "compatible": "llama",
}


def provider_of(case: str) -> Provider:
    return PROVIDERS.get(Path(case).name.split("_")[0], PROVIDERS["openai"])


@pytest.mark.parametrize("case", cases("client.json"))
@pytest.mark.parametrize("provider", UPSTREAM_MODELS)
def test_a_request_for_a_provider(case: str, provider: str, writes: bool) -> None:
    folder = HERE / case
    request = decode_chat_request((folder / "client.json").read_bytes())
    try:
        sent = PROVIDERS[provider].encode_chat(request, UPSTREAM_MODELS[provider])
    except WindvaneError as error:
        sent = msgspec.json.encode({"refused": error.fault.message})
    check(folder / f"upstream.{provider}.json", pretty(sent), writes)


@pytest.mark.parametrize("case", cases("reply.json"))
def test_an_answer_for_a_client(case: str, writes: bool) -> None:
    folder = HERE / case
    completion = provider_of(case).decode_chat((folder / "reply.json").read_bytes(), NOW_S)
    metadata = msgspec.json.encode(METADATA)
    written = encode_completion(
        completion, completion.usage or Usage(), Dialect(folder.parent.name), metadata
    )
    check(folder / "client_reply.json", pretty(written), writes)


def asks_for_usage(folder: Path) -> bool:
    path = folder / "client.json"
    return path.exists() and decode_chat_request(path.read_bytes()).include_usage


@pytest.mark.parametrize("case", cases("reply.sse"))
@pytest.mark.parametrize("piece_bytes", [10**9, 7])
def test_a_stream_for_a_client(case: str, piece_bytes: int, writes: bool) -> None:
    folder = HERE / case
    stream = (folder / "reply.sse").read_bytes()
    reader, fold = provider_of(case).read_stream(NOW_S), Fold()
    writer = ChatStreamWriter(
        Dialect(folder.parent.name), fold, include_usage=asks_for_usage(folder)
    )
    chunks, sent = [], []
    try:
        for start in range(0, len(stream), piece_bytes):
            batch = reader.feed(stream[start : start + piece_bytes])
            for chunk in batch:
                fold.add(chunk)
            chunks += batch
            sent.append(writer.write(batch))
            if reader.failure is not None:
                raise reader.failure
        sent.append(writer.end(fold.usage or Usage(), METADATA))
    except WindvaneError as error:
        sent.append(render_error_event(error.fault, "req-1"))
    check(folder / "client_reply.sse", b"".join(sent), writes)
    understood = [
        {
            name: value
            for name, value in msgspec.to_builtins(chunk).items()
            if name not in ("raw", "created")
        }
        for chunk in chunks
    ]
    check(folder / "chunks.json", pretty(msgspec.json.encode(understood)), writes)


def test_there_are_cases_of_each_sort_for_both_dialects() -> None:
    for given in ("client.json", "reply.json", "reply.sse"):
        assert {case.split("/")[0] for case in cases(given)} == {
            dialect.value for dialect in Dialect
        }
