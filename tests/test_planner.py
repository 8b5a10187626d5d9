"""The planner's promises, held against the simulator that the verdict is tested with."""

import subprocess
import sys

import numpy as np
import pytest
from synthetic import right_wrong

from analysis import planner
from analysis.estimate import crossed


def test_five_runs_on_ten_thousand_images_give_the_published_standard_error() -> None:
    se, _ = planner.standard_error(runs=5, images=10_000, accuracy=0.93, run_sd=0.0)
    assert se == pytest.approx(0.0017, abs=0.00005)  # method.md 2.3


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "images"), [(3, 10_000), (5, 10_000), (5, 2000), (10, 5000)])
def test_pow_2_the_smallest_gap_is_seen_in_four_of_five_studies(runs: int, images: int) -> None:
    gap = planner.smallest_gap(runs=runs, images=images, accuracy=0.93, run_sd=0.001)
    rng = np.random.default_rng(runs)
    seen = 0
    for _ in range(600):
        a, b = right_wrong(
            rng, runs=(runs, runs), accuracies=(0.93 + gap / 2, 0.93 - gap / 2), images=images, run_sd=0.001
        )
        seen += crossed(a, b).low > 0
    assert seen / 600 == pytest.approx(0.80, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "images"), [(3, 10_000), (5, 10_000), (10, 5000)])
def test_pow_2_a_tie_is_proved_in_four_of_five_studies_from_the_stated_margin_on(
    runs: int, images: int
) -> None:
    rope = planner.smallest_tie(runs=runs, images=images)
    assert planner.tie_provable(rope, runs=runs, images=images)
    assert not planner.tie_provable(0.99 * rope, runs=runs, images=images)
    rng = np.random.default_rng(runs)
    proved = 0
    for _ in range(600):
        a, b = right_wrong(rng, runs=(runs, runs), accuracies=(0.93, 0.93), images=images, run_sd=0.001)
        found = crossed(a, b)
        proved += -rope <= found.low and found.high <= rope
    assert 0.70 <= proved / 600 <= 0.90


def test_more_of_anything_resolves_more() -> None:
    gap = planner.smallest_gap(runs=5, images=10_000)
    assert planner.smallest_gap(runs=10, images=10_000) < gap
    assert planner.smallest_gap(runs=5, images=40_000) < gap
    assert planner.smallest_gap(runs=5, images=10_000, pairs=3) > gap
    images = planner.images_for_tie(0.005, runs=5)
    assert images is not None
    assert planner.tie_provable(0.005, runs=5, images=round(images * 1.01))
    assert not planner.tie_provable(0.005, runs=5, images=round(images * 0.99))
    assert planner.images_for_tie(0.0001, runs=3) is None


def test_the_sentence_says_the_gap_and_whether_a_tie_can_be_proved() -> None:
    told = planner.promise(runs=5, images=10_000, rope=0.01, accuracy=0.93)
    assert "smallest true gap" in told
    assert "can be proved" in told
    before = planner.promise(runs=5, images=10_000, rope=0.01)
    assert "near 93 %" in before
    assert "near 60 %" in before
    assert "unproved" in before
    assert "unproved" in planner.promise(runs=3, images=1000, rope=0.005, arms=3)


@pytest.mark.parametrize(
    ("runs", "images", "accuracy"), [(1, 1000, 0.9), (3, 1, 0.9), (3, 100, 0.0), (3, 100, 1.0)]
)
def test_impossible_plans_are_refused(runs: int, images: int, accuracy: float) -> None:
    with pytest.raises(ValueError, match="2 runs per arm"):
        planner.smallest_gap(runs=runs, images=images, accuracy=accuracy)


def test_the_planner_is_cheap_to_import() -> None:
    code = "import sys, analysis.planner; print(*[m for m in ('torch','ray','matplotlib','pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
