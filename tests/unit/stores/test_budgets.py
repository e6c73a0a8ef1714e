"""Budgets are never over: every small case is walked, and many large ones at random.

`Bench` drives a store beside books of its own, which are made of nothing but facts: who held what and
when, and what it cost. After each step both must say the same, and no grant may pass a limit. The
stores at the end do what others have been seen to do; the same bench must catch each.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from multiprocessing import get_context
from random import Random
from time import perf_counter
from typing import Any

import pytest

from windvane.core.budgets import (
    US_PER_DAY,
    Account,
    BudgetTable,
    BudgetTerms,
    Period,
    bounds,
    hold,
    settle,
    tightest,
)
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL, Scope
from windvane.stores.memory import MemoryBudgets
from windvane.stores.memory import budgets as memory_budgets

START_US = 20_759 * US_PER_DAY + US_PER_DAY // 2
"""A day in the middle of a month."""
KEY = Scope("key:a")
TEAM = Scope("team:t")
USER = Scope("user:u")
STEPS = 300_000
STEPS_SLOW = int(os.environ.get("WINDVANE_BUDGET_STEPS", "10000000"))

Place = tuple[Scope, Period]
Store = Callable[..., MemoryBudgets]


def terms(**limits: int) -> BudgetTerms:
    return BudgetTerms(**{name: NanoUsd(limit) for name, limit in limits.items()})


@cache
def starts_of(day: int) -> dict[Period, int]:
    """When the periods of a day began."""
    return {period: bounds(period, day * US_PER_DAY)[0] for period in Period}


@lru_cache(maxsize=256)
def places_of(scopes: tuple[Scope, ...], day: int) -> list[tuple[Scope, Period, int]]:
    """Where what is held and spent on a day is counted."""
    return [(scope, period, start) for scope in scopes for period, start in starts_of(day).items()]


class Books:
    """What was held and spent, by scope and period of admission: facts alone."""

    def __init__(self) -> None:
        self.spent: defaultdict[tuple[Scope, Period, int], int] = defaultdict(int)
        self.held: defaultdict[tuple[Scope, Period, int], int] = defaultdict(int)

    def places(self, scopes: tuple[Scope, ...], at_us: int) -> list[tuple[Scope, Period, int]]:
        return places_of(scopes, at_us // US_PER_DAY)

    def total(self, place: tuple[Scope, Period, int]) -> int:
        return self.spent[place] + self.held[place]

    def spent_since(self, scope: Scope, period: Period, since_us: int) -> int:
        return sum(
            amount
            for (name, kind, start), amount in self.spent.items()
            if name == scope and kind is period and start >= since_us
        )


class Bench:
    """One store and its books. Every method is a step, and leaves both compared."""

    def __init__(self, make: Store, table: dict[Scope, BudgetTerms], spent: int = 0) -> None:
        self.make = make
        self.now_us = self.latest_us = START_US
        self.lowest_us = bounds(Period.DAILY, START_US)[0]
        self.books = Books()
        self.open: dict[str, tuple[tuple[Scope, ...], int, int]] = {}
        self.done: list[str] = []
        for place in self.books.places(tuple(table), START_US):
            self.books.spent[place] += spent
        self.store: MemoryBudgets
        self.restart(table)

    def restart(self, table: dict[Scope, BudgetTerms] | None = None) -> None:
        """The process died: what was held is assumed, and all is read from the ledger anew."""
        for attempt, (scopes, amount, at_us) in self.open.items():
            self._pay(scopes, at_us, amount, amount)
            self.done.append(attempt)
        self.open.clear()
        terms = BudgetTable(table) if table is not None else self.store.table
        opening = defaultdict[tuple[Period, int], dict[Scope, int]](dict)
        last_us = 0
        for (scope, period, start_us), spent in self.books.spent.items():
            if spent:
                opening[period, start_us][scope] = spent
                last_us = max(last_us, start_us)
        known_since_us = min(self.now_us, last_us or self.now_us)
        self.store = self.make(terms, opening, known_since_us)
        self.lowest_us = bounds(Period.DAILY, known_since_us)[0]

    def _pay(self, scopes: tuple[Scope, ...], at_us: int, held: int, cost: int) -> None:
        for place in self.books.places(scopes, at_us):
            self.books.held[place] -= held
            self.books.spent[place] += cost

    def hold(self, attempt: str, scopes: tuple[Scope, ...], amount: int) -> bool:
        at_us = self.now_us
        places = self.books.places(scopes, at_us)
        starts = starts_of(at_us // US_PER_DAY)
        fits = True
        for scope in scopes:
            said = self.store.table.of(scope)
            for period, limit in () if said is None else said.limits():
                total = self.books.total((scope, period, starts[period]))
                fits = fits and total + amount <= limit
        refusing = self.store.hold(attempt, scopes, amount, at_us)
        assert (refusing is None) == fits, f"{attempt}: {amount} fits: {fits}, but {refusing}"
        if fits:
            self.open[attempt] = scopes, amount, at_us
            for place in places:
                self.books.held[place] += amount
            for account in self.store.accounts(scopes, at_us):
                assert account.limit is None or account.spent + account.held <= account.limit
        else:
            assert refusing is not None and refusing.limit is not None
            assert refusing.spent + refusing.held + amount > refusing.limit
            self.done.append(attempt)
        self.compare(scopes, at_us)
        return fits

    def settle(self, attempt: str, cost: int) -> None:
        scopes, amount, at_us = self.open.pop(attempt)
        self.store.settle(attempt, cost)
        self._pay(scopes, at_us, amount, cost)
        self.done.append(attempt)
        if at_us // US_PER_DAY != self.now_us // US_PER_DAY:
            self.compare(scopes, at_us)
        self.compare(scopes, self.now_us)

    def settle_again(self, attempt: str, scopes: tuple[Scope, ...], cost: int) -> None:
        """Of one that was settled, or refused, long ago."""
        assert not self.store.settle(attempt, cost)
        self.compare(scopes, self.now_us)

    def turn(self, by_us: int) -> None:
        """The clock goes on, or is set back: by no more than a day in all."""
        self.now_us = max(self.now_us + by_us, self.lowest_us)
        self.latest_us = max(self.latest_us, self.now_us)
        self.lowest_us = max(self.lowest_us, self.latest_us - US_PER_DAY)

    def change(self, scope: Scope, said: BudgetTerms | None) -> None:
        """As the desk of keys does: first counted, with what the ledger has, then limited."""
        for period, _ in [] if said is None else said.limits():
            account = self.store.watch(scope, period, self.now_us)
            if account is not None:
                since_us = bounds(period, self.now_us)[0]
                account.spent += self.books.spent_since(scope, period, since_us)
            # What comes before is not known, and counts as of then.
            self.lowest_us = max(self.lowest_us, bounds(Period.DAILY, self.now_us)[0])
        self.store.change(self.store.table.replaced({scope: said}))
        self.compare((scope,), self.now_us)

    def compare(self, scopes: tuple[Scope, ...], at_us: int) -> None:
        """The accounts of a moment say what the books say, unless it is too long ago."""
        if at_us < self.lowest_us:
            return
        starts = starts_of(at_us // US_PER_DAY)
        accounts = self.store.accounts(scopes, at_us)
        most_used_permille = -1
        for account in accounts:
            place = account.scope, account.period, starts[account.period]
            spent, held, limit = account.spent, account.held, account.limit
            true = self.books.spent[place], self.books.held[place]
            assert (spent, held) == true, f"{account}: spent and held are {true}"
            assert held >= 0 and spent >= 0
            if limit is not None:
                used_permille = (spent + held) * 1000 // limit if limit else 1000
                most_used_permille = max(most_used_permille, used_permille)
        for permille in (500, 501, 800, 1000):
            used = self.store.is_used(scopes, at_us, permille)
            assert used == (most_used_permille >= permille), f"{permille} of {accounts}"
        self.compare_room(scopes, at_us, accounts)

    def compare_room(
        self, scopes: tuple[Scope, ...], at_us: int, accounts: Sequence[Account]
    ) -> None:
        """What is said without looking at each account is what a look at each would say."""
        account, room = tightest(accounts), self.store.room(scopes, at_us)
        if account is None or room is None:
            assert account is None and room is None
            return
        assert room <= account.free, f"{room} is said to be free in {account}"
        if account.free % 3 == 0:
            # Not each time: it is looked up then, and what was known before is not relied on.
            assert self.store.room(scopes, at_us, account.free) == account.free


ATTEMPTS: dict[str, tuple[Scope, ...]] = {
    "one": (GLOBAL,),
    "two": (GLOBAL, KEY),
    "three": (KEY, GLOBAL),
}
"""The attempts of the small world: some scopes shared, one pair in both orders."""
SMALL = {GLOBAL: terms(daily=3, total=5), KEY: terms(daily=2)}
CHANGES: list[tuple[Scope, BudgetTerms | None]] = [
    (GLOBAL, terms(daily=1)),
    (GLOBAL, None),
    (KEY, terms(monthly=3)),
    (KEY, None),
]

Step = tuple[Any, ...]


def steps_from(bench: Bench, used: int) -> Iterator[Step]:
    """All that could happen next."""
    for attempt, scopes in list(ATTEMPTS.items())[:used]:
        if attempt in bench.open:
            amount = bench.open[attempt][1]
            for cost in range(amount + 1):
                yield "settle", attempt, cost
        elif attempt in bench.done:
            yield "settle_again", attempt, scopes, 1
        else:
            for amount in range(4):
                yield "hold", attempt, scopes, amount
    yield "turn", US_PER_DAY
    yield "turn", -US_PER_DAY
    if bench.open:
        yield ("restart",)


def state_of(bench: Bench) -> object:
    """Two walks that end in the same state have the same future."""
    store = bench.store
    accounts = tuple(
        (place, tuple((a.starts_at_us, a.limit, a.spent, a.held) for a in kept))
        for place, kept in sorted(store._accounts.items())
    )
    table = tuple(sorted((scope, repr(said)) for scope, said in store.table.terms.items()))
    return (
        bench.now_us,
        bench.lowest_us,
        table,
        accounts,
        tuple(sorted(bench.open.items())),
        tuple(sorted(set(bench.done))),
        tuple(sorted((place, sum_) for place, sum_ in bench.books.spent.items() if sum_)),
    )


def walk_all(make: Store, depth: int, *, spent: int = 0, changes: bool = False) -> int:
    """Every order of steps from the small world, up to `depth`; how many were made."""

    def replay(path: tuple[Step, ...]) -> Bench:
        bench = Bench(make, SMALL, spent)
        try:
            for name, *given in path:
                getattr(bench, name)(*given)
        except AssertionError as error:
            raise AssertionError(f"after {path}: {error}") from error
        return bench

    made = 0
    seen: set[object] = set()
    edge: list[tuple[Step, ...]] = [()]
    for _ in range(depth):
        further = []
        for path in edge:
            here = replay(path)
            steps = list(steps_from(here, 2 if changes else 3))
            if changes and here.now_us == here.latest_us:
                steps += [("change", *change) for change in CHANGES]
            for step in steps:
                bench = replay((*path, step))
                made += len(path) + 1
                if (state := state_of(bench)) not in seen:
                    seen.add(state)
                    further.append((*path, step))
        edge = further
    return made


@pytest.mark.parametrize("spent", [0, 2])
def test_every_order_of_holds_settlements_and_days(spent: int) -> None:
    made = walk_all(MemoryBudgets, 4, spent=spent)
    assert made > 10_000


def test_every_order_with_budgets_that_change() -> None:
    assert walk_all(MemoryBudgets, 4, changes=True) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "changes"), [(6, False), (5, True)])
def test_every_longer_order(depth: int, changes: bool) -> None:
    began = perf_counter()
    made = walk_all(MemoryBudgets, depth, changes=changes, spent=1)
    print(f"\n{made} steps, {made / (perf_counter() - began):.0f} a second")
    assert made > 150_000


SCOPES = (GLOBAL, KEY, Scope("key:b"), TEAM, USER, Scope("user:v"), Scope("tag:x"))
MIXES = [(GLOBAL, *Random(n).sample(SCOPES[1:], n % 4)) for n in range(16)]


class Walk:
    """Random steps: amounts near what is left, clocks that jump, budgets that come and go."""

    def __init__(self, make: Store, seed: int) -> None:
        self.rng = Random(seed)
        self.bench = Bench(
            make,
            {
                GLOBAL: terms(daily=5_000, monthly=60_000),
                KEY: terms(daily=900, total=200_000),
                TEAM: terms(monthly=9_000),
                Scope("user:*"): terms(daily=400),
            },
        )
        self.number = 0
        self.counts: Counter[str] = Counter()

    def go(self, steps: int) -> Counter[str]:
        table = (self.hold, self.settle, self.settle_again, self.turn, self.change, self.restart)
        weights = (500, 480, 10, 10, 2, 0.2)
        for _ in range(steps // 1_000 + 1):
            for step in self.rng.choices(table, weights, k=1_000):
                step()
            if len(self.bench.done) > 1_000:
                del self.bench.done[:-100]
        return self.counts

    def hold(self) -> None:
        rng, bench = self.rng, self.bench
        self.number += 1
        scopes = rng.choice(MIXES)
        amount = rng.choice((0, 1, 7, 100, 399, 400, 401, rng.randrange(1_000)))
        if rng.random() < 0.2:
            # Exactly what is left, or one more.
            lefts = [a.left for a in bench.store.accounts(scopes, bench.now_us) if a.left]
            amount = min(lefts, default=0) + rng.randrange(2)
        was_granted = bench.hold(f"a{self.number}", scopes, amount)
        self.counts["granted" if was_granted else "refused"] += 1

    def settle(self) -> None:
        rng, bench = self.rng, self.bench
        if len(bench.open) <= rng.randrange(40):
            return
        attempt = next(iter(bench.open)) if rng.random() < 0.5 else rng.choice(list(bench.open))
        amount = bench.open[attempt][1]
        bench.settle(attempt, rng.choice((0, amount, rng.randint(0, amount))))
        self.counts["settled"] += 1

    def settle_again(self) -> None:
        if self.bench.done:
            self.bench.settle_again(self.rng.choice(self.bench.done), SCOPES, 5)

    def turn(self) -> None:
        hour = US_PER_DAY // 24
        by = self.rng.choice((hour, hour, -hour, 5 * hour, -5 * hour, US_PER_DAY, 9 * US_PER_DAY))
        self.bench.turn(by)

    def change(self) -> None:
        rng, bench = self.rng, self.bench
        bench.now_us = bench.latest_us
        scope = rng.choice((KEY, TEAM, Scope("key:b"), Scope("tag:x")))
        options = (
            terms(daily=900, total=bench.now_us // US_PER_DAY * 10),
            terms(daily=300),
            terms(monthly=5_000, daily=500),
            None,
        )
        bench.change(scope, rng.choice(options))
        self.counts["changed"] += 1

    def restart(self) -> None:
        self.bench.restart()
        self.counts["restarted"] += 1


def test_a_long_walk() -> None:
    counts = Walk(MemoryBudgets, 1).go(STEPS)
    assert min(counts["granted"], counts["refused"], counts["settled"]) > STEPS // 20, counts
    assert counts["changed"] > 100, counts


def walk(seed: int) -> Counter[str]:
    return Walk(MemoryBudgets, seed).go(STEPS_SLOW // 10)


@pytest.mark.slow
def test_a_very_long_walk() -> None:
    began = perf_counter()
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        for counts in processes.map(walk, range(100, 110)):
            total += counts
    print(f"\n{dict(total)}: {STEPS_SLOW / (perf_counter() - began):.0f} steps a second")
    assert total["restarted"] > 10, total


# What must be caught.


class ChecksThenActs(MemoryBudgets):
    """Two callers look at the same moment, and act one after the other."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._seen: dict[tuple[Scope, ...], int | None] = {}

    def hold(self, attempt_id: str, scopes: Any, amount: int, at_us: int) -> Account | None:
        accounts = self.accounts(scopes, at_us)
        lefts = [account.left for account in accounts if account.left is not None]
        left = min(lefts, default=None)
        seen = self._seen.pop(tuple(scopes), left)
        self._seen[tuple(scopes)] = left
        if seen is not None and amount > seen:
            return min(accounts, key=lambda account: account.left or 0)
        limits = [account.limit for account in accounts]
        for account in accounts:
            account.limit = None
        refusing = super().hold(attempt_id, scopes, amount, at_us)
        for account, limit in zip(accounts, limits, strict=True):
            account.limit = limit
        return refusing


