"""P(A > B) over runs: words and coverage. Agreement with references: test_method.py."""

import math

import numpy as np
import pytest
from scipy import stats
from support.simulate import run_accuracies

from analysis.statistics.superiority import superiority


def test_bouthilliers_words() -> None:
    assert superiority(run_accuracies(1, 5, 1.0), run_accuracies(2, 5)).standing == "not detectable"
    assert (
        superiority(run_accuracies(1, 6, 1.0), run_accuracies(2, 6)).standing
        == "detectable, maybe meaningful"
    )
    assert (
        superiority(run_accuracies(2, 6), run_accuracies(1, 6, 1.0)).standing
        == "detectable, maybe meaningful"
    )
    assert (
        superiority(run_accuracies(1, 400, 0.001), run_accuracies(2, 400)).standing
        == "detectable, not meaningful"
    )


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("ahead", [0.0, 1.0, 2.0])
def test_the_interval_covers(k: int, ahead: float) -> None:
    rng = np.random.default_rng(k)
    truth = float(stats.norm.cdf(ahead / math.sqrt(2)))
    found = [superiority(rng.normal(ahead, 1, k), rng.normal(0, 1, k)) for _ in range(1000)]
    assert np.mean([s.low <= truth <= s.high for s in found]) >= 0.95
