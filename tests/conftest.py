"""What holds for every test: hypothesis judges what is found, and never how long it took to find it.

In CI it looks at the same examples each time, so that what passed here passes there; elsewhere at others
each time, so that more is found.
"""

import os

from hypothesis import HealthCheck, settings

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("untimed", UNTIMED)
settings.register_profile("the same", UNTIMED, derandomize=True, database=None)
settings.load_profile("the same" if "CI" in os.environ else "untimed")
