"""The auditor catches what it is there for. A check that cannot fail proves nothing."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from windvane.config.schema import Config, RateConfig
from windvane.core.budgets import Account
from windvane.core.exchange import AttemptState
from windvane.core.ledger import LedgerEntry
from windvane.core.limits import RateLease, RateRefusal
from windvane.core.money import NanoUsd
from windvane.core.usage import Certainty
from windvane.engine.bounding import Bound, Bounder
from windvane.ports.stores import Journal
from windvane.ports.transport import UpstreamRequest
from windvane.stores.memory import MemoryBudgets, MemoryLimits
from windvane.testing import Stage, World, run_virtual
from windvane.testing.answers import Ends, Piece, completion, json_head
from windvane.testing.upstream import Call, ScriptedResponse, ScriptedTransport
from windvane.testing.world import three_providers


class Bent:
    """A journal that does not do as it is told, once in a while."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.settled = 0

    def hold(self, entry: LedgerEntry) -> None:
        self.journal.hold(entry)

    def settle(self, entry: LedgerEntry) -> None:
        self.settled += 1
        if self.settled == 7:
            self.bend(entry)
        else:
            self.journal.settle(entry)

    def bend(self, entry: LedgerEntry) -> None:
        self.journal.settle(entry)


class Drops(Bent):
    def bend(self, entry: LedgerEntry) -> None:
        pass


class Doubles(Bent):
    def bend(self, entry: LedgerEntry) -> None:
        self.journal.settle(entry)
        self.journal.settle(entry)


class Overcharges(Bent):
    def bend(self, entry: LedgerEntry) -> None:
        over = NanoUsd((entry.hold_nano_usd or 0) + 1)
        entry = msgspec.structs.replace(
            entry, certainty=Certainty.ASSUMED, cost_nano_usd=over, hold_nano_usd=NanoUsd(over - 1)
        )
        self.journal.settle(entry)


class Miscounts(Bent):
    """Every exact settlement says one token less than the provider billed."""

    def settle(self, entry: LedgerEntry) -> None:
        if entry.certainty is Certainty.EXACT and entry.output_tokens:
            entry = msgspec.structs.replace(entry, output_tokens=entry.output_tokens - 1)
        self.journal.settle(entry)


class ForgetsHolds(Bent):
    def hold(self, entry: LedgerEntry) -> None:
        pass

    def settle(self, entry: LedgerEntry) -> None:
        self.journal.settle(entry)


class HoldsTwice(Bent):
    def hold(self, entry: LedgerEntry) -> None:
        self.journal.hold(entry)
        self.journal.hold(entry)


class ForgivesWhatWasSent(Bent):
    """What was cut off costs nothing."""

    def settle(self, entry: LedgerEntry) -> None:
        if entry.certainty is Certainty.ASSUMED:
            entry = msgspec.structs.replace(
                entry, certainty=Certainty.EXACT, cost_nano_usd=NanoUsd(0)
            )
        self.journal.settle(entry)


class ChargesWhatWasNotSent(Bent):
    """What ends while a connection is being made costs the whole hold."""

    def settle(self, entry: LedgerEntry) -> None:
        if entry.outcome in ("cancelled", "connect_failed") and entry.cost_nano_usd == 0:
            entry = msgspec.structs.replace(
                entry, certainty=Certainty.ASSUMED, cost_nano_usd=entry.hold_nano_usd
            )
        self.journal.settle(entry)


@pytest.mark.parametrize(
    ("bent", "found"),
    [
        (ForgivesWhatWasSent, "was sent and never answered, and is exact"),
        (ChargesWhatWasNotSent, "was never sent, and is assumed"),
        (Drops, "is still open"),
        (Doubles, "is settled twice"),
        (Overcharges, "is over its hold"),
        (Miscounts, "billed"),
        (ForgetsHolds, "is sent without a hold"),
        (HoldsTwice, "is held twice"),
    ],
)
def test_an_engine_that_does_not_do_as_it_should(bent: type[Bent], found: str) -> None:
    with pytest.raises(AssertionError, match=found):
        World(1, before_audit=bent).run()


class TellsTooEarly(ScriptedTransport):
    """An attempt is sent before it is connected."""

    async def open(self, request: UpstreamRequest) -> ScriptedResponse:
        attempt, request.attempt = request.attempt, None
        assert attempt is not None
        attempt.become(AttemptState.SENT)
        return await super().open(request)


class TellsTooLate(ScriptedTransport):
    """An attempt is sent when its answer comes."""

    async def open(self, request: UpstreamRequest) -> ScriptedResponse:
        attempt, request.attempt = request.attempt, None
        assert attempt is not None
        response = await super().open(request)
        attempt.become(AttemptState.SENT)
        return response


