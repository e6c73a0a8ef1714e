"""Holding money for an attempt, and settling it: exactly once, whatever happened.

Both are plain synchronous calls, so no cancellation can fall between deciding and writing.

How an amount is known:
- the provider said its usage: *exact*;
- it answered with an error status, or was never reached: *exact*, zero;
- it was cut off after it had begun to answer: *estimated*, from the request and what was delivered;
- it was asked, and nothing is known: *assumed*, the whole hold.
"""

import math
from collections.abc import Iterator, Sequence

import msgspec

from windvane.core.analysis.tokens import estimate_tokens
from windvane.core.catalog.models import Capability
from windvane.core.catalog.prices import PERMILLE, cost
from windvane.core.chat import Completion
from windvane.core.deployment import Deployment
from windvane.core.events import AttemptSettled, HoldExceeded
from windvane.core.exchange import Attempt, AttemptState, Exchange
from windvane.core.faults import Fault
from windvane.core.ledger import OK, LedgerEntry
from windvane.core.limits import RateLease
from windvane.core.money import ZERO, NanoUsd
from windvane.core.routing.decision import Candidate
from windvane.core.usage import NOTHING_USED, Certainty, Usage
from windvane.engine.alerts import BudgetAlerts
from windvane.engine.bounding import Bound, Bounder, amount_expected
from windvane.engine.waiting_room import FREE, Admission, WaitingRoom
from windvane.ports.clock import Clock
from windvane.ports.observer import Observer, hearing
from windvane.ports.stores import BudgetStore, Journal
from windvane.wire.fold import Fold

CANCELLED = "cancelled"
IN_FLIGHT_S = 0.05
"""What is said while a cancellation travels to the provider and back."""
LAST_READ_PIECES = 4
"""And what a read had brought that was cut off before it was looked at."""
ESTIMATE_MARGIN = 1.1
"""An estimate of input errs upwards by this, besides what exact usage has taught."""
CHARS_PER_TOKEN_MIN = 3
"""Fewer characters a token than prose has, so that an estimate of output errs upwards."""
_LEARNING_RATE = 0.1

MICROSECONDS = 1e6
"""A float, as seconds are: an integer would be made into one each time."""

# To look a member up in its enumeration takes as long as a call; each attempt needs these.
_EXACT, _ESTIMATED, _ASSUMED = Certainty.EXACT, Certainty.ESTIMATED, Certainty.ASSUMED
_SENT, _SETTLED = AttemptState.SENT, AttemptState.SETTLED


