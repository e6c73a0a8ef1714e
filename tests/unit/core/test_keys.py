"""The form of a key: made from dice, known by its beginning, whole or not."""

import re
from random import Random

import pytest

from windvane.core.keys import (
    DICE_CHARS,
    PREFIX,
    KeySecret,
    KeyTerms,
    VirtualKey,
    hint_of,
    is_whole,
    key_text,
)
from windvane.core.priority import Priority

RNG = Random(1)
KEYS = [key_text(RNG.getrandbits(256)) for _ in range(300)]
FORM = re.compile(r"sk-wv-[0-9A-Za-z]{38}")


def test_every_key_has_the_form_and_is_whole() -> None:
    assert all(FORM.fullmatch(key) and is_whole(key) for key in KEYS)
    assert len(set(KEYS)) == len(KEYS)


def test_all_the_dice_are_in_the_key() -> None:
    """Its 32 letters are as many as 190 bits make, whatever the first of them are."""
    assert key_text(0) != key_text(1) != key_text(62 ** (DICE_CHARS - 1))
    assert key_text(62**DICE_CHARS - 1)[len(PREFIX) : len(PREFIX) + DICE_CHARS] == "z" * DICE_CHARS


@pytest.mark.parametrize("key", KEYS[:5])
def test_a_key_pasted_in_part_or_with_a_slip_is_not_whole(key: str) -> None:
    for length in range(len(PREFIX), len(key)):
        assert not is_whole(key[:length])
    for place in range(len(PREFIX), len(key)):
        other = "a" if key[place] != "a" else "b"
        assert not is_whole(key[:place] + other + key[place + 1 :])
    assert not is_whole(key + "0")
    assert not is_whole(key[:10] + "é" + key[11:])


@pytest.mark.parametrize("text", ["", PREFIX, "sk-proj-abc", PREFIX + "0" * 38, PREFIX + "雨" * 38])
def test_what_is_no_key_is_not_whole(text: str) -> None:
    assert not is_whole(text)


def test_a_hint_tells_a_key_apart_and_gives_it_to_nobody() -> None:
    key = KEYS[0]
    hint = hint_of(key)
    assert hint == f"{key[:10]}...{key[-4:]}"
    assert len(hint) < len(key) // 2


def key_of(**terms: object) -> VirtualKey:
    secret = KeySecret(digest=b"d", hint="h", created_at_us=1)
    return VirtualKey(
        id="key_1",
        terms=KeyTerms(name="n", **terms),  # type: ignore[arg-type]
        secrets=(secret,),
        created_at_us=1,
    )


def test_a_key_lives_until_it_expires_or_is_revoked() -> None:
    assert key_of().is_live(10**18)
    assert key_of(expires_at_us=100).is_live(99)
    assert not key_of(expires_at_us=100).is_live(100)
    revoked = VirtualKey(
        id="k", terms=KeyTerms(name="n"), secrets=(), created_at_us=1, revoked_at_us=5
    )
    assert not revoked.is_live(2)


def test_who_calls_with_a_key_is_named_by_its_id_and_may_what_its_terms_say() -> None:
    principal = key_of(
        owner="ann",
        team="t",
        tags=("x",),
        models=("m*",),
        routes=("auto",),
        endpoints=("chat",),
        route="r",
        priority=Priority.LOW,
        output_tokens_max=7,
        may_clamp=False,
    ).principal()
    assert (principal.key_id, principal.owner, principal.team) == ("key_1", "ann", "t")
    assert (principal.tags, principal.models, principal.routes) == (("x",), ("m*",), ("auto",))
    assert (principal.endpoints, principal.route, principal.priority) == (
        ("chat",),
        "r",
        Priority.LOW,
    )
    assert (principal.output_tokens_max, principal.may_clamp) == (7, False)
    assert not principal.is_admin and principal.provider is None
