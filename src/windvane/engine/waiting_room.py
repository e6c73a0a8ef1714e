"""Where attempts wait for room at a provider's limit, instead of failing there.

Laws:
1. Without a known limit, or with room and nobody waiting, nobody waits: `try_admit` only counts. Who is
   beyond its share leaves some room free for others, and these go past it when it waits.
2. Whoever waits holds nothing: no money, no connection, no task of its own; a place and a future.
3. A wait ends once: by its turn, its deadline, its caller's leaving, or somebody who goes first taking
   its place. Each time the next in line is looked at.
4. Nobody begins a wait that is known to be in vain.
5. One timer stands behind all who wait, set for the first moment at which any of them may go, or must.

`key` names whose limits count: the provider, where a workspace shares them, else one deployment. Bars
are by deployment. What is allowed is `core.upstream_limits`' to say, who is next `core.waiting`'s, and
what must stay free for others `core.shares`'.
"""

import asyncio
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

import msgspec

from windvane.core.faults import Fault, FaultKind, Retry, Source, error_of
from windvane.core.priority import Priority
from windvane.core.shares import KEPT_MAX_US, Portion, Shares
from windvane.core.upstream_limits import (
    SECOND_US,
    ZERO_ALLOWANCE_US,
    Bar,
    Standing,
    Taken,
    UpstreamLimits,
    UpstreamTerms,
    bar_of,
    standings,
)
from windvane.core.waiting import FairQueue, Full, Place
from windvane.ports.clock import Clock

WAITING_MAX = 1_000
"""At each upstream. Each keeps its request in memory, and at a thousand a minute the last of them waits
for as long as callers commonly do."""

WAIT_MAX_S = 600.0
"""Whatever the deadline: the default of a whole exchange."""

LATENESS_US = 1_000
"""A turn and a deadline this close together are one moment, and the turn comes first."""

AHEAD_MAX_US = KEPT_MAX_US
"""By so much those who go past may have had more turns than those who wait."""

HEAR_EVERY_US = 10_000
"""Reading rate headers costs more than all else here; in a crowd of answers one speaks for the others."""

STALE_MAX = 64
"""Deadlines of those who have left, kept until there are more of them than of those who wait."""

NO_TERMS = UpstreamTerms()

NO_QUOTA = Bar(reason="its quota is used up", for_us=ZERO_ALLOWANCE_US)
"""What a final refusal means whose headers do not say more."""


class Admission:
    """Leave to send one request; to be corrected when its usage is known, or given back unsent.

    `waited_s` is how long it took.
    """

    __slots__ = ("gate", "portion", "taken", "waited_s")

    def __init__(
        self,
        gate: "_Gate | None",
        taken: Taken | None,
        portion: Portion | None = None,
        waited_s: float = 0.0,
    ) -> None:
        self.gate = gate
        self.taken = taken
        self.portion = portion
        self.waited_s = waited_s


FREE = Admission(None, None)
"""Where no limit is known, nothing is counted."""


class UpstreamStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How one upstream stands at a moment: who waits for it, and what is left of its limits."""

    key: str
    waiting: dict[Priority, int]
    longest_wait_s: float
    """Of those who wait now."""
    pause_s: float
    """How long nothing will be sent there, because it has asked for that."""
    limits: tuple[Standing, ...]


class _Waiter:
    """One who waits: for what, since when and until when; and `again`, how many tokens that will use, as
    far as is known by now."""

    __slots__ = (
        "again",
        "deadline_us",
        "deployment",
        "future",
        "gate",
        "place",
        "since_us",
        "tokens",
    )

    def __init__(
        self,
        gate: "_Gate",
        deployment: str,
        tokens: int,
        future: "asyncio.Future[Admission | Fault]",
        since_us: int,
        deadline_us: int,
        again: Callable[[], int] | None,
    ) -> None:
        self.again = again
        self.gate = gate
        self.deployment = deployment
        self.tokens = tokens
        self.future = future
        self.since_us = since_us
        self.deadline_us = deadline_us
        self.place: Place[_Waiter] | None = None

    @property
    def is_waiting(self) -> bool:
        return self.place is not None and self.place.is_waiting


class _Gate:
    """One upstream: what it allows, who waits for it, and when to look at them next."""

    __slots__ = (
        "ahead_us",
        "due_us",
        "hear_from_us",
        "key",
        "limits",
        "queue",
        "shares",
        "waiting_tokens",
    )

    def __init__(self, key: str, queue: FairQueue[_Waiter]) -> None:
        self.key = key
        self.limits = UpstreamLimits()
        self.shares = Shares()
        self.queue = queue
        self.waiting_tokens = 0
        self.ahead_us = 0
        self.due_us = 0
        self.hear_from_us = 0

    def take_now(
        self, tenant: str, priority: Priority, tokens: int, now_us: int
    ) -> Admission | None:
        """Leave to send for one who needs not wait."""
        cost_us = self.limits.gap_us(tokens, now_us)
        kept_us = self.shares.kept_us(tenant, priority, cost_us, now_us)
        taken = self.limits.take_now(tokens, now_us, kept_us)
        if taken is None:
            return None
        return Admission(self, taken, self.shares.take(tenant, priority, cost_us, now_us))

    def go_past(
        self, tenant: str, priority: Priority, tokens: int, now_us: int
    ) -> Admission | None:
        """Leave to send for one who came now, past all who wait: it is within its share and has had less
        than the next of them, who is of no higher class, and none of its own waits. It is a turn like
        theirs, taken ahead of time."""
        place = self.queue.peek()
        if place is None or priority.rank > place.priority.rank:
            return None
        cost_us = self.limits.gap_us(tokens, now_us)
        had_us = self.shares.had_us(tenant, priority) + cost_us
        if had_us > self.shares.had_us(place.tenant, place.priority):
            return None
        if self.queue.size(tenant, priority) or self.kept_us(tenant, priority, tokens, now_us):
            return None
        if self.limits.wait_us(tokens, now_us) or not self._gives_way(place, cost_us, now_us):
            return None
        taken = self.limits.take_turn(tokens, now_us)
        return Admission(self, taken, self.shares.take(tenant, priority, cost_us, now_us))

    def _gives_way(self, place: Place[_Waiter], cost_us: int, now_us: int) -> bool:
        """Whether the next of those who wait may be gone past once more. Where it finds no room, that
        takes nothing from it; else half of all turns are for those who wait."""
        tokens = place.item.tokens
        kept_us = self.kept_us(place.tenant, place.priority, tokens, now_us)
        if self.limits.wait_us(tokens, now_us, kept_us):
            return True
        if self.ahead_us + cost_us > AHEAD_MAX_US:
            return False
        self.ahead_us += cost_us
        return True

    def turn_us(self, place: Place[_Waiter], now_us: int) -> int:
        """How long until one who waits may go, if it is the next, or until less may be kept for others:
        they may have left since."""
        tokens = place.item.tokens
        kept_us = self.kept_us(place.tenant, place.priority, tokens, now_us)
        wait_us = self.limits.turn_us(tokens, now_us, kept_us)
        return min(wait_us, self.shares.slot_end_us - now_us) if kept_us else wait_us

    def take_turn(self, place: Place[_Waiter], now_us: int) -> Admission:
        """Leave to send for the next of those who wait."""
        self.queue.pop()
        waiter = place.item
        self.waiting_tokens -= waiter.tokens
        taken = self.limits.take_turn(waiter.tokens, now_us)
        self.ahead_us = max(self.ahead_us - taken.gap_us, 0)
        portion = self.shares.take(place.tenant, place.priority, taken.gap_us, now_us)
        return Admission(self, taken, portion, (now_us - waiter.since_us) / SECOND_US)

    def correct(self, admission: Admission, used_tokens: int, now_us: int) -> None:
        """The usage of a request is known."""
        if admission.taken is not None and admission.portion is not None:
            self.limits.correct(admission.taken, used_tokens, now_us)
            cost_us = self.limits.gap_us(used_tokens, now_us)
            self.shares.correct(admission.portion, cost_us, now_us)

    def give_back(self, admission: Admission, now_us: int) -> None:
        """Nothing was sent."""
        if admission.taken is not None and admission.portion is not None:
            self.limits.give_back(admission.taken, now_us)
            self.shares.correct(admission.portion, 0, now_us)
            admission.taken = None

    def kept_us(self, tenant: str, priority: Priority, tokens: int, now_us: int) -> int:
        cost_us = self.limits.gap_us(tokens, now_us)
        return self.shares.kept_us(tenant, priority, cost_us, now_us)

    def expected_us(self, tenant: str, priority: Priority, tokens: int, now_us: int) -> int:
        """About how long one who came now would wait."""
        ahead = self.queue.ahead_of(tenant, priority)
        waiting = len(self.queue)
        kept_us = self.kept_us(tenant, priority, tokens, now_us)
        return self.limits.expected_us(ahead, waiting, self.waiting_tokens, tokens, now_us, kept_us)

    def enter(self, waiter: _Waiter, tenant: str, priority: Priority, cost: int) -> _Waiter | None:
        """Wait, and tell who had to leave for it. Raises Full."""
        waiter.place, displaced = self.queue.put(tenant, priority, cost, waiter)
        self.waiting_tokens += waiter.tokens
        if displaced is None:
            return None
        self.waiting_tokens -= displaced.item.tokens
        return displaced.item

    def weigh(self, waiter: _Waiter) -> None:
        """Whose turn it is takes what is expected now: much may have been learned since it came."""
        if waiter.again is not None:
            tokens = waiter.again()
            self.waiting_tokens += tokens - waiter.tokens
            waiter.tokens = tokens

    def leave(self, waiter: _Waiter) -> None:
        if waiter.place is not None and waiter.place.is_waiting:
            self.queue.remove(waiter.place)
            self.waiting_tokens -= waiter.tokens


class WaitingRoom:
    """The limits of all upstreams, and who waits for them."""

    def __init__(
        self,
        clock: Clock,
        terms: Mapping[str, UpstreamTerms] | None = None,
        *,
        waiting_max: int = WAITING_MAX,
        new_queue: Callable[[int], FairQueue[_Waiter]] = FairQueue,
    ) -> None:
        self._clock = clock
        self._waiting_max = waiting_max
        self._new_queue = new_queue
        self._gates: dict[str, _Gate] = {}
        self._busy: dict[str, _Gate] = {}
        self.bars: dict[str, tuple[int, str]] = {}
        """Deployments that are not to be asked: until when, and why. Some may be over (see `bar`)."""
        self._configured: Mapping[str, UpstreamTerms] = {}
        self._deadlines: list[tuple[int, int, _Waiter]] = []
        self._named: dict[str, _Waiter] = {}
        self._entered = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_us = 0
        self.configure(terms or {})

    def configure(self, terms: Mapping[str, UpstreamTerms]) -> None:
        """From now, `terms` say what is allowed, by key. What was learned of others stays; bars are
        lifted, for a new key may have come with the new configuration."""
        self.bars.clear()
        for key, before in self._configured.items():
            if not before.is_empty and terms.get(key, NO_TERMS).is_empty:
                self._gate(key).limits.forget()
        for key, said in terms.items():
            if not said.is_empty:
                self._gate(key).limits.set_terms(said)
        self._configured = dict(terms)
        self._look()

    def try_admit(
        self, key: str, deployment: str, *, tokens: int, tenant: str, priority: Priority
    ) -> Admission | None:
        """Leave to send at once; None when `admit` would wait. `tokens` are about what will be used.

        Raises RateLimitError when the deployment is barred.
        """
        if self.bars and (fault := self._barred(deployment)) is not None:
            raise error_of(fault)
        gate = self._gates.get(key)
        if gate is None:
            return FREE
        now_us = int(self._clock.monotonic_s() * SECOND_US)
        if gate.key in self._busy:
            return gate.go_past(tenant, priority, tokens, now_us)
        return gate.take_now(tenant, priority, tokens, now_us)

    async def admit(
        self,
        key: str,
        deployment: str,
        *,
        tokens: int,
        tenant: str,
        priority: Priority,
        deadline_s: float,
        name: str = "",
        again: Callable[[], int] | None = None,
    ) -> Admission:
        """Leave to send, waited for if need be; `deadline_s` is the monotonic time of giving up, and
        `name` what the wait is found by meanwhile. `again` tells anew, when its turn comes, what will be
        used.

        Raises RateLimitError: `upstream_rate_limited` when there is no room in time, at once when that
        is known; `insufficient_quota` when the deployment is barred.
        """
        admission = self.try_admit(key, deployment, tokens=tokens, tenant=tenant, priority=priority)
        if admission is not None:
            return admission
        waiter = self._enter(key, deployment, tokens, tenant, priority, deadline_s, again)
        self._named[name] = waiter
        try:
            outcome = await waiter.future
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            self._named.pop(name, None)
        if isinstance(outcome, Fault):
            raise error_of(outcome)
        return outcome

    def join(self, name: str, tenant: str, priority: Priority) -> float:
        """Another waits for what the wait of this name is for: if it is more urgent, the place is one of
        its own from now. Returns how long, in seconds, has been waited already."""
        waiter = self._named.get(name)
        if waiter is None or waiter.place is None or not waiter.place.is_waiting:
            return 0.0
        place, gate = waiter.place, waiter.gate
        if priority.rank < place.priority.rank:
            gate.queue.remove(place)
            waiter.place, _ = gate.queue.put(tenant, priority, place.cost, waiter)
            self._look_at(gate)
        return (self._now_us() - waiter.since_us) / SECOND_US

    def correct(self, admission: Admission, used_tokens: int) -> None:
        """The request has ended, and used so many tokens of its upstream's: 0 if it was refused."""
        gate = admission.gate
        if gate is not None:
            gate.correct(admission, used_tokens, self._now_us())
            self._look_at(gate)

    def give_back(self, admission: Admission) -> None:
        """The request was never sent."""
        gate = admission.gate
        if gate is not None:
            gate.give_back(admission, self._now_us())
            self._look_at(gate)

    def learn(self, key: str, headers: Mapping[str, str], admission: Admission = FREE) -> None:
        """An answer came, with what its headers say of limits."""
        gate = self._gates.get(key)
        if gate is not None:
            gate.limits.answered()
            if self._now_us() < gate.hear_from_us:
                return
        if said := standings(headers):
            gate, now_us = gate or self._gate(key), self._now_us()
            gate.hear_from_us = now_us + HEAR_EVERY_US
            gate.limits.hear(said, admission.taken, now_us)
            self._look_at(gate)

    def learn_429(
        self,
        key: str,
        deployment: str,
        *,
        fault: Fault,
        headers: Mapping[str, str],
        admission: Admission = FREE,
    ) -> Bar | None:
        """A 429 came. A final one bars the deployment, and is returned; else all wait as long as it says.

        A provider without capacity says nothing of our limits: others may be asked meanwhile, and the
        breaker counts it.
        """
        now_us = self._now_us()
        bar = bar_of(headers, self._clock.wall_us())
        is_ours = fault.kind is FaultKind.RATE_LIMITED
        if bar is None and is_ours and fault.retry is Retry.OTHER:
            bar = NO_QUOTA
        gate = self._gate(key)
        if bar is not None:
            self.bars[deployment] = (now_us + bar.for_us, bar.reason)
        else:
            said = standings(headers)
            gate.limits.hear(said, admission.taken, now_us)
            if is_ours or fault.retry_after_s is not None:
                gate.limits.pause(_pause_us(fault, said), now_us)
        self._look_at(gate)
        return bar

    def bar(self, deployment: str) -> str | None:
        """Why the deployment is not to be asked now, if it is not: for whoever decides."""
        known = self.bars.get(deployment)
        if known is None:
            return None
        if known[0] <= self._now_us():
            del self.bars[deployment]
            return None
        return known[1]

    def forget(self) -> None:
        """Forget pauses, bars and what was learned of limits: the provider's side has changed. Who
        waits is looked at anew."""
        self.bars.clear()
        for key in [key for key in self._gates if key not in self._busy]:
            del self._gates[key]
        for gate in self._busy.values():
            gate.limits = UpstreamLimits()
        self.configure(self._configured)

    def terms_of(self, key: str) -> UpstreamTerms | None:
        """What the upstream is believed to allow; None when nothing is known."""
        gate = self._gates.get(key)
        return gate.limits.terms if gate is not None else None

    def depth(self, priority: Priority) -> int:
        """How many of a class wait now."""
        return sum(gate.queue.depth(priority) for gate in self._busy.values())

    def upstreams(self) -> list[UpstreamStanding]:
        """Each upstream whose limits are known or that has been waited for, by its key."""
        now_us = self._now_us()
        since_us: dict[str, int] = {}
        for _, _, waiter in self._deadlines:
            if waiter.is_waiting:
                key = waiter.gate.key
                since_us[key] = min(since_us.get(key, now_us), waiter.since_us)
        return [
            UpstreamStanding(
                key=key,
                waiting={priority: gate.queue.depth(priority) for priority in Priority},
                longest_wait_s=(now_us - since_us.get(key, now_us)) / SECOND_US,
                pause_s=max(gate.limits.closed_until_us - now_us, 0) / SECOND_US,
                limits=tuple(gate.limits.left(now_us)),
            )
            for key, gate in sorted(self._gates.items())
        ]

    def _now_us(self) -> int:
        return int(self._clock.monotonic_s() * SECOND_US)

    def _gate(self, key: str) -> _Gate:
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(key, self._new_queue(self._waiting_max))
        return gate

    def _barred(self, deployment: str) -> Fault | None:
        reason = self.bar(deployment)
        if reason is None:
            return None
        wait_s = max(self.bars[deployment][0] - self._now_us(), 0) / SECOND_US
        message = f"{deployment} is not asked: {reason}"
        return _refusal(message, wait_s, code="insufficient_quota")

    def _enter(
        self,
        key: str,
        deployment: str,
        tokens: int,
        tenant: str,
        priority: Priority,
        deadline_s: float,
        again: Callable[[], int] | None,
    ) -> _Waiter:
        """A place in the queue. Raises RateLimitError when there is none, or it is of no use."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start_afresh(loop)
        gate, now_us = self._gates[key], self._now_us()
        wait_max_us = int(min(deadline_s - self._clock.monotonic_s(), WAIT_MAX_S) * SECOND_US)
        expected_us = gate.expected_us(tenant, priority, tokens, now_us)
        if expected_us > wait_max_us:
            raise error_of(_no_room(gate, expected_us, "too late for this request"))
        waiter = _Waiter(
            gate, deployment, tokens, loop.create_future(), now_us, now_us + wait_max_us, again
        )
        cost = gate.limits.gap_us(tokens, now_us)
        try:
            displaced = gate.enter(waiter, tenant, priority, cost)
        except Full:
            crowd = f"{len(gate.queue)} requests wait already"
            raise error_of(_no_room(gate, expected_us, crowd)) from None
        if displaced is not None:
            self._refuse(displaced, "others go first", now_us)
        self._busy[key] = gate
        self._entered += 1
        heappush(self._deadlines, (waiter.deadline_us, self._entered, waiter))
        self._look_at(gate)
        return waiter

    def _abandon(self, waiter: _Waiter) -> None:
        """Its caller has left: its place, or the leave it was given and never saw, is the next one's."""
        future = waiter.future
        waiter.gate.leave(waiter)
        if future.done() and not future.cancelled():
            outcome = future.result()
            if isinstance(outcome, Admission):
                self.give_back(outcome)
        self._look_at(waiter.gate)

    def _start_afresh(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another loop than before (a client used from a second `asyncio.run`): nobody waits there."""
        self._loop, self._timer, self._deadlines = loop, None, []
        for gate in self._busy.values():
            gate.queue, gate.waiting_tokens = self._new_queue(self._waiting_max), 0
        self._busy.clear()

    def _look(self) -> None:
        """See who may go, or must, and set the timer for the next who may."""
        now_us = self._now_us() if self._busy else 0
        for gate in list(self._busy.values()):
            self._serve(gate, now_us)
        self._set_timer(now_us)

    def _look_at(self, gate: _Gate) -> None:
        """The same, when only this gate's matters have changed."""
        if gate.key in self._busy:
            now_us = self._now_us()
            self._serve(gate, now_us)
            self._set_timer(now_us)

    def _serve(self, gate: _Gate, now_us: int) -> None:
        """Let go all who may go now."""
        while (place := gate.queue.peek()) is not None:
            waiter = place.item
            gate.weigh(waiter)
            if waiter.future.done():  # cancelled, and about to say so
                gate.leave(waiter)
            elif waiter.deadline_us + LATENESS_US < now_us:
                self._refuse(waiter, "its deadline has come", now_us)
            elif self.bars and (fault := self._barred(waiter.deployment)) is not None:
                gate.leave(waiter)
                waiter.future.set_result(fault)
            elif (wait_us := gate.turn_us(place, now_us)) > 0:
                gate.due_us = now_us + wait_us
                return
            else:
                waiter.future.set_result(gate.take_turn(place, now_us))
        gate.ahead_us = 0
        del self._busy[gate.key]

    def _refuse(self, waiter: _Waiter, why: str, now_us: int) -> None:
        """End a wait without success."""
        gate, place = waiter.gate, waiter.place
        assert place is not None
        gate.leave(waiter)
        if not waiter.future.done():
            wait_us = gate.expected_us(place.tenant, place.priority, waiter.tokens, now_us)
            waiter.future.set_result(_no_room(gate, wait_us, why))

    def _set_timer(self, now_us: int) -> None:
        """Set the one timer for the next turn or deadline; none, when nobody waits."""
        due_us = self._next_deadline_us()
        for gate in self._busy.values():
            due_us = gate.due_us if due_us is None else min(due_us, gate.due_us)
        if self._timer is not None:
            if due_us == self._due_us:
                return
            self._timer.cancel()
            self._timer = None
        if due_us is not None:
            assert self._loop is not None
            # A microsecond later, so that rounding does not wake us before there is room.
            delay_s = (max(due_us - now_us, 0) + 1) / SECOND_US
            self._due_us = due_us
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _next_deadline_us(self) -> int | None:
        """The first deadline of those who wait; those who have left are forgotten on the way."""
        waiting = sum(len(gate.queue) for gate in self._busy.values())
        if len(self._deadlines) > 2 * waiting + STALE_MAX:
            self._deadlines = [entry for entry in self._deadlines if entry[2].is_waiting]
            heapify(self._deadlines)
        while self._deadlines and not self._deadlines[0][2].is_waiting:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _on_timer(self) -> None:
        self._timer = None
        now_us = self._now_us()
        for gate in list(self._busy.values()):
            self._serve(gate, now_us)
        while (due_us := self._next_deadline_us()) is not None and due_us <= now_us:
            self._refuse(self._deadlines[0][2], "its deadline has come", now_us)
        self._look()


def _pause_us(fault: Fault, said: list[Standing]) -> int | None:
    """How long a refusal asks us to wait: in so many words, or by when what is used up is free."""
    if fault.retry_after_s is not None:
        return int(fault.retry_after_s * SECOND_US)
    resets = [one.resets_us for one in said if one.remaining == 0 and one.resets_us is not None]
    return max(resets, default=None)


def _no_room(gate: _Gate, wait_us: int, why: str) -> Fault:
    wait_s = wait_us / SECOND_US
    message = f"{gate.key} is at its limit, with room in about {wait_s:.1f} s: {why}"
    return _refusal(message, wait_s, code="upstream_rate_limited")


def _refusal(message: str, wait_s: float, *, code: str) -> Fault:
    return Fault(
        kind=FaultKind.RATE_LIMITED,
        source=Source.GATEWAY,
        message=message,
        status=429,
        retry=Retry.OTHER,
        code=code,
        retry_after_s=wait_s,
    )
