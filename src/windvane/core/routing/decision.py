"""The decision as data: the ordered plan for one exchange, with why."""

import msgspec

from windvane.core.deployment import Deployment


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment that may serve, under the model name that led to it."""

    model: str
    deployment: Deployment


class RuledOut(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asked, in which order, and why. `candidates` is never empty.

    `route` is None for a manual override; `rule` is the place of the rule that matched, counted
    from 1, None for the route's default. `own` is the decision by the route's own order, where another
    goes first now: since the first choice rests, or a budget nears its end.
    """

    reason: str
    candidates: tuple[Candidate, ...]
    route: str | None = None
    rule: int | None = None
    ruled_out: tuple[RuledOut, ...] = ()
    own: "Decision | None" = None
