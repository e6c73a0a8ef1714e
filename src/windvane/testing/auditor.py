"""The auditor: books of its own, made from what it sees at the engine's borders.

It stands between the engine and the journal, is told of every request and of every connection's
close by the transport, and of what callers got by the callers. It knows nothing of how the engine
works. What it holds the engine to:

1. An exchange ends once, after all of its attempts are settled, and each that began has ended.
2. An attempt is held once, before it is sent; it is sent once; it is settled once.
3. No more is settled than was held, unless the provider's exact usage says so: a *breach*, counted.
4. An exact amount is the provider's own bill; an assumed one is the whole hold; neither is below it.
5. The ledger's sum is the sum of settlements.
6. Once a caller has been given a chunk, no further attempt begins for it.
7. Callers get the chunks of one answer, in order; a stream that was cut never ends well.
8. At rest: no open hold, no open connection.
"""

from windvane.core.events import AttemptSettled, Event, ExchangeEnded
from windvane.core.ledger import LedgerEntry
from windvane.core.usage import Certainty
from windvane.ports.stores import Journal
from windvane.testing.upstream import Call


class Auditor:
    """Implements `Journal`, over the one it is given, and `Observer`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
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

    def settle(self, entry: LedgerEntry) -> None:
        name = entry.attempt_id
        self._check(name in self.holds, f"{name} is settled without a hold")
        self._check(name not in self.settlements, f"{name} is settled twice")
        self.settlements[name] = entry
        self._check_amount(entry)
        self._journal.settle(entry)

    def _check_amount(self, entry: LedgerEntry) -> None:
        held, cost, name = entry.hold_nano_usd, entry.cost_nano_usd, entry.attempt_id
        if held is None or cost is None:
            self._check(
                cost is None or cost == 0, f"{name}: its price is unknown, and it cost {cost}"
            )
            return
        self._check(cost >= 0, f"{name} cost {cost}")
        if cost > held and entry.certainty is Certainty.EXACT:
            self.breaches += 1
        else:
            self._check(cost <= held, f"{name}: {entry.certainty} {cost} is over its hold {held}")
        if entry.certainty is Certainty.ASSUMED:
            self._check(cost == held, f"{name}: assumed {cost}, not its hold {held}")

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
        total = sum(entry.cost_nano_usd or 0 for entry in self.settlements.values())
        self._check(total == ledger_nano_usd, f"settled {total}, the ledger has {ledger_nano_usd}")
        assert not self.problems, "\n".join(self.problems)

    def _check_whole(self, entry: LedgerEntry, call: Call) -> None:
        """An exact settlement is what the provider bills, token for token."""
        if call.billed is None:
            return
        said = (entry.input_tokens, entry.output_tokens)
        name = entry.attempt_id
        if entry.certainty is Certainty.EXACT:
            self._check(said == call.billed, f"{name}: exact {said}, billed {call.billed}")
        elif entry.certainty is Certainty.ESTIMATED:
            self._check(
                entry.output_tokens >= call.read_tokens,
                f"{name}: estimated {said[1]} output tokens, {call.read_tokens} were delivered",
            )
