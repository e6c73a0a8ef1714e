"""What is kept of those whom a request would be asked of next: the further candidates of its decision.

An answer is looked for under who would be asked first. Where that one was asked in vain, the next is looked
for before it is asked; and when nobody has answered, all are, before the failure is told. So with the first
choice well nothing is looked for here.

It is the flight that looks, once for all who are aboard; each of them is given what its own wishes allow.
"""

from collections.abc import Iterable

import msgspec

from windvane.core.cache.freshness import NO_WISH, SPARE
from windvane.core.exchange import Exchange
from windvane.core.routing.decision import Candidate
from windvane.engine.flights import Flight
from windvane.engine.lookup import Ask, Found, Lookup, better, of_another


class AlreadyThere(Exception):
    """Nobody needs to be asked any more: the answer of who would be next is kept."""


async def look_before(lookup: Lookup, flight: Flight, ask: Ask, candidate: Candidate) -> None:
    """Raise AlreadyThere when who leads may be given what is kept of a candidate that is asked next."""
    await _look(lookup, flight, _others(ask, flight.leader, (candidate,)))
    found = found_for(lookup, flight, flight.leader, ask)
    if found is not None and found.standing is not SPARE:
        raise AlreadyThere


async def look_for_all(lookup: Lookup, flight: Flight, ask: Ask) -> None:
    """Have what is kept of anyone that might have been asked. What is of no use to who leads may be to who
    has joined."""
    anyones = msgspec.structs.replace(ask, wish=NO_WISH, is_plain=False)
    await _look(lookup, flight, _others(anyones, flight.leader))


def found_for(lookup: Lookup, flight: Flight, exchange: Exchange, ask: Ask) -> Found | None:
    """The best that a flight has found for one who is aboard."""
    decision = exchange.decision
    assert decision is not None
    found: Found | None = None
    if ask.wish.may_read:
        for key, (candidate, entry) in flight.elsewhere.items():
            then = of_another(ask, decision, candidate, key)
            found = better(found, lookup.judged(then, entry))
    return found


async def find_any(lookup: Lookup, exchange: Exchange, ask: Ask) -> Found | None:
    """The best that is kept of anyone that might have been asked, where nobody is."""
    found: Found | None = None
    for each in await lookup.find_all(_others(ask, exchange)):
        found = better(found, each)
    return found


async def _look(lookup: Lookup, flight: Flight, asks: list[Ask]) -> None:
    asks = [each for each in asks if each.key not in flight.elsewhere]
    for each, found in zip(asks, await lookup.find_all(asks), strict=True):
        if found is not None:
            flight.elsewhere[each.key] = each.candidate, found.entry


def _others(
    ask: Ask, exchange: Exchange, candidates: Iterable[Candidate] | None = None
) -> list[Ask]:
    """The same, asked of these candidates, or of all; but for those that `ask` has looked for."""
    decision = exchange.decision
    assert decision is not None
    asks = [of_another(ask, decision, each) for each in candidates or decision.candidates]
    known = {ask.key} if ask.first is None else {ask.key, ask.first.key}
    return list({each.key: each for each in asks if each.key not in known}.values())
