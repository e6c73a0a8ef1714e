"""The auditor: books of its own, made from what it sees at the engine's borders.

It stands between the engine and the journal, is told of every request and of every connection's
close by the transport, and of what callers got by the callers. It knows nothing of how the engine
works. What it holds the engine to:

1. An exchange ends once, after all of its attempts are settled, and each that began has ended.
2. An attempt is held once, before it is sent; it is sent once; it is settled once.
3. No more is settled than was held, unless the provider's usage says so, be it not known at which of a
   request's service tiers; or it made more tokens than it was asked for: a *breach*, counted.
4. An exact amount is the provider's own bill; an estimate is no less, of input and of output; an
   assumed one is the whole hold.
5. The ledger's sum is the sum of settlements.
6. Once a caller has been given a chunk, no further attempt begins for it.
7. Callers get the chunks of one answer, in order; a stream that was cut never ends well.
8. At rest: no open hold, no open connection.
9. In each scope and period, what is settled and what is held are never more than the limit when
   something is held; the moment of admission decides the period. What is limited has a price.
10. In no window of any length are there more requests than the burst and the window's share; never
    do more run at once than may.
11. None is let in while those that came and went in a window, of any length up to then, have used more
    tokens than a minute's and the window's share. What they reserved is the engine's own guess, and
    what still runs is not known: so this is the least that it must have counted.
12. An attempt of which nothing was sent costs nothing, for certain. One that was sent, and was never
    answered, is not known for certain.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from windvane.core.budgets import BudgetTable, Period, Standing, bounds
from windvane.core.events import AttemptSettled, Event, ExchangeEnded
from windvane.core.ledger import LedgerEntry
from windvane.core.limits import RateTable, RateTerms
from windvane.core.principal import GLOBAL, Scope, scope
from windvane.core.usage import Certainty
from windvane.ports.observer import EVERYTHING, Observer
from windvane.ports.stores import Journal
from windvane.testing.upstream import Call

Place = tuple[Scope, Period, int]
"""An account: its scope, its kind of period, and when that began."""


def scopes_of(entry: LedgerEntry) -> list[Scope]:
    """Where an entry counts."""
    found = [GLOBAL, scope("key", entry.key_id), scope("model", entry.resolved_model)]
    found += [scope("team", entry.team)] if entry.team else []
    found += [scope("user", entry.user)] if entry.user else []
    return found + [scope("tag", tag) for tag in entry.tags]


def places_of(entry: LedgerEntry) -> Iterator[Place]:
    starts = [(period, bounds(period, entry.started_at_us)[0]) for period in Period]
    for name in scopes_of(entry):
        for period, start in starts:
            yield name, period, start


class Stay:
    """One that came in under a rate of tokens: when, and when it went. `turn` and `ended` tell what
    happened first of what happened in one moment."""

    def __init__(self, turn: int, at_s: float) -> None:
        self.turn = turn
        self.at_s = at_s
        self.used = 0
        self.ended: int | None = None


def _zero() -> float:
    return 0.0


class Auditor(Observer):
    """Implements `Journal`, over the one it is given, and `Observer`. `now_s` is monotonic."""

    hears = EVERYTHING

    def __init__(
        self,
        journal: Journal,
        *,
        budgets: BudgetTable | None = None,
        rates: RateTable | None = None,
        now_s: Callable[[], float] = _zero,
    ) -> None:
        self._journal = journal
        self.budgets = budgets or BudgetTable({})
        self._rates = rates or RateTable({})
        self._now_s = now_s
        self.spent: defaultdict[Place, int] = defaultdict(int)
        self.held: defaultdict[Place, int] = defaultdict(int)
        self._began: dict[str, tuple[int, float]] = {}
        self._turns = 0
        self._stays: dict[str, Stay] = {}
        self._guests: dict[Scope, list[Stay]] = {}
        self._admitted: dict[Scope, list[float]] = {}
        self._running: dict[Scope, set[str]] = {}
        self.problems: list[str] = []
        self.breaches = 0
        self.holds: dict[str, LedgerEntry] = {}
        self.settlements: dict[str, LedgerEntry] = {}
        self.sent: dict[str, Call] = {}
        self.told: set[str] = set()
        self.ended: dict[str, ExchangeEnded] = {}
        self._begun: dict[str, None] = {}
        self._committed: set[str] = set()

    def _check(self, is_right: bool, problem: str) -> None:
        if not is_right:
            self.problems.append(problem)

    # what the engine does

    def hold(self, entry: LedgerEntry) -> None:
        name = entry.attempt_id
        self._check(name not in self.holds, f"{name} is held twice")
        self._check(entry.certainty is Certainty.ASSUMED, f"{name}: a hold is {entry.certainty}")
        self._journal.hold(entry)
        self.holds[name] = entry
        self._check_budgets(entry)
        self._check_rates(entry)

    def _check_budgets(self, entry: LedgerEntry) -> None:
        """Rule 9, with books that are nothing but sums."""
        for place in places_of(entry):
            self.held[place] += entry.hold_nano_usd or 0
            terms = self.budgets.of(place[0])
            limit = None if terms is None else dict(terms.limits()).get(place[1])
            if limit is None:
                continue
            name, total = entry.attempt_id, self.spent[place] + self.held[place]
            self._check(entry.hold_nano_usd is not None, f"{name} has no price, and a limit")
            self._check(total <= limit, f"{name}: {total} of {limit} in {place}: over its limit")

    def _check_rates(self, entry: LedgerEntry) -> None:
        """Rule 10. A request counts from its beginning, in its scopes; an attempt in its model's."""
        model = scope("model", entry.resolved_model)
        stay = self._stays[entry.attempt_id] = Stay(self._turn(), self._now_s())
        self._admit(model, entry.attempt_id, stay)
        if entry.number == 1:
            stay = Stay(*self._began.get(entry.request_id, (0, 0.0)))
            self._stays[entry.request_id] = stay
            for name in {*scopes_of(entry)} - {model}:
                self._admit(name, entry.request_id, stay)

    def _turn(self) -> int:
        self._turns += 1
        return self._turns

    def _admit(self, name: Scope, who: str, stay: Stay) -> None:
        terms = self._rates.of(name)
        if terms is None:
            return
        running = self._running.setdefault(name, set())
        running.add(who)
        if terms.concurrency is not None:
            count = len(running)
            self._check(count <= terms.concurrency, f"{who}: {count} run at once in {name}")
        self._admitted.setdefault(name, []).append(stay.at_s)
        self._guests.setdefault(name, []).append(stay)

    def _check_windows(self, name: Scope, terms: RateTerms) -> None:
        """Every window that begins and ends with a request."""
        if terms.requests_per_minute is None:
            return
        burst = terms.burst_requests or terms.requests_per_minute
        times = sorted(self._admitted.get(name, ()))
        for last, until_s in enumerate(times):
            for first in range(last + 1):
                share = terms.requests_per_minute * (until_s - times[first]) / 60
                count = last - first + 1
                self._check(
                    count <= burst + share + 1e-6,
                    f"{name}: {count} requests in {until_s - times[first]:.3f} s: above its rate",
                )

    def _check_tokens(self, name: Scope, terms: RateTerms) -> None:
        """Rule 11: every window that begins with one's coming and ends with another's."""
        limit = terms.tokens_per_minute
        if limit is None:
            return
        stays = sorted(self._guests.get(name, ()), key=lambda stay: stay.turn)
        for place, last in enumerate(stays):
            used = 0
            for first in reversed(stays[:place]):
                if first.ended is not None and first.ended < last.turn:
                    used += first.used
                window_s = last.at_s - first.at_s
                self._check(
                    used <= limit * (1 + window_s / 60) + 1e-6,
                    f"{name}: {used} tokens in {window_s:.3f} s: above its rate",
                )

    def settle(self, entry: LedgerEntry) -> None:
        name = entry.attempt_id
        if not entry.is_attempt:
            self._check(entry.cost_nano_usd == 0, f"{name}: a {entry.outcome} cost something")
            self._check(name not in self.sent, f"{name}: a {entry.outcome}, and it was sent")
        else:
            self._check(name in self.holds, f"{name} is settled without a hold")
        self._check(name not in self.settlements, f"{name} is settled twice")
        self.settlements[name] = entry
        self._check_amount(entry)
        self._check_sent(entry)
        self._journal.settle(entry)
        for place in places_of(entry):
            self.held[place] -= entry.hold_nano_usd or 0
            self.spent[place] += entry.cost_nano_usd or 0
        self._running.get(scope("model", entry.resolved_model), set()).discard(name)
        tokens = entry.input_tokens + entry.output_tokens
        for who in (name, entry.request_id):
            if (stay := self._stays.get(who)) is not None:
                stay.used += tokens
        if (mine := self._stays.get(name)) is not None:
            mine.ended = self._turn()

    def _check_amount(self, entry: LedgerEntry) -> None:
        held, cost, name = entry.hold_nano_usd, entry.cost_nano_usd, entry.attempt_id
        if held is None or cost is None:
            self._check(
                cost is None or cost == 0, f"{name}: its price is unknown, and it cost {cost}"
            )
            return
        self._check(cost >= 0, f"{name} cost {cost}")
        if cost > held and self._may_be_breach(entry):
            self.breaches += 1
        else:
            self._check(cost <= held, f"{name}: {entry.certainty} {cost} is over its hold {held}")
        if entry.certainty is Certainty.ASSUMED:
            self._check(cost == held, f"{name}: assumed {cost}, not its hold {held}")

    def _may_be_breach(self, entry: LedgerEntry) -> bool:
        if entry.certainty is Certainty.ESTIMATED:
            call = self.sent.get(entry.attempt_id)
            return call is not None and (
                call.body.get("service_tier") is not None or call.is_beyond_its_limit
            )
        return entry.certainty is Certainty.EXACT

    def _check_sent(self, entry: LedgerEntry) -> None:
        """Rule 12."""
        name, is_exact = entry.attempt_id, entry.certainty is Certainty.EXACT
        call = self.sent.get(name)
        if call is None:
            is_nothing = is_exact and entry.cost_nano_usd == 0
            self._check(is_nothing, f"{name} was never sent, and is {entry.certainty}")
        elif call.status is None:
            self._check(not is_exact, f"{name} was sent and never answered, and is exact")

    def on(self, event: Event) -> None:
        match event:
            case AttemptSettled(entry=entry):
                name = entry.attempt_id
                self._check(name not in self.told, f"observers heard twice of {name}")
                self._check(self.settlements.get(name) is entry, f"{name}: heard, not settled")
                self.told.add(name)
            case ExchangeEnded(request_id=name):
                self._check(name not in self.ended, f"{name} ended twice")
                self._check(name in self._begun, f"{name} ended without a beginning")
                mine = [hold.attempt_id for hold in self.holds.values() if hold.request_id == name]
                open_holds = [each for each in mine if each not in self.settlements]
                self._check(not open_holds, f"{name} ended before {open_holds} were settled")
                self._check(event.attempts == len(mine), f"{name} says {event.attempts} attempts")
                self.ended[name] = event
                if name in self._stays:
                    self._stays[name].ended = self._turn()
                for running in self._running.values():
                    running.discard(name)

    # what the transport sees

    def on_sent(self, call: Call) -> None:
        name = call.attempt_id
        self._check(name in self.holds, f"{name} is sent without a hold")
        self._check(name not in self.sent, f"{name} is sent twice")
        self._check(name not in self.settlements, f"{name} is sent after it was settled")
        request_id = name.rpartition("-")[0]
        self._check(request_id not in self._committed, f"{name} is sent after the caller got words")
        self._check(request_id not in self.ended, f"{name} is sent after its exchange ended")
        self.sent[name] = call

    # what callers see

    def begun(self, request_id: str) -> None:
        self._begun[request_id] = None
        self._began[request_id] = self._turn(), self._now_s()

    def delivered(self, request_id: str) -> None:
        """The caller was given its first chunk."""
        self._committed.add(request_id)

    # at rest

    def check(self, ledger_nano_usd: int) -> None:
        """Raise AssertionError with everything that is wrong, once nothing runs any more."""
        for name in self._begun:
            self._check(name in self.ended, f"{name} never ended")
        for name in self.holds:
            self._check(name in self.settlements, f"the hold of {name} is still open")
        for name in self.settlements:
            self._check(name in self.told, f"observers never heard of {name}")
        for name, call in self.sent.items():
            self._check(call.is_closed, f"the connection of {name} is still open")
            if name in self.settlements:
                self._check_whole(self.settlements[name], call)
        for scope_name in self._admitted:
            if (terms := self._rates.of(scope_name)) is not None:
                self._check_windows(scope_name, terms)
                self._check_tokens(scope_name, terms)
        total = sum(entry.cost_nano_usd or 0 for entry in self.settlements.values())
        self._check(total == ledger_nano_usd, f"settled {total}, the ledger has {ledger_nano_usd}")
        assert not self.problems, "\n".join(self.problems)

    def check_standings(self, standings: Sequence[Standing]) -> None:
        """Raise AssertionError unless accounts at rest say what was settled in their periods."""
        for said in standings:
            true = self.spent[said.scope, said.period, said.starts_at_us]
            found = said.spent_nano_usd, said.held_nano_usd
            assert found == (true, 0), f"{said}: {true} were settled"

    def _check_whole(self, entry: LedgerEntry, call: Call) -> None:
        """An exact settlement is what the provider bills, token for token; an estimate is no less."""
        if call.billed is None:
            return
        said = (entry.input_tokens, entry.output_tokens)
        name = entry.attempt_id
        if entry.certainty is Certainty.EXACT:
            self._check(said == call.billed, f"{name}: exact {said}, billed {call.billed}")
        elif entry.certainty is Certainty.ESTIMATED:
            is_bound = said[0] >= call.billed[0] and said[1] >= call.billed[1]
            self._check(is_bound, f"{name}: estimated {said}, billed {call.billed}")
