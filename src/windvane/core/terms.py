"""Terms by scope: what applies to one, said of it itself or of its whole kind.

What the nearer place says goes first; the farther fills its gaps.
"""

from typing import Generic, Protocol, Self, TypeVar, cast

import msgspec

from windvane.core.principal import Scope


class Terms(Protocol):
    @property
    def is_empty(self) -> bool: ...


T = TypeVar("T", bound=Terms)
S = TypeVar("S", bound=msgspec.Struct)


def filled(near: S, far: S | None) -> S:
    """`near`, with what it leaves out taken from `far`."""
    if far is None or far is near:
        return near
    gaps = {
        field: getattr(far, field)
        for field in near.__struct_fields__
        if getattr(near, field) is None
    }
    return msgspec.structs.replace(near, **gaps)


class TermsTable(Generic[T]):
    """Which terms apply to which scope: its own, and those of its kind (`user:*`). Immutable."""

    def __init__(self, terms: dict[Scope, T]) -> None:
        self._terms = {name: said for name, said in terms.items() if not said.is_empty}
        self._kinds = {
            name.removesuffix(":*"): said
            for name, said in self._terms.items()
            if name.endswith(":*")
        }
        self._found = {name: self._whole(name, said) for name, said in self._terms.items()}
        self.is_empty = not self._terms
        self.kinds = frozenset(name.partition(":")[0] for name in self._terms)
        """Of which kinds of scope anything is said."""

    @property
    def terms(self) -> dict[Scope, T]:
        return dict(self._terms)

    def of(self, scope: Scope) -> T | None:
        """What applies to `scope`: what it says itself, and for the rest what its kind says."""
        found = self._found.get(scope)
        return self._of_kind(scope) if found is None and self._kinds else found

    def _of_kind(self, scope: Scope) -> T | None:
        kind, colon, _ = scope.partition(":")
        return self._kinds.get(kind) if colon else None

    def _whole(self, name: Scope, said: T) -> T:
        near = cast(msgspec.Struct, said)
        return cast(T, filled(near, cast(msgspec.Struct | None, self._of_kind(name))))

    def replaced(self, changes: dict[Scope, T | None]) -> Self:
        """This table with some terms set, or taken away."""
        terms = {**self._terms}
        for scope, said in changes.items():
            terms.pop(scope, None)
            if said is not None:
                terms[scope] = said
        return type(self)(terms)
