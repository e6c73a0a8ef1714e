"""Who calls, where what they do is counted, and what they may do."""

from functools import lru_cache
from typing import NewType

import msgspec

from windvane.core.priority import Priority

Scope = NewType("Scope", str)
"""Where money and rates are counted: `global`, or a kind and a name, `team:research`."""

GLOBAL = Scope("global")
MODEL = "model"
SCOPE_KINDS = ("key", "team", "user", "tag", MODEL)


def scope(kind: str, name: str) -> Scope:
    # To call a NewType costs more than to make the text.
    return f"{kind}:{name}"  # type: ignore[return-value]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of one exchange, made only by `engine.admission`: it has no default form.

    `key_id` names the key without revealing it. `models`, `routes` and `endpoints` are what the key
    may use, all when empty; a trailing `*` stands for any ending. `route` is what `auto` means for
    it. `may_clamp`: when its budget does not cover the answer asked for, a shorter one is asked for.
    `provider` is set for a caller who brought the provider's own key: it may go there alone.
    """

    key_id: str
    name: str | None = None
    """What its owner calls it, where that is not its id."""
    is_admin: bool = False
    owner: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    route: str | None = None
    priority: Priority = Priority.NORMAL
    output_tokens_max: int | None = None
    may_clamp: bool = True
    provider: str | None = None
    listed_as: str | None = None
    """The place of a key without a name: at another gateway, where its id is another, what its stored
    answers are taken back by."""
    scopes: tuple[Scope, ...] = ()
    """Where its requests count that name no user and no further tags; made of the rest."""

    def __post_init__(self) -> None:
        tags = tuple(dict.fromkeys(self.tags))
        msgspec.structs.force_setattr(self, "tags", tags)
        scopes = scopes_of(self.key_id, self.team, None, tags)
        msgspec.structs.force_setattr(self, "scopes", scopes)


@lru_cache(maxsize=4_096)
def scopes_of(
    key_id: str, team: str | None, user: str | None, tags: tuple[str, ...]
) -> tuple[Scope, ...]:
    """Where such a request counts. The same few callers come again and again."""
    scopes = [GLOBAL, scope("key", key_id)]
    if team is not None:
        scopes.append(scope("team", team))
    if user is not None:
        scopes.append(scope("user", user))
    scopes += [scope("tag", tag) for tag in tags]
    return tuple(scopes)


def told_as(name: Scope, principal: Principal | None) -> str:
    """How a caller is told of a scope: of its own key by name too."""
    is_own = principal is not None and name == scope("key", principal.key_id)
    return f"{name} ({principal.name})" if principal and is_own and principal.name else name


def allows(patterns: tuple[str, ...], name: str) -> bool:
    """Whether `name` is one of the patterns, or begins like one that ends in `*`. None allow all."""
    if not patterns:
        return True
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
    )
