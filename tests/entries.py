"""An entry of the ledger for tests that need one and do not care what it says."""

from windvane.core.ledger import LedgerEntry
from windvane.core.usage import Certainty

PLAIN_ENTRY = LedgerEntry(
    attempt_id="a",
    request_id="r",
    number=1,
    started_at_us=0,
    key_id="k",
    team=None,
    tags=(),
    route=None,
    requested_model="m",
    provider="p",
    model="m",
    resolved_model="m",
    reason="",
    dialect="openai",
    is_stream=False,
    certainty=Certainty.EXACT,
    cost_nano_usd=None,
    hold_nano_usd=None,
)
