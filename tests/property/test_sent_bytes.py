"""What is held covers what is sent (M3): a request may grow as it is written for its provider.

A number is written longer than it came, an old name's functions become tools, arguments that were text
become an object. Requests are drawn that grow so, or hardly, and a real engine sends them.
"""

from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from windvane.config.schema import BudgetConfig, Config, ModelConfig, PriceConfig, ProviderConfig
from windvane.core.exchange import Credentials
from windvane.core.faults import WindvaneError
from windvane.core.ledger import LedgerEntry
from windvane.engine.bounding import FORM_BYTES
from windvane.testing import Call, Stage, run_virtual
from windvane.testing.answers import Ends, Piece, json_head
from windvane.wire.chat_request import decode_chat_request

KINDS = ("anthropic", "compatible", "mistral", "openai")
RATE = 1_000
"""Nano-dollars for a token, of input and of output."""
PRICE = PriceConfig(input=Decimal(1), output=Decimal(1))

NUMBER = st.sampled_from(["1e15", "1E5", "1e1", "-0e0", "5", "0.1", "1e-7", "12345678901234567890"])
NUMBERS = st.builds(
    lambda number, times: f"[{','.join([number] * times)}]", NUMBER, st.integers(0, 80)
)
OBJECT = NUMBERS.map(lambda numbers: f'{{"enum":{numbers}}}')
TEXT = st.sampled_from(
    ['"x"', r'"\u00e9\u98a8"', r'"a\/b\b\f\n"', '"\U0001f32c"', r'"\ud83c\udf2c"']
)
NAMES = st.integers(1, 128).map(lambda count: [f"f{number}" for number in range(count)])


def _function(name: str, parameters: str | None) -> str:
    more = "" if parameters is None else f',"parameters":{parameters}'
    return f'{{"name":"{name}"{more}}}'


@st.composite
def _histories(draw: st.DrawFn) -> list[str]:
    """A call with its answer, and a question."""
    said = [f'{{"role":"user","content":{draw(TEXT)}}}']
    if draw(st.booleans()):
        arguments = draw(OBJECT)
        if draw(st.booleans()):
            arguments = msgspec.json.encode(arguments).decode()
        call = f'{{"id":"c","function":{{"name":"f","arguments":{arguments}}}}}'
        said.append(f'{{"role":"assistant","tool_calls":[{call}]}}')
        said.append('{"role":"tool","tool_call_id":"c","content":"y"}')
    said.append(f'{{"role":"user","content":[{{"type":"text","text":{draw(TEXT)}}}]}}')
    return said


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request as it comes, in as few bytes as it can be said."""
    parameters = draw(st.none() | OBJECT)
    members = {
        "model": '"m"',
        "messages": f"[{','.join(draw(_histories()))}]",
        "max_tokens": draw(st.none() | st.sampled_from(["1", "20", "5000"])),
        "stream": draw(st.sampled_from([None, "false"])),
        "functions": draw(st.none() | NAMES.map(lambda names: _list(names, parameters))),
        "tools": draw(st.none() | NAMES.map(lambda names: _tools(names, parameters))),
        "response_format": draw(
            st.none()
            | OBJECT.map(
                lambda schema: (
                    f'{{"type":"json_schema","json_schema":{{"name":"n","schema":{schema}}}}}'
                )
            )
        ),
        "reasoning_effort": draw(st.sampled_from([None, '"high"'])),
    }
    said = (f'"{name}":{value}' for name, value in members.items() if value is not None)
    return f"{{{','.join(said)}}}".encode()


def _list(names: list[str], parameters: str | None) -> str:
    return f"[{','.join(_function(name, parameters) for name in names)}]"


def _tools(names: list[str], parameters: str | None) -> str:
    tools = (f'{{"function":{_function(name, parameters)}}}' for name in names)
    return f"[{','.join(tools)}]"


def _config(kind: str, limit: Decimal) -> Config:
    provider = ProviderConfig(
        kind=kind,
        api_base="http://one.test/v1",
        api_key="sk-1",
        models={"m": ModelConfig(model="a-longer-name-than-it-came-by", price=PRICE)},
    )
    return Config(providers={"one": provider}, budgets={"global": BudgetConfig(total=limit)})


def _sent(kind: str, body: bytes, limit: Decimal) -> tuple[Call, LedgerEntry] | None:
    """What the provider was sent, and what was held for it; None where it was sent nothing."""

    async def play() -> tuple[Call, LedgerEntry] | None:
        def answer(call: Call) -> None:
            call.play([(0, json_head(400)), (0, Piece(data=b"{}")), (0, Ends())])

        stage = Stage(_config(kind, limit), on_sent=answer)
        exchange = stage.engine.accept(
            decode_chat_request(body),
            dialect="openai",
            credentials=Credentials(),
            body_bytes=len(body),
        )
        stage.auditor.begun(exchange.id)
        try:
            await stage.engine.handle(exchange)
        except WindvaneError as error:
            code = error.fault.code
        (call,) = stage.transport.calls or (None,)
        await stage.close()
        if call is None:
            event(f"not sent: {code}")
            return None
        return call, stage.auditor.settlements[call.attempt_id]

    return run_virtual(play())


def _tokens_at_most(call: Call) -> int:
    """A token a byte, but for the form of every request; and what a template adds."""
    body: Any = call.body
    tools, size = body.get("tools") or body.get("functions") or [], len(msgspec.json.encode(body))
    messages = len(body["messages"])
    return size - FORM_BYTES - len(body["model"]) + 16 * (messages + len(tools) + 1)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    requests(),
    st.sampled_from([Decimal("0.004"), Decimal("0.02"), Decimal("0.2"), Decimal(5)]),
)
def test_what_is_sent_was_held_for(kind: str, body: bytes, limit: Decimal) -> None:
    found = _sent(kind, body, limit)
    if found is None:
        return
    call, entry = found
    said: Any = call.body
    output = said.get("max_tokens") or said["max_completion_tokens"]
    most = (_tokens_at_most(call) + output) * RATE
    assert entry.hold_nano_usd is not None
    assert most <= entry.hold_nano_usd <= limit * 10**9
    event("grew" if len(msgspec.json.encode(said)) > len(body) + 150 else "as it came")
