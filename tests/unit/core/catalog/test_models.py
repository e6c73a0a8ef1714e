"""The catalog: look-up by day, near names, and what the shipped data file must keep."""

from collections import Counter
from datetime import date, timedelta
from importlib.resources import files

import msgspec
import pytest

from windvane.core.catalog.models import Alias, Capability, Catalog, CatalogData, ModelCard, Status
from windvane.core.catalog.prices import Price

DATA = files("windvane.core.catalog").joinpath("data/models.json").read_bytes()
CATALOG = Catalog.from_json(DATA)
DAY = CATALOG.as_of
MODEL_IDS = [model.id for model in CATALOG.cards]


def resolved(name: str, day: date = DAY) -> str | None:
    card = CATALOG.resolve(name, day)
    return card.id if card else None


@pytest.mark.parametrize(
    ("name", "day", "model"),
    [
        ("mistral-large-2512", DAY, "mistral-large-2512"),
        ("mistral-large-latest", DAY, "mistral-large-2512"),
        ("mistral-large-3", DAY, "mistral-large-2512"),
        ("mistral-large-4", DAY, "mistral-large-4-0"),
        ("mistral-medium-latest", DAY, "mistral-medium-3-5"),
        ("mistral-medium-latest", date(2026, 6, 16), "mistral-medium-3-5"),
        ("mistral-medium-latest", date(2026, 6, 15), "mistral-medium-2508"),
        ("mistral-medium-latest", date(2025, 8, 11), None),
        ("mistral-small-latest", DAY, "mistral-small-2603"),
        ("codestral-latest", DAY, "codestral-2508"),
        ("codestral-latest", date(2025, 7, 29), None),
        ("gpt-6.1-sol", DAY, "gpt-6.1-sol"),
        ("mistral-large", DAY, None),
        ("", DAY, None),
    ],
)
def test_a_name_means_what_it_meant_on_its_day(name: str, day: date, model: str | None) -> None:
    assert resolved(name, day) == model


@pytest.mark.parametrize(
    ("name", "is_retired"),
    [
        ("open-mixtral-8x7b", True),
        ("devstral-latest", True),
        ("magistral-medium-latest", True),
        ("mistral-large-latest", False),
        ("gpt-4o", False),
        ("gpt-4.1-nano", True),
    ],
)
def test_a_model_is_retired_from_its_day_on(name: str, is_retired: bool) -> None:
    card = CATALOG.resolve(name, DAY)
    assert card is not None
    assert card.is_retired(DAY) is is_retired


def test_a_model_serves_until_the_day_before_it_retires() -> None:
    card = CATALOG.resolve("gpt-4o", DAY)
    assert card is not None and card.retires_on is not None
    assert not card.is_retired(card.retires_on - timedelta(days=1))
    assert card.is_retired(card.retires_on)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mistral-larg-latest", "mistral-large-latest"),
        ("mistral-small", "mistral-small-2603"),
        ("codestrall-latest", "codestral-latest"),
        ("gpt-6-astrea", "gpt-6-astra"),
    ],
)
def test_a_misspelt_name_has_near_ones(typed: str, meant: str) -> None:
    near = CATALOG.near(typed)
    assert len(near) <= 3
    assert any(name == meant or name.startswith(typed) for name in near)


def test_nothing_is_near_to_nonsense_and_only_given_names_are_offered() -> None:
    assert CATALOG.near("zzzzzzzzzzzz") == []
    assert CATALOG.near("mistral-large-latest", ["auto"]) == []


@pytest.mark.parametrize(
    ("day", "input_"),
    [
        (date(2026, 10, 5), None),
        (date(2026, 10, 6), 680_000_000),
        (date(2026, 10, 20), 1_360_000_000),
        (date(2026, 10, 28), 1_360_000_000),
        (date(2026, 10, 29), 700_000_000),
        (date(2030, 1, 1), 700_000_000),
    ],
)
def test_a_price_holds_from_its_day_on(day: date, input_: int | None) -> None:
    card = CATALOG.resolve("mistral-large-4", date(2030, 1, 1))
    assert card is not None
    price = card.price_on(day)
    assert (price.input if price else None) == input_


