"""Holding money for an attempt, and settling it: exactly once, whatever happened.

Both are plain synchronous calls, so no cancellation can fall between deciding and writing.

How an amount is known:
- the provider said its usage: *exact*;
- it answered with an error status: *exact*, zero;
- nothing had been sent yet, whatever ended the attempt (nobody to connect to, a deadline, a caller who
  left while a connection was being made): *exact*, zero;
- it was cut off after it had begun to answer, or did not say its usage: *estimated*, which is what it
  cost at most, by the request and what was delivered (`estimating` has the bound);
- it was sent, of which one byte is enough, and nothing is known: *assumed*, the whole hold; and so when
  it was cut off at a provider that is known to bill the whole answer then, and when it said a usage that
  cannot be believed, of a model that can think.
"""

from collections.abc import Sequence

from msgspec.structs import force_setattr, replace

from windvane.core.budgets import tightest
from windvane.core.catalog.prices import PERMILLE, cost
from windvane.core.chat import Completion
from windvane.core.deployment import Deployment
from windvane.core.events import AttemptSettled, HoldExceeded
from windvane.core.exchange import Attempt, AttemptState, Exchange
from windvane.core.faults import Fault
from windvane.core.ledger import BYPASS, OK, LedgerEntry, Saved
from windvane.core.limits import RateLease
from windvane.core.money import ZERO, NanoUsd
from windvane.core.routing.decision import Candidate
from windvane.core.usage import NOTHING_USED, Certainty, Usage
from windvane.engine.alerts import BudgetAlerts
from windvane.engine.bounding import Bound, Bounder, amount_expected, input_bound
from windvane.engine.estimating import (
    came_streamed,
    came_whole,
    is_more_than_held,
    may_have_thought,
    may_think,
    tokens_unseen,
    used_at_most,
)
from windvane.engine.waiting_room import FREE, Admission, WaitingRoom
from windvane.ports.clock import Clock
from windvane.ports.observer import Observer, hearing
from windvane.ports.stores import BudgetStore, Journal
from windvane.wire.fold import Fold

CANCELLED = "cancelled"

MICROSECONDS = 1e6
"""A float, as seconds are: an integer would be made into one each time."""

