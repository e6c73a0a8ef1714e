"""`windvane simulator` refuses what it cannot do, before it listens."""

import pytest
from click.testing import CliRunner

from windvane.cli.main import windvane


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--ttft-ms", "-1", "ttft_ms is 0 or more, not -1.0"),
        ("--tokens-per-s", "nan", "tokens_per_s is 0 or more, not nan"),
        ("--jitter", "inf", "jitter is 0 or more, not inf"),
        ("--requests-per-minute", "0", "0 is not in the range x>=1"),
        ("--tokens-per-minute", "-5", "-5 is not in the range x>=1"),
        ("--abort-billing", "never", "'never' is not one of 'stop', 'run_to_end'"),
    ],
)
def test_a_pace_or_a_limit_that_is_none_is_told(option: str, value: str, says: str) -> None:
    result = CliRunner().invoke(windvane, ["simulator", option, value])
    assert result.exit_code == 2
    assert says in result.output
