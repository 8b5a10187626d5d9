"""Per-class shares, confusions and calibration against direct computation, and the cover of their intervals."""

import numpy as np
import pytest
from support.synthetic import right_wrong

from analysis.statistics import by_class, calibration
from analysis.statistics.intervals import mean_score

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 4, 300)
NAMED = np.where(RNG.random((5, 300)) < 0.8, LABELS, RNG.integers(0, 5, (5, 300)))


def test_shares_are_those_of_direct_counting() -> None:
    table = by_class.table(LABELS, NAMED, range(6))
    for c in range(4):
        recalls = [(run[LABELS == c] == c).mean() for run in NAMED]
        assert table["recall"][c] == pytest.approx(np.mean(recalls))
        is_c = mean_score(NAMED[:, LABELS == c] == c)
        assert (table["recall_low"][c], table["recall_high"][c]) == pytest.approx((is_c.low, is_c.high))
        named = (NAMED == c).sum()
        assert table["precision"][c] == pytest.approx((LABELS == np.where(NAMED == c, c, -1)).sum() / named)
        assert table["precision_low"][c] < table["precision"][c] < table["precision_high"][c]
    np.testing.assert_allclose(by_class.recalls(LABELS, NAMED, 6), table["recall"])
    assert np.isnan(table["recall"][4])  # no image, but named
    assert table["precision"][4] == 0
    assert np.isnan(table["precision"][5])
    alone = by_class.table(LABELS, NAMED[:1], range(4))
    assert alone["recall_low"].isna().all()


def test_confusions_are_counted() -> None:
    matrix, pairs = by_class.confusion(LABELS, NAMED, 5), by_class.confusions(LABELS, NAMED)
    assert matrix.sum() == pytest.approx(300)
    for a in range(4):
        for b in range(5):
            assert matrix[a, b] == pytest.approx(((LABELS == a) & (NAMED == b)).sum() / 5)
            if a != b:
                assert matrix[a, b] == pytest.approx(pairs.get((a, b), 0))
    assert by_class.confusions(LABELS, LABELS[None]) == {}


@pytest.mark.parametrize("kind", ["recall", "precision"])
def test_the_intervals_cover(kind: str, sims: int) -> None:
    """For new runs and new images of a class of 60, at a recall of .85; false alarms of other classes at a tenth."""
    rng, hits, draws = np.random.default_rng(0), 0, max(200, sims // 5)
    for _ in range(draws):
        found, alarms = right_wrong(rng, runs=(4, 4), accuracies=(0.85, 0.9), images=120, run_sd=0.01)
        named = np.concatenate([found[:, :60], ~alarms[:, 60:]], axis=1)
        is_c = np.broadcast_to(np.arange(120) < 60, named.shape)
        e = by_class.share(named & is_c, is_c if kind == "recall" else named)
        assert e is not None
        truth = 0.85 if kind == "recall" else 0.85 / (0.85 + 0.1)
        hits += e.low <= truth <= e.high
    assert hits / draws >= 0.93 - 2 * (0.05 * 0.95 / draws) ** 0.5


def test_the_calibration_error_is_that_of_direct_computation() -> None:
    confidence, right = RNG.random(2000), RNG.random(2000) < 0.7
    direct = 0.0
    for i in range(calibration.BINS):
        low, high = i / calibration.BINS, (i + 1) / calibration.BINS
        held = (confidence >= low) & (confidence < high)
        direct += held.mean() * abs(confidence[held].mean() - right[held].mean())
    assert calibration.bins(confidence, right).error == pytest.approx(direct)
    sure = calibration.bins(np.ones(10), np.ones(10, dtype=np.bool_))
    assert sure.error == 0
    assert sure.images.sum() == sure.images[-1] == 10


def test_chance_alone_gives_the_error_of_a_calibrated_net() -> None:
    confidence = RNG.uniform(0.3, 1, 400)
    chance = calibration.expected_by_chance(confidence)
    seen = [calibration.bins(confidence, RNG.random(400) < confidence).error for _ in range(300)]
    assert chance == pytest.approx(np.mean(seen), abs=0.003)
    assert chance > 2 * calibration.expected_by_chance(np.repeat(confidence, 20))