def test_an_extended_catalog_replaces_and_adds_and_leaves_the_first_alone() -> None:
    mine = ModelCard(
        id="mine",
        provider="p",
        name="Mine",
        status=Status.GA,
        source="s",
        aliases=(Alias(name="my"),),
    )
    other = ModelCard(id="gpt-4o", provider="p", name="Other", status=Status.GA, source="s")
    extended = CATALOG.extended((mine, other))
    assert extended.resolve("my", DAY) is mine
    assert extended.resolve("gpt-4o", DAY) is other
    assert len(extended.cards) == len(CATALOG.cards) + 1
    assert CATALOG.resolve("my", DAY) is None


def test_a_field_that_is_misspelt_in_the_data_is_refused() -> None:
    broken = DATA.replace(b'"quality"', b'"qualty"', 1)
    with pytest.raises(msgspec.ValidationError, match=r"qualty.*models\[0\]"):
        Catalog.from_json(broken)


# What the shipped file must keep.


def test_ids_are_unique_and_no_alias_is_an_id() -> None:
    assert [name for name, times in Counter(MODEL_IDS).items() if times > 1] == []
    aliases = {alias.name for card in CATALOG.cards for alias in card.aliases}
    assert aliases & set(MODEL_IDS) == set()


def test_no_alias_begins_to_mean_two_models_on_one_day() -> None:
    starts = Counter(
        (alias.name, alias.since or card.released)
        for card in CATALOG.cards
        for alias in card.aliases
    )
    assert [start for start, times in starts.items() if times > 1] == []


def is_callable_chat(card: ModelCard) -> bool:
    return Capability.CHAT in card.capabilities and not card.is_retired(DAY)


def test_every_callable_mistral_chat_model_has_a_price_today() -> None:
    cards = [
        card for card in CATALOG.cards if card.provider == "mistral" and is_callable_chat(card)
    ]
    assert len(cards) >= 9
    assert [card.id for card in cards if card.price_on(DAY) is None] == []


def prices() -> list[tuple[str, Price]]:
    return [(card.id, price) for card in CATALOG.cards for price in card.prices]


def test_prices_are_dated_in_order_and_sourced() -> None:
    for card in CATALOG.cards:
        days = [price.since for price in card.prices]
        assert days == sorted(set(days)), card.id
    assert [model for model, price in prices() if not price.source] == []


def test_a_cached_token_is_never_dearer_than_a_fresh_one() -> None:
    for model, price in prices():
        for rates in (price, *price.tiers):
            assert rates.cache_read is None or 0 <= rates.cache_read <= rates.input, model
            assert rates.cache_write is None or rates.cache_write >= rates.input, model
        thresholds = [tier.above_input_tokens for tier in price.tiers]
        assert thresholds == sorted(set(thresholds)), model


def test_mistral_bills_cached_chat_input_at_a_tenth() -> None:
    for card in CATALOG.cards:
        if card.provider == "mistral" and Capability.CHAT in card.capabilities:
            for price in card.prices:
                assert price.cache_read is not None, card.id
                assert abs(price.cache_read * 10 - price.input) <= price.input // 20, card.id


def test_medium_is_dearer_than_large() -> None:
    medium, large = (
        CATALOG.resolve("mistral-medium-latest", DAY),
        CATALOG.resolve("mistral-large-latest", DAY),
    )
    assert medium is not None and large is not None
    medium_price, large_price = medium.price_on(DAY), large.price_on(DAY)
    assert medium_price is not None and large_price is not None
    assert medium_price.input > large_price.input
    assert medium_price.output > large_price.output


def test_a_replacement_is_a_model_that_can_be_looked_up() -> None:
    named = {card.replacement for card in CATALOG.cards if card.replacement}
    assert {name for name in named if CATALOG.resolve(name, DAY) is None} == set()


def test_dates_are_in_order_and_qualities_are_ranks() -> None:
    data = msgspec.json.decode(DATA, type=CatalogData)
    assert date(2026, 11, 1) <= data.as_of < date(2030, 1, 1)
    for card in data.models:
        days = [day for day in (card.released, card.deprecated_on, card.retires_on) if day]
        assert days == sorted(days), card.id
        assert 1 <= card.quality <= 5, card.id
        assert card.released is None or card.released <= data.as_of, card.id
        if card.status is Status.RETIRED:
            assert card.retires_on is not None and card.retires_on <= data.as_of, card.id
