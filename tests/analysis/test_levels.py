"""Levels over several looks: the figures of METHOD.md 6 and their error rates."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from support.synthetic import plan

from study.protocol import levels, looks
from study.protocol.levels import either, second_level
from study.protocol.question import Earlier
from study.protocol.records import Extension

DRAWN = np.random.default_rng(1).standard_normal((200_000, 20))
"""Every pair's difference in many studies of equal arms."""


def _excludes(differences: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Whether the t interval over a study's pairs excludes 0."""
    pairs = differences.shape[1]
    half = stats.t.isf(level / 2, pairs - 1) * differences.std(axis=1, ddof=1) / np.sqrt(pairs)
    return np.asarray(np.abs(differences.mean(axis=1)) > half)


@pytest.mark.parametrize(("k1", "k2", "rate"), [(3, 8, 0.0280), (1, 4, 0.0270), (1, 2, 0.0294)])
def test_the_published_rates_of_two_declared_looks(k1: int, k2: int, rate: float) -> None:
    assert either(rate, rate, k1, k2) == pytest.approx(0.05, abs=1.5e-4)
    assert levels.forecast(k1, k2, spent=rate, total=0.05) == pytest.approx(rate, abs=2e-4)


def test_an_undeclared_second_look_gets_the_rest_of_six_percent() -> None:
    assert second_level(100, 400, spent=0.05, total=0.06) == pytest.approx(0.0135, abs=3e-4)
    found = levels.of(look=2, first=4, now=16)
    assert found.alpha == second_level(4, 16, spent=0.05, total=0.06) < 0.0135  # t over few pairs
    assert found.label == "94 % over both looks"
    with pytest.raises(ValueError, match="nothing is left"):
        second_level(3, 4, spent=0.05, total=0.05)
    with pytest.raises(ValueError, match="nothing new"):
        second_level(4, 4, spent=0.027, total=0.05)


@pytest.mark.parametrize("first", [1, 4])
def test_the_first_of_two_declared_looks_says_what_both_hold(first: int) -> None:
    """Also where one search per arm says nothing about architectures: the nets take their part."""
    found = levels.of(looks=2, first=first, now=first)
    assert (found.alpha, found.label) == (levels.FIRST_DECLARED, "95 % over both looks")


@pytest.mark.parametrize("couples", [1, 3, 10])
@pytest.mark.parametrize(("first", "now"), [(3, 4), (4, 8), (8, 20)])
@pytest.mark.parametrize(("declared", "total"), [(2, 0.05), (1, 0.06)])
def test_both_looks_together_err_in_their_total(
    couples: int, first: int, now: int, declared: int, total: float
) -> None:
    one = levels.of(couples=couples, looks=declared, look=1, first=first, now=first)
    two = levels.of(couples=couples, looks=declared, look=2, first=first, now=now)
    differences = DRAWN[:, :now]
    wrong = _excludes(differences[:, :first], one.alpha) | _excludes(differences, two.alpha)
    assert wrong.mean() == pytest.approx(total / couples, rel=0.05, abs=5e-4)
    assert one.alpha <= 0.05 / couples
    assert "both looks" in two.label


def test_the_chance_that_either_look_errs_is_that_of_two_correlated_normals() -> None:
    z = np.random.default_rng(0).standard_normal((2, 400_000))
    first, both = z[0], np.sqrt(0.25) * z[0] + np.sqrt(0.75) * z[1]
    wrong = (np.abs(first) > stats.norm.isf(0.025)) | (np.abs(both) > stats.norm.isf(0.0135 / 2))
    assert either(0.05, 0.0135, 1, 4) == pytest.approx(float(wrong.mean()), abs=0.0015)
    assert either(0.05, 0.0135, 1, 4) == pytest.approx(0.06, abs=1.5e-4)
    assert either(0.05, 0.01, 3, 3) == 0.05


def test_each_repeat_of_a_question_gets_half_the_previous_level() -> None:
    rates = [levels.of(earlier=[0.05] * j).alpha for j in range(12)]
    assert rates[:3] == [0.05, 0.025, 0.0125]
    assert sum(rates) < 0.10
    assert levels.of(earlier=[0.05]).label == "90 % over every study of this question on these test images"
    assert levels.of(earlier=[0.05, 0.025], look=2, first=4, now=8).total == pytest.approx(0.075 + 2 * 0.015)


def test_all_together_counts_what_earlier_studies_really_took() -> None:
    assert levels.of(earlier=[0.05]).total == pytest.approx(0.10)
    assert levels.of(earlier=[0.06]).total == pytest.approx(
        0.11
    )  # it had a second look that was not declared
    assert levels.of(earlier=[0.075]).label.startswith("87.5 % over")  # it took in an arm
    asked = replace(plan(), earlier=(Earlier(run="x", arms=("resnet8", "resnext8"), level=0.075),))
    assert "all together err in 12.5 % at most" in looks.describe_earlier(asked)


def test_an_added_arm_leaves_the_old_intervals_and_shares_a_quarter_of_a_tenth() -> None:
    old, new = levels.of(couples=1, added=2), levels.of(couples=1, added=2, new=True)
    assert old.alpha == levels.of().alpha
    assert new.alpha == 0.0125
    assert old.label == new.label == "92.5 % over all 3 pairs of arms, those of the added arm included"


def test_a_first_look_that_could_claim_nothing_leaves_all_to_the_second() -> None:
    found = levels.of(look=2, first=1, now=5)
    assert (found.alpha, found.label) == (0.05, "95 %")
    assert levels.of(look=2, first=1, now=5, couples=3).alpha == pytest.approx(0.05 / 3)


def test_nets_of_a_second_look_are_safe_whatever_the_correlation() -> None:
    for declared, total, first in ((1, 0.06, 0.05), (2, 0.05, 0.027)):
        level = levels.of(looks=declared, look=2, first=4, now=8)
        nets = of_nets(level, declared)
        assert nets.alpha + first == pytest.approx(total)
        assert nets.label == level.label
    alone = levels.of()
    assert of_nets(alone, 1, look=1) is alone
    claimed_nothing = of_nets(levels.of(look=2, first=1, now=3), 1)
    assert claimed_nothing.alpha == pytest.approx(0.01)
    assert claimed_nothing.label == "94 % over both looks"


def of_nets(level: levels.Level, declared: int, *, look: int = 2) -> levels.Level:
    return levels.of_nets(
        level, replace(plan(), looks=2 if declared == 2 else 1), "resnet8", "resnext8", look=look
    )


def test_terminal_ledger_and_report_state_one_level() -> None:
    """Three arms, one pair of which was asked about before: the strictest stands in the ledger."""
    three = replace(plan(("a", "b", "c")), earlier=(Earlier(run="x", arms=("a", "b"), level=0.05),), looks=1)
    further = Extension(
        look=2, budget_seconds=1e5, arms=three.arms, pairs=4, level=0.0, declared=False, reason="", plan={}
    )
    asked, fresh = (
        levels.of_pair(three, *c, first=4, look=2, extension=further) for c in (("a", "b"), ("a", "c"))
    )
    assert fresh.alpha == levels.of(couples=3, look=2, first=4, now=8).alpha
    assert asked.alpha == levels.of(couples=3, look=2, first=4, now=8, earlier=[0.05]).alpha < fresh.alpha
    assert levels.of_study(three, first=4, look=2, extension=further) == asked
    assert levels.of_pair(three, "a", "c", first=4, extension=further) == levels.of(couples=3)
