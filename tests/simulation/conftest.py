"""`--seeds N`: how many worlds to simulate."""

import pytest

SEEDS = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=SEEDS, help="worlds to simulate")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("--seeds", default=SEEDS))
        metafunc.parametrize("seed", seeds)
