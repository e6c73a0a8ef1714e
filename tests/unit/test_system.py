"""What of this machine is changed at the start: how many files may be open (S7)."""

import subprocess
import sys

import pytest


def _in_a_process(soft: int, hard: int, wanted: int) -> tuple[int, int, int]:
    """What a process with these limits is told, and which it has then."""
    code = (
        "import resource as r; from windvane.system import allow_open_files as allow;"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard}));"
        f"print(allow({wanted}), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, soft, hard = map(int, out.stdout.split())
    return told, soft, hard


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "then"),
    [
        pytest.param(100, 500, 300, 300, id="as many as are wanted"),
        pytest.param(100, 200, 300, 200, id="no more than the user may"),
        pytest.param(400, 500, 300, 400, id="never fewer"),
    ],
)
def test_a_process_may_open_as_many_files_as_it_needs(
    soft: int, hard: int, wanted: int, then: int
) -> None:
    assert _in_a_process(soft, hard, wanted) == (then, then, hard)
