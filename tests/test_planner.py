"""The planner's sentences and limits. What it promises is kept: test_method.py."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic import plan

from analysis import planner
from analysis.planner import Nets
from study.plan import CONFIRM_CEILING, TUNING_RUNS_FLOOR, Budget, PlanError

SMALL = planner.UNKNOWN[1]


def test_five_runs_on_ten_thousand_images_give_the_published_standard_error() -> None:
    se, _ = planner.standard_error(runs=5, images=10_000, nets=Nets(accuracy=0.93, run_sd=0.0))
    assert se == pytest.approx(0.0017, abs=0.00005)  # method.md 2.3


def test_the_price_is_the_smallest_budget_that_sets_the_runs_apart() -> None:
    question = replace(plan(images=10_000), budget=Budget(seconds=5000, resource="gpu"))
    for runs in (4, 6, 16, CONFIRM_CEILING):
        budget = question.budget_for(runs)
        assert replace(question, budget=budget).confirm_reserved == runs
        less = replace(question, budget=Budget(seconds=0.95 * budget.seconds, resource="gpu"))
        assert less.confirm_reserved < runs or less.tuning_runs < TUNING_RUNS_FLOOR
    assert question.budget_for(2) == question.smallest_budget
    with pytest.raises(PlanError, match="more than the 20"):
        question.budget_for(CONFIRM_CEILING + 1)

    gap, tie = planner.price(question, measured=planner.STRONG)
    assert question.confirm_reserved < 6
    assert (
        f"6 confirmation runs per arm, a study of about {question.budget_for(6).seconds / 3600:.2f} gpu-h"
        in gap
    )
    assert f"(--budget {question.budget_for(16)} --epochs 9)" in tie
    rich = replace(question, budget=question.budget_for(6))
    assert (
        "6 confirmation runs per arm, which this budget pays for."
        in planner.price(rich, measured=planner.STRONG)[0]
    )
    before = planner.price(question)
    assert "(nets near 93 %); no number of runs on these 10000 test images, but 20 on about" in before[0]
    assert (
        "no number of runs on these 2000 test images"
        in planner.price(plan(images=2000), measured=planner.STRONG)[0]
    )
    dear = planner.price(plan(images=2000, rope=0.02), measured=SMALL)[1]
    runs_alone = planner.runs_needed(0.02, planner.smallest_tie, images=2000, nets=SMALL)
    assert f"{runs_alone} confirmation runs per arm, about" in dear
    assert "more than the 20 a study makes, but 20 on about" in dear


def test_where_runs_differ_too_much_no_number_of_images_helps() -> None:
    erratic = Nets(accuracy=0.6, run_sd=0.01)
    for reaches in (planner.smallest_gap, planner.smallest_tie):
        assert planner.images_needed(0.005, reaches, runs=CONFIRM_CEILING, nets=erratic) is None
    for told in planner.price(plan(images=2000), measured=erratic):
        assert "no number of runs on these 2000 test images, and 20 on no number of test images" in told
    for told in planner.price(plan(images=10**7), measured=erratic):
        assert "more than the 20 a study makes, and 20 on no number of test images" in told


def test_more_of_anything_resolves_more() -> None:
    gap = planner.smallest_gap(runs=5, images=10_000)
    assert planner.smallest_gap(runs=10, images=10_000) < gap
    assert planner.smallest_gap(runs=5, images=40_000) < gap
    assert planner.smallest_gap(runs=5, images=10_000, pairs=3) > gap
    images = planner.images_needed(0.005, planner.smallest_tie, runs=5)
    assert images is not None
    assert planner.tie_provable(0.005, runs=5, images=round(images * 1.01))
    assert not planner.tie_provable(0.005, runs=5, images=round(images * 0.99))
    assert planner.images_needed(0.0001, planner.smallest_tie, runs=3) is None


def test_the_sentence_says_the_gap_and_whether_a_tie_can_be_proved() -> None:
    told = planner.promise(runs=5, images=10_000, rope=0.01, measured=planner.STRONG)
    assert "smallest true gap" in told
    assert "at the run-to-run spread measured here (at most 0.10 pt)" in told
    assert "measured here (0.85 pt)" in planner.promise(
        runs=5, images=10_000, rope=0.01, measured=Nets(accuracy=0.6, run_sd=0.0085)
    )
    assert "can be proved" in told
    before = planner.promise(runs=5, images=10_000, rope=0.01)
    assert "nets near 93 % whose runs differ by 0.10 pt (sd) and" in before
    assert "nets near 60 % whose runs differ by 0.50 pt (sd), both assumed" in before
    assert "unproved" in before
    assert "unproved" in planner.promise(runs=3, images=1000, rope=0.005, arms=3)


@pytest.mark.parametrize("islands", [2, 4])
def test_the_searches_per_arm_and_what_an_interval_over_them_reaches(islands: int) -> None:
    question = replace(plan(), budget=plan().budget_for_islands(islands))
    assert question.islands == islands
    less = Budget(seconds=0.95 * question.budget.seconds, resource="cpu")
    assert replace(question, budget=less).islands < islands
    told = planner.searches(question)
    # Welch over R and R values with one sd: t(.975, 2 (R - 1)) sqrt(2 / R), t from a table.
    assert (
        f"{4.303 * math.sqrt(2 / 2):.1f} times the spread (sd) between searches (t = 4.3" in told
        or islands == 4
    )
    assert f"{2.447 * math.sqrt(2 / 4):.1f} times the spread (sd) between searches (t = 2.4" in told
    assert told.startswith(f"{islands} independent searches per arm")
    assert ("seldom" in told) == (islands == 2)
    alone = planner.searches(
        replace(question, budget=Budget(seconds=0.4 * question.budget.seconds / islands, resource="cpu"))
    )
    assert alone.startswith("One search per arm cannot say")
    assert f"from --budget {question.budget_for_islands(4)} --epochs 9 on" in alone


@pytest.mark.parametrize(
    ("runs", "images", "accuracy"), [(1, 1000, 0.9), (3, 1, 0.9), (3, 100, 0.0), (3, 100, 1.0)]
)
def test_impossible_plans_are_refused(runs: int, images: int, accuracy: float) -> None:
    with pytest.raises(ValueError, match="2 runs per arm"):
        planner.smallest_gap(runs=runs, images=images, nets=Nets(accuracy=accuracy, run_sd=0.001))


def test_the_planner_is_cheap_to_import() -> None:
    code = "import sys, analysis.planner; print(*[m for m in ('torch','ray','matplotlib','pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
