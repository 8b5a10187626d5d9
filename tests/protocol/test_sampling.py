"""Weighted means and their variance, against direct computation (REF)."""

import numpy as np
import pytest
from numpy.typing import NDArray

from study.protocol.sampling import ALIKE, Sampling


def table(runs: int = 4, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, 200, p=[0.7, 0.2, 0.1])
    return rng.normal(labels, 1.0 + labels, (runs, 200)), labels


def test_ref_a_mean_over_classes_and_its_stratified_variance() -> None:
    values, labels = table()
    by_class, row = Sampling(labels), values[0]
    own = [row[labels == c] for c in range(3)]
    assert by_class.mean(row) == pytest.approx(np.mean([x.mean() for x in own]))
    assert by_class.variance(row) == pytest.approx(sum(x.var(ddof=1) / len(x) for x in own) / 9)
    assert by_class.weights(200).sum() == pytest.approx(1)
    assert by_class.mean(row) == pytest.approx((by_class.weights(200) * row).sum())


def test_ref_one_class_is_every_image_alike() -> None:
    values, _ = table()
    one = Sampling(np.zeros(200, dtype=np.int64))
    for name in ("variance", "chance"):
        assert getattr(one, name)(values[0] ** 2) == pytest.approx(getattr(ALIKE, name)(values[0] ** 2))
    for name in ("repeated", "interaction", "mean"):
        assert getattr(one, name)(values) == pytest.approx(getattr(ALIKE, name)(values))
    assert [df for _, df in one.terms(values[0])] == [199]


def test_ref_the_variance_of_one_class_that_no_other_image_shares() -> None:
    labels = np.array([0] * 10 + [1])
    terms = Sampling(labels).terms(np.arange(11.0))
    assert len(terms) == 2
    assert all(term > 0 for term, _ in terms)


def test_ref_the_run_variance_is_unbiased_by_class() -> None:
    """v of runs whose classes shift by themselves: the variance over runs of the mean over classes."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [12, 40])
    sds, found = np.array([0.3, 0.1]), []
    by_class = Sampling(labels)
    for _ in range(4000):
        # images are drawn anew, and a run does differently on them: an image's own part, and a run's with the class
        own = rng.normal(0, 0.2, (3, 52)) + rng.normal(0, 0.5, 52)
        scores = own + (rng.normal(0, 1, (3, 2)) * sds)[:, labels]
        seen = float(by_class.mean(scores).var(ddof=1))
        found.append(seen - by_class.chance(scores.var(axis=0, ddof=1)) + by_class.repeated(scores))
    truth = float((sds**2).sum()) / 4
    assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / len(found) ** 0.5)


def test_resampled_weights_keep_every_class() -> None:
    _, labels = table()
    drawn = Sampling(labels).resampled(np.random.default_rng(0), 200, 50)
    for c in range(3):
        assert drawn[:, labels == c].sum(axis=1) == pytest.approx(np.full(50, 1 / 3))
