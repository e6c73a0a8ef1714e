"""Keys: found on every request without I/O, made and changed by operators.

All keys are in memory, found by the keyed digest of what the caller shows. A look-up compares no
secret that could be timed: without the pepper nobody can choose a digest. The digest found is
compared once more in constant time all the same.
"""

from asyncio import Lock
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest

import msgspec

from windvane.core.budgets import Account, BudgetTable, BudgetTerms, bounds
from windvane.core.exchange import Credentials
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.keys import (
    ADMIN_PREFIX,
    PREFIX,
    KeySecret,
    KeyTerms,
    VirtualKey,
    hint_of,
    is_whole,
    key_text,
)
from windvane.core.limits import RateTable, RateTerms
from windvane.core.principal import Principal, Scope, scope
from windvane.core.terms import filled
from windvane.engine.revoking import Revocations
from windvane.ports.clock import Clock
from windvane.ports.stores import BudgetStore, KeyStore, LedgerStore, LimitStore, RevocationNote

DICE_BITS = 256
ID_BITS = 64
OVERLAP_MAX_S = 30 * 86_400
"""A rotated secret that lives on longer than this was not rotated."""
ENDED_MAX = 1_000
"""So many secrets that a key has had are remembered: one a day for some years."""
US_PER_S = 1_000_000
RESERVED_NAMES = frozenset(("anonymous", "in-process", "local-admin", "admin"))
"""What reports call those who are no made key."""
LOCAL_ADMIN = Principal(key_id="local-admin", is_admin=True)


def key_digest(pepper: bytes, secret: str) -> bytes:
    """The digest a key is stored and found by: BLAKE2b, keyed with a pepper of at most 64 bytes."""
    return _digest_of(_hasher(pepper), secret)


def mark_of(pepper: bytes, secret: str) -> str:
    """What tells a secret from others where it has no name: a digest of it, short, and not the one that
    it is found by."""
    secret_bytes = secret.encode("utf-8", "surrogatepass")
    return blake2b(secret_bytes, key=pepper, digest_size=8).hexdigest()


def _digest_of(hashing: blake2b, secret: str) -> bytes:
    hashing.update(secret.encode("utf-8", "surrogatepass"))
    return hashing.digest()


def _hasher(pepper: bytes) -> blake2b:
    """What every digest begins with: to copy it takes half as long as to make it."""
    return blake2b(key=pepper, digest_size=32)


class _Known:
    """What a digest stands for. `ends_at_us` is when it ceases to."""

    __slots__ = ("digest", "ends_at_us", "principal")

    def __init__(self, digest: bytes, principal: Principal, ends_at_us: int | None) -> None:
        self.digest = digest
        self.principal = principal
        self.ends_at_us = ends_at_us


