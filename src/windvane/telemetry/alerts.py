"""Alerts: budgets that near their end, and costs above what was held, in the log and to a webhook.

The webhook is told in the background, one alert at a time; one that cannot be delivered is tried
again, then dropped with a line in the log: an alert must never hold up a request.
"""

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime

import msgspec

from windvane.core.events import BudgetReached, Event, HoldExceeded
from windvane.core.faults import WindvaneError
from windvane.core.money import usd_text
from windvane.ports.observer import Kinds, Observer
from windvane.ports.transport import Transport, UpstreamRequest

WAITING_MAX = 100
TRIES = 3
WAIT_S = 2.0
ANSWER_S = 10.0
CLOSING_S = 2.0
"""How long the end waits for a webhook: what stops a process does not wait for long."""
ALERTS: Kinds = frozenset((BudgetReached, HoldExceeded))
US_PER_S = 1_000_000

_log = logging.getLogger("windvane.alerts")


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What is posted, as JSON. `text` says it all in a sentence, as chat services want it."""

    event: str
    text: str
    scope: str
    at: str
    period: str | None = None
    percent: int | None = None
    limit_usd: str | None = None
    spent_usd: str | None = None
    held_usd: str | None = None
    renews_at: str | None = None


def alert_of(event: Event) -> Alert | None:
    """The alert that an event is worth; None for most."""
    if isinstance(event, BudgetReached):
        return _budget_alert(event)
    if isinstance(event, HoldExceeded):
        entry = event.entry
        assert entry.cost_nano_usd is not None and entry.hold_nano_usd is not None
        return Alert(
            event="hold_exceeded",
            text=(
                f"{entry.attempt_id} at {entry.provider}/{entry.model} cost"
                f" ${usd_text(entry.cost_nano_usd)}, more than the ${usd_text(entry.hold_nano_usd)}"
                " held for it: the price or the model's limits are not what we know" + _then(event)
            ),
            scope=f"key:{entry.key_id}",
            at=_time(entry.started_at_us),
        )
    return None


def _then(event: HoldExceeded) -> str:
    if not event.is_distrusted:
        return ""
    return "; until the gateway is started anew, requests under a budget are not sent there"


def _budget_alert(event: BudgetReached) -> Alert:
    standing = event.standing
    percent = event.permille // 10
    spent, limit = usd_text(standing.spent_nano_usd), usd_text(standing.limit_nano_usd)
    whose = f"the {standing.period} budget of {standing.scope}"
    text = f"{percent} % of {whose} is spent: ${spent} of ${limit}"
    if percent >= 100:
        text = f"{whose} is used up: ${spent} of ${limit} is spent, and requests are refused"
    return Alert(
        event="budget_reached",
        text=text,
        scope=standing.scope,
        at=_time(event.at_us),
        period=standing.period.value,
        percent=percent,
        limit_usd=limit,
        spent_usd=spent,
        held_usd=usd_text(standing.held_nano_usd),
        renews_at=None if standing.renews_at_us is None else _time(standing.renews_at_us),
    )


def _time(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // US_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class AlertLog(Observer):
    """Observes the engine: alerts as warnings."""

    hears = ALERTS

    def on(self, event: Event) -> None:
        alert = alert_of(event)
        if alert is not None:
            _log.warning("%s", alert.text)


class Webhook(Observer):
    """Observes the engine: alerts as posts to one address, which the configuration names."""

    hears = ALERTS

    def __init__(self, url: str, transport: Transport) -> None:
        self._url = url
        self._transport = transport
        self._waiting: deque[Alert] = deque(maxlen=WAITING_MAX)
        self._telling: list[Alert] = []
        """The one that is being told."""
        self._task: asyncio.Task[None] | None = None
        self._posted = 0

    def on(self, event: Event) -> None:
        alert = alert_of(event)
        if alert is None:
            return
        self._waiting.append(alert)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._deliver())

    async def _deliver(self) -> None:
        while self._waiting:
            alert = self._waiting.popleft()
            self._telling = [alert]
            for attempt in range(1, TRIES + 1):
                if await self._post(alert):
                    break
                if attempt < TRIES:
                    await asyncio.sleep(WAIT_S * attempt)
            else:
                _log.error("the webhook did not take an alert: %s", alert.text)
            self._telling = []

    async def _post(self, alert: Alert) -> bool:
        self._posted += 1
        request = UpstreamRequest(
            url=self._url,
            headers=(("content-type", "application/json"), ("user-agent", "windvane")),
            request_id=f"alert-{self._posted}",
            body=msgspec.json.encode(alert),
            connect_timeout_s=ANSWER_S,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await self._transport.open(request)
                response.close()
        except (TimeoutError, WindvaneError) as error:
            _log.warning("the webhook cannot be reached: %s", error)
            return False
        return 200 <= response.status < 300

    async def aclose(self) -> None:
        """Give what waits a moment to be told, then end, and say what was not."""
        if self._task is None or self._task.done():
            return
        await asyncio.wait([self._task], timeout=CLOSING_S)
        if self._task.cancel():
            await asyncio.wait([self._task])
        for alert in (*self._telling, *self._waiting):
            _log.error("the webhook did not take an alert before the end: %s", alert.text)
