"""`/admin/keys`: making, changing, rotating and revoking gateway keys."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query, Request

from windvane.core.budgets import BudgetTerms
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.keys import VirtualKey
from windvane.core.limits import RateTerms
from windvane.core.principal import Principal, scope
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Permission, concerns, needs
from windvane.gateway.control_plane.key_forms import (
    KeyChange,
    KeyCreation,
    KeyList,
    KeyMade,
    KeyQuestion,
    KeyShown,
    Rotation,
    changed,
    shown_fixed,
    shown_key,
    terms_of,
)
from windvane.gateway.control_plane.known_names import check_names
from windvane.ports.clock import Clock

_NEEDS = needs(Permission.ADMIN)
_ERRORS = schemas.errors(400, 403, 404, 409, 503)
_CHANGE_ERRORS = {**_ERRORS, **schemas.errors(408, 413, 415)}
_KEY = "/admin/keys/{key_id:path}"
"""A name may have a slash in it. It is the longest path that is left, so none hides another."""
_A_DAY = Rotation()
_KEYS_BEGIN = "sk-"


class KeyBook:
    """All keys of a gateway as operators see them, found by id or by name."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @property
    def made(self) -> Sequence[VirtualKey]:
        return self._engine.desk.keys

    @property
    def fixed(self) -> Sequence[Principal]:
        return self._engine.keyring.fixed

    def id_of(self, said: str) -> str:
        """The id of the key that has this id or name; `said` itself when none has."""
        if any(said == key.id for key in self.made) or any(
            said == key.key_id for key in self.fixed
        ):
            return said
        named = [key for key in self.made if key.terms.name == said]
        # A revoked key's name may be another's by now: the living one is meant, else the latest.
        named.sort(key=lambda key: (key.revoked_at_us is None, key.created_at_us))
        return named[-1].id if named else said

    def team_of(self, key_id: str) -> str | None:
        """The team of a key that is there, if it has one."""
        teams = {principal.key_id: principal.team for principal in self.fixed}
        teams |= {key.id: key.terms.team for key in self.made}
        return teams.get(key_id)

    def names(self) -> dict[str, str]:
        """The name of each key by its id."""
        fixed = {principal.key_id: principal.key_id for principal in self.fixed}
        return fixed | {key.id: key.terms.name for key in self.made}

    def find(self, request: Request, said: str) -> str:
        """The same as `id_of`. Raises NotFoundError when there is no such key."""
        key_id = self.id_of(said)
        if key_id not in self.names():
            raise self._not_found(said)
        concerns(request, key_id)
        return key_id

    def _not_found(self, said: str) -> WindvaneError:
        """A key itself, pasted for its name, must not be told back: it would be in one more place."""
        why = f"there is no key {said[:64]!r}"
        if said.startswith(_KEYS_BEGIN) or self._engine.keyring.find(said) is not None:
            why = "that looks like a key itself: say its id or its name, and revoke it if others saw it"
        return refuse(FaultKind.NOT_FOUND, why, status=404, code="no_such_key")

    def shown(self, key_id: str) -> KeyShown:
        """One key that is there."""
        for principal in self.fixed:
            if principal.key_id == key_id:
                return self._shown_fixed(principal)
        return shown_key(self._engine.desk.get(key_id), self.now_us())

    def page(self, limit: int, after: str | None) -> KeyList:
        """So many keys after one: the configuration's, then those that were made, oldest first.

        Raises BadRequestError when there is no key `after` which to go on.
        """
        now_us = self.now_us()
        keys: list[Principal | VirtualKey] = [*self.fixed, *self.made]
        start = 0 if after is None else self._place_after(after, keys)
        page = keys[start : start + limit]
        is_last = start + limit >= len(keys)
        return KeyList(
            data=[
                self._shown_fixed(key) if isinstance(key, Principal) else shown_key(key, now_us)
                for key in page
            ],
            next=None if is_last else _id_of(page[-1]),
        )

    def _place_after(self, after: str, keys: Sequence[Principal | VirtualKey]) -> int:
        wanted = self.id_of(after)
        for place, key in enumerate(keys, start=1):
            if _id_of(key) == wanted:
                return place
        # Not told back: it may be a key itself.
        raise refuse(FaultKind.INVALID_REQUEST, "after: there is no such key", param="after")

    def _shown_fixed(self, principal: Principal) -> KeyShown:
        snapshot, name = self._engine.snapshot, scope("key", principal.key_id)
        return shown_fixed(
            principal,
            snapshot.budgets.get(name, BudgetTerms()),
            snapshot.rates.get(name, RateTerms()),
            is_refused=principal in self._engine.keyring.refused_fixed(),
        )

    def with_secret(self, request: Request, key: VirtualKey, secret: str) -> KeyMade:
        """What the one answer with the secret in it says."""
        concerns(request, key.id)
        return KeyMade(key=secret, **shown_key(key, self.now_us()).model_dump())

    def now_us(self) -> int:
        return self._clock.wall_us()


