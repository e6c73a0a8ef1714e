"""Which answers a question to `/admin/cache` means: names become tags, and what can mean none is refused.

Nothing that could mean answers is refused for being unknown here: a model may have left the configuration,
and its answers not the Redis that others share. That there was none is then said.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from windvane.core.cache.invalidation import (
    ALL,
    caller_tag,
    key_tag,
    model_tag,
    route_tag,
    scope_tag,
)
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.engine.keyring import RESERVED_NAMES
from windvane.engine.snapshot import Snapshot
from windvane.gateway.control_plane.keys import KeyBook

TEXT_MAX = 200
_VISITORS = re.compile("own-[0-9a-f]{16}")
ENTRY_BYTES = 32


class CacheQuestion(BaseModel):
    """Which entries: all, or by one of these."""

    model_config = ConfigDict(extra="forbid")

    tag: str | None = Field(default=None, max_length=TEXT_MAX, description="a caller's own tag")
    model: str | None = Field(
        default=None, max_length=TEXT_MAX, description="a model's id, or one of its names"
    )
    route: str | None = Field(default=None, max_length=TEXT_MAX)
    scope: str | None = Field(
        default=None,
        max_length=TEXT_MAX,
        description="whose answers: `key:ID`, `team:NAME`, `shared`",
    )
    key: str | None = Field(
        default=None, max_length=TEXT_MAX, description="a gateway key's id or name"
    )
    entry: str | None = Field(
        default=None,
        max_length=TEXT_MAX,
        description="one answer: the `key` that the header `Cache-Status` of its hits shows",
    )


class Meant(NamedTuple):
    """The tags of the answers meant, and what to say when there was none; `entry` when it is one."""

    tags: tuple[str, ...]
    unless_found: str | None = None
    entry: bytes | None = None


def meant(question: CacheQuestion, snapshot: Snapshot, book: KeyBook, request: Request) -> Meant:
    """The answers that are meant. Raises BadRequestError when two ways are said, for one that is empty (a
    script whose variable is not set must not take back everything), and for what can mean no answer;
    NotFoundError for a key that is none."""
    said = question.model_dump(exclude_none=True)
    for name, value in said.items():
        if not value.strip():
            raise _refused(name, "it is empty; to take back all answers, leave it out")
    if len(said) > 1:
        ways = ", ".join(CacheQuestion.model_fields)
        raise refuse(FaultKind.INVALID_REQUEST, f"one of {ways} at a time", param="tag")
    if question.key is not None:
        return Meant(_tags_of_key(question.key, snapshot, book, request))
    for name, value in said.items():
        return _MEANT[name](value, snapshot)
    return Meant((ALL,))


def _tags_of_key(said: str, snapshot: Snapshot, book: KeyBook, request: Request) -> tuple[str, ...]:
    if _VISITORS.fullmatch(said) and book.id_of(said) not in book.names():
        return (scope_tag(f"key:{said}"),)  # who brings a key of its own shares with itself alone
    key_id = said if said in RESERVED_NAMES else book.find(request, said)
    scope = None if snapshot.cache is None else snapshot.cache.scope
    if scope == "shared":
        raise _refused("key", "cache.scope is shared: everybody's answers are one, and no key's")
    team = book.team_of(key_id)
    if scope == "team" and team is not None:
        why = f"cache.scope is team: this key's answers are its team's; say scope=team:{team}"
        raise _refused("key", why)
    return _scope_tags_of(key_id, snapshot)


def _scope_tags_of(key_id: str, snapshot: Snapshot) -> tuple[str, ...]:
    """What the answers of a key are tagged with: its id, and, where it has no name and may have another id
    at another gateway, its place there."""
    found = [each for each in snapshot.keys.values() if each.key_id == key_id]
    names = dict.fromkeys((key_id, *(each.listed_as or key_id for each in found)))
    return tuple(scope_tag(f"key:{name}") for name in names)


def _of_tag(said: str, _: Snapshot) -> Meant:
    if "," in said:
        raise _refused("tag", "a comma is in no tag, but between two; one at a time")
    return Meant((caller_tag(said.strip()),))


def _of_model(said: str, snapshot: Snapshot) -> Meant:
    """By all ids that the name has had: an alias moves, and what was kept does not move with it."""
    ids = [
        card.id
        for card in snapshot.catalog.cards
        if said == card.id or any(said == alias.name for alias in card.aliases)
    ]
    ids += [
        deployment.resolved_model
        for name, deployments in snapshot.deployments.items()
        for deployment in deployments
        if said in (name, deployment.model, deployment.resolved_model)
    ]
    tags = tuple(dict.fromkeys(model_tag(each) for each in (said, *ids)))
    return Meant(tags, None if ids else f"no model here has the id or name {said!r}")


def _of_route(said: str, snapshot: Snapshot) -> Meant:
    unless_found = None if said in snapshot.routes else f"no route here has the name {said!r}"
    return Meant((route_tag(said),), unless_found)


def _of_scope(said: str, snapshot: Snapshot) -> Meant:
    kind, _, name = said.partition(":")
    if said != "shared" and not (kind in ("key", "team") and name):
        raise _refused("scope", f"{said!r} is none of key:ID, team:NAME and shared")
    return Meant(_scope_tags_of(name, snapshot) if kind == "key" else (scope_tag(said),))


def _of_entry(said: str, _: Snapshot) -> Meant:
    try:
        key = bytes.fromhex(said)
    except ValueError:
        key = b""
    if len(key) != ENTRY_BYTES:
        why = "it is not 64 hexadecimal digits: the header Cache-Status of a hit shows them as its key"
        raise _refused("entry", why)
    return Meant((key_tag(key),), entry=key)


_MEANT: dict[str, Callable[[str, Snapshot], Meant]] = {
    "tag": _of_tag,
    "model": _of_model,
    "route": _of_route,
    "scope": _of_scope,
    "entry": _of_entry,
}


def _refused(name: str, why: str) -> WindvaneError:
    return refuse(FaultKind.INVALID_REQUEST, f"{name}: {why}", param=name)
