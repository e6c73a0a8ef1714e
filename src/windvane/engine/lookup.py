"""Step 5: an answer that is already there.

The seat of the cache: exact, then semantic, then joining an equal request in flight. Until those
are built every look-up is a miss, and `Cache-Status` says so.
"""

from windvane.core.chat import Completion
from windvane.core.exchange import Exchange


async def find(exchange: Exchange) -> Completion | None:
    """An answer for this exchange, or None."""
    exchange.cache_status = "miss"
    return None
