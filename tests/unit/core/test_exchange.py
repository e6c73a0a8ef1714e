"""The laws an exchange keeps by itself."""

import msgspec
import pytest
from tests.entries import PLAIN_ENTRY

from windvane.core.chat import ChatRequest
from windvane.core.deployment import Deployment
from windvane.core.exchange import Attempt, AttemptState, Credentials, Exchange
from windvane.core.ledger import LedgerEntry

HELD, SENT, SETTLED = AttemptState


def entry(cost: int | None) -> LedgerEntry:
    return msgspec.structs.replace(PLAIN_ENTRY, cost_nano_usd=cost)


def attempt(cost: int | None = 0, state: AttemptState = HELD) -> Attempt:
    return Attempt(
        id="a",
        number=1,
        deployment=Deployment(id="d", provider="p", model="m"),
        hold=entry(9),
        started_s=0.0,
        state=state,
        entry=entry(cost),
    )


def exchange(*attempts: Attempt) -> Exchange:
    return Exchange(
        id="own",
        dialect="openai",
        request=ChatRequest(model="m", messages=[], body={}),
        credentials=Credentials(bearer="secret"),
        received_s=0.0,
        received_at_us=0,
        attempts=list(attempts),
    )


@pytest.mark.parametrize("before", list(AttemptState))
@pytest.mark.parametrize("after", list(AttemptState))
def test_an_attempt_only_moves_forward(before: AttemptState, after: AttemptState) -> None:
    moves = {(HELD, SENT), (HELD, SETTLED), (SENT, SETTLED)}
    one = attempt(state=before)
    if (before, after) in moves:
        one.become(after)
        assert one.state is after
    else:
        with pytest.raises(AssertionError, match="cannot become"):
            one.become(after)


def test_an_exchange_ends_once() -> None:
    one = exchange()
    one.end(1.0)
    with pytest.raises(AssertionError, match="ended twice"):
        one.end(2.0)


def test_the_final_attempt_is_the_one_that_answered_else_the_last() -> None:
    first, second = attempt(1), attempt(2)
    one = exchange(first, second)
    assert one.final_attempt is second
    one.answered_by = first
    assert one.final_attempt is first
    assert exchange().final_attempt is None


def test_the_callers_own_request_id_is_the_one_shown() -> None:
    one = exchange()
    assert one.public_id == "own"
    assert msgspec.structs.replace(one, client_request_id="theirs").public_id == "theirs"


def test_credentials_do_not_show_their_secret() -> None:
    assert "secret" not in repr(exchange())
    assert repr(Credentials()) == "Credentials(bearer=None)"
