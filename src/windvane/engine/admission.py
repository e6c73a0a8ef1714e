"""Steps 2 and 3: who calls, and whether there is room.

`identify` is one dictionary look-up by keyed digest: no I/O, and no comparison of secrets that could
be timed. `gate` is the seat of rates and concurrency; none are set yet.
"""

from hashlib import blake2b

from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import FaultKind, refuse
from windvane.core.principal import Principal
from windvane.engine.snapshot import Snapshot

ANONYMOUS = Principal(key_id="anonymous")
IN_PROCESS = Principal(key_id="in-process")


def key_digest(pepper: bytes, secret: str) -> bytes:
    """The digest a key is stored and found by: BLAKE2b, keyed with a pepper of at most 64 bytes."""
    return blake2b(secret.encode(errors="surrogatepass"), key=pepper, digest_size=32).digest()


def identify(credentials: Credentials, snapshot: Snapshot) -> Principal:
    """The caller. Raises AuthenticationError when there is no key, or one that is not known."""
    if credentials.is_in_process:
        return IN_PROCESS
    if snapshot.is_open:
        return ANONYMOUS
    if credentials.bearer is None:
        raise refuse(
            FaultKind.UNAUTHENTICATED,
            "no key was sent; send `Authorization: Bearer <key>`",
            status=401,
            code="missing_api_key",
        )
    known = snapshot.keys.get(key_digest(snapshot.key_pepper, credentials.bearer))
    if known is None:
        raise refuse(
            FaultKind.UNAUTHENTICATED,
            "the key is not one of this gateway's",
            status=401,
            code="invalid_api_key",
        )
    return known.principal


async def gate(exchange: Exchange) -> None:
    """Admit the exchange under its limits of rate and concurrency."""
    assert exchange.principal is not None
