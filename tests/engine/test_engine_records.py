"""What the engine makes by position: each value must be where its name is."""

from tests.entries import PLAIN_ENTRY

from windvane.core.chat import ChatRequest
from windvane.core.deployment import Deployment
from windvane.core.events import ExchangeEnded
from windvane.core.exchange import Attempt, Credentials, Exchange, Reading
from windvane.core.faults import Fault, FaultKind, Source
from windvane.core.money import NanoUsd
from windvane.core.principal import Principal
from windvane.core.routing.decision import Candidate, Decision
from windvane.engine.engine import _end_of
from windvane.testing import Stage, run_virtual

REQUEST = ChatRequest(model="asked", messages=[], body={}, stream=True)


def attempt(number: int, first_chunk_s: float | None = None) -> Attempt:
    model = Deployment(id=f"p{number}/m{number}", provider=f"p{number}", model=f"m{number}")
    return Attempt(f"a-{number}", number, model, PLAIN_ENTRY, 12.0, first_chunk_s=first_chunk_s)


def exchange() -> Exchange:
    return Exchange(
        id="own",
        dialect="openai",
        request=REQUEST,
        credentials=Credentials(),
        received_s=10.0,
        received_at_us=77,
    )


def test_the_end_of_a_request_is_told_field_by_field() -> None:
    one = exchange()
    one.attempts = [attempt(1), attempt(2, first_chunk_s=13.0), attempt(3)]
    one.answered_by = one.attempts[1]
    one.principal = Principal(key_id="alice")
    candidates = (Candidate(model="m1", deployment=one.attempts[0].deployment),)
    one.decision = Decision(candidates=candidates, route="fast", reason="a rule")
    one.upstream_s, one.queued_s = 4.0, 1.0
    one.cost_nano_usd = NanoUsd(55)
    one.cache_status = "miss"
    one.fault = Fault(kind=FaultKind.TIMEOUT, source=Source.UPSTREAM, message="", status=504)
    assert _end_of(one, 504, 18.0) == ExchangeEnded(
        request_id="own",
        model="m2",
        provider="p2",
        route="fast",
        status=504,
        reason="a rule",
        key_id="alice",
        requested_model="asked",
        attempts=3,
        models_tried=("m1", "m2", "m3"),
        is_stream=True,
        cache_status="miss",
        duration_s=8.0,
        overhead_s=3.0,
        first_chunk_s=3.0,
        cost_nano_usd=55,
        fault="timeout",
        at_us=77,
        queued_s=1.0,
    )


def test_so_is_the_end_of_one_that_never_came_so_far() -> None:
    one = exchange()
    one.upstream_s = 9.0  # of flights it joined: no overhead is below nothing
    assert _end_of(one, 401, 18.0) == ExchangeEnded(
        request_id="own",
        model="",
        provider="",
        route=None,
        status=401,
        reason="",
        key_id=None,
        requested_model="asked",
        attempts=0,
        models_tried=(),
        is_stream=True,
        cache_status="bypass",
        duration_s=8.0,
        overhead_s=0.0,
        first_chunk_s=None,
        cost_nano_usd=0,
        fault=None,
        at_us=77,
    )


def test_a_request_is_accepted_field_by_field() -> None:
    async def story() -> None:
        stage = Stage()
        reading, credentials = Reading(REQUEST), Credentials(bearer="secret")
        one = stage.engine.accept(
            REQUEST,
            dialect="anthropic",
            credentials=credentials,
            body_bytes=321,
            headers={b"a": b"b"},
            client_request_id="theirs",
            reading=reading,
        )
        assert one.id.startswith("req_")
        assert (one.dialect, one.request, one.body_bytes) == ("anthropic", REQUEST, 321)
        assert one.credentials is credentials
        assert one.received_s == stage.clock.monotonic_s()
        assert one.received_at_us == stage.clock.wall_us()
        assert (one.headers, one.client_request_id) == ({b"a": b"b"}, "theirs")
        assert one.reading is reading
        assert one.principal is None
        await stage.close()

    run_virtual(story())
