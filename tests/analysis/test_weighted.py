"""Intervals under metrics other than accuracy: against direct computation (REF), and by how often they hold the truth (COV)."""

import numpy as np
import pytest
from bench.coverage import Kind, coverage, pairs_coverage
from sklearn.metrics import f1_score, roc_auc_score

from analysis.answer import _over
from analysis.statistics import macro
from analysis.statistics.intervals import Refused, crossed, forecast, mean_score, noise
from study.protocol.sampling import Sampling

LABELS = np.repeat([0, 1, 2], [120, 40, 15])
BY_CLASS = Sampling(LABELS)


def tables(seed: int = 0, k: int = 4) -> list["np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.3 * LABELS, 1 + LABELS, (k, 175)) for _ in range(2)]


def test_ref_the_crossed_variance_is_stratified_by_class() -> None:
    a, b = tables()
    found = crossed(a, b, sampling=BY_CLASS, step=0.0)
    d = a.mean(axis=0) - b.mean(axis=0)
    image = sum(d[LABELS == c].var(ddof=1) / (LABELS == c).sum() for c in range(3)) / 9
    run = 0.0
    for table in (a, b):  # v_cd of Jordan's estimator, class by class and pair by pair
        means = np.stack([table[:, LABELS == c].mean(axis=1) for c in range(3)])
        v = np.cov(means)
        for c in range(3):
            n = int((LABELS == c).sum())
            w = float(table[:, LABELS == c].var(axis=0, ddof=1).mean())
            v[c, c] = n / (n - 1) * (v[c, c] - w / n)
        run += float(v.sum()) / 9 / len(table)
    assert found.delta == pytest.approx(np.mean([d[LABELS == c].mean() for c in range(3)]))
    assert found.se**2 == pytest.approx(image + max(0.0, run))


def test_ref_one_class_gives_the_plain_interval() -> None:
    a, b = tables()
    one = Sampling(np.zeros(175, dtype=np.int64))
    assert vars(crossed(a, b, sampling=one)) == pytest.approx(vars(crossed(a, b)))
    assert forecast(a, b, sampling=one).half_width(runs=9, images=500) == pytest.approx(
        forecast(a, b).half_width(runs=9, images=500)
    )
    assert vars(_over(a - b, 0.95, one)[0]) == pytest.approx(vars(_over(a - b, 0.95)[0]))


def test_ref_a_run_varies_on_so_many_images_as_it_was_seen_to() -> None:
    a, _ = tables()
    found = noise(a, BY_CLASS)
    assert found.total(175) == pytest.approx(float(BY_CLASS.mean(a).var(ddof=1)))


def test_as_many_runs_as_there_are_reach_the_present_width() -> None:
    a, b = tables()
    e = crossed(a, b, sampling=BY_CLASS, step=0.0)
    assert forecast(a, b, sampling=BY_CLASS, step=0.0).half_width(runs=4) == pytest.approx(
        (e.high - e.low) / 2, rel=0.2
    )


def test_inv_1_and_3_swapped_and_equal_nets() -> None:
    a, b = tables()
    one, other = (crossed(*pair, sampling=BY_CLASS, step=0.0) for pair in ((a, b), (b, a)))
    assert (one.delta, one.low, one.high) == pytest.approx((-other.delta, -other.high, -other.low))
    same = crossed(a, a, sampling=BY_CLASS, step=0.0)
    assert same.delta == 0
    assert same.low < 0 < same.high


def test_inv_2_the_order_of_images_and_runs_does_not_matter() -> None:
    a, b = tables()
    rng = np.random.default_rng(5)
    order, runs = rng.permutation(175), rng.permutation(4)
    shuffled = crossed(a[runs][:, order], b[:, order], sampling=Sampling(LABELS[order]), step=0.0)
    assert vars(shuffled) == pytest.approx(vars(crossed(a, b, sampling=BY_CLASS, step=0.0)))


def test_a_mean_is_cut_where_the_metric_ends() -> None:
    a = np.full((2, 175), -0.001)
    a[0, 0] = -3.0
    found = mean_score(a, step=0.0, ends=(-16.0, 0.0))
    assert found.high == 0.0


@pytest.mark.parametrize("kind", ["balanced-accuracy", "log-loss"])
def test_cov_the_crossed_interval_holds_the_truth(kind: Kind) -> None:
    """More draws, sizes and gaps: tests/bench/coverage.py."""
    shares = [
        coverage(kind, k=k, images=400, run_sd=run_sd, gap=0.5, draws=150)
        for k, run_sd in ((3, 0.1), (3, 0.3), (5, 0.1), (5, 0.3))
    ]
    assert np.mean(shares) >= 0.93


@pytest.mark.parametrize("kind", ["balanced-accuracy", "log-loss"])
def test_cov_the_answer_over_pairs_holds_the_truth(kind: Kind) -> None:
    share = pairs_coverage(kind, pairs=4, images=400, run_sd=0.1, luck=0.2, gap=0.5, draws=300)
    assert share >= 0.93


def test_ref_f1_and_auc_are_what_scikit_learn_computes() -> None:
    rng = np.random.default_rng(0)
    soft = rng.dirichlet(np.ones(3), 175) + 0.8 * np.eye(3)[LABELS]
    soft /= soft.sum(axis=1, keepdims=True)
    named = soft.argmax(axis=1)
    f1, without = macro.f1(named, LABELS, 3)
    assert f1 == pytest.approx(f1_score(LABELS, named, average="macro"))
    area, less = macro.auc(soft, LABELS)
    assert area == pytest.approx(roc_auc_score(LABELS, soft, multi_class="ovr", average="macro"))
    for i in (0, 60, 130, 150, 174):
        left = np.delete(np.arange(175), i)
        assert without[i] == pytest.approx(f1_score(LABELS[left], named[left], average="macro"))
        assert less[i] == pytest.approx(
            roc_auc_score(LABELS[left], soft[left], multi_class="ovr", average="macro")
        )


def test_a_jackknife_interval_needs_two_runs_and_stays_within_its_ends() -> None:
    named = np.where(np.arange(175) % 9 == 0, (LABELS + 1) % 3, LABELS)
    run = macro.f1(named, LABELS, 3)
    with pytest.raises(Refused):
        macro.jackknife([run])
    found = macro.jackknife([run, macro.f1(LABELS, LABELS, 3)])
    assert found.low < found.delta < found.high <= 1
