"""P(A > B) over runs, and Holm's adjustment: method.md 3, against scipy and statsmodels."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from analysis.estimate import Reals, Refused
from analysis.superiority import holm, superiority


def runs(seed: int, k: int = 5, ahead: float = 0.0) -> Reals:
    return np.random.default_rng(seed).normal(0.93 + ahead, 0.002, k)


def test_ref_1_the_estimate_counts_the_pairs_that_are_won() -> None:
    first, second = np.array([0.91, 0.92, 0.93]), np.array([0.92, 0.90, 0.925, 0.94])
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(first, second))
    assert superiority(first, second).probability == won / 12
    theirs = stats.mannwhitneyu(first, second).statistic
    assert superiority(first, second).probability == pytest.approx(float(theirs) / 12)


@pytest.mark.parametrize("k", [4, 9])
def test_ref_1_the_interval_has_the_variance_and_df_of_scipys_brunner_munzel(k: int) -> None:
    first, second = runs(1, k, 0.001), runs(4, 7)
    found = superiority(first, second)
    p = found.probability
    theirs = stats.brunnermunzel(second, first)
    assert 0 < p < 1
    se = (p - 0.5) / float(theirs.statistic)
    quantile = (math.log(found.high / (1 - found.high)) - math.log(p / (1 - p))) * p * (1 - p) / se
    mirrored = (math.log(p / (1 - p)) - math.log(found.low / (1 - found.low))) * p * (1 - p) / se
    assert quantile == pytest.approx(mirrored)
    df = optimize.brentq(lambda d: float(stats.t.ppf(0.975, d)) - quantile, 1, 100)
    assert 2 * stats.t.sf(abs(float(theirs.statistic)), df) == pytest.approx(float(theirs.pvalue), abs=1e-4)


@pytest.mark.parametrize(("k", "low"), [(2, 0.158), (5, 0.478), (10, 0.6915)])
def test_ref_1_separated_runs_get_clopper_pearson_on_the_pairs(k: int, low: float) -> None:
    found = superiority(runs(1, k, 1.0), runs(2, k + 3))
    exact = stats.binomtest(k, k).proportion_ci(method="exact")
    assert (found.probability, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(float(exact.low), abs=1e-9)
    assert found.low == pytest.approx(low, abs=1e-3)


def test_ref_1_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 6, 10):
        p_values = list(rng.uniform(0, 1, size) ** 3)
        assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([0.01, 0.01, 0.04]) == pytest.approx([0.03, 0.03, 0.04])
    assert holm([]) == []


def test_inv_1_swapping_the_arms_mirrors_everything() -> None:
    for first, second in ((runs(1, 5, 0.002), runs(2, 8)), (runs(1, 5, 1.0), runs(2, 4))):
        one, other = superiority(first, second), superiority(second, first)
        assert (other.probability, other.low, other.high) == pytest.approx(
            (1 - one.probability, 1 - one.high, 1 - one.low)
        )
        assert other.standing == one.standing


def test_inv_2_the_order_of_runs_does_not_matter() -> None:
    first, second = runs(1, 6), runs(2, 6)
    one, other = superiority(first[::-1], np.roll(second, 2)), superiority(first, second)
    assert (one.probability, one.low, one.high) == pytest.approx((other.probability, other.low, other.high))


def test_inv_3_equal_runs_are_an_even_chance_of_open_width() -> None:
    for first in (np.full(5, 0.93), runs(1)):
        found = superiority(first, first.copy())
        assert found.probability == 0.5
        assert found.low < 0.25
        assert found.high > 0.75
        assert found.standing == "not detectable"


def test_inv_4_one_run_is_refused() -> None:
    with pytest.raises(Refused, match="at least two"):
        superiority(runs(1, 1), runs(2))


def test_bouthilliers_words() -> None:
    assert superiority(runs(1, 5, 1.0), runs(2, 5)).standing == "not detectable"
    assert superiority(runs(1, 6, 1.0), runs(2, 6)).standing == "detectable and meaningful"
    assert superiority(runs(2, 6), runs(1, 6, 1.0)).standing == "detectable and meaningful"
    assert superiority(runs(1, 400, 0.001), runs(2, 400)).standing == "detectable, not meaningful"


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("ahead", [0.0, 1.0, 2.0])
def test_cov_the_interval_covers(k: int, ahead: float) -> None:
    rng = np.random.default_rng(k)
    truth = float(stats.norm.cdf(ahead / math.sqrt(2)))
    found = [superiority(rng.normal(ahead, 1, k), rng.normal(0, 1, k)) for _ in range(1000)]
    assert np.mean([s.low <= truth <= s.high for s in found]) >= 0.95
