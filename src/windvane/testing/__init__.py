"""Testing an engine, ours or yours, without a network and without waiting.

`loop` runs coroutines on virtual time; `upstream` answers from scripts; `playbook` reads as a script
of a scenario; `cancelling` leaves at every wait there is; `world` is a seeded storm of all this, and
`auditor` keeps the books it is held to.
"""

from windvane.testing.auditor import Auditor
from windvane.testing.cancelling import Moment, cancelled_at
from windvane.testing.clock import SeededIds, VirtualClock
from windvane.testing.loop import Deadlock, VirtualLoop, run_virtual
from windvane.testing.playbook import Playbook
from windvane.testing.stage import Stage
from windvane.testing.upstream import Call, ScriptedTransport
from windvane.testing.world import World

__all__ = [
    "Auditor",
    "Call",
    "Deadlock",
    "Moment",
    "Playbook",
    "ScriptedTransport",
    "SeededIds",
    "Stage",
    "VirtualClock",
    "VirtualLoop",
    "World",
    "cancelled_at",
    "run_virtual",
]