# To look a member up in its enumeration takes as long as a call; each attempt needs these.
_EXACT, _ESTIMATED, _ASSUMED = Certainty.EXACT, Certainty.ESTIMATED, Certainty.ASSUMED
_SENT, _SETTLED = AttemptState.SENT, AttemptState.SETTLED
_NOBODY = Deployment(id="", provider="", model="")
"""Asked for what needed no attempt."""


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
        self._bounder = Bounder(budgets, clock, alerts.refused)
        self._clock = clock
        self._tell_settled = hearing(observers, AttemptSettled)
        self._tell_exceeded = hearing(observers, HoldExceeded)
        self.day = self._bounder.day
        self.bound = self._bounder.bound

    def reserve(
        self, exchange: Exchange, candidate: Candidate, bound: Bound, lease: RateLease | None = None
    ) -> Attempt:
        """Hold the worst case for one attempt and write it down, before anything is sent.

        Raises BudgetExceededError, and InternalServerError (503) when it cannot be written: nothing
        is held then.
        """
        deployment = candidate.deployment
        amount, at_us = bound.hold_nano_usd, bound.at_us
        hold = _entry(
            exchange, deployment, bound.resolved_model, at_us, _ASSUMED, amount, "unknown"
        )
        attempt_id = hold.attempt_id
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
        attempt = Attempt(attempt_id, hold.number, deployment, hold, started_s, bound.price)
        attempt.output_tokens_max = bound.output_tokens_max
        if lease is not None:
            attempt.lease = lease
        if bound.is_clamped:
            exchange.clamped_to = bound.output_tokens_max
            account = tightest(self._budgets.accounts(bound.scopes, at_us))
            exchange.clamped_by = None if account is None else account.scope
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
        """The attempt has its whole answer: exact by its usage, else estimated from its text, unless
        more may have been thought."""
        if answer.usage is not None:
            self._settle_exact(exchange, attempt, answer.usage, outcome)
        else:
            used = used_at_most(exchange, attempt, came_whole(answer))
            may_have_more = may_think(exchange, attempt, answer)
            self._settle_uncounted(exchange, attempt, used, outcome, may_have_more)

    def settle_delivered(
        self, exchange: Exchange, attempt: Attempt, fold: Fold, outcome: str = OK
    ) -> None:
        """A stream that ended well: exact by its usage, else estimated from what came, unless that
        may be only a part of what the model thought."""
        if (usage := fold.final_usage) is not None:
            self._settle_exact(exchange, attempt, usage, outcome)
        else:
            used = used_at_most(exchange, attempt, came_streamed(fold), said=fold.usage)
            may_have_more = may_have_thought(exchange, attempt, fold)
            self._settle_uncounted(exchange, attempt, used, outcome, may_have_more)

    def settle_failed(
        self, exchange: Exchange, attempt: Attempt, fault: Fault, fold: Fold | None = None
    ) -> None:
        """The attempt ended in `fault`, after `fold` had come. A usage that comes with it is the bill,
        unless it counts less than had come."""
        attempt.fault = fault
        if fault.usage is not None and (fold is None or fold.is_covered_by(fault.usage)):
            self._settle_exact(exchange, attempt, fault.usage, fault.kind.value)
        elif attempt.state is _SENT and fault.billed:
            self._settle_partial(exchange, attempt, fold, fault.kind.value)
        else:
            self._settle(exchange, attempt, NOTHING_USED, _EXACT, ZERO, fault.kind.value)

    def settle_cancelled(
        self, exchange: Exchange, attempt: Attempt, fold: Fold | None = None
    ) -> None:
        """The caller left."""
        if attempt.state is _SENT:
            self._settle_partial(exchange, attempt, fold, CANCELLED)
        else:
            self._settle(exchange, attempt, NOTHING_USED, _EXACT, ZERO, CANCELLED)

    def _settle_partial(
        self, exchange: Exchange, attempt: Attempt, fold: Fold | None, outcome: str
    ) -> None:
        """Cut off on the way: exact when finish and usage had come, estimated when words had, else
        assumed; so it is where a provider bills all that it would have said. Usage before the finish is
        a count so far, and what comes after it is not known."""
        if fold is None:
            self._assume(exchange, attempt, outcome)
        elif (usage := fold.final_usage) is not None and fold.has_all(exchange.request.n):
            self._settle_exact(exchange, attempt, usage, outcome)
        elif not fold.chunks:
            self._assume(exchange, attempt, outcome)
        else:
            unseen = tokens_unseen(exchange, attempt, fold, self._clock.monotonic_s())
            used = used_at_most(exchange, attempt, came_streamed(fold), unseen, fold.usage)
            may_have_more = (
                attempt.deployment.billing.runs_to_end
                or fold.unread_bytes is None
                or may_have_thought(exchange, attempt, fold)
            )
            if may_have_more and not is_more_than_held(attempt, used):
                self._assume(exchange, attempt, outcome)
            else:
                self._settle_estimated(exchange, attempt, used, outcome)

    def _settle_uncounted(
        self,
        exchange: Exchange,
        attempt: Attempt,
        used: tuple[Usage, NanoUsd | None],
        outcome: str,
        may_have_more: bool,
    ) -> None:
        """A whole answer that nobody counted. If it may have had more than was seen, `used` is not the most
        that it cost; still it is all that can be told of its tokens."""
        if may_have_more and not is_more_than_held(attempt, used):
            self._assume(exchange, attempt, outcome, used[0])
        else:
            self._settle_estimated(exchange, attempt, used, outcome)

    def _settle_estimated(
        self, exchange: Exchange, attempt: Attempt, used: tuple[Usage, NanoUsd | None], outcome: str
    ) -> None:
        """Nobody said what was used: no more than this."""
        usage, amount = used
        self._settle(exchange, attempt, usage, _ESTIMATED, amount, outcome)

    def _assume(
        self, exchange: Exchange, attempt: Attempt, outcome: str, seen: Usage = NOTHING_USED
    ) -> None:
        """What it cost is not known: the whole hold."""
        held = attempt.hold.hold_nano_usd
        self._settle(exchange, attempt, seen, _ASSUMED, held, outcome)

    def _settle_exact(
        self, exchange: Exchange, attempt: Attempt, usage: Usage, outcome: str
    ) -> None:
        """The provider said what was used, or what can have been at most. Not said in which service tier,
        that is the dearest in which the request may have been served; and the hold, where nobody told us
        the price of that."""
        if usage.contested_input_tokens:
            usage = _within(usage, input_bound(exchange, attempt.deployment))
        if usage.service_tier is None and "service_tier" in exchange.request.body:
            tier = exchange.request.body["service_tier"]
            if attempt.deployment.billing.of_tier(tier) != PERMILLE:
                self._settle_untold_tier(exchange, attempt, usage, outcome, tier)
                return
        price, deployment = attempt.price, attempt.deployment
        if price is not None and usage.service_tier is None:
            amount: NanoUsd | None = cost(price, usage, deployment.multiplier_permille)
        else:
            amount = amount_of(attempt, usage)
        certainty = _ESTIMATED if usage.is_at_most else _EXACT
        self._settle(exchange, attempt, usage, certainty, amount, outcome)

    def _settle_untold_tier(
        self, exchange: Exchange, attempt: Attempt, usage: Usage, outcome: str, tier: object
    ) -> None:
        """It is not known in which tier what was used was served. More than the hold is told as such: the
        provider has billed more than the worst case then."""
        factor, held = attempt.deployment.factor_asked(tier), attempt.hold.hold_nano_usd
        amount = held if attempt.price is None else cost(attempt.price, usage, factor or PERMILLE)
        if factor is None and (amount is None or held is None or amount <= held):
            self._assume(exchange, attempt, outcome, usage)
        else:
            self._settle(exchange, attempt, usage, _ESTIMATED, amount, outcome)

    def _settle(
        self,
        exchange: Exchange,
        attempt: Attempt,
        usage: Usage,
        certainty: Certainty,
        amount: NanoUsd | None,
        outcome: str,
    ) -> None:
        attempt.become(_SETTLED)
        now_s = self._clock.monotonic_s()
        took_s = now_s - attempt.started_s
        hold, first_chunk_us = attempt.hold, None
        if attempt.first_chunk_s is not None:
            first_chunk_us = int((attempt.first_chunk_s - attempt.started_s) * MICROSECONDS)
        entry = LedgerEntry(  # by place, as in `_entry`
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
            amount,
            hold.hold_nano_usd,
            outcome,
            attempt.status,
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
            usage.reasoning_output_tokens,
            int(took_s * MICROSECONDS),
            first_chunk_us,
            hold.client_request_id,
            attempt.upstream_request_id,
            hold.user,
        )
        if hold.cache is not None:
            force_setattr(entry, "cache", hold.cache)
        self._journal.settle(entry)
        attempt.usage, attempt.entry = usage, entry
        if attempt.lease is not None or attempt.admission is not FREE:
            self._correct(attempt, entry, usage, now_s)
        if marked := self._budgets.settle(entry.attempt_id, amount or 0):
            self._alerts.look(marked, entry.started_at_us)
        total, held = exchange.cost_nano_usd, hold.hold_nano_usd
        if amount is None or total is None or held is None or amount > held:
            self._settle_unusual(exchange, attempt.deployment, entry)
        else:
            exchange.cost_nano_usd = total + amount  # type: ignore[assignment]
        exchange.upstream_s += took_s
        event = AttemptSettled(entry)
        for tell in self._tell_settled:
            tell(event)

    def _settle_unusual(
        self, exchange: Exchange, deployment: Deployment, entry: LedgerEntry
    ) -> None:
        """What a request costs is not known once one attempt's is not; and more than was held is told."""
        amount, total, held = entry.cost_nano_usd, exchange.cost_nano_usd, entry.hold_nano_usd
        if amount is None or total is None:
            exchange.cost_nano_usd = None
        else:
            exchange.cost_nano_usd = total + amount  # type: ignore[assignment]
        if amount is not None and held is not None and amount > held:
            self._breach(exchange, deployment, entry)

    def _breach(self, exchange: Exchange, deployment: Deployment, entry: LedgerEntry) -> None:
        """A provider billed more than the worst case: it is told, and unless the request asked for what
        no budget pays for, the deployment's bound is not believed any more."""
        assert exchange.analysis is not None
        part = deployment.unpriced_part(exchange.analysis, exchange.request.body)
        if part is None:
            self._bounder.distrust(deployment)
        event = HoldExceeded(entry=entry, is_distrusted=part is None)
        for tell in self._tell_exceeded:
            tell(event)

    def record_free(
        self,
        exchange: Exchange,
        deployment: Deployment,
        outcome: str,
        saved: Saved,
        now_us: int,
    ) -> None:
        """Put an answer on the ledger for which nobody was asked: it cost nothing, and saved `saved`."""
        model = deployment.resolved_model
        entry = _entry(exchange, deployment, model, now_us, _EXACT, ZERO, outcome, saved)
        now_s = self._clock.monotonic_s()
        attempt = Attempt(entry.attempt_id, entry.number, deployment, entry, now_s)
        attempt.state, attempt.usage, attempt.entry = _SETTLED, NOTHING_USED, entry
        exchange.answered_by = attempt
        self._record(entry)

    def record_unasked(self, exchange: Exchange, outcome: str) -> None:
        """Put a request on the ledger that was let in, and came to nothing before anybody was asked for
        it: it joined another and left, or was told that one's failure; or nobody could be asked."""
        entry = _entry(exchange, _NOBODY, "", self._clock.wall_us(), _EXACT, ZERO, outcome)
        self._record(entry)

    def _record(self, entry: LedgerEntry) -> None:
        """Write an entry that is no attempt."""
        self._journal.settle(entry)
        event = AttemptSettled(entry)
        for tell in self._tell_settled:
            tell(event)

    def _correct(self, attempt: Attempt, entry: LedgerEntry, usage: Usage, now_s: float) -> None:
        """End what the attempt held of rates. What is assumed gives nothing back; an estimate is
        never less than what was used."""
        lease, admission = attempt.lease, attempt.admission
        is_counted = isinstance(admission, Admission) and admission.taken is not None
        if lease is not None or is_counted:
            used = usage.input_tokens + usage.output_tokens
            if entry.certainty is _ASSUMED:
                used = max(used, attempt.tokens_expected)
            if lease is not None:
                lease.end(used, int(now_s * MICROSECONDS))
            if isinstance(admission, Admission):
                self._room.correct(admission, used)