class Keyring:
    """All keys of a gateway: those of its configuration, which are `fixed`, and those made since.

    `local_admin` is the digest of a key that only this machine's operator can read; it does not
    close a gateway that has no other. `roll(bits)` are dice from a secure source.
    """

    def __init__(
        self,
        *,
        pepper: bytes,
        fixed: Mapping[bytes, Principal],
        made: Sequence[VirtualKey],
        roll: Callable[[int], int],
        clock: Clock,
        local_admin: bytes | None = None,
    ) -> None:
        self._pepper = pepper
        self._hasher = _hasher(pepper)
        self._fixed = fixed
        self._local_admin = local_admin
        self._keys = {key.id: key for key in made}
        self._roll = roll
        self._clock = clock
        self._found: dict[bytes, _Known] = {}
        self._revoked: set[bytes] = set()
        self._ended: set[bytes] = set()
        self.on_put: Callable[[], None] | None = None
        """Called when a key was put: secrets of it may have ceased to be any."""
        self._index()

    def _index(self) -> None:
        """Make the look-up anew, and put it in place of the old one at once. What is said of a key that
        was made goes before what the configuration says of its secret, also when it is none any more."""
        found = {
            digest: _Known(digest, principal, None) for digest, principal in self._fixed.items()
        }
        if self._local_admin is not None:
            found[self._local_admin] = _Known(self._local_admin, LOCAL_ADMIN, None)
        revoked: set[bytes] = set()
        ended: set[bytes] = set()
        for key in self._keys.values():
            ended.update(key.ended)
            if key.revoked_at_us is not None:
                revoked.update([secret.digest for secret in key.secrets])
                continue
            principal = key.principal()
            for secret in key.secrets:
                ends = [at for at in (secret.expires_at_us, key.terms.expires_at_us) if at]
                found[secret.digest] = _Known(secret.digest, principal, min(ends, default=None))
        for digest in revoked | ended:
            found.pop(digest, None)
        self._found = found
        self._revoked = revoked
        self._ended = ended
        self.is_empty = not self._fixed and not self._keys
        """Whether there has never been a key. A gateway whose keys are all revoked is not open."""

    @property
    def keys(self) -> Sequence[VirtualKey]:
        """The keys that were made, revoked ones included, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at_us, key.id))

    @property
    def fixed(self) -> Sequence[Principal]:
        """Those of the configuration."""
        return tuple(self._fixed.values())

    def refused_fixed(self) -> Sequence[Principal]:
        """Those of the configuration whose secret was that of a key that was made, and is none now."""
        gone = self._revoked | self._ended
        return [principal for digest, principal in self._fixed.items() if digest in gone]

    def made_of(self, digest: bytes) -> VirtualKey | None:
        """The key that was made whose secret this is, or was."""
        for key in self._keys.values():
            if digest in key.ended or any(secret.digest == digest for secret in key.secrets):
                return key
        return None

    def digest_of(self, secret: str) -> bytes:
        """What a secret is found by here."""
        return _digest_of(self._hasher.copy(), secret)

    def find(self, secret: str, digest: bytes | None = None) -> Principal | None:
        """Whose this secret is, of this digest if that is known; None when it is nobody's, or no more.

        Raises AuthenticationError for a key of ours that is not whole.
        """
        if digest is None:
            digest = self.digest_of(secret)
        known = self._found.get(digest)
        if known is None:
            if secret.startswith(PREFIX) and not (
                secret.startswith(ADMIN_PREFIX) or is_whole(secret)
            ):
                raise refuse(
                    FaultKind.UNAUTHENTICATED,
                    "the key is not whole: its checksum does not match; copy it again",
                    status=401,
                    code="invalid_api_key",
                )
            return None
        if not compare_digest(known.digest, digest):
            return None
        if known.ends_at_us is not None and self._clock.wall_us() >= known.ends_at_us:
            return None
        return known.principal

    def refusal(self, digest: bytes) -> WindvaneError:
        """Why a secret of this digest is nobody's: whoever has it whole may know what became of it."""
        why = "the key is not one of this gateway's"
        if digest in self._revoked:
            why = "the key was revoked"
        elif digest in self._found or digest in self._ended:
            why = "the key has expired, or a rotation has replaced it"
        return refuse(FaultKind.UNAUTHENTICATED, why, status=401, code="invalid_api_key")

    def has_dropped(self, credentials: Credentials, principal: Principal) -> bool:
        """Whether a secret was that of a key that was made, and is none now: revoked, or replaced. One
        that has run out is still its."""
        if credentials.bearer is None or principal.key_id not in self._keys:
            return False
        digest = credentials.digest or self.digest_of(credentials.bearer)
        return digest not in self._found

    def find_id(self, key_id: str) -> VirtualKey | None:
        """A key that was made, if there is one of this id."""
        return self._keys.get(key_id)

    def get(self, key_id: str) -> VirtualKey:
        """A key that was made. Raises NotFoundError; a key of the configuration cannot be changed."""
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if any(principal.key_id == key_id for principal in self._fixed.values()):
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"the key {key_id[:64]!r} is set in the configuration; change it there",
                status=409,
                code="key_is_configured",
            )
        raise _no_such_key(key_id)

    def mint(self, terms: KeyTerms) -> tuple[VirtualKey, str]:
        """A new key, and its secret: nobody will be shown it again."""
        now_us = self._clock.wall_us()
        secret, text = self._secret(now_us)
        key_id = f"key_{self._roll(ID_BITS):016x}"
        key = VirtualKey(id=key_id, terms=terms, secrets=(secret,), created_at_us=now_us)
        return key, text

    def _secret(self, now_us: int) -> tuple[KeySecret, str]:
        text = key_text(self._roll(DICE_BITS))
        digest = key_digest(self._pepper, text)
        return KeySecret(digest=digest, hint=hint_of(text), created_at_us=now_us), text

    def rotated(self, key: VirtualKey, overlap_s: int) -> tuple[VirtualKey, str]:
        """The key with a new secret; the old ones live on for `overlap_s` at most."""
        now_us = self._clock.wall_us()
        until_us = now_us + overlap_s * US_PER_S
        kept, ended = [], list(key.ended)
        for old in key.secrets:
            ends_us = until_us if old.expires_at_us is None else min(old.expires_at_us, until_us)
            if ends_us > now_us:
                kept.append(msgspec.structs.replace(old, expires_at_us=ends_us))
            else:
                ended.append(old.digest)
        secret, text = self._secret(now_us)
        said = {"secrets": (*kept, secret), "ended": tuple(ended[-ENDED_MAX:])}
        return msgspec.structs.replace(key, **said), text

    def put(self, key: VirtualKey) -> None:
        """From this moment the key is as given."""
        self._keys[key.id] = key
        self._index()
        if self.on_put is not None:
            self.on_put()


