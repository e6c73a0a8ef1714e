"""Prometheus metrics, kept as plain numbers and turned into samples only when scraped.

Labels come from closed sets: model names are those of configured deployments, never a caller's text.
docs/reference/metrics.md lists every name.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from windvane._version import __version__
from windvane.core.events import AttemptSettled, BudgetReached, Event, ExchangeEnded
from windvane.core.faults import FaultKind
from windvane.core.ledger import FREE
from windvane.core.money import NANO_PER_USD
from windvane.ports.observer import EVERYTHING
from windvane.telemetry.gauges import NO_GAUGES, Gauges, text_of

DURATION_BUCKETS_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""OpenTelemetry's buckets for generative AI durations."""
OVERHEAD_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)

REJECTIONS = frozenset((FaultKind.RATE_LIMITED.value, FaultKind.BUDGET_EXCEEDED.value))
"""Faults that are a limit's doing."""

UNROUTED = "none"
"""The model label of requests that were refused before a model was chosen."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


_Key = TypeVar("_Key", bound=tuple[str, ...] | str)


class _Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        running = 0
        written = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            written.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return written


class _Tally:
    """The attempts that ended alike at one deployment."""

    __slots__ = ("attempts", "cache_read", "cost", "input", "output", "unpriced")

    def __init__(self) -> None:
        self.attempts = 0
        self.input = 0
        self.output = 0
        self.cache_read = 0
        self.cost: int | None = None
        """In nano-dollars, of those whose price is known; None when none of them has one."""
        self.unpriced = 0


class Metrics(Collector):
    """Observes the engine, and answers `/metrics`."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self._requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._fallbacks: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._tallies: dict[tuple[str, str, str], _Tally] = {}
        """By provider, model and outcome."""
        self._cache: defaultdict[str, int] = defaultdict(int)
        self._durations: dict[str, _Histogram] = {}
        self._first_chunks: dict[str, _Histogram] = {}
        self._overhead = _Histogram(OVERHEAD_BUCKETS_S)
        self._rejections: defaultdict[str, int] = defaultdict(int)
        self._alerts: defaultdict[str, int] = defaultdict(int)
        self._saved: defaultdict[str, int] = defaultdict(int)
        self._holds_exceeded = 0
        self._queued = _Histogram(DURATION_BUCKETS_S)

    def on(self, event: Event) -> None:
        if isinstance(event, AttemptSettled):
            self._on_settled(event)
        elif isinstance(event, ExchangeEnded):
            self._on_end(event)
        elif isinstance(event, BudgetReached):
            self._alerts[str(event.permille // 10)] += 1
        else:
            self._holds_exceeded += 1

    def _on_end(self, event: ExchangeEnded) -> None:
        model = event.model or UNROUTED
        self._requests[model, str(event.status)] += 1
        if event.attempts > 1:
            tried = event.models_tried
            for before, after in pairwise(tried):
                if before != after:
                    self._fallbacks[before, after] += 1
        self._cache[event.cache_status] += 1
        if event.fault in REJECTIONS:
            self._rejections[event.fault] += 1
        if event.queued_s:
            self._queued.observe(event.queued_s)
        _histogram(self._durations, model, DURATION_BUCKETS_S).observe(event.duration_s)
        self._overhead.observe(event.overhead_s)
        if event.first_chunk_s is not None and event.is_stream:
            _histogram(self._first_chunks, model, DURATION_BUCKETS_S).observe(event.first_chunk_s)

    def _on_settled(self, event: AttemptSettled) -> None:
        entry = event.entry
        place = entry.provider, entry.model, entry.outcome
        tally = self._tallies.get(place)
        if tally is None:
            if entry.outcome in FREE:
                self._saved[entry.outcome] += entry.saved_nano_usd or 0
                return
            tally = self._tallies[place] = _Tally()
        tally.attempts += 1
        tally.input += entry.input_tokens
        tally.output += entry.output_tokens
        if entry.cache_read_input_tokens:
            tally.cache_read += entry.cache_read_input_tokens
        cost = entry.cost_nano_usd
        if cost is None:
            tally.unpriced += 1
        else:
            tally.cost = cost if tally.cost is None else tally.cost + cost

    def _tokens(self) -> dict[tuple[str, str], int]:
        """By model and kind."""
        tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        for (_, model, _), tally in self._tallies.items():
            tokens[model, "input"] += tally.input
            tokens[model, "output"] += tally.output
            tokens[model, "cache_read"] += tally.cache_read
        return {place: count for place, count in tokens.items() if count}

    def _cost(self) -> dict[tuple[str, str], int]:
        """Nano-dollars by model and provider."""
        costs: defaultdict[tuple[str, str], int] = defaultdict(int)
        for (provider, model, _), tally in self._tallies.items():
            if tally.cost is not None:
                costs[model, provider] += tally.cost
        return costs

    def _unpriced(self) -> dict[str, int]:
        """Attempts whose price is unknown, by model."""
        unpriced: defaultdict[str, int] = defaultdict(int)
        for (_, model, _), tally in self._tallies.items():
            unpriced[model] += tally.unpriced
        return {model: count for model, count in unpriced.items() if count}

    def text(self, gauges: Gauges = NO_GAUGES) -> bytes:
        """All metrics in Prometheus' text format."""
        return text_of(self, gauges)

    def totals(self, gauges: Gauges = NO_GAUGES) -> dict[str, object]:
        """The main sums, for those who ask for JSON."""
        by_status: dict[str, int] = {}
        for (_, status), count in self._requests.items():
            by_status[status] = by_status.get(status, 0) + count
        return {
            "requests_total": sum(self._requests.values()),
            "requests_by_status": by_status,
            "attempts_total": sum(tally.attempts for tally in self._tallies.values()),
            "fallbacks_total": sum(self._fallbacks.values()),
            "input_tokens_total": sum(tally.input for tally in self._tallies.values()),
            "output_tokens_total": sum(tally.output for tally in self._tallies.values()),
            "cost_nano_usd_total": sum(self._cost().values()),
            "unpriced_attempts_total": sum(self._unpriced().values()),
            "saved_nano_usd_total": sum(self._saved.values()),
            "rejections_by_reason": dict(self._rejections),
            "cache_lookups_by_result": dict(self._cache),
            **gauges.as_totals(),
        }

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "router_requests", "Requests answered.", ("model", "status_code"), self._requests
        )
        yield _counter(
            "router_fallback", "Moves to another model.", ("from", "to"), self._fallbacks
        )
        yield _counter(
            "windvane_upstream_attempts",
            "Attempts at a deployment, by how they ended.",
            ("provider", "model", "outcome"),
            {place: tally.attempts for place, tally in self._tallies.items()},
        )
        yield _counter("windvane_tokens", "Tokens, by kind.", ("model", "type"), self._tokens())
        cost = CounterMetricFamily(
            "windvane_cost_usd", "Settled cost in US dollars.", labels=("model", "provider")
        )
        for labels, nano_usd in self._cost().items():
            cost.add_metric(labels, nano_usd / NANO_PER_USD)
        yield cost
        yield _counter(
            "windvane_unpriced_attempts",
            "Attempts whose price is unknown.",
            ("model",),
            self._unpriced(),
        )
        yield _counter(
            "windvane_cache_lookups",
            "Cache look-ups, by result.",
            ("result",),
            self._cache,
        )
        yield from self._collect_limits()
        yield from self._collect_histograms()
        build = GaugeMetricFamily("windvane_build_info", "This version.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build

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
        saved = CounterMetricFamily(
            "windvane_saved_usd", "What answers from the cache saved.", labels=("by",)
        )
        for outcome, nano_usd in self._saved.items():
            saved.add_metric((outcome,), nano_usd / NANO_PER_USD)
        yield saved
        queued = HistogramMetricFamily(
            "windvane_queue_wait_seconds", "Waiting for room at a provider's limit."
        )
        queued.add_metric((), self._queued.buckets(), self._queued.total)
        yield queued

    def _collect_histograms(self) -> Iterator[Metric]:
        duration = HistogramMetricFamily(
            "windvane_request_duration_seconds",
            "From the request's arrival to its last byte.",
            labels=("model",),
        )
        for model, histogram in self._durations.items():
            duration.add_metric((model,), histogram.buckets(), histogram.total)
        yield duration
        first = HistogramMetricFamily(
            "windvane_time_to_first_token_seconds",
            "From a streamed request's arrival to its first words.",
            labels=("model",),
        )
        for model, histogram in self._first_chunks.items():
            first.add_metric((model,), histogram.buckets(), histogram.total)
        yield first
        overhead = HistogramMetricFamily(
            "windvane_overhead_seconds", "Request duration less the time spent on providers."
        )
        overhead.add_metric((), self._overhead.buckets(), self._overhead.total)
        yield overhead


def _histogram(known: dict[str, _Histogram], label: str, bounds: tuple[float, ...]) -> _Histogram:
    histogram = known.get(label)
    if histogram is None:
        histogram = known[label] = _Histogram(bounds)
    return histogram


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
