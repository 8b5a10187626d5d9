"""How long the simulations run."""

import pytest

SIMS = 2000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sims",
        type=int,
        default=SIMS,
        help=f"repeats of every simulation in test_method.py (default {SIMS})",
    )


@pytest.fixture(scope="session")
def sims(request: pytest.FixtureRequest) -> int:
    count: int = request.config.getoption("--sims")
    return count