class KeyDesk:
    """What operators do with keys. Every change is kept before it is answered; one goes on at a time,
    for each writes the whole key. `configured` is what the configuration says of budgets and rates.

    A revoked key is refused from the moment the call returns: there is nothing to wait for. `note` has
    what the store cannot take.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        store: KeyStore,
        ledger: LedgerStore,
        budgets: BudgetStore,
        limits: LimitStore,
        configured: tuple[BudgetTable, RateTable],
        clock: Clock,
        note: RevocationNote | None = None,
    ) -> None:
        self._keyring = keyring
        self._revocations = Revocations(store, note)
        self._store = store
        self._ledger = ledger
        self._budgets = budgets
        self._limits = limits
        self._configured = configured
        self._clock = clock
        self._changing = Lock()

    @property
    def keys(self) -> Sequence[VirtualKey]:
        return self._keyring.keys

    def get(self, key_id: str) -> VirtualKey:
        """Raises NotFoundError."""
        return self._keyring.get(key_id)

    async def create(self, terms: KeyTerms) -> tuple[VirtualKey, str]:
        """A new key and its secret. Raises BadRequestError for a name that is in use."""
        async with self._changing:
            self._check(terms, None)
            key, text = self._keyring.mint(terms)
            await self._put(key)
        return key, text

    async def update(self, key_id: str, terms: KeyTerms) -> VirtualKey:
        """Set a key's terms anew, all of them."""
        async with self._changing:
            key = self._live(key_id)
            self._check(terms, key_id)
            changed = msgspec.structs.replace(key, terms=terms)
            await self._put(changed)
        return changed

    async def rotate(self, key_id: str, overlap_s: int) -> tuple[VirtualKey, str]:
        """A new secret for a key; the old one lives on for `overlap_s`, zero to end it at once."""
        if not 0 <= overlap_s <= OVERLAP_MAX_S:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"overlap_s: between 0 and {OVERLAP_MAX_S} seconds",
                param="overlap_s",
            )
        async with self._changing:
            key = self._live(key_id)
            if not key.is_live(self._clock.wall_us()):
                raise refuse(
                    FaultKind.INVALID_REQUEST,
                    f"the key {key_id!r} has expired, and a new secret would be of no use: set another"
                    " expires_at first",
                    status=409,
                    code="key_expired",
                )
            key, text = self._keyring.rotated(key, overlap_s)
            await self._put(key)
        return key, text

    async def revoke(self, key_id: str) -> VirtualKey:
        """End a key for good. Revoking twice changes nothing."""
        key = self._keyring.get(key_id)
        if key.revoked_at_us is None:
            # Refused from now, whatever the disk says: a key that must not be used comes first.
            revoked = msgspec.structs.replace(key, revoked_at_us=self._clock.wall_us())
            self._keyring.put(revoked)
        async with self._changing:
            # Also when it was revoked before: the disk may have failed then.
            key = self._keyring.get(key_id)
            await self._revocations.keep(key)
        return key

    async def resume(self) -> None:
        """Go on with the revocations that an earlier process could not write."""
        for key_id, at_us in self._revocations.left.items():
            key = self._keyring.find_id(key_id)
            if key is not None and key.revoked_at_us is None:
                revoked = msgspec.structs.replace(key, revoked_at_us=at_us)
                self._keyring.put(revoked)
                self._revocations.owe(revoked)
        await self._revocations.resume()

    async def aclose(self) -> None:
        """Before the store is closed: what is not written yet is tried once more."""
        await self._revocations.aclose()

    def rates_of(self, key_id: str) -> RateTerms:
        """The rates that hold for a key: its own, and for the rest those that are configured."""
        return self._limits.table.of(scope("key", key_id)) or RateTerms()

    def _live(self, key_id: str) -> VirtualKey:
        key = self._keyring.get(key_id)
        if key.revoked_at_us is not None:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"the key {key_id!r} is revoked; create a new one",
                status=409,
                code="key_revoked",
            )
        return key

    def _check(self, terms: KeyTerms, key_id: str | None) -> None:
        names = {
            key.terms.name
            for key in self._keyring.keys
            if key.id != key_id and key.revoked_at_us is None
        }
        names |= {principal.key_id for principal in self._keyring.fixed} | RESERVED_NAMES
        # Keys are found by either: a name that is another's id would stand for that one.
        is_id = any(terms.name == key.id for key in self._keyring.keys if key.id != key_id)
        if is_id or terms.name in names:
            what = "has the id" if is_id else "is named"
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"name: another key {what} {terms.name!r}",
                status=409,
                param="name",
                code="name_in_use",
            )

    async def _put(self, key: VirtualKey) -> None:
        # What may fail goes first: who is told that it did finds nothing half done.
        name, terms = scope("key", key.id), key.terms.budget
        await self._count(name, terms)
        await self._store.put_key(key)
        await self._count_now(name, terms)  # again, should midnight have come
        self._apply(key)
        known = self._keyring.find_id(key.id)
        if known is not None and known.revoked_at_us is not None:
            # Revoked while this was being written: it stays so.
            key = msgspec.structs.replace(key, revoked_at_us=known.revoked_at_us)
        self._keyring.put(key)

    async def apply_terms(self, key: VirtualKey) -> None:
        """Let the key's budget and rates hold, with what it has spent already."""
        await self._count(scope("key", key.id), key.terms.budget)
        self._apply(key)

    def _apply(self, key: VirtualKey) -> None:
        name = scope("key", key.id)
        budget, rates = _terms_of(key, *self._configured)
        self._budgets.change(self._budgets.table.replaced({name: budget}))
        self._limits.change(self._limits.table.replaced({name: rates}))

    async def configure(
        self, budgets: Mapping[Scope, BudgetTerms], rates: Mapping[Scope, RateTerms]
    ) -> None:
        """From now the configuration says these; what made keys say of themselves stays.

        What a newly limited scope has spent already counts. A kind (`user:*`) must not get a limit for a
        period that it had none for: who belongs to it is not known.
        """
        async with self._changing:
            configured = BudgetTable(dict(budgets)), RateTable(dict(rates))
            found = tables_of(self._keyring.keys, *configured)
            for name in found[0].terms:
                if not name.endswith(":*"):
                    await self._count(name, found[0].of(name) or BudgetTerms())
            self._configured = configured
            self._budgets.change(found[0])
            self._limits.change(found[1])

    async def _count(self, name: Scope, terms: BudgetTerms) -> None:
        """Have all that the scope spends counted in each period that gets a limit, and all it has."""
        await self._count_now(name, terms)
        await self._recall(name, terms)
        await self._count_now(name, terms)  # again, should midnight have come

    async def _count_now(self, name: Scope, terms: BudgetTerms) -> None:
        while (account := self._begin_count(name, terms)) is not None:
            try:
                # Asked in the same step as the watch began: nothing is missed, or counted twice.
                before = await self._ledger.spent(name, account.starts_at_us)
            except BaseException:
                self._budgets.unwatch(account)
                raise
            account.spent += before

    async def _recall(self, name: Scope, terms: BudgetTerms) -> None:
        """Have known what the scope has spent in periods that are not now's, and get a limit: the clock
        may be wrong, and be put right later. So it is at a start (`assembly.open_budgets`)."""
        limited = self._budgets.table.of(name) or BudgetTerms()
        had = {period for period, _ in limited.limits()}
        fresh = [period for period, _ in terms.limits() if period not in had]
        if not fresh:
            return
        now_us = self._clock.wall_us()
        days_us = {*await self._ledger.days_since(now_us), *self._budgets.days_shown_us}
        for period in fresh:
            for since_us, until_us in sorted({bounds(period, day_us) for day_us in days_us}):
                if until_us is not None and not since_us <= now_us < until_us:
                    spent = await self._ledger.spent(name, since_us, until_us)
                    self._budgets.recall(name, period, since_us, spent)

    def _begin_count(self, name: Scope, terms: BudgetTerms) -> Account | None:
        """Watch the first of the limited periods that is not counted yet, as of now: midnight may
        come while the ledger is asked."""
        now_us = self._clock.wall_us()
        watched = (self._budgets.watch(name, period, now_us) for period, _ in terms.limits())
        return next((account for account in watched if account is not None), None)


