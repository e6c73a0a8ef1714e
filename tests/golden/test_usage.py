"""What each provider's usage means in tokens and costs in nano-dollars: its quirks, written down by hand.

A case of `usage/<provider>.json` is a usage object as the provider writes it. `understood` is ours, and
null for one that is not to be believed; `nano_usd` is what it costs, null in a tier whose price is not
known: the hold stands then. `host`, `day` and `price` are the configuration's, `service_tier` stands
beside the usage.
"""

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windvane.config.check import build
from windvane.config.resolve import resolve
from windvane.config.schema import Config
from windvane.core.deployment import Deployment
from windvane.core.exchange import Attempt
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NanoUsd
from windvane.core.usage import Certainty, Usage
from windvane.engine.settlement import amount_of
from windvane.providers import PROVIDERS

HERE = Path(__file__).parent / "usage"
DAY = date(2026, 11, 20)
OWN_MODEL = "llama"
HELD = 10**15
"""What was held: far above any cost here."""


def rows() -> list[Any]:
    found = []
    for kind in PROVIDERS:
        for row in msgspec.json.decode((HERE / f"{kind}.json").read_bytes()):
            found.append(pytest.param(kind, row, id=f"{kind}: {row['case']}"))
    return found


def day_of(row: dict[str, Any]) -> date:
    return date.fromisoformat(row["day"]) if "day" in row else DAY


def deployment_of(kind: str, row: dict[str, Any]) -> Deployment:
    """The model as a configuration makes it."""
    settings: dict[str, Any] = {"api_key": "any-key", "api_base": row.get("host")}
    if kind == "compatible":
        settings["api_base"] = "http://server.test/v1"
        settings["models"] = {OWN_MODEL: {"price": row["price"]}}
    problems: list[Any] = []
    config = build({"providers": {kind: settings}}, Config, "", problems)
    assert isinstance(config, Config) and not problems
    snapshot = resolve(config, pepper=b"pepper", day=day_of(row))
    (deployment,) = snapshot.deployments[row.get("model", OWN_MODEL)]
    return deployment


def reply_of(kind: str, row: dict[str, Any]) -> bytes:
    """A whole answer with this usage."""
    said: dict[str, Any] = {"id": "a-1", "model": "m", "usage": row["usage"]}
    if kind == "anthropic":
        said |= {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}
    else:
        message = {"role": "assistant", "content": "x"}
        said["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        if "service_tier" in row:
            said["service_tier"] = row["service_tier"]
    return msgspec.json.encode(said)


def settled(deployment: Deployment, usage: Usage, day: date) -> int | None:
    """What an attempt that used this is settled at."""
    hold = LedgerEntry(
        attempt_id="a-1", request_id="a", number=1, started_at_us=0, key_id="k", team=None, tags=(),
        route=None, requested_model="m", provider="p", model="m", resolved_model="m", reason="r",
        dialect="openai", is_stream=False, certainty=Certainty.ASSUMED, cost_nano_usd=NanoUsd(HELD),
        hold_nano_usd=NanoUsd(HELD),
    )  # fmt: skip
    attempt = Attempt(
        id="a-1",
        number=1,
        deployment=deployment,
        hold=hold,
        started_s=0.0,
        price=deployment.price_on(day),
    )
    return amount_of(attempt, usage)


@pytest.mark.parametrize(("kind", "row"), rows())
def test_what_a_usage_means_and_costs(kind: str, row: dict[str, Any]) -> None:
    usage = PROVIDERS[kind].decode_chat(reply_of(kind, row), 0).usage
    if row["understood"] is None:
        assert usage is None
        return
    assert usage == Usage(**row["understood"])
    deployment = deployment_of(kind, row)
    expected = HELD if row["nano_usd"] is None else row["nano_usd"]
    assert settled(deployment, usage, day_of(row)) == expected


def test_each_provider_has_its_cases() -> None:
    assert {path.stem for path in HERE.glob("*.json")} == set(PROVIDERS)
    for kind in set(PROVIDERS) - {"compatible"}:
        kinds = [set(row.values[1]["understood"] or ()) for row in rows() if row.values[0] == kind]
        seen: set[str] = set().union(*kinds)
        assert {"cache_read_input_tokens", "reasoning_output_tokens", "service_tier"} <= seen, kind
