"""The webhook of alerts: it holds nothing up, not even the end."""

import asyncio
from types import SimpleNamespace

import pytest

from windvane.core.budgets import Period, Standing
from windvane.core.events import BudgetReached
from windvane.telemetry.alerts import CLOSING_S, Webhook
from windvane.testing import run_virtual


class Hook:
    """Takes so long to answer 204; for good without."""

    def __init__(self, answers_in_s: float | None) -> None:
        self.asked = 0
        self._answers_in_s = answers_in_s

    async def open(self, _: object) -> SimpleNamespace:
        self.asked += 1
        await asyncio.sleep(self._answers_in_s or 10_000.0)
        return SimpleNamespace(status=204, close=lambda: None)


def hook_and_webhook(answers_in_s: float | None) -> tuple[Hook, Webhook]:
    hook = Hook(answers_in_s)
    return hook, Webhook("http://hook.example/", hook)  # type: ignore[arg-type]


def reached(name: str) -> BudgetReached:
    standing = Standing(
        scope=name, period=Period.DAILY, limit_nano_usd=10, spent_nano_usd=8, held_nano_usd=0,
        starts_at_us=0, renews_at_us=None,
    )  # fmt: skip
    return BudgetReached(standing=standing, permille=800, at_us=0)


def test_the_end_waits_a_moment_for_a_webhook_that_hangs_and_says_what_it_was_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        hook, webhook = hook_and_webhook(None)
        webhook.on(reached("team:one"))
        webhook.on(reached("team:two"))
        await asyncio.sleep(0.1)
        assert hook.asked == 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        await webhook.aclose()
        assert loop.time() - began == pytest.approx(CLOSING_S)
        assert CLOSING_S <= 2
        lost = [each.message for each in caplog.records if "before the end" in each.message]
        assert len(lost) == 2 and "team:one" in lost[0] and "team:two" in lost[1]

    run_virtual(main())


def test_what_is_told_in_time_is_not_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hook, webhook = hook_and_webhook(0.5)
        for name in ("team:one", "team:two"):
            webhook.on(reached(name))
        await webhook.aclose()
        assert hook.asked == 2
        await webhook.aclose()
        assert not caplog.records

    run_virtual(main())
