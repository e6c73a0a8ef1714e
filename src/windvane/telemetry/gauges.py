"""Gauges: how budgets, queues, providers and the cache stand at the moment of asking.

Nothing is counted for them: they are read from whoever knows, when somebody asks. Labels are names that
the configuration or an operator gave, never a caller's text; whoever gathers them bounds their number.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from windvane.core.breaker import BreakerState
from windvane.core.budgets import Standing
from windvane.core.money import NANO_PER_USD
from windvane.core.upstream_limits import SECOND_US
from windvane.engine.waiting_room import UpstreamStanding
from windvane.ports.stores import CacheStats

_LIMIT_LABELS = ("upstream", "unit", "period_s")


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """Everything read at one moment. The scope of a key's budget has its name in it, not its id."""

    budgets: Sequence[Standing] = ()
    budgets_omitted: int = 0
    upstreams: Sequence[UpstreamStanding] = ()
    breakers: Mapping[str, BreakerState] = {}
    cache: Sequence[CacheStats] = ()
    flights: int = 0

    def as_totals(self) -> dict[str, object]:
        """The same for those who ask for JSON. Money is in whole nano-dollars."""
        return {
            "budgets": [
                {
                    "scope": each.scope,
                    "period": each.period.value,
                    "limit_nano_usd": each.limit_nano_usd,
                    "spent_nano_usd": each.spent_nano_usd,
                    "held_nano_usd": each.held_nano_usd,
                }
                for each in self.budgets
            ],
            "budgets_omitted": self.budgets_omitted,
            "upstreams": [_upstream(each) for each in self.upstreams],
            "breakers": {name: state.value for name, state in self.breakers.items()},
            "cache": [
                {
                    "tier": each.tier,
                    "is_up": each.is_up,
                    "entries": each.entries,
                    "entries_max": each.entries_max,
                    "bytes": each.bytes,
                    "bytes_max": each.bytes_max,
                    "evicted_total": each.evicted,
                    "faults_total": each.faults,
                }
                for each in self.cache
            ],
            "calls_in_flight": self.flights,
        }


NO_GAUGES = Gauges()


def _upstream(standing: UpstreamStanding) -> dict[str, object]:
    return {
        "upstream": standing.key,
        "waiting": {priority.value: count for priority, count in standing.waiting.items()},
        "longest_wait_s": standing.longest_wait_s,
        "pause_s": standing.pause_s,
        "limits": [
            {
                "unit": each.unit.value,
                "period_s": each.period_us // SECOND_US,
                "limit": each.limit,
                "left": each.remaining,
            }
            for each in standing.limits
        ],
    }


class GaugeCollector(Collector):
    """What was read, as Prometheus has it."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        yield from _budgets(self._gauges)
        yield from _upstreams(self._gauges.upstreams)
        breaker = GaugeMetricFamily(
            "windvane_breaker_open", "1 while a deployment is rested.", labels=("deployment",)
        )
        for name, state in self._gauges.breakers.items():
            breaker.add_metric((name,), float(state is BreakerState.OPEN))
        yield breaker
        yield from _cache(self._gauges)


class All(Collector):
    """Several collectors, one after the other."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for each in self._collectors:
            yield from each.collect()


def text_of(counted: Collector, gauges: Gauges) -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(All(counted, GaugeCollector(gauges)))


def _budgets(gauges: Gauges) -> Iterator[Metric]:
    labels = ("scope", "period")
    limit = GaugeMetricFamily("windvane_budget_limit_usd", "What may be spent.", labels=labels)
    spent = GaugeMetricFamily("windvane_budget_spent_usd", "What is spent.", labels=labels)
    held = GaugeMetricFamily(
        "windvane_budget_held_usd", "What is held for requests that are running.", labels=labels
    )
    for each in gauges.budgets:
        named = (each.scope, each.period.value)
        limit.add_metric(named, each.limit_nano_usd / NANO_PER_USD)
        spent.add_metric(named, each.spent_nano_usd / NANO_PER_USD)
        held.add_metric(named, each.held_nano_usd / NANO_PER_USD)
    omitted = GaugeMetricFamily(
        "windvane_budgets_omitted", "Budgets that are not among these, since there are too many."
    )
    omitted.add_metric((), gauges.budgets_omitted)
    yield from (limit, spent, held, omitted)


def _upstreams(standings: Sequence[UpstreamStanding]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "windvane_waiting_requests",
        "Requests that wait for room at a provider's limit.",
        labels=("upstream", "priority"),
    )
    longest = GaugeMetricFamily(
        "windvane_waiting_longest_seconds",
        "How long the one that waits longest has waited.",
        labels=("upstream",),
    )
    pause = GaugeMetricFamily(
        "windvane_upstream_pause_seconds",
        "How long nothing will be sent, since the provider has said so.",
        labels=("upstream",),
    )
    limit = GaugeMetricFamily(
        "windvane_upstream_limit", "What a provider allows.", labels=_LIMIT_LABELS
    )
    left = GaugeMetricFamily(
        "windvane_upstream_limit_left", "What is left of it now.", labels=_LIMIT_LABELS
    )
    for each in standings:
        for priority, count in each.waiting.items():
            waiting.add_metric((each.key, priority.value), count)
        longest.add_metric((each.key,), each.longest_wait_s)
        pause.add_metric((each.key,), each.pause_s)
        for one in each.limits:
            labels = (each.key, one.unit.value, str(one.period_us // SECOND_US))
            limit.add_metric(labels, one.limit)
            left.add_metric(labels, one.remaining or 0)
    yield from (waiting, longest, pause, limit, left)


def _cache(gauges: Gauges) -> Iterator[Metric]:
    is_up = GaugeMetricFamily("windvane_cache_up", "1 while a tier answers.", labels=("tier",))
    entries = GaugeMetricFamily(
        "windvane_cache_entries", "Answers that are kept.", labels=("tier",)
    )
    most = GaugeMetricFamily(
        "windvane_cache_entries_max", "As many as may be; none where nobody says.", labels=("tier",)
    )
    size = GaugeMetricFamily("windvane_cache_bytes", "What they take.", labels=("tier",))
    size_max = GaugeMetricFamily(
        "windvane_cache_bytes_max", "What they may take; none where nobody says.", labels=("tier",)
    )
    evicted = CounterMetricFamily(
        "windvane_cache_evicted", "Answers that made room for others.", labels=("tier",)
    )
    faults = CounterMetricFamily(
        "windvane_cache_faults", "Calls to a tier that failed or came too late.", labels=("tier",)
    )
    for each in gauges.cache:
        is_up.add_metric((each.tier,), float(each.is_up))
        entries.add_metric((each.tier,), each.entries)
        if each.entries_max is not None:
            most.add_metric((each.tier,), each.entries_max)
        size.add_metric((each.tier,), each.bytes)
        if each.bytes_max is not None:
            size_max.add_metric((each.tier,), each.bytes_max)
        evicted.add_metric((each.tier,), each.evicted)
        faults.add_metric((each.tier,), each.faults)
    yield from (is_up, entries, most, size, size_max, evicted, faults)
    flights = GaugeMetricFamily(
        "windvane_calls_in_flight", "Calls to providers that equal requests may join."
    )
    flights.add_metric((), gauges.flights)
    yield flights
