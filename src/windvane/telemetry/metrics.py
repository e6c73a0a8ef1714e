"""Prometheus metrics, kept as plain numbers and turned into samples only when scraped.

Labels come from closed sets: model names are those of configured deployments, never a caller's text.
docs/reference/metrics.md lists every name.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import pairwise
from math import inf
from operator import attrgetter
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from windvane._version import __version__
from windvane.core.events import (
    AttemptSettled,
    BudgetReached,
    Event,
    ExchangeEnded,
    HoldExceeded,
    RequestEnded,
)
from windvane.core.faults import FaultKind
from windvane.core.ledger import BYPASS, FREE, OK, LedgerEntry
from windvane.core.money import NANO_PER_USD
from windvane.core.usage_report import seconds
from windvane.ports.observer import EVERYTHING, Listener, Observer
from windvane.telemetry.gauges import NO_GAUGES, Gauges, text_of

DURATION_BUCKETS_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""OpenTelemetry's buckets for generative AI durations."""
OVERHEAD_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)

REJECTIONS = frozenset((FaultKind.RATE_LIMITED.value, FaultKind.BUDGET_EXCEEDED.value))
"""Faults that are a limit's doing."""

_OK = HTTPStatus.OK.value

UNROUTED = "none"
"""The model label of requests that were refused before a model was chosen, and of those that ask none."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_outcome, _cost_nano_usd = attrgetter("outcome"), attrgetter("cost_nano_usd")
_input_tokens, _output_tokens = attrgetter("input_tokens"), attrgetter("output_tokens")
_cache_read_tokens = attrgetter("cache_read_input_tokens")

FRESH_MAX = 256
"""Values that a histogram keeps before it puts them into buckets: all at once, and in order, that takes
a tenth of the time it takes for one after another."""


_Key = TypeVar("_Key", bound=tuple[str, ...] | str)
_Value = TypeVar("_Value", int, str)


class _Histogram:
    """Counts by bucket, and the sum. `fresh` are values that have not been looked at yet."""

    __slots__ = ("_bounds", "_counts", "_total", "fresh")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, inf)
        self._counts = [0] * len(self._bounds)
        self._total = 0.0
        self.fresh: list[float] = []

    def look(self) -> None:
        """Put what is fresh into its buckets. A bucket holds all values up to its bound."""
        fresh, self.fresh = self.fresh, []
        self._total = sum(fresh, self._total)
        fresh.sort()
        for place, bound in enumerate(self._bounds):
            self._counts[place] += bisect_right(fresh, bound)

    @property
    def count(self) -> int:
        """How many values there were."""
        return self._counts[-1] + len(self.fresh)

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets, and the sum."""
        self.look()
        names = ("+Inf" if bound == inf else str(bound) for bound in self._bounds)
        return list(zip(names, map(float, self._counts), strict=True)), self._total


class _Exchanges:
    """How requests for one model ended."""

    __slots__ = ("durations", "first_chunks", "others")

    def __init__(self) -> None:
        self.others: defaultdict[int, int] = defaultdict(int)
        """By status, but for those that ended well: they are what is left of all."""
        self.durations = _Histogram(DURATION_BUCKETS_S)
        self.first_chunks: _Histogram | None = None

    def statuses(self) -> dict[int, int]:
        """How many ended with each status."""
        return _completed({**self.others}, _OK, self.durations.count)


def _completed(counts: dict[_Value, int], usual: _Value, total: int) -> dict[_Value, int]:
    """The counts of all values, from those of the unusual ones."""
    rest = total - sum(counts.values())
    return {usual: rest, **counts} if rest else counts


