"""Step 5: an answer that is already there, or on its way.

Exact matches first; the seat behind them is for answers to questions that mean the same. Then the
flights: an equal request under way is joined. Who finds neither leads a flight of its own, and what it
brings home is kept, if it is whole and good.

Whatever ails a store, it is a miss.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from windvane.core.cache.entry import CacheEntry, pack, unpack
from windvane.core.cache.freshness import (
    FRESH,
    NO_WISH,
    SPARE,
    STALE,
    USELESS,
    CachePolicy,
    Standing,
    Wish,
    standing_of,
    wish_of,
)
from windvane.core.cache.invalidation import (
    CALLER_TAGS_MAX,
    caller_tag,
    key_tag,
    model_tag,
    route_tag,
    scope_tag,
)
from windvane.core.cache.key import cache_key
from windvane.core.chat import JsonObject
from windvane.core.deployment import Deployment
from windvane.core.exchange import Exchange, Reading
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.principal import Principal
from windvane.core.routing.decision import Candidate, Decision
from windvane.core.usage import Certainty
from windvane.engine.attribution import text_of
from windvane.engine.flights import Flight
from windvane.engine.keepable import is_good, may_be_kept
from windvane.engine.snapshot import CacheRules
from windvane.ports.clock import Clock
from windvane.ports.stores import InvalidationStore, ResponseCache
from windvane.wire.canonical import canonical
from windvane.wire.keeping import completion_of, rest_of

TAGS_HEADER = b"x-windvane-cache-tags"
WISH_HEADER = b"cache-control"
OWN_WISH_HEADER = b"windvane-cache-control"
"""For callers whose client does not let them set the other."""
TAG_CHARS_MAX = 128
PIECES_MAX = 4_096


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an exchange asks of the cache.

    `flight` names the flights it may join: those that would ask the same models in the same order. `tags`
    are its own and those of its scope, route and model; `version` counts the invalidations known when it
    came. `is_plain`, when whatever is fresh will do. `first` asks the same of the route's own first choice,
    where another goes first now. Of what is asked of another than who would be asked first, `own` is the
    decision by which its answer is given: nobody fetches it in the background.
    """

    key: bytes
    flight: bytes
    scope: str
    candidate: Candidate
    canonical: JsonObject
    policy: CachePolicy
    wish: Wish
    is_plain: bool
    tags: tuple[str, ...]
    version: int
    first: "Ask | None" = None
    own: Decision | None = None


class _Asked(NamedTuple):
    """What was asked last for the same bytes, without headers; and what it was made of besides."""

    principal: Principal
    decision: Decision
    rules: CacheRules
    ask: Ask


class Found(msgspec.Struct, frozen=True):
    """An entry, what it was good for when it was found, until when it is fresh, and by what it was asked
    for."""

    entry: CacheEntry
    standing: Standing
    at_us: int
    fresh_until_us: int
    ask: Ask


