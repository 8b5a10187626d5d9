"""The planner's sentences and limits, in pairs of searches and budget. Its promised power: test_method.py."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.synthetic import plan

from analysis import answer, power
from analysis.luck import POWER, Luck, half_width, images_needed, lasting_interval, pairs_needed
from study.protocol.allocation import PAIRS, budget_for_pairs
from study.protocol.budget import Budget
from study.protocol.plan import Plan

MEASURED = Luck(differences=(0.01, 0.0, 0.02, 0.01), sd=0.008, lasting=0.0004, lasting_se=0.0002, images=2000)


def with_pairs(pairs: int) -> Plan:
    question = plan()
    return replace(question, budget=budget_for_pairs(question, pairs))


@pytest.mark.parametrize("pairs", sorted(PAIRS))
def test_the_budget_for_pairs_is_the_smallest_that_has_them(pairs: int) -> None:
    question = with_pairs(pairs)
    assert question.pairs == pairs
    less = Budget(seconds=0.95 * question.budget.seconds, resource="cpu")
    assert replace(question, budget=less).pairs < pairs


def test_estimates_are_ranges_before_a_study_and_measured_after_it() -> None:
    question = with_pairs(4)
    before, after = power.promise(question), power.promise(question, measured=MEASURED, pairs=4)
    low, high = (half_width(luck, 4, 0.05, power=POWER) for luck in power.assumed(question))
    assert f"is about {100 * low:.2f} to {100 * high:.2f} pt, for a luck of one pair (sd) of" in before
    assert before.endswith("more pairs, or more test images.")
    assert "assumed before any run" in before
    assert "at the luck of one pair (sd) measured here, 0.80 pt (0.55 to 1.81, 80 % intervals)" in after
    assert f"is about {100 * half_width(MEASURED, 4, 0.05, power=POWER):.2f} pt (" in after
    assert "assumed" not in after


def test_one_search_per_arm_promises_nothing_about_architectures() -> None:
    question = replace(plan(), budget=Budget(seconds=0.5 * with_pairs(3).budget.seconds, resource="cpu"))
    assert question.pairs == 1
    sentence = power.promise(question)
    assert "nothing is said about architectures" in sentence
    assert (
        f"3 pairs of searches, which say something, are made from --budget {budget_for_pairs(question, 3)}"
        in sentence
    )


def test_the_price_names_pairs_and_a_budget_that_has_them() -> None:
    question = replace(with_pairs(3), rope=0.02)
    luck = replace(MEASURED, sd=0.01)
    needed = pairs_needed(luck, question.rope, power.rate(question))
    assert needed is not None
    enough = min(pairs for pairs in PAIRS if pairs >= needed)
    sentence = power.takes_pairs(question, luck, question.rope, power.rate(question), POWER)
    assert (
        sentence
        == f"{enough} pairs of searches, --budget {budget_for_pairs(question, enough)} --epochs {question.epochs}"
    )
    rich = with_pairs(8)
    assert "which this budget pays for" in power.takes_pairs(rich, luck, 0.02, power.rate(rich), POWER)
    dear = power.takes_pairs(question, luck, 0.004, power.rate(question), POWER)
    assert "more than the 20 that two looks can have" in dear
    gap, tie = power.price(question, measured=luck, pairs=3)
    assert gap.startswith("To name an arm that is 2 pt ahead, in 80 % of studies: ")
    assert tie.startswith("To prove equal arms equal within 2 pt, in 80 % of studies: ")
    assert "(luck of " in gap


def test_where_images_limit_the_planner_asks_for_images_and_not_pairs() -> None:
    question = with_pairs(4)
    coarse = replace(MEASURED, lasting=0.06)
    sentence = power.takes_pairs(question, coarse, 0.005, power.rate(question), POWER)
    images = images_needed(coarse, 0.005, 0.05)
    assert images is not None
    assert images > coarse.images
    assert sentence.startswith("no number of pairs on these 2000 test images: endless pairs on about ")
    assert half_width(replace(coarse, images=round(1.3 * images)), 200, 0.05, power=POWER) < 0.005


def test_more_of_anything_resolves_more() -> None:
    gap = half_width(MEASURED, 4, 0.05, power=POWER)
    assert half_width(MEASURED, 8, 0.05, power=POWER) < gap
    assert half_width(MEASURED, 4, 0.05, power=POWER, images=8000) < gap
    assert half_width(MEASURED, 4, 0.05 / 3, power=POWER) > gap
    low, high = lasting_interval(MEASURED)
    assert 0 <= low < MEASURED.lasting < high


def test_several_arms_and_earlier_studies_make_the_promise_smaller() -> None:
    two, three = plan(), plan(("a", "b", "c"))
    assert power.rate(three)(4) == pytest.approx(power.rate(two)(4) / 3)
    assert power.rate(replace(two, looks=2))(4) == pytest.approx(0.027)


def test_nets_of_two_classes_disagree_on_fewer_images() -> None:
    many = power.disagreement(0.93)
    assert many == pytest.approx(0.0651)
    assert power.disagreement(0.93, [0.1] * 10) == pytest.approx(many)
    assert power.disagreement(0.93, [0.5, 0.5]) == pytest.approx(0.75 * many, rel=0.01)
    assert power.disagreement(0.93, [0.9, 0.1]) < power.disagreement(0.93, [0.5, 0.5])


def test_the_planner_is_cheap_to_import() -> None:
    code = "import sys, analysis.power; print(*[m for m in ('torch','ray','matplotlib','pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_lasting_part_has_an_interval_that_covers_it() -> None:
    """METHOD 8: 80 % intervals. Images differ by a lasting amount, pairs on each image by chance."""
    rng, lasting, covered = np.random.default_rng(3), 0.0016, 0
    for _ in range(400):
        table = 0.04 * rng.standard_normal(500) + 0.1 * rng.standard_normal((4, 500))
        _, luck = answer._over(table, 0.95)
        low, high = lasting_interval(luck)
        covered += low <= lasting <= high
    assert 0.74 <= covered / 400 <= 0.86
