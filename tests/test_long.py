"""The bench of long studies, at a small size."""

from pathlib import Path

import pytest
from bench.long import measure


@pytest.mark.long
def test_the_bench_plays_a_study_of_any_length_to_its_end(tmp_path: Path) -> None:
    """``python -m tests.bench.long`` measures times; no test fails on time."""
    short, long = (measure(tmp_path / str(trials), trials) for trials in (100, 300))
    assert (short["trials"], long["trials"]) == (100, 300)
    assert (
        long["median_us"].keys()
        == {"next", "next after the search", "report", "end", "tick"} | long["median_us"].keys()
    )
    assert all(value > 0 for value in long["median_us"].values())
    assert long["resume_seconds"] > 0
