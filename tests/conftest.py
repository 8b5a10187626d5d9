"""Options of the test run: number of simulations, Triton without a GPU, examples per property."""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from study.data.sealed import Prepared
    from study.protocol.plan import Plan

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # kernels run on the CPU; Triton reads this when torch imports it
SIMS = 2000
settings.register_profile("short", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile("long", parent=settings.get_profile("short"), max_examples=2000)
settings.load_profile("short")  # --hypothesis-profile overrides this


LONGEST = ("test_study.py", "test_faults.py", "test_storage.py", "test_begun.py", "test_method.py")
"""Files of more than two minutes, in the default suite or by their ``long`` tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then others with studies, so that no process is left alone with one at the end.

    ``--no-loadscope-reorder`` keeps this order; pytest-xdist would begin with the files of the most tests.
    """
    studies = {
        item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("long")
    }
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path not in studies))


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


@pytest.fixture(autouse=True)
def unsaved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tests/analysis every figure is drawn, and saved as SVG and PNG by tests marked ``drawn`` only.

    Saving is two thirds of a report's time; a state that cannot be drawn fails before it.
    """
    if request.node.path.parent.name == "analysis" and not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr("analysis.report.figures._bytes", lambda *_: b"<svg/>")


@pytest.fixture
def rays_leftovers() -> Iterator[None]:
    """For tests with Ray nodes in their own process: collect Ray's open sockets before the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def digits() -> "Prepared":
    """The digits, for real training on one thread."""
    import torch

    from study.data.prepare import prepare

    torch.set_num_threads(1)
    return prepare("digits", seed=0, root=Path("unused"))


@pytest.fixture(scope="module")
def plan(digits: "Prepared") -> "Plan":
    from support.plans import one_core

    return one_core(digits.card)
