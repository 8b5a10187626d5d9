"""The band is opda's own, to the last digit. Its coverage: test_method.py."""

import numpy as np
import pytest
from opda.nonparametric import EmpiricalDistribution  # type: ignore[import-untyped]

from analysis.statistics.median_band import median_band


@pytest.mark.parametrize(("trials", "confidence"), [(1, 0.95), (12, 0.95), (12, 0.5)])
def test_the_band_is_opdas(trials: int, confidence: float) -> None:
    values = np.random.default_rng(trials).random(trials)
    seed = np.random.default_rng([trials, round(confidence * 1e6)])
    below, middle, above = EmpiricalDistribution.confidence_bands(
        values, confidence, a=0.0, b=1.0, generator=seed, method="ld_equal_tailed", n_jobs=1
    )
    draws = np.arange(1, trials + 1)
    for found, cdf in zip(median_band(values, confidence=confidence), (middle, above, below), strict=True):
        assert list(found) == list(cdf.quantile_tuning_curve(draws))
