"""How long simulations run, how Triton kernels run without a GPU, and how many examples test_property.py tries."""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when torch brings Triton along: kernels run on the CPU
SIMS = 2000
settings.register_profile("short", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile("long", parent=settings.get_profile("short"), max_examples=2000)
settings.load_profile("short")  # unless --hypothesis-profile says otherwise


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


@pytest.fixture
def rays_leftovers() -> Iterator[None]:
    """For tests with nodes of Ray in their own process: sockets that it leaves open are no fault of the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