def _terms_of(
    key: VirtualKey, budgets: BudgetTable, rates: RateTable
) -> tuple[BudgetTerms | None, RateTerms | None]:
    """What applies to a key: what it says itself, and for the rest what the configuration says of its
    id, or of its name."""
    budget, rate = key.terms.budget, key.terms.rates
    for name in (scope("key", key.id), scope("key", key.terms.name)):
        budget = filled(budget, budgets.terms.get(name))
        rate = filled(rate, rates.terms.get(name))
    return (None if budget.is_empty else budget), (None if rate.is_empty else rate)


def _no_such_key(key_id: str) -> WindvaneError:
    return refuse(
        FaultKind.NOT_FOUND, f"there is no key {key_id[:64]!r}", status=404, code="no_such_key"
    )


def tables_of(
    keys: Sequence[VirtualKey], budgets: BudgetTable, rates: RateTable
) -> tuple[BudgetTable, RateTable]:
    """Both tables of the configuration with what the keys say."""
    found = {
        scope("key", key.id): _terms_of(key, budgets, rates)
        for key in keys
        if key.revoked_at_us is None
    }
    return (
        budgets.replaced({name: budget for name, (budget, _) in found.items()}),
        rates.replaced({name: rate for name, (_, rate) in found.items()}),
    )
