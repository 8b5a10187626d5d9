"""The bench of many trials at the same time, at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_bench_feeds_the_driver_from_other_nodes(tmp_path: Path) -> None:
    """``python -m tests.bench.scale`` measures times; no test fails on time."""
    output = tmp_path / "scale.json"
    small = [
        "--trials",
        "2",
        "8",
        "--report",
        "0.2",
        "--reports",
        "3",
        "--seconds",
        "5",
        "--json",
        str(output),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.scale", *small],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["found"]
    assert [one["trials"] for one in found] == [2, 8]
    for one in found:
        assert 0 < one["trained"] < 1.1
        assert one["results_per_second"] > one["lines_per_second"] > 0
        assert 0 < one["of_which_schedule_ms"] < one["driver_ms_per_result"]
        assert 0 < one["lag_ms"] <= one["lag_p99_ms"]