class _Attempts:
    """How attempts at one model of one provider ended, and what they used and cost."""

    __slots__ = (
        "cache_read_tokens",
        "cost_nano_usd",
        "count",
        "input_tokens",
        "others",
        "output_tokens",
        "unpriced",
    )

    def __init__(self) -> None:
        self.count = 0
        self.others: defaultdict[str, int] = defaultdict(int)
        """By outcome, but for those that were answered: they are what is left of all."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cache_read_tokens = 0
        self.cost_nano_usd: int | None = None
        """Of those whose price is known; None when there were none."""
        self.unpriced = 0

    def add(self, entries: Sequence[LedgerEntry]) -> None:
        """Count more of them."""
        self.count += len(entries)
        self.input_tokens += sum(map(_input_tokens, entries))
        self.output_tokens += sum(map(_output_tokens, entries))
        self.cache_read_tokens += sum(map(_cache_read_tokens, entries))
        costs = [cost for cost in map(_cost_nano_usd, entries) if cost is not None]
        if costs:
            self.cost_nano_usd = sum(costs, self.cost_nano_usd or 0)
        self.unpriced += len(entries) - len(costs)
        for outcome in map(_outcome, entries):
            if outcome != OK:
                self.others[outcome] += 1

    def outcomes(self) -> dict[str, int]:
        """How many ended in each way."""
        return _completed({**self.others}, OK, self.count)

    def tokens(self) -> list[tuple[str, int]]:
        """Tokens by kind, of the kinds that there were."""
        kinds = {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "cache_read": self.cache_read_tokens,
        }
        return [(kind, count) for kind, count in kinds.items() if count]


class _Savings:
    """What answers took before that were now given for nothing."""

    __slots__ = ("nano_usd", "tokens", "us")

    def __init__(self) -> None:
        self.nano_usd = self.tokens = self.us = 0

    def add(self, entry: LedgerEntry) -> None:
        self.nano_usd += entry.saved_nano_usd or 0
        self.tokens += entry.saved_tokens or 0
        self.us += entry.saved_us or 0


class Metrics(Collector, Observer):
    """Observes the engine, and answers `/metrics`."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self._exchanges: defaultdict[str, _Exchanges] = defaultdict(_Exchanges)
        self._others: defaultdict[int, int] = defaultdict(int)
        """Requests that never became an exchange, by status. They are in no histogram."""
        self._attempts: defaultdict[tuple[str, str], _Attempts] = defaultdict(_Attempts)
        """By provider and model, but for those that were not looked at yet."""
        self._settled: list[AttemptSettled] = []
        """Those: all at once, they take half of the time that they take one after another."""
        self._fallbacks: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._cached: defaultdict[str, int] = defaultdict(int)
        """By what the cache did for them, but for those that passed it by."""
        self._overhead = _Histogram(OVERHEAD_BUCKETS_S)
        self._rejections: defaultdict[str, int] = defaultdict(int)
        self._alerts: defaultdict[str, int] = defaultdict(int)
        self._saved: defaultdict[str, _Savings] = defaultdict(_Savings)
        self._holds_exceeded = 0
        self._queued = _Histogram(DURATION_BUCKETS_S)
        self._listeners: dict[type, Listener] = {
            AttemptSettled: self._settled.append,
            ExchangeEnded: self._on_end,
            RequestEnded: self._on_other,
            BudgetReached: self._on_reached,
            HoldExceeded: self._on_exceeded,
        }

    def on(self, event: Event) -> None:
        self._listeners[type(event)](event)

    def listener(self, kind: type[Event]) -> Listener:
        return self._listeners[kind]

    def _on_other(self, event: RequestEnded) -> None:
        self._others[event.status] += 1

    def _on_reached(self, event: BudgetReached) -> None:
        self._alerts[str(event.permille // 10)] += 1

    def _on_exceeded(self, event: HoldExceeded) -> None:
        del event
        self._holds_exceeded += 1

    def _on_end(self, event: ExchangeEnded) -> None:
        if event.is_refresh:
            self._look_at_many()
            return  # what it cost is told by its attempts
        exchanges = self._exchanges[event.model or UNROUTED]
        if event.status != _OK:
            exchanges.others[event.status] += 1
        if event.cache_status != BYPASS:
            self._cached[event.counted_as] += 1
        exchanges.durations.fresh.append(event.duration_s)
        self._overhead.fresh.append(event.overhead_s)
        if event.is_stream and event.first_chunk_s is not None:
            if exchanges.first_chunks is None:
                exchanges.first_chunks = _Histogram(DURATION_BUCKETS_S)
            exchanges.first_chunks.fresh.append(event.first_chunk_s)
        if event.attempts > 1:
            for before, after in pairwise(event.models_tried):
                if before != after:
                    self._fallbacks[before, after] += 1
        if event.fault is not None and event.fault in REJECTIONS:
            self._rejections[event.fault] += 1
        if event.queued_s:
            self._queued.fresh.append(event.queued_s)
        if len(self._overhead.fresh) >= FRESH_MAX:
            self._look()

    def _look(self) -> None:
        """Put all that is fresh where it belongs. No histogram gets a value but with one of overhead."""
        self._look_at_settled()
        self._overhead.look()
        self._queued.look()
        for exchanges in self._exchanges.values():
            exchanges.durations.look()
            if exchanges.first_chunks is not None:
                exchanges.first_chunks.look()

    def _look_at_many(self) -> None:
        if len(self._settled) >= FRESH_MAX:
            self._look_at_settled()

    def _look_at_settled(self) -> None:
        """Add up what was settled since the last time. Every attempt is one of an exchange that ends, so
        there are never many."""
        attempts: defaultdict[tuple[str, str], list[LedgerEntry]] = defaultdict(list)
        for event in self._settled:
            entry = event.entry
            if entry.outcome == OK or entry.is_attempt:
                attempts[entry.provider, entry.model].append(entry)
            elif entry.outcome in FREE:
                self._saved[entry.outcome].add(entry)
        self._settled.clear()  # it stays the same list: whoever tells of more puts it there
        for place, entries in attempts.items():
            self._attempts[place].add(entries)

    def text(self, gauges: Gauges = NO_GAUGES) -> bytes:
        """All metrics in Prometheus' text format."""
        return text_of(self, gauges)

    def totals(self, gauges: Gauges = NO_GAUGES) -> dict[str, object]:
        """The main sums, for those who ask for JSON."""
        self._look_at_settled()
        by_status: dict[str, int] = {}
        for (_, status), count in self._requests().items():
            by_status[status] = by_status.get(status, 0) + count
        attempts = self._attempts.values()
        return {
            "requests_total": sum(by_status.values()),
            "requests_by_status": by_status,
            "attempts_total": sum(each.count for each in attempts),
            "fallbacks_total": sum(self._fallbacks.values()),
            "input_tokens_total": sum(each.input_tokens for each in attempts),
            "output_tokens_total": sum(each.output_tokens for each in attempts),
            "cost_nano_usd_total": sum(each.cost_nano_usd or 0 for each in attempts),
            "unpriced_attempts_total": sum(each.unpriced for each in attempts),
            "saved_nano_usd_total": sum(each.nano_usd for each in self._saved.values()),
            "saved_tokens_total": sum(each.tokens for each in self._saved.values()),
            "saved_seconds_total": seconds(sum(each.us for each in self._saved.values())),
            "rejections_by_reason": dict(self._rejections),
            "cache_lookups_by_result": self.cache_lookups(),
            **gauges.as_totals(),
        }

    def cache_lookups(self) -> dict[str, int]:
        """Ended requests, by what the cache did for them."""
        count = self._overhead.count + sum(self._others.values())
        return _completed({**self._cached}, BYPASS, count)

    def _requests(self) -> dict[tuple[str, str], int]:
        """By model and status."""
        counts = {
            (model, str(status)): count
            for model, exchanges in self._exchanges.items()
            for status, count in exchanges.statuses().items()
        }
        for status, count in self._others.items():
            place = UNROUTED, str(status)
            counts[place] = counts.get(place, 0) + count
        return counts

    def collect(self) -> Iterator[Metric]:
        self._look_at_settled()
        yield _counter(
            "router_requests", "Requests answered.", ("model", "status_code"), self._requests()
        )
        yield _counter(
            "router_fallback", "Moves to another model.", ("from", "to"), self._fallbacks
        )
        yield from self._collect_attempts()
        yield _counter(
            "windvane_cache_lookups",
            "Cache look-ups, by result.",
            ("result",),
            self.cache_lookups(),
        )
        yield from self._collect_savings()
        yield from self._collect_limits()
        yield from self._collect_histograms()
        build = GaugeMetricFamily("windvane_build_info", "This version.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build

    def _collect_attempts(self) -> Iterator[Metric]:
        outcomes: dict[tuple[str, str, str], int] = {}
        tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        unpriced: defaultdict[str, int] = defaultdict(int)
        cost = CounterMetricFamily(
            "windvane_cost_usd", "Settled cost in US dollars.", labels=("model", "provider")
        )
        for (provider, model), attempts in self._attempts.items():
            for outcome, count in attempts.outcomes().items():
                outcomes[provider, model, outcome] = count
            for kind, count in attempts.tokens():
                tokens[model, kind] += count
            if attempts.cost_nano_usd is not None:
                cost.add_metric((model, provider), attempts.cost_nano_usd / NANO_PER_USD)
            if attempts.unpriced:
                unpriced[model] += attempts.unpriced
        yield _counter(
            "windvane_upstream_attempts",
            "Attempts at a deployment, by how they ended.",
            ("provider", "model", "outcome"),
            outcomes,
        )
        yield _counter("windvane_tokens", "Tokens, by kind.", ("model", "type"), tokens)
        yield cost
        yield _counter(
            "windvane_unpriced_attempts", "Attempts whose price is unknown.", ("model",), unpriced
        )

    def _collect_savings(self) -> Iterator[Metric]:
        by = ("by",)
        usd = CounterMetricFamily("windvane_saved_usd", "Dollars the cache saved.", labels=by)
        tokens = CounterMetricFamily("windvane_saved_tokens", "Tokens the cache saved.", labels=by)
        time_s = CounterMetricFamily(
            "windvane_saved_seconds", "Seconds of waiting the cache saved.", labels=by
        )
        for outcome, savings in self._saved.items():
            usd.add_metric((outcome,), savings.nano_usd / NANO_PER_USD)
            tokens.add_metric((outcome,), savings.tokens)
            time_s.add_metric((outcome,), seconds(savings.us))
        yield usd
        yield tokens
        yield time_s

    def _collect_limits(self) -> Iterator[Metric]:
        yield _counter(
            "windvane_rejections", "Requests refused by a limit.", ("reason",), self._rejections
        )
        yield _counter(
            "windvane_budget_alerts",
            "Budgets that reached a share of their limit.",
            ("percent",),
            self._alerts,
        )
        exceeded = CounterMetricFamily(
            "windvane_holds_exceeded", "Attempts that cost more than was held for them."
        )
        exceeded.add_metric((), self._holds_exceeded)
        yield exceeded
        queued = HistogramMetricFamily(
            "windvane_queue_wait_seconds", "Waiting for room at a provider's limit."
        )
        queued.add_metric((), *self._queued.told())
        yield queued

    def _collect_histograms(self) -> Iterator[Metric]:
        duration = HistogramMetricFamily(
            "windvane_request_duration_seconds",
            "From the request's arrival to its last byte.",
            labels=("model",),
        )
        for model, exchanges in self._exchanges.items():
            duration.add_metric((model,), *exchanges.durations.told())
        yield duration
        first = HistogramMetricFamily(
            "windvane_time_to_first_token_seconds",
            "From a streamed request's arrival to its first words.",
            labels=("model",),
        )
        for model, exchanges in self._exchanges.items():
            if (firsts := exchanges.first_chunks) is not None:
                first.add_metric((model,), *firsts.told())
        yield first
        overhead = HistogramMetricFamily(
            "windvane_overhead_seconds", "Request duration less the time spent on providers."
        )
        overhead.add_metric((), *self._overhead.told())
        yield overhead


def _counter(
    name: str,
    text: str,
    labels: tuple[str, ...],
    counts: Mapping[_Key, int],
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family
