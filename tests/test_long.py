"""The bench of long studies at a small size: what must not grow does not."""

from pathlib import Path

from bench.long import measure


def test_a_result_costs_the_same_in_a_study_ten_times_as_long(tmp_path: Path) -> None:
    short, long = (measure(tmp_path / str(trials), trials) for trials in (100, 1000))
    assert long["trials"] == 10 * short["trials"]
    for call in ("next", "next after the search", "report", "end", "tick"):
        assert long["median_us"][call] < 4 * short["median_us"][call], (
            call
        )  # ten times, if it walked the trials
    assert long["resume_seconds"] < 10
