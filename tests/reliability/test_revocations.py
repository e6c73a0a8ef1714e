"""A key that was revoked does not come back, whatever the disk did then; nor does its secret by the way of
the configuration."""

import asyncio
import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from windvane.assembly import REVOKED_FILE, open_engine
from windvane.config.schema import AuthConfig, Config, KeyConfig, ProviderConfig
from windvane.core.budgets import BudgetTerms
from windvane.core.faults import InternalServerError
from windvane.core.keys import KeyTerms
from windvane.engine.engine import Engine
from windvane.stores import revoked
from windvane.stores.revoked import ROOM_BYTES, RevokedFile
from windvane.stores.sqlite import SqliteLedger

WAIT_S = 60.0
Trouble = Callable[[Engine, Path], Callable[[], None]]


@asynccontextmanager
async def opened(folder: Path, *secrets: str) -> AsyncIterator[Engine]:
    engine = await open_engine(
        Config(
            providers={"mistral": ProviderConfig(api_key="sk-x")},
            auth=AuthConfig(keys=tuple(KeyConfig(key=secret) for secret in secrets)),
            data_dir=str(folder),
        )
    )
    try:
        yield engine
    finally:
        await engine.aclose()


def read_only(engine: Engine, _: Path) -> Callable[[], None]:
    assert isinstance(engine.ledger, SqliteLedger)
    connection = engine.ledger._writer._connection
    connection.execute("PRAGMA query_only = 1")
    return lambda: connection.execute("PRAGMA query_only = 0").close()


def locked(engine: Engine, folder: Path) -> Callable[[], None]:
    """Somebody else writes to the ledger, as a backup may, for longer than anyone waits."""
    assert isinstance(engine.ledger, SqliteLedger)
    engine.ledger._writer._connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def in_trouble(engine: Engine, _: Path) -> Callable[[], None]:
    """A group could not be written: nothing is asked of the disk then."""
    assert isinstance(engine.ledger, SqliteLedger)
    writer = engine.ledger._writer
    writer.trouble = "disk is full"

    def mend() -> None:
        writer.trouble = None

    return mend


def works(engine: Engine, secret: str) -> bool:
    return engine.keyring.find(secret) is not None


def as_killed(folder: Path, copied: Path) -> Path:
    """A copy is what a kill would leave."""
    shutil.copytree(folder, copied)
    (copied / "lock").unlink()
    return copied


async def written(engine: Engine, key_id: str) -> None:
    assert isinstance(engine.ledger, SqliteLedger)
    async with asyncio.timeout(WAIT_S):
        while True:
            (key,) = [each for each in await engine.ledger.keys() if each.id == key_id]
            if key.revoked_at_us is not None:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("trouble", [read_only, locked, in_trouble])
async def test_a_key_revoked_while_the_ledger_cannot_be_written_stays_revoked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: Trouble
) -> None:
    folder = tmp_path / "data"
    async with opened(folder) as engine:
        key, secret = await engine.desk.create(KeyTerms(name="leaked"))
        mend = trouble(engine, folder)
        said = await engine.desk.revoke(key.id)
        assert said.revoked_at_us is not None and not works(engine, secret)
        # Revoking twice changes nothing.
        assert await engine.desk.revoke(key.id) == said
        owed = [each for each in caplog.records if "the ledger cannot be told" in each.message]
        assert [each.levelno for each in owed] == [logging.WARNING]
        killed = as_killed(folder, tmp_path / "killed")
        mend()
        await written(engine, key.id)
        async with asyncio.timeout(WAIT_S):
            while any((folder / REVOKED_FILE).read_bytes()):
                await asyncio.sleep(0.01)
        assert "the ledger has it now" in caplog.text
    for place in (killed, folder):
        async with opened(place) as engine:
            assert not works(engine, secret)
            assert engine.desk.get(key.id).revoked_at_us == said.revoked_at_us
            await written(engine, key.id)
        assert not any((place / REVOKED_FILE).read_bytes())


