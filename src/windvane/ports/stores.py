"""Where money, keys and facts are kept."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Protocol

import msgspec

from windvane.core.budgets import Account, BudgetTable, Period, Standing
from windvane.core.cache.invalidation import Invalidations, Reach
from windvane.core.keys import VirtualKey
from windvane.core.ledger import LedgerEntry
from windvane.core.limits import RateLease, RateRefusal, RateTable
from windvane.core.principal import Scope
from windvane.core.usage_report import Difference, UsageQuery, UsageRow


class Journal(Protocol):
    """The local append-only record of holds and settlements: the truth from which the ledger is made.

    Both calls return when the record would survive the death of the process.
    """

    def hold(self, entry: LedgerEntry) -> None:
        """Write a hold. Raises InternalServerError (503) when it cannot be written, or when the
        ledger behind the journal cannot."""
        ...

    def settle(self, entry: LedgerEntry) -> None: ...


class LedgerStore(Protocol):
    """The orderly copy of the journal, for questions. Every question is answered as of its asking:
    all that was settled before the call is in the answer, and nothing that was settled after it."""

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        """All attempts of a request, by its own id or the id its caller gave it, oldest first; of
        one key's requests, unless `key_id` is None."""
        ...

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sums by group, ordered by group; one row when nothing is grouped by. Raises ValueError."""
        ...

    async def spent(self, scope: Scope, since_us: int, until_us: int | None = None) -> int:
        """Nano-dollars settled in `scope` for attempts begun at `since_us` or later, and before
        `until_us`: both beginnings of UTC days."""
        ...

    async def spent_by(
        self, kind: str, since_us: int, until_us: int | None = None
    ) -> Mapping[Scope, int]:
        """The same for all scopes of a kind (`key`, `team`, `user`, `tag`, `model`, `global`)."""
        ...

    async def days_since(self, since_us: int) -> Sequence[int]:
        """When the UTC days begin that it has attempts of: those from `since_us` on, or only the latest
        that it has when that is earlier. In order."""
        ...

    async def forget_before(self, day: date) -> int:
        """Delete the single attempts of earlier UTC days, and say how many; their sums stay."""
        ...

    async def verify(self) -> Sequence[Difference]:
        """Add up all entries again: where the sums kept differ from them; nowhere, if all is well.
        Days of which entries are gone cannot be checked, and are left alone."""
        ...

    async def rebuild(self) -> None:
        """Make the sums anew from the entries, of all days that still have all of theirs."""
        ...

    async def refused(self) -> int:
        """How many entries could not be taken, and are in no sum: kept elsewhere, for a person."""
        ...

    async def aclose(self) -> None: ...


class KeyStore(Protocol):
    """Gateway keys, as they were last put."""

    async def keys(self) -> Sequence[VirtualKey]: ...

    async def put_key(self, key: VirtualKey) -> None:
        """Keep a key, new or changed; it would survive power loss when this returns."""
        ...


class RevocationNote(Protocol):
    """Where it is noted that keys are revoked while their store cannot be told: it outlives the process."""

    @property
    def left(self) -> Mapping[str, int]:
        """What is noted: when each key was revoked, by its id."""
        ...

    async def add(self, key_id: str, at_us: int) -> None:
        """Note one more; it would survive power loss when this returns. Raises OSError."""
        ...

    async def clear(self) -> None:
        """The store has all that was noted. Raises OSError."""
        ...


class BudgetStore(Protocol):
    """Money. Holds for all scopes are granted together or not at all; every hold ends exactly once.

    The calls do not wait: what is granted here is this process's own to grant. Where many processes
    share a budget, each grants from what it has leased beforehand, and leasing is what waits.
    """

    table: BudgetTable

    def accounts(self, scopes: tuple[Scope, ...], at_us: int) -> Sequence[Account]:
        """The accounts that a hold made now would be in."""
        ...

    def room(self, scopes: tuple[Scope, ...], at_us: int, wanted: int = 0) -> int | None:
        """What is free in each of these accounts; None when none has a limit. Where that is `wanted`
        or more, it may be said to be less than it is, but never less than `wanted`."""
        ...

    def is_used(self, scopes: tuple[Scope, ...], at_us: int, permille: int) -> bool:
        """Whether so many thousandths of the limit of one of these accounts are spent or held."""
        ...

    def hold(
        self, attempt_id: str, scopes: tuple[Scope, ...], amount: int, at_us: int
    ) -> Account | None:
        """Hold `amount` in all accounts of `scopes`; the account that refused, when one did."""
        ...

    def settle(self, attempt_id: str, cost: int) -> Sequence[Account]:
        """End a hold with what the attempt cost. Returns those of its accounts that have come to their
        mark; none when there was no such hold."""
        ...

    def watch(self, scope: Scope, period: Period, at_us: int) -> Account | None:
        """Begin to count a scope that had no limit, what is in flight included; None when it is
        counted already. What was spent before is the caller's to add, or to `unwatch` it."""
        ...

    def unwatch(self, account: Account) -> None:
        """Count no more: what was spent before could not be learned."""
        ...

    @property
    def days_shown_us(self) -> Sequence[int]:
        """When the last days began that the clock has shown."""
        ...

    def recall(self, scope: Scope, period: Period, since_us: int, spent: int) -> None:
        """What was spent in a period that is not now's, from its beginning: the clock may come to it."""
        ...

    def change(self, table: BudgetTable) -> None:
        """From now, `table` says what may be spent."""
        ...

    def standings(self, at_us: int) -> Sequence[Standing]:
        """All accounts with a limit, as they stand."""
        ...


