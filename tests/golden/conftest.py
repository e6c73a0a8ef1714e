"""`--write-golden` writes what is made today beside each case; read the diff before committing it."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def writes(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--write-golden"))
