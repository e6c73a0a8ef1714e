"""While a connection is being made nothing of a request has left: whoever gives up then owes nothing.

And not a moment longer: once it is sent, of which one byte is enough, the whole hold is assumed.
"""

from decimal import Decimal

import pytest
from tests.engine.scene import Scene

from windvane.config.schema import BudgetConfig, Config, RateConfig
from windvane.core.usage import Certainty
from windvane.engine.snapshot import Timeouts
from windvane.testing import run_virtual
from windvane.testing.answers import Connects
from windvane.testing.clock import MICROSECONDS, START
from windvane.testing.playbook import (
    Connecting,
    Failed,
    Finished,
    HungUp,
    Left,
    Play,
    Playbook,
    Reached,
    Said,
    Sent,
    Settled,
    Slept,
    answer,
    ask,
    breaks,
    connects,
    done,
    finishes,
    leaves,
    opens,
    passes,
    says,
    slow_network,
    status,
)
from windvane.testing.stage import two_providers
from windvane.testing.weather import NEVER_S

NOON_US = int(START.timestamp()) * MICROSECONDS
TOKENS_MAX = 50
COVERS_ONE = BudgetConfig(total=Decimal("0.000056"))
"""A little more than what one `asked` holds at `small`; too little for a second, however short."""
IMPATIENT = Timeouts(connect_s=9.0, first_token_s=2.0, total_s=2.0)
"""Their end comes before that of connecting."""
JITTER = Slept(0.1, 0.3)

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def asked(book: Playbook, stream: bool) -> Playbook:
    book = book >> slow_network() >> ask("small", max_tokens=TOKENS_MAX, stream=stream)
    return book << Connecting("one/small")


def answered(book: Playbook, stream: bool) -> Playbook:
    """A request for which there is money, and its answer."""
    book = asked(book, stream) >> connects() << Sent("one/small")
    if not stream:
        return book >> answer("hello") << Settled("exact", "ok") << Said("hello")
    book = book >> opens() >> says("hello") << Said("hello") >> finishes(output_tokens=1)
    return book >> done() << Settled("exact", "ok") << Finished()


def refused(book: Playbook, stream: bool) -> Playbook:
    """A request for which there is no money."""
    book = book >> ask("small", max_tokens=TOKENS_MAX, stream=stream)
    return book << Failed("budget_exceeded", 429)


def under_a_budget(**settings: object) -> Config:
    return two_providers(budgets={"global": COVERS_ONE}, **settings)


def spent(play: Play) -> int:
    (found,) = play.stage.budgets.standings(NOON_US)
    assert not found.held_nano_usd
    return found.spent_nano_usd


def test_a_caller_who_leaves_meanwhile_owes_nothing_and_the_budget_is_free(stream: bool) -> None:
    book = refused(asked(Playbook(under_a_budget()), stream), stream)
    book = book >> passes(1.0) >> leaves(0) << HungUp("one/small")
    book = book << Settled("exact", "cancelled", cost=0, output_tokens=0) << Left()
    play = answered(book, stream).run()
    assert spent(play) == play.exchanges[-1].cost_nano_usd
    assert [call.attempt_id for call in play.stage.auditor.sent.values()] == [
        play.exchanges[-1].attempts[0].id
    ]


def test_a_deadline_that_ends_meanwhile_costs_nothing(stream: bool) -> None:
    book = asked(Playbook(under_a_budget(timeouts=IMPATIENT)), stream)
    book = book << Slept(2.0) << HungUp("one/small")
    book = book << Settled("exact", "timeout", cost=0) << Failed("timeout", 504)
    play = answered(book, stream).run()
    assert spent(play) == play.exchanges[-1].cost_nano_usd


def test_the_time_for_connecting_ends_before(stream: bool) -> None:
    book = asked(Playbook(under_a_budget()), stream) << Slept(5.0)
    book = book << Settled("exact", "connect_failed", cost=0) << JITTER
    book = book << Connecting("one/small") >> leaves() << HungUp("one/small")
    play = (book << Settled("exact", "cancelled", cost=0) << Left()).run()
    assert spent(play) == 0


def test_a_caller_who_leaves_right_after_the_connection_owes_the_hold(stream: bool) -> None:
    book = asked(Playbook(under_a_budget()), stream) >> connects() << Sent("one/small")
    book = book >> leaves() << HungUp("one/small") << Reached("global", 800)
    book = book << Settled("assumed", "cancelled") << Left()
    play = refused(book, stream).run()
    assert spent(play) == play.exchanges[0].attempts[0].hold.hold_nano_usd


def test_a_deadline_right_after_the_connection_costs_the_hold(stream: bool) -> None:
    book = asked(Playbook(under_a_budget(timeouts=IMPATIENT)), stream) >> passes(1.0)
    book = book >> connects() << Sent("one/small") << Slept(1.0) << HungUp("one/small")
    book = book << Reached("global", 800) << Settled("assumed", "timeout") << Failed("timeout", 504)
    play = refused(book, stream).run()
    assert spent(play) == play.exchanges[0].attempts[0].hold.hold_nano_usd


def test_each_attempt_is_for_itself(stream: bool) -> None:
    """What the first may have cost stays, when the second is left before it is sent."""
    book = asked(Playbook(), stream) >> connects() << Sent("one/small")
    book = book >> breaks() << Settled("assumed", "stream_broken") << JITTER
    book = book << Connecting("one/small") >> leaves() << HungUp("one/small")
    play = (book << Settled("exact", "cancelled", cost=0) << Left()).run()
    first, second = play.exchanges[0].attempts
    assert first.entry is not None and second.entry is not None
    assert first.entry.cost_nano_usd == first.hold.hold_nano_usd
    assert second.entry.cost_nano_usd == 0


def test_an_error_status_after_a_slow_connection_costs_nothing_as_ever(stream: bool) -> None:
    book = asked(Playbook(), stream) >> connects() << Sent("one/small")
    book = book >> status(400) << Settled("exact", "invalid_request", cost=0)
    (book << Failed("invalid_request", 400)).run()


def test_what_it_took_of_its_rates_is_given_back(stream: bool) -> None:
    config = two_providers(rates={"model:*": RateConfig(tokens_per_minute=100, concurrency=1)})
    book = asked(Playbook(config), stream) >> leaves() << HungUp("one/small")
    book = book << Settled("exact", "cancelled", cost=0) << Left()
    answered(book, stream).run()


def test_a_flight_that_all_have_left_meanwhile_costs_nothing(stream: bool) -> None:
    """It goes on as long as one still waits for it."""

    async def story() -> None:
        scene = Scene()
        scene.scripts = [lambda _: [(NEVER_S, Connects())]]
        first, second = [scene.start("why", stream=stream) for _ in range(2)]
        await scene.rest(1.0)
        first.cancel()
        await scene.rest(1.0)
        (call,) = scene.calls
        assert call.is_connecting and not call.is_closed
        second.cancel()
        await scene.rest()
        assert call.is_closed
        (entry,) = (each for each in scene.entries if each.is_attempt)
        assert (entry.certainty, entry.cost_nano_usd) == (Certainty.EXACT, 0)
        await scene.close()

    run_virtual(story())