@pytest.mark.parametrize(
    ("transport", "found"),
    [
        (TellsTooEarly, "was never sent, and is assumed"),
        (TellsTooLate, "was sent and never answered, and is exact"),
    ],
)
def test_a_transport_that_tells_at_another_moment(
    transport: type[ScriptedTransport], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windvane.testing.stage.ScriptedTransport", transport)
    with pytest.raises(AssertionError, match=found):
        for seed in range(12):  # not in each world does a caller leave at that moment
            World(seed).run()


class NeverRefuses(MemoryBudgets):
    """Whatever is asked for is granted."""

    def hold(self, attempt_id: str, scopes: Any, amount: int, at_us: int) -> Account | None:
        accounts = self.accounts(scopes, at_us)
        limits = [account.limit for account in accounts]
        for account in accounts:
            account.limit = None
        super().hold(attempt_id, scopes, amount, at_us)
        for account, limit in zip(accounts, limits, strict=True):
            account.limit = limit
        return None

    def accounts(self, scopes: Any, at_us: int) -> tuple[Account, ...]:
        found = super().accounts(scopes, at_us)
        for account in found:
            account.spent = min(account.spent, (account.limit or 0) // 2)
        return found


class ForgetsCosts(MemoryBudgets):
    """A hold that ends leaves nothing behind."""

    def settle(self, attempt_id: str, cost: int) -> tuple[Account, ...]:
        return super().settle(attempt_id, 0)


class KeepsHolds(MemoryBudgets):
    """A hold that ends is spent, and held for ever."""

    def settle(self, attempt_id: str, cost: int) -> tuple[Account, ...]:
        for account in (accounts := super().settle(attempt_id, cost)):
            account.held += 1
        return accounts


class LooksAtOneScope(MemoryBudgets):
    """Only the key's own budget is held."""

    def _find(self, scopes: Any, at_us: int) -> tuple[Account, ...]:
        return super()._find(tuple(scopes)[1:2], at_us)


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (NeverRefuses, "over its limit"),
        (ForgetsCosts, "over its limit"),
        (KeepsHolds, "were settled"),
        (LooksAtOneScope, "over its limit|were settled"),
    ],
)
def test_a_store_that_gives_too_much_or_keeps_no_books(
    broken: type[MemoryBudgets], found: str
) -> None:
    with pytest.raises(AssertionError, match=found):
        for seed in range(20):
            World(seed, exchanges=300, new_budgets=broken).run()


class HoldsTooLittle(Bounder):
    """A part of the worst case is held."""

    def bound(self, *given: Any) -> Bound:
        bound = super().bound(*given)
        part = None if bound.hold_nano_usd is None else NanoUsd(bound.hold_nano_usd // 20)
        return msgspec.structs.replace(bound, hold_nano_usd=part)


def test_an_engine_that_holds_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windvane.engine.settlement.Bounder", HoldsTooLittle)
    with pytest.raises(AssertionError, match="below what honest providers billed"):
        for seed in range(5):
            World(seed).run()


class NeverFull(MemoryLimits):
    """All come in."""

    def take_request(self, scopes: Any, now_us: int) -> RateLease:
        return RateLease()


class KeepsNoSlots(MemoryLimits):
    """Slots are given back at once."""

    def take_request(self, scopes: Any, now_us: int) -> RateLease | RateRefusal:
        lease = super().take_request(scopes, now_us)
        if isinstance(lease, RateLease):
            for slots in lease.slots:
                slots.running -= 1
            lease.slots = ()
        return lease


class GivesBackTwice(MemoryLimits):
    """Each request that comes in pays for the next."""

    def take_request(self, scopes: Any, now_us: int) -> RateLease | RateRefusal:
        lease = super().take_request(scopes, now_us)
        if isinstance(lease, RateLease):
            for bucket, units, mark, _ in lease.requests:
                bucket.correct(units, 0, mark, now_us)
        return lease


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (NeverFull, "above its rate|run at once"),
        (KeepsNoSlots, "run at once"),
        (GivesBackTwice, "above its rate"),
    ],
)
def test_limits_that_let_too_many_in(broken: type[MemoryLimits], found: str) -> None:
    with pytest.raises(AssertionError, match=found):
        for seed in range(10):
            World(seed, exchanges=500, new_limits=broken).run()


class TakesNoTokens(MemoryLimits):
    """However many are asked for."""

    def take_tokens(self, *_: Any) -> RateRefusal | None:
        return None


class GivesTokensBackAtOnce(MemoryLimits):
    """What is reserved is free again before it is used."""

    def take_tokens(self, scopes: Any, tokens: int, lease: RateLease, now_us: int) -> Any:
        refusal = super().take_tokens(scopes, tokens, lease, now_us)
        for bucket, units, mark, _ in lease.tokens or ():
            bucket.correct(units, 0, mark, now_us)
        lease.tokens = ()
        return refusal