def _id_of(key: Principal | VirtualKey) -> str:
    return key.key_id if isinstance(key, Principal) else key.id


def add_keys(app: FastAPI, engine: Engine, clock: Clock) -> None:
    """The routes."""
    book = KeyBook(engine, clock)
    _add_reading(app, book)
    _add_making(app, engine, book)
    _add_changing(app, engine, book)


def _add_reading(app: FastAPI, book: KeyBook) -> None:
    @app.get(
        "/admin/keys",
        tags=["keys"],
        summary="Keys, configured and made, a page at a time",
        openapi_extra=_NEEDS,
        responses=schemas.errors(400, 403),
    )
    async def list_keys(question: Annotated[KeyQuestion, Query()]) -> KeyList:
        return book.page(question.limit, question.after)

    @app.get(
        _KEY, tags=["keys"], summary="One key", openapi_extra=_NEEDS,
        responses=schemas.errors(403, 404),
    )  # fmt: skip
    async def show_key(request: Request, key_id: str) -> KeyShown:
        return book.shown(book.find(request, key_id))


def _add_making(app: FastAPI, engine: Engine, book: KeyBook) -> None:
    @app.post(
        "/admin/keys",
        tags=["keys"],
        summary="Make a key; the answer has its secret, once",
        status_code=201,
        openapi_extra=_NEEDS,
        responses=_CHANGE_ERRORS,
    )
    async def create_key(request: Request, form: KeyCreation) -> KeyMade:
        terms = terms_of(form, book.now_us())
        check_names(terms, form.model_fields_set, engine.snapshot)
        key, secret = await engine.desk.create(terms)
        return book.with_secret(request, key, secret)

    @app.post(
        f"{_KEY}/rotate",
        tags=["keys"],
        summary="Give a key a new secret; the old one works on for a while",
        openapi_extra=_NEEDS,
        responses=_CHANGE_ERRORS,
    )
    async def rotate_key(request: Request, key_id: str, form: Rotation = _A_DAY) -> KeyMade:
        found = book.find(request, key_id)
        key, secret = await engine.desk.rotate(found, form.overlap_s)
        return book.with_secret(request, key, secret)


def _add_changing(app: FastAPI, engine: Engine, book: KeyBook) -> None:
    turn = asyncio.Lock()

    @app.patch(
        _KEY,
        tags=["keys"],
        summary="Change some terms of a key",
        openapi_extra=_NEEDS,
        responses=_CHANGE_ERRORS,
    )
    async def change_key(request: Request, key_id: str, form: KeyChange) -> KeyShown:
        found = book.find(request, key_id)
        async with turn:  # a change begins from what the one before it has left
            terms = changed(engine.desk.get(found).terms, form, book.now_us())
            check_names(terms, form.model_fields_set, engine.snapshot)
            key = await engine.desk.update(found, terms)
        return shown_key(key, book.now_us())

    @app.delete(
        _KEY,
        tags=["keys"],
        summary="Revoke a key for good",
        openapi_extra=_NEEDS,
        responses=_ERRORS,
    )
    async def revoke_key(request: Request, key_id: str) -> KeyShown:
        found = book.find(request, key_id)
        key = await engine.desk.revoke(found)
        return shown_key(key, book.now_us())