class FreesOnExpiry(MemoryBudgets):
    """A hold that is a day old is taken for dead."""

    def accounts(self, scopes: Any, at_us: int) -> tuple[Account, ...]:
        for attempt_id, (purse, amount, since_us) in self._holds.items():
            if amount and at_us - since_us >= US_PER_DAY:
                settle(purse.accounts, amount, 0)
                self._holds[attempt_id] = purse, 0, since_us
        return super().accounts(scopes, at_us)


class SettlesTwice(MemoryBudgets):
    """It keeps no note of what is settled."""

    def settle(self, attempt_id: str, cost: int) -> tuple[Account, ...]:
        if attempt_id not in self._holds:
            return ()
        purse, amount, since_us = self._holds[attempt_id]
        settle(purse.accounts, amount, cost)
        self._holds[attempt_id] = purse, 0, since_us
        return purse.accounts


class HoldsInPart(MemoryBudgets):
    """One account after another, up to the first that refuses."""

    def hold(self, attempt_id: str, scopes: Any, amount: int, at_us: int) -> Account | None:
        refusing = super().hold(attempt_id, scopes, amount, at_us)
        if refusing is not None:
            for account in self.accounts(scopes, at_us):
                if account is refusing:
                    break
                account.held += amount
        return refusing


class PaysWhenSettled(MemoryBudgets):
    """The period is that of the settlement, not that of the admission."""

    now_us = START_US

    def accounts(self, scopes: Any, at_us: int) -> tuple[Account, ...]:
        self.now_us = at_us
        return super().accounts(scopes, at_us)

    def settle(self, attempt_id: str, cost: int) -> tuple[Account, ...]:
        if attempt_id not in self._holds:
            return ()
        purse, amount, _ = self._holds.pop(attempt_id)
        settle(purse.accounts, amount, 0)
        settle(self.accounts(purse.scopes, self.now_us), 0, cost)
        return purse.accounts