async def test_a_revocation_that_nothing_takes_is_told_as_such_and_tried_until_it_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with opened(tmp_path) as engine:
        key, secret = await engine.desk.create(KeyTerms(name="leaked"))
        mend = read_only(engine, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(revoked, "_write", fail)
            with pytest.raises(InternalServerError) as told:
                await engine.desk.revoke(key.id)
            assert not works(engine, secret), "refused all the same"
            fault = told.value.fault
            assert (fault.status, fault.code) == (503, "ledger_unavailable")
            for words in (
                "is refused from now on",
                "not written down yet",
                "tried again",
                "restart",
            ):
                assert words in fault.message
            assert "a restart would let the key in again" in caplog.text
        mend()
        await written(engine, key.id)
    async with opened(tmp_path) as engine:
        assert not works(engine, secret)


async def test_a_process_that_ends_and_has_kept_a_revocation_nowhere_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with opened(tmp_path) as engine:
        key, _ = await engine.desk.create(KeyTerms(name="leaked"))
        read_only(engine, tmp_path)
        monkeypatch.setattr(revoked, "_write", fail)
        with pytest.raises(InternalServerError):
            await engine.desk.revoke(key.id)
    (last,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert key.id in last.message and "revoke them once more" in last.message


async def test_what_is_made_or_changed_in_trouble_is_done_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    """What may fail fails before the key is written: else a restart would bring what was said to have
    failed, a secret that nobody was shown in place of one that works among it."""
    budget = BudgetTerms(daily=5)
    async with opened(tmp_path) as engine:
        key, secret = await engine.desk.create(KeyTerms(name="one"))
        ledger = engine.ledger
        assert isinstance(ledger, SqliteLedger)

        async def fail(*_: object) -> int:
            raise InternalServerError(fault)

        with pytest.raises(InternalServerError) as told:
            in_trouble(engine, tmp_path)
            await ledger.spent("global", 0)
        fault = told.value.fault
        ledger._writer.trouble = None
        ledger.spent = fail  # type: ignore[method-assign]
        for work in (
            engine.desk.create(KeyTerms(name="two", budget=budget)),
            engine.desk.update(key.id, KeyTerms(name="one", budget=budget)),
        ):
            with pytest.raises(InternalServerError):
                await work
        read_only(engine, tmp_path)
        with pytest.raises(InternalServerError):
            await engine.desk.rotate(key.id, 0)
        assert [each.terms.name for each in engine.desk.keys] == ["one"]
        assert works(engine, secret)
    async with opened(tmp_path) as engine:
        assert [each.terms for each in engine.desk.keys] == [KeyTerms(name="one")]
        assert works(engine, secret)


# The note


async def test_a_note_has_its_room_from_the_start_and_knows_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / REVOKED_FILE
    note = RevokedFile(path)
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (ROOM_BYTES, 0o600)
    assert path.stat().st_blocks * 512 >= ROOM_BYTES, "no hole"
    await note.add("key_a", 1)
    await note.add("key_b", 2)
    assert path.stat().st_size == ROOM_BYTES
    assert dict(RevokedFile(path).left) == {"key_a": 1, "key_b": 2}
    data = bytearray(path.read_bytes())
    end = data.index(0)
    data[end - 3 : end] = bytes(3)  # the power went before the last line was whole
    path.write_bytes(data)
    note = RevokedFile(path)
    assert dict(note.left) == {"key_a": 1}
    await note.add("key_c", 3)
    assert dict(RevokedFile(path).left) == {"key_a": 1, "key_c": 3}
    await note.clear()
    assert dict(RevokedFile(path).left) == {}
    assert path.read_bytes() == bytes(ROOM_BYTES)


def test_a_note_that_is_cut_or_garbled_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / REVOKED_FILE
    for garbage in (b"", b"\xff\n", b'["a"]\n', b"[\n["):
        path.write_bytes(garbage)
        assert dict(RevokedFile(path).left) == {}
        assert path.stat().st_size == ROOM_BYTES
    path.write_bytes(b'["key_a",1]\n["k')
    assert dict(RevokedFile(path).left) == {"key_a": 1}
    assert dict(RevokedFile(path).left) == {"key_a": 1}


# A secret that the configuration has too


@pytest.mark.parametrize("ending", ["revoked", "rotated", "rotated again", "expired"])
async def test_a_secret_that_is_none_any_more_is_none_by_the_configuration_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    async with opened(tmp_path) as engine:
        terms = KeyTerms(name="ci", models=("mistral-small-latest",))
        key, secret = await engine.desk.create(terms)
    async with opened(tmp_path, secret) as engine:
        principal = engine.keyring.find(secret)
        assert principal is not None
        assert (principal.key_id, principal.models) == (key.id, terms.models), "its own terms hold"
        assert (
            f"auth.keys[0] (those of ALLOWED_API_KEYS come last) is a secret of the key ci ({key.id})"
            in (caplog.text)
        )
        if ending == "revoked":
            await engine.desk.revoke(key.id)
        elif ending == "expired":
            await engine.desk.update(key.id, msgspec.structs.replace(terms, expires_at_us=1))
        else:
            await engine.desk.rotate(key.id, 0)
            if ending == "rotated again":
                await engine.desk.rotate(key.id, 0)
        assert not works(engine, secret), "at once"
    caplog.clear()
    async with opened(tmp_path, secret) as engine:
        assert not works(engine, secret), "after a restart"
        assert "and refused: it is revoked, replaced or expired" in caplog.text
        why = engine.keyring.refusal(engine.keyring.digest_of(secret)).fault.message
        assert why != "the key is not one of this gateway's"
        assert secret not in caplog.text


async def test_what_rotations_ended_is_remembered_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windvane.engine.keyring.ENDED_MAX", 3)
    async with opened(tmp_path) as engine:
        key, _ = await engine.desk.create(KeyTerms(name="ci"))
        secrets = [(await engine.desk.rotate(key.id, 0))[1] for _ in range(6)]
        digests = tuple(engine.keyring.digest_of(secret) for secret in secrets)
        assert engine.desk.get(key.id).ended == digests[2:5]
        assert works(engine, secrets[-1])
