"""A mean over data sets: against published figures, and its coverage where studies have few pairs of searches."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import Refused
from analysis.statistics.random_effects import pooled

# 13 trials of the BCG vaccine (Colditz 1994, metafor's dat.bcg): treated with and without the disease, controls likewise
BCG = np.array(
    [
        [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036, 47, 5761],
        [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232],
        [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825],
    ],
    dtype=np.float64,
)  # fmt: skip


def test_ref_log_risk_ratios_of_the_bcg_trials() -> None:
    """metafor, ``rma(yi, vi, test="knha")``: mean -0.7145, se 0.1808, tau2 0.3132 (0.1197 to 1.1115)."""
    a, b, c, d = BCG.T
    y = np.log(a / (a + b)) - np.log(c / (c + d))
    errors = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
    found = pooled(y, errors, np.full(13, 1e6))
    assert found.mean.delta == pytest.approx(-0.7145, abs=5e-5)
    assert found.mean.se == pytest.approx(0.1808, abs=5e-5)
    assert found.tau**2 == pytest.approx(0.3132, abs=5e-5)
    assert found.tau_low**2 == pytest.approx(0.1197, abs=5e-5)
    assert found.tau_high**2 == pytest.approx(1.1115, abs=5e-5)
    assert sum(found.weights) == pytest.approx(1)
    assert found.next_low < found.mean.low < found.mean.high < found.next_high


def test_equal_data_sets_have_no_spread_and_are_not_narrower_than_their_errors() -> None:
    found = pooled(np.full(6, 0.01), np.full(6, 0.003), np.full(6, 3.0))
    assert found.tau == 0
    assert found.mean.se == pytest.approx(0.003 / np.sqrt(6))  # max(1, q): agreement by chance proves no more


def test_the_mean_is_less_sure_where_few_pairs_leave_the_errors_open() -> None:
    y, errors = np.array([0.02, 0.014, 0.01, 0.025, 0.015]), np.array([0.002, 0.01, 0.01, 0.01, 0.01])
    few, known = (pooled(y, errors, np.full(5, df)).mean for df in (2.0, 1e6))
    assert (few.delta, few.se, few.df) == (known.delta, known.se, known.df)
    by_hartung_and_knapp = few.delta - few.se * stats.t.ppf(0.975, few.df)
    assert few.low < known.low < by_hartung_and_knapp


def test_two_data_sets_are_refused() -> None:
    with pytest.raises(Refused, match="at least three"):
        pooled(np.array([0.01, 0.02]), np.array([0.01, 0.01]), np.array([3.0, 3.0]))


@pytest.mark.slow
@pytest.mark.parametrize("sets", [3, 5, 20])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_the_mean_and_the_next_data_set_are_covered(sets: int, tau: float) -> None:
    """Studies of four pairs with standard errors that differ and are estimated; more cells: ``bench/across.py``."""
    rng, inside, ahead, repeats = np.random.default_rng(sets), 0, 0, 150
    for _ in range(repeats):
        spread = np.exp(rng.normal(0, 0.4, sets))
        truth = 1 + tau * rng.standard_normal(sets + 1)
        pairs = truth[:sets, None] + 2 * spread[:, None] * rng.standard_normal((sets, 4))
        found = pooled(pairs.mean(1), pairs.std(1, ddof=1) / 2, np.full(sets, 3.0))
        inside += found.mean.low <= 1 <= found.mean.high
        ahead += found.next_low <= truth[-1] <= found.next_high
    assert inside / repeats >= 0.93 - 2.5 * np.sqrt(0.05 / repeats)
    assert ahead / repeats >= 0.93 - 2.5 * np.sqrt(0.05 / repeats)