def amount_of(attempt: Attempt, usage: Usage) -> NanoUsd | None:
    """What an attempt cost whose usage its provider said; None when its price is not known."""
    price, deployment = attempt.price, attempt.deployment
    if price is None:
        return attempt.hold.hold_nano_usd
    if usage.service_tier is None:
        return cost(price, usage, deployment.multiplier_permille)
    factor = deployment.factor_served(usage.service_tier)
    if factor is None:
        # Served in a tier whose price nobody told us: the hold was made for that.
        return attempt.hold.hold_nano_usd
    return cost(price, usage, factor)


def _within(usage: Usage, tokens_max: int) -> Usage:
    """`usage`, without contested tokens that are more than the request can be: no vocabulary makes more of
    it than `tokens_max`."""
    asked = max(tokens_max, usage.input_tokens - usage.contested_input_tokens)
    if usage.input_tokens <= asked:
        return usage
    written = min(usage.cache_creation_input_tokens, asked - usage.cache_read_input_tokens)
    return replace(
        usage,
        input_tokens=asked,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=min(usage.cache_creation_1h_input_tokens, written),
    )


def saved_by_joining(leaders: LedgerEntry | None, waited_s: float) -> Saved:
    """What it saved to be given another's answer after so long a wait."""
    if leaders is None:
        return None, 0, 0
    latency_us = leaders.latency_us or 0
    left_us = latency_us - int(waited_s * MICROSECONDS)
    tokens = leaders.input_tokens + leaders.output_tokens
    return leaders.cost_nano_usd, tokens, max(left_us, 0)