class ForgetsTheDayBefore(MemoryBudgets):
    """A clock that is set back over midnight finds an empty account."""

    def _keep(self, account: Account, since_us: int) -> None:
        self._accounts.pop((account.scope, account.period), None)
        super()._keep(account, 0)


class MissesWhatIsInFlight(MemoryBudgets):
    """A budget that is set while requests run begins without them."""

    def watch(self, scope: Scope, period: Period, at_us: int) -> Account | None:
        holds, self._holds = self._holds, {}
        account = super().watch(scope, period, at_us)
        self._holds = holds
        return account


class KnowsItsOwnDayAlone(MemoryBudgets):
    """A start with the clock behind forgets what the ledger has of later days."""

    def __init__(self, table: BudgetTable, opening: Any, known_since_us: int) -> None:
        starts = {bounds(period, known_since_us)[0] for period in Period}
        known = {place: spent for place, spent in opening.items() if place[1] in starts}
        super().__init__(table, known, known_since_us)


BROKEN = [
    ChecksThenActs,
    FreesOnExpiry,
    SettlesTwice,
    HoldsInPart,
    PaysWhenSettled,
    ForgetsTheDayBefore,
    MissesWhatIsInFlight,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_walk_through_everything_catches(broken: Store) -> None:
    with pytest.raises(AssertionError):
        walk_all(broken, 4, spent=1)
        walk_all(broken, 4, changes=True)


@pytest.mark.parametrize("broken", [*BROKEN, KnowsItsOwnDayAlone])
def test_the_long_walk_catches(broken: Store) -> None:
    with pytest.raises(AssertionError):
        Walk(broken, 1).go(STEPS)


class Eager:
    """What a store is that changes each account at once."""

    def __init__(self, limits: dict[Scope, BudgetTerms]) -> None:
        self.accounts = {
            scope: Account(scope, Period.TOTAL, START_US, said.total)
            for scope, said in limits.items()
        }
        self.holds: dict[str, tuple[list[Account], int]] = {}

    def of(self, scopes: tuple[Scope, ...]) -> list[Account]:
        return [self.accounts[scope] for scope in scopes if scope in self.accounts]

    def hold(self, attempt: str, scopes: tuple[Scope, ...], amount: int) -> Account | None:
        accounts = self.of(scopes)
        refusing = hold(accounts, amount)
        if refusing is None:
            self.holds[attempt] = accounts, amount
        return refusing

    def settle(self, attempt: str, cost: int) -> list[Account]:
        return settle(*self.holds.pop(attempt), cost)


def _marked(accounts: Sequence[Account], step: int) -> list[tuple[Scope, int]]:
    """Which have come to their mark, and with how much; each is given another."""
    for account in accounts:
        account.mark = account.spent + step
    return [(account.scope, account.spent) for account in accounts]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_written_up_is_refused_and_told_of_as_if_it_were(seed: int) -> None:
    """Nobody looks at an account for hundreds of steps, in which limits change now and then."""
    rng = Random(seed)
    names = SCOPES[:5]
    limits = {scope: terms(total=rng.randrange(2_000)) for scope in names}
    store, eager = MemoryBudgets(BudgetTable(limits), {}, START_US), Eager(limits)
    for number in range(1_500):
        step = rng.random()
        if step < 0.5:
            scopes, amount = rng.choice(MIXES), rng.randrange(40)
            # As the engine asks before it holds.
            room = store.room(scopes, START_US, amount)
            free = min(account.free for account in eager.of(scopes))
            assert room is not None and min(amount, free) <= room <= free
            refusing = store.hold(f"{number}", scopes, amount, START_US)
            expected = eager.hold(f"{number}", scopes, amount)
            assert (refusing and refusing.scope) == (expected and expected.scope)
        elif step < 0.96 and eager.holds:
            attempt = rng.choice(list(eager.holds))
            cost, to_next = rng.randrange(eager.holds[attempt][1] + 2), rng.randrange(1, 2_000)
            marked = _marked(store.settle(attempt, cost), to_next)
            assert marked == _marked(eager.settle(attempt, cost), to_next)
        else:
            limits[rng.choice(names)] = terms(total=rng.randrange(4_000))
            store.change(BudgetTable(limits))
            for account in eager.accounts.values():
                account.set_limit(limits[account.scope].total)
    for account in store.accounts(names, START_US):
        same = eager.accounts[account.scope]
        assert (account.spent, account.held) == (same.spent, same.held)


# Single cases, as sentences.


def at(day: int, hour: int = 12) -> int:
    return (20_759 + day) * US_PER_DAY + hour * US_PER_DAY // 24


def opened(**limits: int) -> MemoryBudgets:
    return MemoryBudgets(BudgetTable({KEY: terms(**limits)}), {}, at(0))


def test_what_is_held_in_one_scope_is_not_held_when_another_refuses() -> None:
    store = MemoryBudgets(BudgetTable({KEY: terms(daily=10), TEAM: terms(daily=4)}), {}, at(0))
    assert store.hold("a", (KEY, TEAM), 3, at(0)) is None
    refusing = store.hold("b", (KEY, TEAM), 2, at(0))
    assert refusing is not None and refusing.scope == TEAM
    assert [account.held for account in store.accounts((KEY, TEAM), at(0))] == [3, 3]


def test_an_attempt_of_yesterday_is_paid_from_yesterday() -> None:
    store = opened(daily=10)
    store.hold("late", (KEY,), 7, at(0, 23))
    assert store.hold("early", (KEY,), 10, at(1, 0)) is None
    (paid_from,) = store.settle("late", 6)
    assert (paid_from.starts_at_us, paid_from.spent) == (at(0, 0), 6)


def test_a_clock_set_back_over_midnight_finds_the_old_day_and_then_the_new_one_again() -> None:
    store = opened(daily=10)
    for moment in (at(0, 23), at(1, 0)):
        store.hold(f"{moment}", (KEY,), 8, moment)
    assert store.hold("back", (KEY,), 3, at(0, 23)) is not None
    assert store.hold("back", (KEY,), 2, at(0, 23)) is None
    assert store.hold("again", (KEY,), 3, at(1, 0)) is not None
    assert store.hold("again", (KEY,), 2, at(1, 0)) is None


def test_a_clock_set_far_back_finds_no_money_that_nobody_knows_of() -> None:
    store = opened(daily=10)
    for day in range(1, 9):
        store.hold(f"{day}", (KEY,), 10, at(day))
    assert store.hold("back", (KEY,), 1, at(2)) is not None
    assert store.hold("back", (KEY,), 1, at(-5)) is not None


YEARS = 1_220
"""Days, to a date that a broken clock may show."""


def spent_in_full(store: MemoryBudgets, day: int) -> int:
    """How much could be held on a day of a budget of ten."""
    granted = 0
    while store.hold(f"{day} {store.open_holds}", (KEY,), 1, at(day)) is None:
        granted += 1
    return granted


@pytest.mark.parametrize(
    "there",
    [
        (YEARS,),
        (YEARS, YEARS + 1),
        (YEARS, YEARS * 2),
        (-YEARS,),
        (-YEARS, 1 - YEARS),
        (-YEARS, YEARS),
        (YEARS, -YEARS),
        (2,),
        (-2,),
        (2, 3),
    ],
)
@pytest.mark.parametrize("is_spent_there", [False, True])
def test_a_clock_that_jumps_and_returns_finds_what_it_left(
    there: tuple[int, ...], is_spent_there: bool
) -> None:
    store = opened(daily=10, monthly=10_000)
    assert spent_in_full(store, 0) == 10
    for day in there:
        if is_spent_there:
            spent_in_full(store, day)
        else:
            store.room((KEY,), at(day))
    assert spent_in_full(store, 0) == 0
    (account, _) = store.accounts((KEY,), at(0))
    assert (account.starts_at_us, account.ends_at_us) == (at(0, 0), at(1, 0))
    # And from there on every day renews as ever; the days that were spent ahead of time have been.
    was_spent = set(there) if is_spent_there else set()
    for day in range(1, 9):
        assert spent_in_full(store, day) == (0 if day in was_spent else 10)
        assert spent_in_full(store, day - 1) == 0


@pytest.mark.parametrize("seed", range(30))
def test_a_clock_that_is_often_wrong_gives_each_day_once(seed: int) -> None:
    """Each day it is somewhere else for a while: ahead or behind, for one midnight or for none."""
    rng, store = Random(seed), opened(daily=10)
    elsewhere = [(YEARS,), (YEARS, YEARS + 1), (-YEARS,), (3 * YEARS, YEARS), (-YEARS, 1 - YEARS)]
    given: Counter[int] = Counter()
    for day in range(40):
        assert spent_in_full(store, day) == 10
        for _ in range(rng.randrange(3)):
            for there in rng.choice(elsewhere):
                given[there] += spent_in_full(store, there)
            assert spent_in_full(store, day) == 0
    assert max(given[YEARS], given[YEARS + 1], given[3 * YEARS]) <= 10


def test_what_a_jump_left_does_not_stay_for_ever() -> None:
    store = MemoryBudgets(BudgetTable({Scope("user:*"): terms(daily=5)}), {}, at(0))
    for week in range(20):
        for day in range(5):
            for number in range(10):
                scope = Scope(f"user:{number} of {week}/{day}")
                store.accounts((scope,), at(7 * week + day))
    assert len(store._accounts) <= 40


def test_the_opening_counts_in_its_own_periods_alone() -> None:
    opening = {
        (Period.DAILY, bounds(Period.DAILY, at(0))[0]): {KEY: 9},
        (Period.MONTHLY, bounds(Period.MONTHLY, at(0))[0]): {KEY: 12},
        (Period.TOTAL, 0): {KEY: 20},
    }
    table = BudgetTable({KEY: terms(daily=10, monthly=30, total=30)})
    store = MemoryBudgets(table, opening, at(0))
    assert [account.spent for account in store.accounts((KEY,), at(0))] == [9, 12, 20]
    assert [account.spent for account in store.accounts((KEY,), at(1))] == [0, 12, 20]
    assert [account.spent for account in store.accounts((KEY,), at(40))] == [0, 0, 20]


def test_a_kind_of_scope_gives_each_its_own_account() -> None:
    store = MemoryBudgets(BudgetTable({Scope("user:*"): terms(daily=5)}), {}, at(0))
    assert store.hold("a", (USER,), 5, at(0)) is None
    assert store.hold("b", (USER,), 1, at(0)) is not None
    assert store.hold("c", (Scope("user:v"),), 5, at(0)) is None


def test_scopes_that_callers_name_do_not_stay_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budgets, "FOUND_MAX", 10)
    store = MemoryBudgets(BudgetTable({Scope("user:*"): terms(daily=5)}), {}, at(0))
    for day in range(10):
        for number in range(50):
            store.accounts((Scope(f"user:{number} of {day}"),), at(day))
            assert len(store._found) <= 10
    assert len(store._accounts) <= 100