class ToldBook(Protocol):
    """Which shares of budgets have been told of."""

    def of(self, account: Account) -> int:
        """The highest share of this account's limit that was told of, in thousandths; 0 for none."""
        ...

    def note(self, account: Account, permille: int) -> None:
        """It is told of now."""
        ...


class LimitStore(Protocol):
    """Rates and concurrency. The limits of a request are taken together, or none of them is.

    Times are monotonic microseconds.
    """

    table: RateTable

    def take_request(self, scopes: tuple[Scope, ...], now_us: int) -> RateLease | RateRefusal:
        """A slot and a place in each rate, to be ended; or the first that refused, and nothing taken."""
        ...

    def take_tokens(
        self, scopes: tuple[Scope, ...], tokens: int, lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """Tokens by estimate, corrected at the lease's end."""
        ...

    def change(self, table: RateTable) -> None: ...


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier of the cache holds, and has done since its process began.

    `bytes` are what counts towards `bytes_max`, or of keys and values where there is none; `faults` are
    calls that failed or came too late, and were answered as a miss.
    """

    tier: str
    entries: int
    bytes: int
    bytes_max: int | None = None
    entries_max: int | None = None
    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    expired: int = 0
    faults: int = 0
    is_up: bool = True


class CacheTier(Protocol):
    """Answers by key, as bytes. A tier that is down, slow or full answers as if it had nothing: it
    never raises, and never takes long."""

    name: str

    async def get(self, key: bytes) -> bytes | None: ...

    async def put(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> None:
        """Keep `data` for at most `keep_s`. `worth` is what a hit saves, in nano-dollars: when room is
        short, what is worth little for its size and seldom asked for goes first."""
        ...

    async def remove(self, key: bytes) -> int:
        """Forget one; how many there were."""
        ...

    async def remove_tagged(self, tag: str) -> int:
        """Forget all entries with a tag (`all`: every one); how many there were, as far as known."""
        ...

    async def stats(self) -> CacheStats: ...

    async def aclose(self) -> None: ...


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier knows of an entry: enough to put it into a faster tier for the rest of its time, or
    into a slower one, under the lease that it was asked for with."""

    data: bytes
    tags: tuple[str, ...]
    left_s: float
    worth: float
    fence: int = 0


class LowerTier(CacheTier, Protocol):
    """A tier behind a faster one. It keeps no data larger than `entry_bytes_max`."""

    entry_bytes_max: int

    async def find(self, key: bytes) -> Kept | None:
        """As `get`, with what else is known of the entry."""
        ...

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> None:
        """`fence` is the number of the lease that the answer was asked for with, or 0. Where processes
        share the tier, it does not replace what was put under a lease of a higher number."""
        ...


class InvalidationStore(Protocol):
    """The invalidations that all processes which share a cache know of, within two seconds."""

    @property
    def known(self) -> Invalidations: ...

    @property
    def reach(self) -> Reach:
        """How far all of them have come."""
        ...

    def invalidate_now(self, tag: str) -> Invalidations:
        """One more invalidation, of `tag`: in `known` at once, and yet to be spread."""
        ...

    async def spread(self) -> None:
        """Write down what is in `known`, and tell it to others; what could not be is tried again."""
        ...

    async def invalidate(self, tag: str) -> Invalidations:
        """Both, one after the other."""
        ...


class FlightLease(Protocol):
    """The right to ask the provider on behalf of all processes, while others wait.

    `number` is higher than that of any lease of the key before it; 0 for one that everybody has.
    """

    number: int

    async def renew(self) -> bool:
        """Keep it for another while. False when it was lost, and somebody else may have it."""
        ...

    def release(self) -> None:
        """Let somebody else have it, soon; nobody waits for that."""
        ...

    def dismiss(self) -> None:
        """Release it, having brought nothing that can be shared: all who wait for it are granted a
        lease of no number, and ask for themselves."""
        ...


class FlightLeases(Protocol):
    """Who of several processes asks. Where there is one process, there is no such store."""

    async def claim(self, key: bytes) -> FlightLease | None:
        """The lease; None when another process has it. A store that is down grants it to everyone.
        One that is granted to a caller who has gone is given back."""
        ...


class ResponseCache(Protocol):
    """All tiers of the cache as one."""

    def get_now(self, key: bytes) -> bytes | None:
        """What this process has in memory, without waiting."""
        ...

    def peek(self, key: bytes) -> bytes | None:
        """The same, over or not; to look is no use of it, and counts as none."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """What any tier has, after `get_now` had nothing."""
        ...

    async def get_behind(self, key: bytes, is_wanted: Callable[[bytes], bool]) -> bytes | None:
        """What lies behind the memory, if it is wanted; it takes the place of what memory has."""
        ...

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> bool:
        """Keep it; where processes share it, under the lease of that number. Whether it is kept
        anywhere, as far as is known at once."""
        ...

    async def written(self, key: bytes | None = None) -> None:
        """Wait until what was put, under this key or at all, is where other processes find it, or was
        refused there."""
        ...

    async def remove(self, key: bytes) -> int: ...

    async def remove_tagged(self, tag: str) -> int: ...

    def clear_now(self) -> int:
        """Forget what this process has in memory, and what it has not yet written elsewhere, without
        waiting; how many memory had."""
        ...

    async def clear_behind(self) -> None:
        """Make room behind the memory: all that is there now is void."""
        ...

    async def stats(self) -> Sequence[CacheStats]: ...

    async def aclose(self) -> None: ...
