"""Rates in memory: what is shared by scopes, what is kept, and what a changed table changes."""

import pytest

from windvane.core.limits import RateLease, RateRefusal, RateTable, RateTerms, least
from windvane.core.principal import GLOBAL, Scope
from windvane.stores.memory import MemoryLimits
from windvane.stores.memory import limits as memory_limits

KEY, TEAM = Scope("key:a"), Scope("team:t")
NOW_US = 7 * 60_000_000


def store(**terms: RateTerms) -> MemoryLimits:
    return MemoryLimits(
        RateTable({Scope(name.replace("_", ":")): said for name, said in terms.items()})
    )


def users(**rates: int) -> MemoryLimits:
    return MemoryLimits(RateTable({Scope("user:*"): RateTerms(**rates)}))


def comes(limits: MemoryLimits, *scopes: Scope, tokens: int = 0) -> RateLease | None:
    """The lease of a request; None when it is refused."""
    lease = limits.take_request(scopes, NOW_US)
    if isinstance(lease, RateRefusal):
        return None
    if limits.take_tokens(scopes, tokens, lease, NOW_US) is not None:
        lease.give_back(NOW_US)
        return None
    return lease


def test_a_scope_counts_once_whoever_else_counts() -> None:
    limits = store(team_t=RateTerms(concurrency=2))
    assert comes(limits, KEY, TEAM) and comes(limits, Scope("key:b"), TEAM)
    assert comes(limits, Scope("key:c"), TEAM) is None
    assert comes(limits, KEY) is not None


def test_the_refusal_names_the_scope_that_is_full() -> None:
    limits = store(
        key_a=RateTerms(requests_per_minute=60, burst_requests=9),
        team_t=RateTerms(requests_per_minute=1),
    )
    assert comes(limits, GLOBAL, KEY, TEAM)
    refusal = limits.take_request((GLOBAL, KEY, TEAM), NOW_US)
    assert isinstance(refusal, RateRefusal)
    assert (refusal.scope, refusal.what, refusal.left) == (TEAM, "requests", 0)
    assert refusal.wait_us == 60_000_000
    # Of the key's nine, only the first has taken one.
    assert sum(comes(limits, KEY) is not None for _ in range(60)) == 8


@pytest.mark.parametrize("full", ["slots", "requests"])
def test_a_request_that_is_refused_takes_no_slot(full: str) -> None:
    rates = {"slots": {"concurrency": 1}, "requests": {"requests_per_minute": 1}}[full]
    limits = store(key_a=RateTerms(concurrency=9), team_t=RateTerms(**rates))
    first = comes(limits, KEY, TEAM)
    assert first is not None
    assert comes(limits, KEY, TEAM) is None
    assert [slots.running for slots in first.slots] == [1] * len(first.slots)


def test_all_rates_are_taken_or_none() -> None:
    limits = store(key_a=RateTerms(tokens_per_minute=100), team_t=RateTerms(tokens_per_minute=10))
    lease = comes(limits, KEY, TEAM, tokens=8)
    assert lease is not None and least(lease.tokens or ()) == (10, 2, 48_000)
    wide, narrow = (bucket for bucket, _, _, _ in lease.tokens or ())
    assert comes(limits, KEY, TEAM, tokens=8) is None
    assert (wide.left(NOW_US), narrow.left(NOW_US)) == (92, 2)
    lease.end(3, NOW_US)
    assert (wide.left(NOW_US), narrow.left(NOW_US)) == (97, 7)


def test_a_changed_table_keeps_what_was_taken() -> None:
    limits = store(key_a=RateTerms(tokens_per_minute=100, concurrency=2))
    lease = comes(limits, KEY, tokens=80)
    assert lease is not None
    limits.change(RateTable({KEY: RateTerms(tokens_per_minute=1_000, concurrency=1)}))
    assert comes(limits, KEY) is None, "the first still runs"
    lease.end(30, NOW_US)
    assert comes(limits, KEY, tokens=971) is None
    assert comes(limits, KEY, tokens=970) is not None


def test_scopes_that_callers_name_do_not_stay_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "BUCKETS_MAX", 10)
    limits = users(requests_per_minute=60_000_000, concurrency=1)
    for number in range(500):
        lease = limits.take_request((Scope(f"user:{number}"),), number * 10)
        assert isinstance(lease, RateLease)
        lease.end(0, number * 10)
        for kept in (limits._found, limits._running, limits._requests):
            assert len(kept) <= 20


def test_what_a_request_under_way_may_owe_yet_is_not_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its estimate has leaked, and it used more."""
    monkeypatch.setattr(memory_limits, "BUCKETS_MAX", 4)
    limits, later_us = users(tokens_per_minute=100), NOW_US + 60_000_000
    lease = comes(limits, Scope("user:a"), tokens=100)
    assert lease is not None
    for number in range(20):
        scopes = (Scope(f"user:{number}"),)
        other = limits.take_request(scopes, later_us)
        assert isinstance(other, RateLease)
        assert limits.take_tokens(scopes, 1, other, later_us) is None
    lease.end(1_000, later_us)
    again = limits.take_request((Scope("user:a"),), later_us)
    assert isinstance(again, RateLease)
    assert limits.take_tokens((Scope("user:a"),), 1, again, later_us) is not None


def test_however_many_there_are_one_scope_has_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when what is idle is dropped while a row of scopes is looked up."""
    monkeypatch.setattr(memory_limits, "BUCKETS_MAX", 4)
    limits = users(requests_per_minute=1, concurrency=1)
    names = [Scope(f"user:{number}") for number in range(12)]
    running = [
        lease
        for place in range(200)
        if (lease := comes(limits, names[place % 12], names[(place * 5 + 1) % 12])) is not None
    ]
    assert len(running) <= 6
    for name in names:
        counted = {
            id(slots)
            for found in limits._found.values()
            for scope, slots in zip(found.slots_of, found.slots, strict=True)
            if scope == name
        }
        assert len(counted) <= 1


def test_nothing_is_looked_for_in_vain_while_all_are_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_limits, "BUCKETS_MAX", 10)
    limits = users(concurrency=1)
    assert all(comes(limits, Scope(f"user:{number}")) for number in range(100))
    assert limits._kept_max >= 100
    assert len(limits._found) >= 20