def _entry(
    exchange: Exchange,
    deployment: Deployment,
    resolved_model: str,
    now_us: int,
    certainty: Certainty,
    amount: NanoUsd | None,
    outcome: str,
    saved: Saved | None = None,
) -> LedgerEntry:
    """What the ledger says of an attempt before it is sent, or of a request that needed none: it is the
    next of its exchange. Most are the first, and a number is written out only for the others."""
    principal, decision, request = exchange.principal, exchange.decision, exchange.request
    assert principal is not None and decision is not None
    number = len(exchange.attempts) + (2 if exchange.is_refresh else 1)
    # By place, in the order of the journal's format: by name, it would take six times as long; and above
    # thirty arguments Python packs them into a tuple first.
    entry = LedgerEntry(
        exchange.id + "-1" if number == 1 else f"{exchange.id}-{number}",
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
        None,
        0,
        0,
        0,
        0,
        0,
        None,
        None,
        exchange.client_request_id,
        None,
        exchange.user,
    )
    if exchange.cache_status != BYPASS:
        force_setattr(entry, "cache", exchange.counted_as)
        if saved is not None:
            nano_usd, tokens, time_us = saved
            force_setattr(entry, "saved_nano_usd", nano_usd)
            force_setattr(entry, "saved_tokens", tokens)
            force_setattr(entry, "saved_us", time_us)
    return entry
