"""Steps 7 to 9: attempts, one after another, until there is an answer or no sense in trying.

What to do after a failure is `core.retry`'s to say; this carries it out. Each attempt is held before
it is sent and settled when it is over: here, or in `relay` for a stream under way.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from http import HTTPStatus
from random import Random

import msgspec

from windvane.core.chat import Completion
from windvane.core.deployment import Deployment
from windvane.core.exchange import Attempt, Exchange
from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of
from windvane.core.principal import MODEL
from windvane.core.retry import Stop, TryNext, TrySame, more_helpful, next_step
from windvane.core.routing.decision import Candidate
from windvane.core.routing.quality import gate, may_be_empty
from windvane.engine.admission import Admission
from windvane.engine.asking import Asking, OpenStream, discreet
from windvane.engine.bounding import FORM_BYTES, Bound
from windvane.engine.health import HealthBook
from windvane.engine.relay import ChunkStream, OnEnd
from windvane.engine.settlement import Settlement
from windvane.engine.snapshot import Snapshot, Upstream
from windvane.engine.waiting_room import Admission as UpstreamAdmission
from windvane.engine.waiting_room import WaitingRoom
from windvane.engine.watchdog import Watch, Watchdog
from windvane.ports.clock import Clock
from windvane.ports.transport import UpstreamRequest
from windvane.wire.chat_request import limited
from windvane.wire.fold import Fold

Answer = Completion | ChunkStream
Look = Callable[[Candidate], Coroutine[object, object, None]]
"""Called before a further candidate is asked; raises what the caller is waiting for then."""

MICROSECONDS = 1e6
VISITING = UpstreamAdmission(None, None)
"""Of callers with a key of their own, whose limits are theirs alone."""
_OF_THE_CREDENTIAL = frozenset((401, 402, 403, 429))


class _Plan:
    """Where in the decision's candidates we are; `tokens` are about what each of them would use.

    `upstream` and `limits_key` are the current candidate's: who is asked, and whose limits count.
    """

    __slots__ = (
        "attempts_here",
        "candidates",
        "current",
        "limits_key",
        "look",
        "place",
        "tokens",
        "told",
        "upstream",
        "upstreams",
    )

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        upstreams: dict[str, Upstream],
        tokens: int,
        look: Look | None,
    ) -> None:
        self.candidates = candidates
        self.look = look
        self.upstreams = upstreams
        self.tokens = tokens
        self.told: WindvaneError | None = None
        """Of those that were left behind, the failure that helps the caller most."""
        self.move_to(0)

    @property
    def has_next(self) -> bool:
        return self.place + 1 < len(self.candidates)

    def move_to(self, place: int, attempts_here: int = 0) -> None:
        self.place = place
        self.attempts_here = attempts_here
        self.current = current = self.candidates[place]
        here = current.deployment
        self.upstream = upstream = self.upstreams[here.provider]
        self.limits_key = upstream.limits_key(here.id)

    async def look_here(self) -> None:
        """Whether the candidate that we have moved to need not be asked at all."""
        if self.look is not None:
            await self.look(self.current)

    def fail(self, error: WindvaneError) -> None:
        """The current candidate has failed, and another will be asked."""
        if self.told is None or more_helpful(self.told.fault, error.fault) is error.fault:
            self.told = error

    def rest(self) -> Iterator[tuple[int, Deployment]]:
        """Those who may be asked after the current one, with their places."""
        for place in range(self.place + 1, len(self.candidates)):
            yield place, self.candidates[place].deployment

    def move_to_stronger(self) -> bool:
        """Go to the next candidate of higher quality; False, and no move, when there is none."""
        quality = self.current.deployment.quality
        for place, deployment in self.rest():
            if deployment.quality > quality:
                self.move_to(place)
                return True
        return False


class Dispatch:
    """Carries out a decision."""

    def __init__(
        self,
        *,
        asking: Asking,
        settlement: Settlement,
        health: HealthBook,
        admission: Admission,
        room: WaitingRoom,
        clock: Clock,
        rng: Random,
        on_end: OnEnd,
        on_waited: Callable[[Exchange, Candidate], None],
    ) -> None:
        """`on_waited` is called when an exchange goes on that has waited, with the candidate that is
        asked next; it raises when it may not."""
        self._asking = asking
        self._admission = admission
        self._room = room
        self._settlement = settlement
        self._health = health
        self._clock = clock
        self._rng = rng
        self._on_end = on_end
        self.on_waited = on_waited
        self.watch = Watch()
        """The deadlines of all exchanges, and whether the process is about to end."""

    async def run(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        within_s: float | None = None,
        look: Look | None = None,
    ) -> Answer:
        """The answer, within so many seconds, or all that are configured. Raises the WindvaneError of
        the last attempt when none gave one, and whatever `look` raises.

        A poor answer is kept while a stronger model is asked, once; should that fail, it stands.
        """
        decision, request = exchange.decision, exchange.request
        assert decision is not None
        tokens = self._admission.tokens_of(exchange)
        plan = _Plan(decision.candidates, snapshot.upstreams, tokens, look)
        answer: Completion | OpenStream
        watchdog = self.watch.start(
            plan.upstream.timeouts.total_s if within_s is None else within_s,
            None if exchange.leads else exchange,
        )
        kept: Answer | None = None
        try:
            while True:
                plan.attempts_here += 1
                try:
                    admission = self._admit_now(exchange, plan) or await self._admit(
                        exchange, snapshot, plan, watchdog
                    )
                    attempt, asked = self._reserve(exchange, plan, admission)
                    self._health.sent(attempt.deployment, attempt.started_s)
                    fold = Fold() if request.stream else None
                    try:
                        answer = await (
                            self._asking.complete(exchange, attempt, asked, plan.upstream, watchdog)
                            if fold is None
                            else self._asking.stream(
                                exchange, attempt, asked, plan.upstream, watchdog, fold
                            )
                        )
                    except WindvaneError as error:
                        told = discreet(error, asked, plan.upstream)
                        raise self._failed(exchange, attempt, plan, told, fold) from error
                    except BaseException:
                        self._settlement.settle_cancelled(exchange, attempt, fold)
                        self._health.released(attempt.deployment)
                        raise
                except WindvaneError as error:
                    if kept is not None:
                        break
                    await self._move_on(exchange, snapshot, plan, error, watchdog)
                    continue
                if admission is not VISITING:
                    self._room.learn(plan.limits_key, attempt.headers or {}, admission)
                is_poor = kept is None and _is_poor(answer) and not may_be_empty(request)
                if is_poor and plan.move_to_stronger():
                    kept = await self._keep(exchange, plan, attempt, answer, watchdog)
                    continue
                kept = self._accept(exchange, attempt, answer, watchdog)
                break
        except BaseException:
            watchdog.stop()
            raise
        if isinstance(kept, Completion):
            watchdog.stop()
            self._on_end(exchange, 200, None)
        return kept

    def _admit_now(self, exchange: Exchange, plan: _Plan) -> UpstreamAdmission | None:
        """Leave to ask the current candidate; None when that is to be waited for.

        Raises RateLimitError when it is barred.
        """
        principal = exchange.principal
        assert principal is not None
        if principal.provider is not None:
            return VISITING
        return self._room.try_admit(
            plan.limits_key,
            plan.current.deployment.id,
            tokens=plan.tokens,
            tenant=principal.key_id,
            priority=exchange.priority,
        )

    async def _admit(
        self, exchange: Exchange, snapshot: Snapshot, plan: _Plan, watchdog: Watchdog
    ) -> UpstreamAdmission:
        """Leave to ask the current candidate, after waiting for room at its limit.

        Rather than wait, another candidate is asked whose upstream has room. Raises RateLimitError.
        """
        principal = exchange.principal
        assert principal is not None
        for place, there in plan.rest():
            key = plan.upstreams[there.provider].limits_key(there.id)
            if key != plan.limits_key and not self._room.bar(there.id):
                admission = self._room.try_admit(
                    key,
                    there.id,
                    tokens=plan.tokens,
                    tenant=principal.key_id,
                    priority=exchange.priority,
                )
                if admission is not None:
                    plan.move_to(place, attempts_here=1)
                    try:
                        await plan.look_here()
                    except BaseException:
                        self._room.give_back(admission)
                        raise
                    return admission
        wait_max_s = min(snapshot.wait_max_s, watchdog.remaining_s) if exchange.may_wait else 0.0
        deadline_s = self._clock.monotonic_s() + wait_max_s
        admission = await watchdog.beside(
            self._room.admit(
                plan.limits_key,
                plan.current.deployment.id,
                tokens=plan.tokens,
                tenant=principal.key_id,
                priority=exchange.priority,
                deadline_s=deadline_s,
                name=exchange.id,
                again=partial(self._admission.expected.tokens, exchange),
            )
        )
        exchange.queued_s += admission.waited_s
        if admission.taken is not None:
            plan.tokens = admission.taken.tokens
        try:
            self.on_waited(exchange, plan.current)
        except BaseException:
            self._room.give_back(admission)
            raise
        return admission

    def join(self, leader: Exchange, joiner: Exchange) -> float:
        """`joiner` will get the answer of `leader`: where that waits for room, it does so as the more
        urgent of both. Returns how long the leader has waited by now."""
        assert joiner.principal is not None
        tenant = joiner.principal.key_id
        return leader.queued_s + self._room.join(leader.id, tenant, joiner.priority)

    def _reserve(
        self, exchange: Exchange, plan: _Plan, admission: UpstreamAdmission
    ) -> tuple[Attempt, UpstreamRequest]:
        """Step 7: the worst case is held, and the request written with the limit that it needs.

        One step of the loop: what is left of a budget cannot change in the midst of it. Whatever
        raises, nothing is held, and the leave to send is given back.
        """
        deployment, upstream, lease = plan.current.deployment, plan.upstream, None
        try:
            bound = self._settlement.bound(exchange, deployment)
            asked = exchange.request
            if bound.output_tokens_max is not None:
                asked = limited(asked, bound.output_tokens_max)
            body = upstream.provider.encode_chat(asked, deployment.model)
            if len(body) - len(deployment.model) - FORM_BYTES > exchange.body_bytes:
                bound, body = self._bound_as_written(exchange, plan, body)
            if MODEL in self._admission.limits.table.kinds:
                lease = self._admission.take_for_attempt(exchange, bound.scopes[-1], plan.tokens)
            attempt = self._settlement.reserve(exchange, plan.current, bound, lease)
        except BaseException:
            if lease is not None:
                lease.give_back(self._admission.now_us())
            self._room.give_back(admission)
            raise
        attempt.tokens_expected = plan.tokens
        attempt.admission = admission
        headers, credential = upstream.headers, None
        if admission is VISITING:
            headers, own_key = upstream.bare_headers, exchange.credentials.bearer
            credential = None if own_key is None else upstream.provider.authorize(own_key)
        url, connect_s = upstream.chat_url, upstream.timeouts.connect_s
        return attempt, UpstreamRequest(
            url, headers, attempt.id, body, connect_s, credential, attempt
        )

    def _bound_as_written(
        self, exchange: Exchange, plan: _Plan, body: bytes
    ) -> tuple[Bound, bytes]:
        """The bound, and the body, of a request that is longer as it is sent than as it came.

        A number may be written longer, the form of a tool filled in. What is sent is what is billed: it
        is bounded anew, by its own size, and written anew with the limit that leaves. The size it counts
        with grows each time, and a limit takes up no more than a form has to spare: it ends.
        """
        deployment, encode = plan.current.deployment, plan.upstream.provider.encode_chat
        while len(body) - len(deployment.model) - FORM_BYTES > exchange.body_bytes:
            exchange.body_bytes = len(body)
            bound, asked = self._settlement.bound(exchange, deployment), exchange.request
            if bound.output_tokens_max is not None:
                asked = limited(asked, bound.output_tokens_max)
            body = encode(asked, deployment.model)
        return bound, body

    def _failed(
        self,
        exchange: Exchange,
        attempt: Attempt,
        plan: _Plan,
        error: WindvaneError,
        fold: Fold | None,
    ) -> WindvaneError:
        """Settle an attempt that ended in `error`, after `fold` had come of a stream. Returns what it
        amounts to, and where."""
        deployment, is_visitor = attempt.deployment, attempt.admission is VISITING
        fault = error.fault.at(f"attempt {attempt.number} at {deployment.id}")
        if fault.upstream_status == HTTPStatus.TOO_MANY_REQUESTS and not is_visitor:
            # First: settling lets the next one go that waits, and it would run into the same wall.
            fault = self._hear_refusal(attempt, plan, fault)
        self._settlement.settle_failed(exchange, attempt, fault, fold)
        if is_visitor and fault.upstream_status in _OF_THE_CREDENTIAL:
            # It tells of the caller's own key, not of the deployment.
            self._health.released(deployment)
            return error_of(_about_own_key(fault))
        self._health.failed(deployment, fault, self._clock.monotonic_s(), self._clock.wall_us())
        return error_of(fault)

    def _hear_refusal(self, attempt: Attempt, plan: _Plan, fault: Fault) -> Fault:
        """A provider that says "too many" tells when there will be room; others should wait for it.
        Returns the fault, which says so too when that is not soon."""
        assert isinstance(attempt.admission, UpstreamAdmission)
        bar = self._room.learn_429(
            plan.limits_key,
            attempt.deployment.id,
            fault=fault,
            headers=attempt.headers or {},
            admission=attempt.admission,
        )
        if bar is None:
            return fault
        return msgspec.structs.replace(fault, retry_after_s=bar.for_us / MICROSECONDS)

    async def _move_on(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        plan: _Plan,
        error: WindvaneError,
        watchdog: Watchdog,
    ) -> None:
        """Wait, or move to the next candidate, as the policy says; raise `error` to stop.

        Nobody else is asked once the process is about to end.
        """
        if self.watch.is_called_off:
            raise error
        step = next_step(
            snapshot.retry,
            error.fault,
            attempts=len(exchange.attempts),
            attempts_here=plan.attempts_here,
            has_next=plan.has_next,
            remaining_s=watchdog.remaining_s,
            rng=self._rng,
        )
        match step:
            case Stop():
                told = plan.told
                if told is not None and more_helpful(told.fault, error.fault) is told.fault:
                    raise told from error
                raise error
            case TryNext():
                plan.fail(error)
                plan.move_to(plan.place + 1)
                await plan.look_here()
            case TrySame(wait_s):
                await watchdog.beside(asyncio.sleep(wait_s))
                self.on_waited(exchange, plan.current)

    async def _keep(
        self,
        exchange: Exchange,
        plan: _Plan,
        attempt: Attempt,
        answer: Completion | OpenStream,
        watchdog: Watchdog,
    ) -> Answer:
        """Settle a poor answer, and hold it ready in case nothing better comes."""
        fault = Fault(
            kind=FaultKind.LOW_QUALITY,
            source=Source.UPSTREAM,
            message=f"attempt {attempt.number} at {attempt.deployment.id}: empty answer",
            status=502,
            retry=Retry.OTHER,
            billed=True,
        )
        outcome = fault.kind.value
        attempt.fault = fault
        if isinstance(answer, OpenStream):
            self._settlement.settle_delivered(exchange, attempt, answer.fold, outcome)
            answer.close()
        else:
            self._settlement.settle_answered(exchange, attempt, answer, outcome)
        self._health.succeeded(attempt.deployment)
        exchange.answered_by = attempt
        await plan.look_here()
        if isinstance(answer, OpenStream):
            return self._stream_of(exchange, attempt, answer, watchdog)
        return answer

    def _accept(
        self,
        exchange: Exchange,
        attempt: Attempt,
        answer: Completion | OpenStream,
        watchdog: Watchdog,
    ) -> Answer:
        exchange.answered_by = attempt
        # The first words are proof enough of health; a stream may go on for minutes.
        self._health.succeeded(attempt.deployment)
        if isinstance(answer, Completion):
            self._settlement.settle_answered(exchange, attempt, answer)
            return answer
        # It may go on for minutes, and nobody else will be asked.
        exchange.request = exchange.request.without_messages()
        return self._stream_of(exchange, attempt, answer, watchdog)

    def _stream_of(
        self, exchange: Exchange, attempt: Attempt, opened: OpenStream, watchdog: Watchdog
    ) -> ChunkStream:
        return ChunkStream(
            exchange,
            attempt,
            opened,
            settlement=self._settlement,
            health=self._health,
            clock=self._clock,
            watchdog=watchdog,
            on_end=self._on_end,
        )


def _about_own_key(fault: Fault) -> Fault:
    """What a provider says of a key, to the caller who brought it."""
    if fault.upstream_status != HTTPStatus.UNAUTHORIZED:
        return fault
    return msgspec.structs.replace(
        fault,
        kind=FaultKind.UNAUTHENTICATED,
        source=Source.CLIENT,
        retry=Retry.NEVER,
        status=401,
        message="the provider refused the key that was sent",
        code="invalid_api_key",
    )


def _is_poor(answer: Completion | OpenStream) -> bool:
    if isinstance(answer, Completion):
        return gate(answer) is not None
    return not answer.fold.chunks and gate(answer.fold.completion()) is not None