class ForgetsWhatLasts(MemoryLimits):
    """Each request's tokens are its own minute's alone."""

    def take_tokens(self, scopes: Any, tokens: int, lease: RateLease, now_us: int) -> Any:
        self._tokens.clear()
        self._found.clear()
        return super().take_tokens(scopes, tokens, lease, now_us)


def few_tokens() -> Config:
    rates = {
        "team:red": RateConfig(tokens_per_minute=300),
        "model:mistral-large-2512": RateConfig(tokens_per_minute=200),
    }
    return msgspec.structs.replace(three_providers(), rates=rates)


@pytest.mark.parametrize("broken", [TakesNoTokens, GivesTokensBackAtOnce, ForgetsWhatLasts])
def test_limits_that_let_too_many_tokens_through(broken: type[MemoryLimits]) -> None:
    with pytest.raises(AssertionError, match=r"tokens in .* above its rate"):
        for seed in range(10):
            World(seed, exchanges=300, config=few_tokens(), new_limits=broken).run()


@pytest.mark.parametrize("number", range(3))
def test_few_tokens_are_kept_to(number: int) -> None:
    world = World(number, exchanges=300, config=few_tokens())
    world.run()
    assert world.counts["ended 429 rate_limited"] > 10


class _Unsound(World):
    """Its providers' answers were never whole, whatever the engine was made to believe."""

    def _sent(self, call: Call) -> None:
        super()._sent(call)
        told = self._told[call.attempt_id]
        self._told[call.attempt_id] = msgspec.structs.replace(told, is_sound=False)


class _Otherwise(World):
    """Its providers said something else than the callers are given."""

    def _sent(self, call: Call) -> None:
        super()._sent(call)
        told = self._told[call.attempt_id]
        self._told[call.attempt_id] = msgspec.structs.replace(told, text="something else")


@pytest.mark.parametrize(("world", "found"), [(_Unsound, "ended well"), (_Otherwise, "given")])
def test_a_caller_who_is_told_a_lie(world: type[World], found: str) -> None:
    with pytest.raises(AssertionError, match=found):
        world(1).run()


def test_a_ledger_that_loses_a_settlement() -> None:
    with pytest.raises(AssertionError, match="the ledger has"):
        World(1, after_audit=Drops).run()


def answered(call: Call) -> None:
    call.input_tokens = 9
    call.play([(1.0, json_head()), (0.0, Piece(data=completion("hi", (9, 0)))), (0.0, Ends())])


CRIMES: dict[str, tuple[Callable[[Stage, str], None], str]] = {
    "an exchange that ends twice": (
        lambda stage, name: stage.auditor.on(stage.auditor.ended[name]),
        "ended twice",
    ),
    "an attempt after the caller got words": (
        lambda stage, name: (
            stage.auditor.delivered(name),
            stage.auditor.on_sent(stage.transport.calls[0]),
        )[0],
        "after the caller got words",
    ),
    "an attempt sent twice": (
        lambda stage, _: stage.auditor.on_sent(stage.transport.calls[0]),
        "is sent twice",
    ),
    "an exchange that never ends": (
        lambda stage, _: stage.auditor.begun("req_other"),
        "never ended",
    ),
    "a connection left open": (
        lambda stage, _: setattr(stage.transport.calls[0], "is_closed", False),
        "is still open",
    ),
}


@pytest.mark.parametrize("crime", CRIMES)
def test_a_crime_is_found(crime: str) -> None:
    commit, found = CRIMES[crime]

    async def main() -> None:
        stage = Stage(on_sent=answered)
        exchange = stage.accept("small", "Hello?")
        await stage.engine.handle(exchange)
        commit(stage, exchange.id)
        await stage.close()

    with pytest.raises(AssertionError, match=found):
        run_virtual(main())


def test_a_breach_is_counted_and_is_no_mistake_of_ours() -> None:
    """A provider that counts more than was asked for is believed: the money is gone."""

    def dear(call: Call) -> None:
        call.input_tokens = 9
        body = Piece(data=completion("hi", (9, 900_000)), output_tokens=900_000)
        call.play([(0.0, json_head()), (0.0, body), (0.0, Ends())])

    async def main() -> int:
        stage = Stage(on_sent=dear)
        await stage.engine.handle(stage.accept("small", "Hello?", max_tokens=10))
        await stage.close()
        return stage.auditor.breaches

    assert run_virtual(main()) == 1


def test_a_task_left_behind_is_found() -> None:
    import asyncio

    async def main() -> None:
        stage = Stage()
        left = asyncio.get_running_loop().create_task(asyncio.sleep(1))
        try:
            await stage.close()
        finally:
            await left

    with pytest.raises(AssertionError, match="tasks are left"):
        run_virtual(main())
