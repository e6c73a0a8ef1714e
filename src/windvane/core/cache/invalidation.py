"""Taking answers back, by what they are tagged with, without looking for them.

Each invalidation has a number, one more than the last. An entry knows the number of the last one its
maker had heard of; if one of its tags was invalidated later than that, the entry is void. A maker that
was late to hear of an invalidation makes void entries for a moment: a miss too many, never a wrong hit.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

ALL = "all"
CALLER_TAGS_MAX = 8
TAGS_MAX = 10_000
"""With more invalidated tags than this, everything is invalid once, and the list begins anew."""


class Reach(StrEnum):
    """How far an invalidation has come. In the process that made it, it counts in any case."""

    EVERYWHERE = "everywhere"
    """All who share the cache know of it within two seconds, and so does this process after a restart."""
    LATER = "later"
    """Others could not be told yet. It is tried again, after a restart too."""
    HERE = "here"
    """The same, but should this process end before, nobody will know of it."""


class Taken(NamedTuple):
    """What became of taking answers back: how many there were, as far as known, and who knows of it."""

    removed: int
    reach: Reach


def model_tag(model: str) -> str:
    return f"model:{model}"


def route_tag(route: str) -> str:
    return f"route:{route}"


def caller_tag(tag: str) -> str:
    """A tag of the caller's own choice, which can be no other kind's."""
    return f"tag:{tag}"


def scope_tag(scope: str) -> str:
    return f"scope:{scope}"


def key_tag(key: bytes) -> str:
    """The tag of one entry alone; none has it written down, for its key is known anyhow."""
    return f"entry:{key.hex()}"


class Invalidations(msgspec.Struct, frozen=True, kw_only=True):
    """All invalidations so far: how many, and the last one of each tag."""

    version: int = 0
    by_tag: dict[str, int] = {}

    def voids(self, tags: tuple[str, ...], version: int) -> bool:
        """Whether an entry with these tags, of this version, is void."""
        if version >= self.version:
            return False
        by_tag = self.by_tag
        return any(by_tag.get(tag, 0) > version for tag in (ALL, *tags))


def after(known: Invalidations, tag: str) -> Invalidations:
    """What is known after one more invalidation, of `tag`."""
    version = known.version + 1
    if tag == ALL or len(known.by_tag) >= TAGS_MAX:
        return Invalidations(version=version, by_tag={ALL: version})
    return Invalidations(version=version, by_tag={**known.by_tag, tag: version})


def merged(one: Invalidations, other: Invalidations) -> Invalidations:
    """What is known to either."""
    by_tag = dict(one.by_tag)
    for tag, version in other.by_tag.items():
        by_tag[tag] = max(version, by_tag.get(tag, 0))
    return Invalidations(version=max(one.version, other.version), by_tag=by_tag)
