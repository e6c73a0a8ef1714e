"""A provider simulator: Mistral's, OpenAI's and Anthropic's APIs on a local port, without a key.

It answers over real sockets, deterministically from a seed, with the wire habits, limits, errors
and faults of the real services, and keeps its own exact bill of what it would have charged. It
knows nothing of the gateway and imports nothing from it.
"""

from windvane.simulator.bill import Bill, BillRow
from windvane.simulator.config import SimulatorConfig
from windvane.simulator.fault import FAULT_WORDS, FaultRule
from windvane.simulator.simulator import Simulator
from windvane.simulator.tape import TapeEntry, Violation

__all__ = [
    "FAULT_WORDS",
    "Bill",
    "BillRow",
    "FaultRule",
    "Simulator",
    "SimulatorConfig",
    "TapeEntry",
    "Violation",
]
