"""Rank distributions of several arms follow the pigeonhole bootstrap and are certain only for clear orders."""

import numpy as np
import pytest
from support.synthetic import right_wrong

from analysis.statistics.intervals import Correct
from analysis.statistics.ranks import rank_correlation, rank_shares


def arms(*accuracies: float, images: int = 4000, run_sd: float = 0.001) -> list[Correct]:
    rng = np.random.default_rng(1)
    return right_wrong(rng, runs=(5,) * len(accuracies), accuracies=accuracies, images=images, run_sd=run_sd)


def test_a_clear_order_is_reported_as_one() -> None:
    shares = rank_shares(arms(0.95, 0.90, 0.85), resamples=400)
    assert shares == pytest.approx(np.eye(3), abs=0.01)


def test_equal_arms_have_every_rank_and_rows_add_up() -> None:
    (first, *_) = arms(0.9, 0.9, 0.9)
    same = [first, first, first]
    shares = rank_shares(same, resamples=400)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (shares[:, 0] > 0.2).all()
    close = rank_shares(arms(0.900, 0.901, 0.850), resamples=400)
    assert close[2, 2] == pytest.approx(1, abs=0.01)
    assert 0.05 < close[0, 0] < 0.95


def test_the_same_seed_gives_the_same_shares_in_any_chunk() -> None:
    runs = arms(0.90, 0.905, 0.91)
    assert (rank_shares(runs, seed=3, resamples=250) == rank_shares(runs, seed=3, resamples=250)).all()
    assert (rank_shares(runs, seed=3, resamples=250) != rank_shares(runs, seed=4, resamples=250)).any()


@pytest.mark.parametrize("pairs", [5, 12])
def test_a_rank_correlation_has_the_interval_of_its_number_of_pairs(pairs: int) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        a = rng.standard_normal(pairs)
        b = 0.8 * a + 0.6 * rng.standard_normal(pairs)  # Spearman's correlation: 6/pi asin(0.8/2)
        rho, low, high = rank_correlation(a, b)
        assert low <= rho <= high
        covered += low <= 0.786 <= high
    assert covered / 400 > 0.93
    rho, low, high = rank_correlation(np.arange(5.0), np.arange(5.0) ** 3)
    assert rho == high == pytest.approx(1)
    assert low < 0.8
    assert np.isnan(rank_correlation(np.zeros(5), np.arange(5.0))[0])
