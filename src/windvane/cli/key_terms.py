"""What a key may be given on the command line, and how the admin API is told of it.

A term that is not said is left as it is; `none` takes one away.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from windvane.core.priority import Priority

NONE = "none"
_DURATION = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_BUDGETS = {"daily_budget": "daily", "monthly_budget": "monthly", "total_budget": "total"}
_RATES = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrency": "concurrency",
    "burst": "burst_requests",
}
_LISTS = {"model": "models", "route": "routes", "endpoint": "endpoints", "tag": "tags"}
_PLAIN = {"name": "name", "owner": "owner", "team": "team", "auto": "route", "priority": "priority"}

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--owner", help="Who answers for it."),
    click.option("--team", help="Its team, in whose budget it spends too."),
    click.option("--tag", multiple=True, help="A tag for reports and budgets; may be repeated."),
    click.option("--model", multiple=True, help="A model it may use, or a beginning and *."),
    click.option("--route", multiple=True, help="A route it may use; may be repeated."),
    click.option(
        "--endpoint", multiple=True, help="chat, models, route or metrics; may be repeated."
    ),
    click.option("--auto", metavar="ROUTE", help="What `auto` means for it."),
    click.option("--daily-budget", metavar="USD", help="Dollars per UTC day."),
    click.option("--monthly-budget", metavar="USD", help="Dollars per UTC month."),
    click.option("--total-budget", metavar="USD", help="Dollars ever."),
    click.option("--rpm", metavar="N", help="Requests per minute."),
    click.option("--tpm", metavar="N", help="Tokens per minute."),
    click.option("--concurrency", metavar="N", help="Requests at once."),
    click.option("--burst", metavar="N", help="Requests in one moment; a minute's by default."),
    click.option("--max-tokens", metavar="N", help="The longest answer it may ask for."),
    click.option("--expires", metavar="WHEN", help="30d, 12h, 2026-12-31 (UTC), or a moment."),
    click.option("--priority", type=click.Choice([*(each.value for each in Priority), NONE])),
    click.option(
        "--clamp/--no-clamp",
        default=None,
        help="Shorten answers that the budget does not cover, or refuse them.",
    ),
)


def term_options(command: F) -> F:
    """The options for a key's terms."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def terms_said(options: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The terms that the options say, as the admin API takes them. Raises click.BadParameter."""
    said: dict[str, Any] = {}
    for option, field in _PLAIN.items():
        if (value := options.get(option)) is not None:
            said[field] = None if value == NONE else value
    for option, field in _LISTS.items():
        if values := options.get(option):
            said[field] = [] if list(values) == [NONE] else list(values)
    if budget := dict(_given(options, _BUDGETS, lambda text, _: text)):
        said["budget"] = budget
    if rates := dict(_given(options, _RATES, _count)):
        said["rates"] = rates
    if (tokens := options.get("max_tokens")) is not None:
        said["output_tokens_max"] = None if tokens == NONE else _count(tokens, "--max-tokens")
    if (expires := options.get("expires")) is not None:
        said["expires_at"] = None if expires == NONE else moment(expires, now)
    if (clamp := options.get("clamp")) is not None:
        said["clamp"] = clamp
    return said


def _given(
    options: dict[str, Any], fields: dict[str, str], read: Callable[[str, str], object]
) -> Iterable[tuple[str, object]]:
    for option, field in fields.items():
        if (text := options.get(option)) is not None:
            yield field, None if text == NONE else read(text, f"--{option.replace('_', '-')}")


def _count(text: str, option: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise click.BadParameter(f"{text!r} is not a whole number", param_hint=option)
    return int(text)


def seconds(text: str) -> int:
    """A duration as seconds. Raises click.BadParameter."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a duration as 45s, 30m, 12h, 30d or 2w")
    return int(found[1]) * _SECONDS[found[2]]


def moment(text: str, now: datetime) -> str:
    """When a key ends: after a duration, at the beginning of a UTC day, or at a moment. Raises
    click.BadParameter."""
    if _DURATION.fullmatch(text):
        ends = now.astimezone(UTC) + timedelta(seconds=seconds(text))
        return ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    said = f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text
    try:
        datetime.fromisoformat(said)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not 30d, 12h, 2026-12-31 (UTC), or a moment as 2026-12-31T18:00:00Z",
            param_hint="--expires",
        ) from None
    return said
