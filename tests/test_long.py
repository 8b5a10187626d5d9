"""The benches of long studies and of reports, at a small size."""

import re
import subprocess
import sys
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


@pytest.mark.long
def test_the_bench_of_a_report_says_where_its_time_goes() -> None:
    small = ["--arms", "3", "--runs", "4", "--images", "300", "--classes", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.report", *small],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(found) if (found := re.findall(r"^(\w[\w ]*?) +([\d.]+)$", done.stdout, re.MULTILINE)) else {}
    assert {"png", "svg", "the rest", "all"} <= rows.keys()
    assert sum(map(float, rows.values())) - float(rows["all"]) == pytest.approx(float(rows["all"]), abs=1)