class Settlement:
    """Makes holds and settlements, writes them to the journal, and tells the observers."""

    def __init__(
        self,
        journal: Journal,
        budgets: BudgetStore,
        room: WaitingRoom,
        clock: Clock,
        observers: tuple[Observer, ...],
        alerts: BudgetAlerts,
    ) -> None:
        self._journal = journal
        self._budgets = budgets
        self._room = room
        self._alerts = alerts
        self._bounder = Bounder(budgets, alerts.refused)
        self._clock = clock
        self._observers = hearing(observers, AttemptSettled)
        self._alarmed = hearing(observers, HoldExceeded)
        self._input_ratio: dict[str, float] = {}
        self.day = self._bounder.day

    def bound(self, exchange: Exchange, deployment: Deployment) -> Bound:
        """What an attempt at `deployment` may cost at most, and the limit it goes out with.

        Raises BudgetExceededError, or PermissionDeniedError for what has no price under a budget.
        """
        return self._bounder.bound(exchange, deployment, self._clock.wall_us())

    def reserve(
        self, exchange: Exchange, candidate: Candidate, bound: Bound, lease: RateLease | None = None
    ) -> Attempt:
        """Hold the worst case for one attempt and write it down, before anything is sent.

        Raises BudgetExceededError, and InternalServerError (503) when it cannot be written: nothing
        is held then.
        """
        deployment = candidate.deployment
        number, attempt_id = _next_attempt(exchange)
        amount, at_us = bound.hold_nano_usd, bound.at_us
        model = bound.resolved_model
        hold = _entry(
            attempt_id, exchange, deployment, model, number, at_us, _ASSUMED, amount, "unknown"
        )
        # Also when nothing has a limit yet: a budget set while this runs must count it.
        refusing = self._budgets.hold(attempt_id, bound.scopes, amount or 0, at_us)
        if refusing is not None:
            raise self._bounder.refuse(refusing, amount or 0, exchange.principal, at_us)
        try:
            self._journal.hold(hold)
        except BaseException:
            self._budgets.settle(attempt_id, 0)
            raise
        started_s = self._clock.monotonic_s()
        attempt = Attempt(attempt_id, number, deployment, hold, started_s, bound.price)
        if lease is not None:
            attempt.lease = lease
        if bound.is_clamped:
            exchange.clamped_to = bound.output_tokens_max
        elif exchange.clamped_to is not None:
            exchange.clamped_to = None
        exchange.attempts.append(attempt)
        return attempt

    def cheapest_first(
        self, exchange: Exchange, candidates: Sequence[Candidate]
    ) -> list[Candidate]:
        """The candidates by what this request may cost at each; those without a price go last."""
        now_us = self._clock.wall_us()

        def amount(candidate: Candidate) -> tuple[bool, int]:
            price = self._bounder.tariff(candidate.deployment, now_us).price
            if price is None:
                return True, 0
            return False, amount_expected(exchange, candidate.deployment, price)

        return sorted(candidates, key=amount)

    def settle_answered(
        self, exchange: Exchange, attempt: Attempt, answer: Completion, outcome: str = OK
    ) -> None:
        """The attempt has its whole answer: exact by its usage, else estimated from its text."""
        if answer.usage is not None:
            self._learn(exchange, attempt, answer.usage)
            self._settle(exchange, attempt, answer.usage, _EXACT, outcome)
        else:
            # No count of pieces helps here: short words make two characters a token.
            usage = self._estimate(exchange, attempt, _chars_of(answer) // 2, 0)
            self._settle(exchange, attempt, usage, _ESTIMATED, outcome)

    def settle_delivered(
        self, exchange: Exchange, attempt: Attempt, fold: Fold, outcome: str = OK
    ) -> None:
        """A stream that ended well: exact by its usage, else estimated from what came, unless that
        was only a part of what the model thought."""
        if (usage := fold.final_usage) is not None:
            self._learn(exchange, attempt, usage)
            self._settle(exchange, attempt, usage, _EXACT, outcome)
        elif fold.has_thought and attempt.deployment.billing.hides_reasoning:
            self._settle(exchange, attempt, NOTHING_USED, _ASSUMED, outcome)
        else:
            usage = self._estimate_stream(exchange, attempt, fold, fold.chunks)
            self._settle(exchange, attempt, usage, _ESTIMATED, outcome)

    def settle_failed(
        self, exchange: Exchange, attempt: Attempt, fault: Fault, fold: Fold | None = None
    ) -> None:
        """The attempt ended in `fault`, after `fold` had come."""
        attempt.fault = fault
        if fault.usage is not None:
            self._settle(exchange, attempt, fault.usage, _EXACT, fault.kind.value)
        elif attempt.state is _SENT and fault.billed:
            self._settle_partial(exchange, attempt, fold, fault.kind.value)
        else:
            self._settle(exchange, attempt, NOTHING_USED, _EXACT, fault.kind.value)

    def settle_cancelled(
        self, exchange: Exchange, attempt: Attempt, fold: Fold | None = None
    ) -> None:
        """The caller left."""
        if attempt.state is _SENT:
            self._settle_partial(exchange, attempt, fold, CANCELLED)
        else:
            self._settle(exchange, attempt, NOTHING_USED, _EXACT, CANCELLED)

    def _settle_partial(
        self, exchange: Exchange, attempt: Attempt, fold: Fold | None, outcome: str
    ) -> None:
        """Cut off on the way: exact when finish and usage had come, estimated when words had, else
        assumed. Usage before the finish is a count so far, and what comes after it is not known."""
        if fold is None or not (fold.chunks or fold.usage) or _thinks_unseen(attempt, fold):
            self._settle(exchange, attempt, NOTHING_USED, _ASSUMED, outcome)
        elif fold.final_usage is not None and fold.is_finished:
            self._settle(exchange, attempt, fold.final_usage, _EXACT, outcome)
        else:
            pieces = fold.chunks + self._in_flight(attempt, fold)
            usage = self._estimate_stream(exchange, attempt, fold, pieces)
            self._settle(exchange, attempt, usage, _ESTIMATED, outcome)

    def _estimate_stream(
        self, exchange: Exchange, attempt: Attempt, fold: Fold, pieces: int
    ) -> Usage:
        """What a stream used that did not say so in the end; its input, if it said so before."""
        if (permille := attempt.deployment.billing.tokens_permille) != PERMILLE:
            # Its pieces are no tokens, and its tokens are not ours.
            texts = "".join(_texts_of(fold.completion()))
            pieces = max(
                pieces, math.ceil(estimate_tokens(texts) * ESTIMATE_MARGIN * permille / PERMILLE)
            )
        usage = self._estimate(exchange, attempt, pieces, fold.output_chars)
        if fold.usage is None:
            return usage
        return msgspec.structs.replace(
            fold.usage,
            output_tokens=max(usage.output_tokens, fold.usage.output_tokens),
            service_tier=fold.usage.service_tier or usage.service_tier,
            is_so_far=False,
        )

    def _in_flight(self, attempt: Attempt, fold: Fold) -> int:
        """About how many more pieces the provider had made when it learned of the end."""
        if attempt.first_chunk_s is None:
            return LAST_READ_PIECES
        elapsed_s = max(self._clock.monotonic_s() - attempt.first_chunk_s, IN_FLIGHT_S)
        return max(math.ceil(fold.chunks * IN_FLIGHT_S / elapsed_s), LAST_READ_PIECES)

    def _estimate(self, exchange: Exchange, attempt: Attempt, pieces: int, chars: int) -> Usage:
        analysis = exchange.analysis
        assert analysis is not None
        usual = attempt.deployment.billing.tokens_permille / PERMILLE
        ratio = self._input_ratio.get(attempt.deployment.resolved_model, usual)
        tier = exchange.request.body.get("service_tier")
        return Usage(
            input_tokens=int(analysis.input_tokens * ratio * ESTIMATE_MARGIN) + 1,
            output_tokens=max(pieces, chars // CHARS_PER_TOKEN_MIN) + 1,
            # Which it was served in came with the usage that did not come.
            service_tier=tier if isinstance(tier, str) else None,
        )

    def _learn(self, exchange: Exchange, attempt: Attempt, usage: Usage) -> None:
        """Correct the input estimate of a model by what its provider counts."""
        analysis = exchange.analysis
        if analysis is None or not usage.input_tokens:
            return
        seen = usage.input_tokens / (analysis.input_tokens or 1)
        model = attempt.hold.resolved_model
        known = self._input_ratio.get(model, seen)
        self._input_ratio[model] = known + _LEARNING_RATE * (seen - known)

    def _settle(
        self,
        exchange: Exchange,
        attempt: Attempt,
        usage: Usage,
        certainty: Certainty,
        outcome: str,
    ) -> None:
        attempt.become(_SETTLED)
        now_s = self._clock.monotonic_s()
        took_s = now_s - attempt.started_s
        hold, cost = attempt.hold, self._cost(attempt, usage, certainty)
        entry = _settled(attempt, usage, certainty, cost, outcome, int(took_s * MICROSECONDS))
        self._journal.settle(entry)
        attempt.usage = usage
        attempt.entry = entry
        if attempt.lease is not None or attempt.admission is not FREE:
            self._correct(attempt, entry, usage, now_s)
        marked = self._budgets.settle(entry.attempt_id, cost or 0)
        if marked:
            self._alerts.look(marked, entry.started_at_us)
        exchange.pay(cost)
        held = hold.hold_nano_usd
        if cost is not None and held is not None and cost > held:
            self._breach(exchange, attempt.deployment, entry)
        exchange.upstream_s += took_s
        event = AttemptSettled(entry)
        for observer in self._observers:
            observer.on(event)

    def _breach(self, exchange: Exchange, deployment: Deployment, entry: LedgerEntry) -> None:
        """A provider billed more than the worst case: it is told, and unless the request asked for what
        no budget pays for, the deployment's bound is not believed any more."""
        assert exchange.analysis is not None
        part = deployment.unpriced_part(exchange.analysis, exchange.request.body)
        if part is None:
            self._bounder.distrust(deployment)
        event = HoldExceeded(entry=entry, is_distrusted=part is None)
        for observer in self._alarmed:
            observer.on(event)

    def record_free(
        self,
        exchange: Exchange,
        deployment: Deployment,
        outcome: str,
        saved: int | None,
        now_us: int,
    ) -> None:
        """Put an answer on the ledger for which nobody was asked: it cost nothing, and saved `saved`."""
        number, attempt_id = _next_attempt(exchange)
        model = deployment.resolved_model
        entry = _entry(
            attempt_id, exchange, deployment, model, number, now_us, _EXACT, ZERO, outcome, saved
        )
        self._journal.settle(entry)
        attempt = Attempt(attempt_id, number, deployment, entry, self._clock.monotonic_s())
        attempt.state, attempt.usage, attempt.entry = _SETTLED, NOTHING_USED, entry
        exchange.answered_by = attempt
        event = AttemptSettled(entry)
        for observer in self._observers:
            observer.on(event)

    def _correct(self, attempt: Attempt, entry: LedgerEntry, usage: Usage, now_s: float) -> None:
        """End what the attempt held of rates. What is not known for certain gives nothing back."""
        lease, admission = attempt.lease, attempt.admission
        is_counted = isinstance(admission, Admission) and admission.taken is not None
        if lease is not None or is_counted:
            used = usage.input_tokens + usage.output_tokens
            if entry.certainty is not _EXACT:
                used = max(used, attempt.tokens_expected)
            if lease is not None:
                lease.end(used, int(now_s * MICROSECONDS))
            if isinstance(admission, Admission):
                self._room.correct(admission, used)

    def _cost(self, attempt: Attempt, usage: Usage, certainty: Certainty) -> NanoUsd | None:
        held = attempt.hold.hold_nano_usd
        if usage is NOTHING_USED and certainty is _EXACT:
            return ZERO
        price = attempt.price
        if price is None or certainty is _ASSUMED:
            return held
        factor = attempt.deployment.multiplier_permille
        if usage.service_tier is not None:
            billing = attempt.deployment.billing
            known = billing.as_served if certainty is _EXACT else billing.of_tier
            tier = known(usage.service_tier)
            if tier is None:
                # Served in a tier whose price nobody told us: the hold was made for that.
                return held
            factor = -(-factor * tier // PERMILLE)
        amount = cost(price, usage, factor)
        if certainty is _ESTIMATED and held is not None:
            return min(amount, held)
        return amount


def _next_attempt(exchange: Exchange) -> tuple[int, str]:
    """The number and the name of the next attempt. Most are the first: a number is written out only for
    the others."""
    number = len(exchange.attempts) + 1
    return number, exchange.id + "-1" if number == 1 else f"{exchange.id}-{number}"


def _entry(
    attempt_id: str,
    exchange: Exchange,
    deployment: Deployment,
    resolved_model: str,
    number: int,
    now_us: int,
    certainty: Certainty,
    amount: NanoUsd | None,
    outcome: str,
    saved: int | None = None,
) -> LedgerEntry:
    """What the ledger says of an attempt as it begins, or of an answer that needed none."""
    principal, decision, request = exchange.principal, exchange.decision, exchange.request
    assert principal is not None and decision is not None
    # By place, in the order of the journal's format: by name, it would take six times as long.
    return LedgerEntry(
        attempt_id,
        exchange.id,
        number,
        now_us,
        principal.key_id,
        principal.team,
        exchange.tags,
        decision.route,
        request.model,
        deployment.provider,
        deployment.model,
        resolved_model,
        decision.reason,
        exchange.dialect,
        request.stream,
        certainty,
        amount,  # what it cost, as far as is known
        amount,  # what is held
        outcome,
        client_request_id=exchange.client_request_id,
        user=exchange.user,
        saved_nano_usd=saved,  # type: ignore[arg-type]  # to call a NewType takes as long as a field
    )


def _settled(
    attempt: Attempt,
    usage: Usage,
    certainty: Certainty,
    cost: NanoUsd | None,
    outcome: str,
    latency_us: int,
) -> LedgerEntry:
    """What the ledger says of an attempt in the end: what its hold said, and how it went."""
    hold, first_chunk_us = attempt.hold, None
    if attempt.first_chunk_s is not None:
        first_chunk_us = int((attempt.first_chunk_s - attempt.started_s) * MICROSECONDS)
    # By place, as in `_entry`. The last field, what was saved, is for what was not asked at all (and
    # above thirty arguments Python packs them into a tuple first).
    return LedgerEntry(
        hold.attempt_id,
        hold.request_id,
        hold.number,
        hold.started_at_us,
        hold.key_id,
        hold.team,
        hold.tags,
        hold.route,
        hold.requested_model,
        hold.provider,
        hold.model,
        hold.resolved_model,
        hold.reason,
        hold.dialect,
        hold.is_stream,
        certainty,
        cost,
        hold.hold_nano_usd,
        outcome,
        attempt.status,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.reasoning_output_tokens,
        latency_us,
        first_chunk_us,
        hold.client_request_id,
        attempt.upstream_request_id,
        hold.user,
    )


def _chars_of(answer: Completion) -> int:
    return sum(len(text) for text in _texts_of(answer))


def _texts_of(answer: Completion) -> Iterator[str]:
    """All that the model wrote, one text after another."""
    for choice in answer.choices:
        message = choice.message
        yield message.content or ""
        yield message.reasoning or ""
        for call in message.tool_calls:
            yield call.arguments


def _thinks_unseen(attempt: Attempt, fold: Fold) -> bool:
    """Whether thinking that was never shown may be on the bill: then what came tells too little."""
    if not attempt.deployment.billing.hides_reasoning or fold.final_usage is not None:
        return False
    if fold.usage is not None and fold.chunks:
        return fold.has_thought  # a provider that counts from the start tells when it thinks
    card = attempt.deployment.card
    return card is not None and Capability.REASONING in card.capabilities
