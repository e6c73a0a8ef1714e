"""Gateway keys: their form, what may be set on one, and how it is kept.

A key reads `sk-wv-` + 32 characters of dice (base 62, 190 bits) + 6 of checksum, so that secret
scanners know one without a false alarm and a key pasted in half is refused as such. The key itself
is shown once and never stored: only a keyed digest is, and enough of its letters to recognize it by.
"""

import zlib

import msgspec

from windvane.core.budgets import BudgetTerms
from windvane.core.limits import RateTerms
from windvane.core.principal import Principal
from windvane.core.priority import Priority

PREFIX = "sk-wv-"
ADMIN_PREFIX = "sk-wv-adm-"
"""Of the key that a gateway makes for whoever may read its data folder."""
DICE_CHARS = 32
CHECKSUM_CHARS = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HINT_CHARS = 4


def key_text(dice: int) -> str:
    """The key that these dice (at least 191 bits, from a secure source) make."""
    said = _base62(dice, DICE_CHARS)
    return f"{PREFIX}{said}{_checksum(said)}"


def _base62(number: int, chars: int) -> str:
    signs = []
    for _ in range(chars):
        number, sign = divmod(number, 62)
        signs.append(_ALPHABET[sign])
    return "".join(reversed(signs))


def _checksum(said: str) -> str:
    return _base62(zlib.crc32(said.encode()), CHECKSUM_CHARS)


def is_whole(text: str) -> bool:
    """Whether a text that begins like a key is one, to its last character."""
    said = text.removeprefix(PREFIX)
    body, checksum = said[:DICE_CHARS], said[DICE_CHARS:]
    return len(body) == DICE_CHARS and body.isascii() and _checksum(body) == checksum


def hint_of(text: str) -> str:
    """Enough of a key to recognize it in a list, and no more: `sk-wv-AbCd...wxyz`."""
    return f"{PREFIX}{text[len(PREFIX) :][:_HINT_CHARS]}...{text[-_HINT_CHARS:]}"


class KeySecret(msgspec.Struct, frozen=True, kw_only=True):
    """One secret of a key; after a rotation the old one lives on until `expires_at_us`."""

    digest: bytes
    hint: str
    created_at_us: int
    expires_at_us: int | None = None


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may set on a key. Money in nano-dollars, times in UTC microseconds.

    `name` is how reports call it. `models`, `routes` and `endpoints` are what it may use, all when
    empty. `route` is what `auto` means for it.
    """

    name: str
    owner: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    expires_at_us: int | None = None
    budget: BudgetTerms = BudgetTerms()
    rates: RateTerms = RateTerms()
    route: str | None = None
    priority: Priority = Priority.NORMAL
    output_tokens_max: int | None = None
    may_clamp: bool = True


class VirtualKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: never the secret itself, only its digest."""

    id: str
    terms: KeyTerms
    secrets: tuple[KeySecret, ...]
    created_at_us: int
    revoked_at_us: int | None = None
    ended: tuple[bytes, ...] = ()
    """Digests of secrets that were its, the latest last: they must not be anybody's again."""

    def is_live(self, at_us: int) -> bool:
        """Whether it may be used at all at this moment."""
        expires = self.terms.expires_at_us
        return self.revoked_at_us is None and (expires is None or at_us < expires)

    def principal(self) -> Principal:
        """Who calls with this key."""
        terms = self.terms
        return Principal(
            key_id=self.id,
            name=terms.name,
            owner=terms.owner,
            team=terms.team,
            tags=terms.tags,
            models=terms.models,
            routes=terms.routes,
            endpoints=terms.endpoints,
            route=terms.route,
            priority=terms.priority,
            output_tokens_max=terms.output_tokens_max,
            may_clamp=terms.may_clamp,
        )