class Lookup:
    """Asks the cache, and keeps what is worth keeping."""

    def __init__(
        self,
        cache: ResponseCache | None,
        invalidations: InvalidationStore | None,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._cache = cache
        self._invalidations = invalidations
        self._clock = clock
        self._rng = rng

    def ask_of(self, exchange: Exchange, rules: CacheRules) -> Ask | None:
        """What the exchange asks; None when it has nothing to do with the cache. Raises
        BadRequestError for tags that are none."""
        decision, principal = exchange.decision, exchange.principal
        assert decision is not None and principal is not None
        if self._cache is None:
            return None
        known = self._invalidations
        version = 0 if known is None else known.known.version
        wish = wish_said(exchange)
        is_bare = wish is NO_WISH and TAGS_HEADER not in exchange.headers
        asked = None if exchange.reading is None else exchange.reading.asked
        if is_bare and isinstance(asked, _Asked):
            by, decided, under, ask = asked
            is_same = by is principal and decided is decision and under is rules
            if is_same and ask.version == version:
                return ask
        policy = rules.policy_of(decision.route)
        if policy is None or not (wish.may_read or wish.may_store or wish.only_if_cached):
            return None
        if not may_be_kept(exchange.request, policy):
            return None
        shared = _scope_of(principal, rules.scope)
        candidate = decision.candidates[0]
        said = canonical(exchange.request, principal.output_tokens_max)
        key = _key_of(shared, candidate.deployment, said)
        tags = [*_tags(exchange), *_scope_tags(principal, shared)]
        if decision.route is not None:
            tags.append(route_tag(decision.route))
        ask = Ask(
            key=key,
            flight=key + _course(exchange),
            scope=shared,
            candidate=candidate,
            canonical=said,
            policy=policy,
            wish=wish,
            is_plain=wish is NO_WISH and not policy.early_refresh,
            tags=(*tags, *_model_tags(candidate.deployment)),
            version=version,
        )
        if decision.own is not None:
            ask = _with_first(ask, decision.own)
        if is_bare and exchange.reading is not None:
            exchange.reading.asked = _Asked(principal, decision, rules, ask)
        return ask

    async def find(
        self,
        ask: Ask,
        reading: Reading | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> Found | None:
        """The entry for `ask`, if there is one that is good for anything. `on_wait` is called before it
        is looked for where that may take a while."""
        assert self._cache is not None
        if not ask.wish.may_read:
            return None
        if ask.first is not None:
            return await self._find_either(ask, ask.first, reading, on_wait)
        data = self._cache.get_now(ask.key)
        found = None if data is None else self._found(ask, data, reading)
        if found is not None and found.standing is not SPARE:
            return found
        if on_wait is not None:
            on_wait()
        return await self._find_behind(ask, data, found)

    async def find_all(self, asks: Sequence[Ask]) -> Sequence[Found | None]:
        """The same for each of these, in the time that it takes for one."""
        return await _side_by_side([self.find(each) for each in asks])

    async def _find_either(
        self,
        ask: Ask,
        first: Ask,
        reading: Reading | None,
        on_wait: Callable[[], None] | None,
    ) -> Found | None:
        """The entry of the route's own first choice, or else of the one who goes first now. What lies
        behind the memory is looked for of both at once."""
        assert self._cache is not None
        alone = msgspec.structs.replace(ask, first=None)
        data = self._cache.get_now(first.key)
        found = None if data is None else self._found(first, data, reading)
        if found is not None and found.standing is not SPARE:
            data = self._cache.peek(ask.key)
            return better(found, None if data is None else self._found(alone, data))
        if on_wait is not None:
            on_wait()
        looks = [self._find_behind(first, data, found), self.find(alone, reading)]
        return better(*await _side_by_side(looks))

    async def _find_behind(self, ask: Ask, data: bytes | None, found: Found | None) -> Found | None:
        """The entry that is not in memory; or one that is newer than what memory has."""
        assert self._cache is not None
        if data is not None:
            return await self.find_newer(ask, found) or found
        data = await self._cache.get(ask.key)
        return None if data is None else self._found(ask, data)

    def find_now(self, ask: Ask, reading: Reading | None = None) -> Found | None:
        """The entry for `ask` that memory has, if it is good for anything."""
        assert self._cache is not None
        first = None if ask.first is None else self.find_now(ask.first, reading)
        data = self._cache.get_now(ask.key)
        return better(first, None if data is None else self._found(ask, data, reading))

    def _found(self, ask: Ask, data: bytes, reading: Reading | None = None) -> Found | None:
        """What these bytes are good for."""
        kept = None if reading is None else reading.kept
        if kept is not None and kept[0] == data:
            entry: CacheEntry | None = kept[1]
        else:
            entry = _read(data, ask.key)
            if entry is not None and reading is not None:
                reading.kept = data, entry
        return None if entry is None else self.judged(ask, entry)

    def judged(self, ask: Ask, entry: CacheEntry) -> Found | None:
        """What an entry is good for; None when it is for nothing."""
        if self.is_void(ask, entry.tags, entry.version):
            return None
        now_us = self._clock.wall_us()
        fresh_until_us = ask.policy.fresh_until_us(entry)
        if ask.is_plain and entry.created_at_us <= now_us < fresh_until_us:
            return Found(entry, FRESH, now_us, fresh_until_us, ask)  # as nearly all are
        standing = standing_of(entry, ask.policy, ask.wish, now_us, self._rng)
        if standing is USELESS:
            return None
        if standing is STALE and ask.own is not None:
            # It would be served for as long as another model goes first: nobody fetches a fresh one of it.
            standing = SPARE
        return Found(entry, standing, now_us, fresh_until_us, ask)

    def why_forward(self, ask: Ask, spare: Found | None) -> str:
        """Why no entry was good enough, in the words of RFC 9211; `spare` is one for the worst case."""
        if not ask.wish.may_read:
            return "request"
        if spare is None and ask.first is not None:
            why = self.why_forward(ask.first, None)
            if why != "miss":
                return why
        if spare is None:
            assert self._cache is not None
            data = self._cache.peek(ask.key)
            entry = None if data is None else unpack(data, ask.key)
            if entry is None or self.is_void(ask, entry.tags, entry.version):
                return "miss"
            until_us = ask.policy.fresh_until_us(entry)
        else:
            until_us = spare.fresh_until_us
        if self._clock.wall_us() >= until_us:
            return "stale"
        # What is fresh, and not what was wished, was refused; else memory is not believed for now.
        is_choosy = ask.wish.max_age_s is not None or ask.wish.min_fresh_s > 0
        return "request" if is_choosy else "miss"

    async def find_newer(self, ask: Ask, known: Found | None) -> Found | None:
        """An answer made after the one in memory: another process may have kept it since."""
        assert self._cache is not None

        def is_newer(data: bytes) -> bool:
            found = self._found(ask, data)
            return found is not None and (
                known is None or found.entry.created_at_us > known.entry.created_at_us
            )

        data = await self._cache.get_behind(ask.key, is_newer)
        return None if data is None else self._found(ask, data)

    def is_void(self, ask: Ask, tags: tuple[str, ...], version: int) -> bool:
        """Whether an answer with these tags, asked for at `version`, must not be given to `ask`: for
        what it is tagged with, or for what `ask` is."""
        if self._invalidations is None or version >= self._invalidations.known.version:
            return False
        known = self._invalidations.known
        return known.voids((*tags, *ask.tags, key_tag(ask.key)), version)

    def is_taken_back(self, found: Found) -> bool:
        """Whether it must not be given any more: it was taken back since it was found."""
        return self.is_void(found.ask, found.entry.tags, found.entry.version)

    async def keep(self, ask: Ask, flight: Flight) -> bool:
        """Keep what a flight has brought home, if it is whole and good, and nothing newer is there."""
        assert self._cache is not None
        ttl_s = ask.policy.ttl_of(ask.wish)
        if not ask.wish.may_store or ttl_s <= 0:
            return False
        entry = self._entry_of(ask, flight, ttl_s)
        if entry is None or self.is_void(ask, entry.tags, entry.version):
            return False  # the second was asked for before an invalidation
        deployment = _answering(flight.leader)
        key, fence = ask.key, flight.fence
        if deployment is not ask.candidate.deployment:
            # Another model has answered: it is kept as that model's answer, and never as this one's.
            # The lease was for this one's.
            key, fence = _key_of(ask.scope, deployment, ask.canonical), 0
        try:
            data = pack(entry, key)
        except (OverflowError, RecursionError):
            return False  # numbers that no machine has, or parts in parts in parts
        if len(data) > ask.policy.entry_bytes_max:
            return False
        flight.is_overtaken = self._has_newer(key, entry)
        if flight.is_overtaken:
            return False
        return await self._cache.put(
            key,
            data,
            tags=entry.tags,
            keep_s=ttl_s + ask.policy.stale_s,
            worth=float(entry.cost_nano_usd or 0),
            fence=fence,
        )

    def _has_newer(self, key: bytes, entry: CacheEntry) -> bool:
        """Whether memory has an answer that was asked for after this one, and came before it."""
        assert self._cache is not None
        data = self._cache.peek(key)
        other = None if data is None else unpack(data, key)
        if other is None or other.asked_at_us <= entry.asked_at_us:
            return False
        return other.created_at_us <= entry.created_at_us  # else the clock was set back

    async def written(self, key: bytes) -> None:
        """Wait until other processes find what was kept, or never will."""
        assert self._cache is not None
        await self._cache.written(key)

    def _entry_of(self, ask: Ask, flight: Flight, ttl_s: int) -> CacheEntry | None:
        exchange = flight.leader
        attempt = exchange.final_attempt
        completion = flight.completion
        pieces: tuple[int, ...] = ()
        if completion is None and flight.fold is not None:
            completion = flight.fold.completion()
            pieces = _lengths(flight)
        if completion is None or attempt is None or attempt.entry is None or attempt.usage is None:
            return None
        if attempt.entry.certainty is not Certainty.EXACT:
            return None
        if not is_good(completion, exchange.request):
            return None
        now_us = self._clock.wall_us()
        deployment = attempt.deployment
        decision = exchange.decision
        assert decision is not None
        tags = ask.tags
        if deployment is not ask.candidate.deployment:
            tags = tuple(dict.fromkeys((*tags, *_model_tags(deployment))))
        told = model_tag(completion.model)  # the version, as its provider calls it
        if told not in tags and len(told) <= TAG_CHARS_MAX:
            tags = (*tags, told)
        rest = None if completion.raw is None else rest_of(completion.raw, completion.created)
        return CacheEntry(
            completion=msgspec.structs.replace(completion, raw=None) if rest is None else None,
            rest=rest,
            usage=attempt.usage,
            provider=deployment.provider,
            model=deployment.model,
            route=decision.route,
            tags=tags,
            created_at_us=now_us,
            fresh_until_us=now_us + ttl_s * 1_000_000,
            version=ask.version,
            cost_nano_usd=attempt.entry.cost_nano_usd,
            latency_us=attempt.entry.latency_us or 0,
            first_chunk_us=attempt.entry.first_chunk_us,
            pieces=pieces,
            asked_at_us=attempt.entry.started_at_us,
        )


def _read(data: bytes, key: bytes) -> CacheEntry | None:
    """The entry in these bytes, with its completion, whose id is yet to be given."""
    entry = unpack(data, key)
    if entry is None or entry.rest is None:
        return entry if entry is not None and entry.completion is not None else None
    try:
        return msgspec.structs.replace(entry, completion=completion_of(entry.rest))
    except WindvaneError:
        return None


def _scope_of(principal: Principal, scope: str) -> str:
    """Whose answers a caller may be given, and who may be given those made for it."""
    if scope == "shared" and principal.provider is None:
        return "shared"
    if scope == "team" and principal.team is not None:
        return f"team:{principal.team}"
    return f"key:{principal.key_id}"


def _scope_tags(principal: Principal, shared: str) -> tuple[str, ...]:
    """Whose answers they are, by which they are taken back. Those of a key without a name by its place as
    well: at another gateway, with another pepper, its id is another."""
    if principal.listed_as is None or not shared.startswith("key:"):
        return (scope_tag(shared),)
    return scope_tag(shared), scope_tag(f"key:{principal.listed_as}")


def _with_first(ask: Ask, own: Decision) -> Ask:
    """What is asked, when the first choice of `own` is looked for as well."""
    first = of_another(ask, own, own.candidates[0])
    return ask if first.key == ask.key else msgspec.structs.replace(ask, first=first)


def of_another(ask: Ask, decision: Decision, candidate: Candidate, key: bytes | None = None) -> Ask:
    """The same, asked of another candidate, by whose answer the exchange is decided as `decision` says.
    `key` is for who knows it."""
    deployment, known = candidate.deployment, _model_tags(ask.candidate.deployment)
    return msgspec.structs.replace(
        ask,
        key=key or _key_of(ask.scope, deployment, ask.canonical),
        candidate=candidate,
        tags=(*(tag for tag in ask.tags if tag not in known), *_model_tags(deployment)),
        first=None,
        own=decision,
    )


def better(first: Found | None, other: Found | None) -> Found | None:
    """The one of two to give, or to have for the worst case: of two that are fresh, or spare, the newer;
    and a stale one that is fetched anew where there is no fresh one."""
    if first is None or other is None:
        return first or other
    if (first.standing is SPARE) is not (other.standing is SPARE):
        return other if first.standing is SPARE else first
    is_newer = other.entry.created_at_us > first.entry.created_at_us
    return other if is_newer and other.standing is not STALE else first


async def _side_by_side(
    looks: Sequence[Coroutine[object, object, Found | None]],
) -> Sequence[Found | None]:
    """What they find, in their order. Who leaves takes all of them along."""
    if len(looks) == 1:
        return [await looks[0]]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in looks]
    return [task.result() for task in tasks]


def _key_of(scope: str, deployment: Deployment, said: JsonObject) -> bytes:
    """Where answers of `deployment` to this question are kept."""
    origin = deployment.origin or deployment.provider
    return cache_key(scope, origin, asked_model(deployment), said)


def asked_model(deployment: Deployment) -> str:
    """What is asked under all its names: its id, which no alias is. A model that merely shares another's
    card, for its price and abilities, is asked by the name that its provider is told."""
    card, told = deployment.card, deployment.model
    is_the_cards = card is not None and any(told == alias.name for alias in card.aliases)
    return card.id if card is not None and is_the_cards else told


def _model_tags(deployment: Deployment) -> tuple[str, ...]:
    """The tags of a model, by its id and by the name that its provider is told."""
    return tuple({model_tag(deployment.resolved_model): 0, model_tag(deployment.model): 0})


def _course(exchange: Exchange) -> bytes:
    """What tells two flights for one key apart: whom they would ask if the first cannot answer."""
    decision = exchange.decision
    assert decision is not None
    names = "\0".join([candidate.deployment.id for candidate in decision.candidates])
    return f"\0{names}".encode()


def _answering(exchange: Exchange) -> Deployment:
    attempt = exchange.final_attempt
    assert attempt is not None
    return attempt.deployment


def wish_said(exchange: Exchange) -> Wish:
    """What the caller wishes of the cache."""
    headers = exchange.headers
    if OWN_WISH_HEADER in headers and (own := headers[OWN_WISH_HEADER].strip(b" \t,")):
        return wish_of(own.decode("latin-1"))  # an empty one is passed over (RFC 9213, 2.2)
    if WISH_HEADER in headers:
        return wish_of(headers[WISH_HEADER].decode("latin-1"))
    return NO_WISH


def _tags(exchange: Exchange) -> tuple[str, ...]:
    said = exchange.headers.get(TAGS_HEADER)
    if said is None:
        return ()
    tags = [tag.strip() for tag in text_of(said).split(",") if tag.strip()]
    if len(tags) > CALLER_TAGS_MAX or any(len(tag) > TAG_CHARS_MAX for tag in tags):
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"{TAGS_HEADER.decode()}: at most {CALLER_TAGS_MAX} tags of {TAG_CHARS_MAX} characters",
            param=TAGS_HEADER.decode(),
        )
    return tuple(caller_tag(tag) for tag in tags)


def _lengths(flight: Flight) -> tuple[int, ...]:
    """The lengths that the first choice's text came in; none when there are too many to keep."""
    lengths = [
        len(piece.content)
        for chunks in flight.log
        for chunk in chunks
        for piece in chunk.choices
        if piece.index == 0 and piece.content
    ]
    return tuple(lengths) if len(lengths) <= PIECES_MAX else ()
