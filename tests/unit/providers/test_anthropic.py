"""Anthropic's error answers, as its SDK and its error reference have them, and what goes with a request."""

from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from windvane.config.resolve import resolve
from windvane.config.schema import Config, ModelConfig, PriceConfig, ProviderConfig
from windvane.core.faults import Fault
from windvane.providers.anthropic import PROVIDER

Row = tuple[int, Any, tuple[str, str, int], str]


def error(kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    details = None if code is None else {"error_code": code}
    inner = {"type": kind, "message": message, "details": details}
    return {"type": "error", "error": inner, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


ROWS: list[Row] = [
    (
        400,
        error("invalid_request_error", "messages: at least one message is required"),
        ("invalid_request", "never", 400),
        "at least one message",
    ),
    (
        400,
        error("invalid_request_error", "prompt is too long: 205000 tokens > 200000 maximum"),
        ("context_too_long", "other", 400),
        "too long",
    ),
    (
        400,
        error(
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
        ),
        ("payment_required", "other", 402),
        "credit balance",
    ),
    (401, error("authentication_error", "invalid x-api-key"), ("forbidden", "other", 502), "credential"),
    (402, error("billing_error", "payment"), ("payment_required", "other", 402), "payment"),
    (403, error("permission_error", "no"), ("forbidden", "other", 403), "no"),
    (404, error("not_found_error", "model: claude-2"), ("not_found", "other", 404), "claude-2"),
    (413, error("request_too_large", "too large"), ("too_large", "never", 413), "large"),
    (429, error("rate_limit_error", "slow down"), ("rate_limited", "same", 429), "slow down"),
    (
        429,
        error("rate_limit_error", "growing too fast", "ramp_limit_exceeded"),
        ("rate_limited", "same", 429),
        "growing",
    ),
    (
        429,
        error("rate_limit_error", "spent", "enforced_spend_limit_reached"),
        ("rate_limited", "other", 429),
        "spent",
    ),
    (
        429,
        error("rate_limit_error", "spent", "contract_spend_limit_reached"),
        ("rate_limited", "other", 429),
        "spent",
    ),
    (429, ["odd"], ("rate_limited", "same", 429), "429"),
    (429, {"error": {"details": "odd"}}, ("rate_limited", "same", 429), "429"),
    (500, error("api_error", "oops"), ("upstream_error", "same", 502), "oops"),
    (504, error("timeout_error", "late"), ("timeout", "same", 504), "late"),
    (529, error("overloaded_error", "Overloaded"), ("overloaded", "same", 503), "Overloaded"),
]  # fmt: skip


def fault_of(status: int, body: Any, headers: dict[str, str] | None = None) -> Fault:
    return PROVIDER.classify(status, headers or {}, msgspec.json.encode(body), 0.0)


@pytest.mark.parametrize(("status", "body", "expected", "words"), ROWS)
def test_every_known_answer(
    status: int, body: Any, expected: tuple[str, str, int], words: str
) -> None:
    fault = fault_of(status, body)
    assert (fault.kind.value, fault.retry.value, fault.status) == expected
    assert words in fault.message
    assert fault.upstream_status == status


def test_money_that_is_spent_for_the_month_is_not_waited_for() -> None:
    spent = error("rate_limit_error", "spent", "enforced_spend_limit_reached")
    fault = fault_of(429, spent, {"retry-after": "5"})
    assert (fault.retry_after_s, fault.code) == (None, "insufficient_quota")
    slow = fault_of(429, error("rate_limit_error", "slow"), {"retry-after": "5"})
    assert slow.retry_after_s == 5.0


def settled(**settings: Any) -> Any:
    config = Config(providers={"anthropic": ProviderConfig(api_key="sk-ant-1", **settings)})
    return resolve(config, pepper=b"pepper", day=date(2026, 11, 20))


def test_the_key_goes_in_its_own_header_and_the_version_with_every_request() -> None:
    upstream = settled().upstreams["anthropic"]
    assert upstream.chat_url == "https://api.anthropic.com/v1/messages"
    headers = dict(upstream.headers)
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-1", "2023-06-01")
    bare = dict(upstream.bare_headers)
    assert bare["anthropic-version"] == "2023-06-01"
    assert "x-api-key" not in bare and "authorization" not in headers


def test_its_models_of_the_catalog_are_served_with_every_price_of_writing() -> None:
    found = settled().deployments
    assert found["claude-haiku-4-5-20251001"][0].card.id == "claude-haiku-4-5"
    for name in ("claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5"):
        price = found[name][0].price_on(date(2026, 11, 20))
        for rates in (price, *price.tiers):
            assert rates.cache_write * 4 == rates.input * 5
            assert rates.cache_write_1h == rates.input * 2


@pytest.mark.parametrize(
    ("said", "write", "write_1h"),
    [
        ({}, 1_250_000_003, 2_000_000_004),
        ({"cache_write": Decimal(2)}, 2_000_000_000, 2_000_000_004),
        ({"cache_write_1h": Decimal(3)}, 1_250_000_003, 3_000_000_000),
    ],
)
def test_a_configured_price_has_anthropics_rule_where_it_says_nothing_of_writing(
    said: dict[str, Any], write: int, write_1h: int
) -> None:
    price = PriceConfig(input=Decimal("1.000000002"), output=Decimal(5), **said)
    own = settled(models={"claude-own": ModelConfig(price=price)}).deployments["claude-own"][0]
    assert (own.own_price.cache_write, own.own_price.cache_write_1h) == (write, write_1h)
