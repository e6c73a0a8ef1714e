"""The real clock, dice, ids, environment and limits: the only file that may read them."""

import asyncio
import os
import pwd
import random
import resource
import secrets
from collections.abc import Mapping
from time import monotonic, time_ns


class SystemClock:
    """The clocks of this machine."""

    monotonic_s = staticmethod(monotonic)

    def wall_us(self) -> int:
        return time_ns() // 1_000


_DICE_BITS = 80
_ID_BYTES = 16


class SystemIds:
    """Ids that sort by time: 48 bits of milliseconds, 80 bits of dice, as in UUID version 7."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._roll = (rng or random.Random(secrets.randbits(128))).getrandbits

    def request_id(self, wall_us: int) -> str:
        number = (wall_us // 1_000 << _DICE_BITS) | self._roll(_DICE_BITS)
        return "req_" + number.to_bytes(_ID_BYTES).hex()


def new_rng() -> random.Random:
    """Dice for jitter and sampling; not for secrets."""
    return random.Random(secrets.randbits(128))


def new_secret(bytes_count: int = 32) -> bytes:
    return secrets.token_bytes(bytes_count)


def roll(bits: int) -> int:
    """Dice for secrets."""
    return secrets.randbits(bits)


def environment() -> Mapping[str, str]:
    """The process's environment, read at the call."""
    return os.environ


def user_name() -> str:
    """Who runs this process, as this machine calls them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def allow_open_files(count: int) -> int:
    """Let this process open `count` files, or as many as its user may; returns how many it may open then.

    A shell's usual 1,024 are 500 calls under way: one connection to its caller, and one to a provider.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = count if hard == unlimited else min(count, hard)
    if soft == unlimited or soft >= wanted:
        return count if soft == unlimited else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # some systems have a lower limit beside this one
    return wanted
