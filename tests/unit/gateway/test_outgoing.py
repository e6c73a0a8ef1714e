"""Headers of a model on its way out: each is sent when its own day is known."""

from datetime import date

import pytest

from windvane.gateway.data_plane.outgoing import ending_lines

DEPRECATION = b"deprecation: @1785888000\r\n"
SUNSET = b"sunset: Fri, 11 Dec 2026 00:00:00 GMT\r\n"


@pytest.mark.parametrize(
    ("deprecated_on", "retires_on", "lines"),
    [
        (date(2026, 8, 5), date(2026, 12, 11), DEPRECATION + SUNSET),
        (date(2026, 8, 5), None, DEPRECATION),
        (None, date(2026, 12, 11), SUNSET),
    ],
)
def test_each_day_that_is_known_is_told(deprecated_on, retires_on, lines):
    assert ending_lines(deprecated_on, retires_on) == lines
