"""Who calls, and where what they do is counted."""

import msgspec


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of one exchange, made only by `engine.identify`: it has no default form.

    `key_id` names the key without revealing it.
    """

    key_id: str
    is_admin: bool = False
    team: str | None = None
    tags: tuple[str, ...] = ()


class VirtualKey(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway key as stored: never the secret, only its keyed digest."""

    digest: bytes
    principal: Principal