def test_what_could_not_be_learned_is_not_counted_as_nothing() -> None:
    """A key's past could not be read: the next try begins anew, and in-flight holds are in it."""
    store = MemoryBudgets(BudgetTable({}), {}, at(0))
    store.hold("a", (KEY,), 3, at(0))
    first = store.watch(KEY, Period.DAILY, at(0))
    assert first is not None
    store.unwatch(first)
    second = store.watch(KEY, Period.DAILY, at(0))
    assert second is not None and second.held == 3
    assert store.watch(KEY, Period.DAILY, at(0)) is None
    store.settle("a", 2)
    assert (second.spent, second.held) == (2, 0)


def test_a_raised_limit_is_told_of_again() -> None:
    store = opened(daily=10)
    (account,) = store.accounts((KEY,), at(0))
    account.spent, account.alerted_permille = 10, 1_000
    store.change(BudgetTable({KEY: terms(daily=100)}))
    assert account.alerted_permille == 100


def test_standings_are_of_now_and_name_scopes_before_their_first_use() -> None:
    store = opened(daily=10, total=50)
    store.hold("a", (KEY,), 4, at(0))
    store.settle("a", 4)
    said = {each.period: each for each in store.standings(at(1))}
    assert (said[Period.DAILY].spent_nano_usd, said[Period.TOTAL].spent_nano_usd) == (0, 4)
    assert said[Period.DAILY].renews_at_us == at(2, 0)
    assert (said[Period.TOTAL].renews_at_us, said[Period.TOTAL].left_nano_usd) == (None, 46)
