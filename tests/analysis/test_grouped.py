"""Intervals where test images come in groups: against direct computation (REF), and by how often they hold the truth (COV)."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.synthetic import write_run

from analysis import results
from analysis.answer import _over
from analysis.statistics.intervals import crossed, forecast, mean_score, noise
from analysis.statistics.ranks import rank_shares
from study.protocol.errors import StudyError
from study.protocol.sampling import Sampling

Reals = NDArray[np.float64]
SIZES = np.array([1, 1, 2, 3, 5, 8, 4, 6])
GROUPS = np.repeat(np.arange(8), SIZES)
LABELS = np.repeat([0, 1, 0, 1, 0, 1, 0, 1], SIZES)


def tables(k: int = 4, seed: int = 0) -> list[Reals]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, 8))[:, GROUPS] + rng.normal(size=(k, 30)) for _ in range(2)]


def test_ref_the_crossed_variance_is_that_of_the_groups_sums() -> None:
    a, b = tables()
    found = crossed(a, b, sampling=Sampling(groups=GROUPS), step=0.0)
    d = a.mean(axis=0) - b.mean(axis=0)
    image = sum(float((d - d.mean())[GROUPS == g].sum() / 30) ** 2 for g in range(8)) * 8 / 7
    run = 0.0
    for table in (a, b):
        sums = np.stack([table[:, GROUPS == g].sum(axis=1) / 30 for g in range(8)], axis=1)
        seen, luck = float(table.mean(axis=1).var(ddof=1)), float(sums.var(axis=0, ddof=1).sum())
        run += 8 / 7 * (seen - luck) / len(table)
    assert found.delta == pytest.approx(d.mean())
    assert found.se**2 == pytest.approx(image + max(0.0, run))


def test_ref_the_answer_takes_groups_for_images() -> None:
    a, b = tables()
    table = a - b
    d = table.mean(axis=1)
    sums = np.stack([(table - d[:, None])[:, GROUPS == g].sum(axis=1) / 30 for g in range(8)], axis=1)
    rest = sums - sums.mean(axis=0)
    interaction = float((rest**2).sum()) / (3 * 7) * 8
    seen = float((sums.mean(axis=0) ** 2).sum()) * 8 / 7
    found = _over(table, 0.95, Sampling(groups=GROUPS), 0.0)[0]
    spread = max(float(d.var(ddof=1)), interaction)
    assert found.se**2 == pytest.approx(spread / 4 + max(0.0, seen - interaction / 4))


@pytest.mark.parametrize("classes", [None, LABELS])
def test_ref_groups_of_one_image_change_nothing(classes: NDArray[np.int64] | None) -> None:
    a, b = tables()
    alone, plain = Sampling(classes, np.arange(30)[::-1]), Sampling(classes)
    one, other = (crossed(a, b, sampling=s, step=0.0) for s in (alone, plain))
    assert vars(one) == pytest.approx(vars(other))
    assert vars(noise(a, alone)) == pytest.approx(vars(noise(a, plain)))
    assert forecast(a, b, sampling=alone).half_width(runs=9) == pytest.approx(
        forecast(a, b, sampling=plain).half_width(runs=9)
    )
    assert vars(_over(a - b, 0.95, alone)[0]) == pytest.approx(vars(_over(a - b, 0.95, plain)[0]))
    assert vars(mean_score(a, sampling=alone, ends=(-9, 9))) == pytest.approx(
        vars(mean_score(a, sampling=plain, ends=(-9, 9)))
    )


def test_ref_every_image_twice_is_every_image_once() -> None:
    """What independent-looking copies would halve stays."""
    a, b = (np.repeat(table, 2, axis=1) for table in tables())
    twice = crossed(a, b, sampling=Sampling(groups=np.repeat(np.arange(30), 2)), step=0.0)
    assert vars(twice) == pytest.approx(vars(crossed(*tables(), step=0.0)))


def test_ref_groups_within_their_classes_have_a_term_each() -> None:
    values = tables()[0][0]
    terms = Sampling(LABELS, GROUPS).terms(values)
    assert [df for _, df in terms] == [3, 3]
    for c, (term, _) in enumerate(terms):
        own = values[LABELS == c] - values[LABELS == c].mean()
        sums = [own[GROUPS[LABELS == c] == g].sum() / len(own) for g in np.unique(GROUPS[LABELS == c])]
        assert term == pytest.approx(float(np.square(sums).sum()) * 4 / 3 / 4)
    assert [df for _, df in Sampling(np.arange(30) % 2, GROUPS).terms(values)] == [6]


def test_inv_the_order_of_images_does_not_matter() -> None:
    a, b = tables()
    order = np.random.default_rng(3).permutation(30)
    for classes in (None, LABELS):
        whole = crossed(a, b, sampling=Sampling(classes, GROUPS), step=0.0)
        moved = Sampling(None if classes is None else classes[order], GROUPS[order])
        assert vars(crossed(a[:, order], b[:, order], sampling=moved, step=0.0)) == pytest.approx(vars(whole))


def test_resampled_groups_stay_whole_and_weights_sum_to_one() -> None:
    for classes in (None, LABELS):
        sampling = Sampling(classes, GROUPS)
        drawn = sampling.resampled(np.random.default_rng(0), 30, 200)
        assert drawn.sum(axis=1) == pytest.approx(np.ones(200))
        for g in range(8):
            assert np.ptp(drawn[:, GROUPS == g] / sampling.weights(30)[GROUPS == g], axis=1) == pytest.approx(
                np.zeros(200)
            )
    a, b = tables()
    assert rank_shares([a, b], Sampling(groups=GROUPS), resamples=50).sum() == pytest.approx(2)


def test_a_run_whose_predictions_have_groups_is_judged_over_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", runs=3, images=200)
    alone = results.read(run)
    files = sorted((run / "predictions").glob("*.npz"))
    for file in files:
        arrays = dict(np.load(file))
        np.savez(file, **arrays, groups=np.arange(200) // 8)
    grouped = results.read(run)
    for arm, runs in alone.tuned.items():
        own = grouped.tuned[arm]
        assert own.judge.sampling.groups is not None
        expected = mean_score(own.scores, sampling=Sampling(groups=np.arange(200) // 8))
        assert vars(own.interval()) == pytest.approx(vars(expected))
        assert own.mean == runs.mean
    for wrong in (np.arange(200), np.zeros(200), np.arange(100)):
        np.savez(files[-1], **{**dict(np.load(files[-1])), "groups": wrong})
        with pytest.raises(StudyError, match="groups"):
            results.read(run)


def world(
    rng: np.random.Generator, groups: int, k: int, gap: float
) -> tuple[Reals, Reals, NDArray[np.int64]]:
    """Right or wrong of two arms' runs; a group's images share most of their difficulty, of both arms and of each."""
    of = np.repeat(np.arange(groups), rng.integers(1, 12, groups))
    common = 1.5 * rng.standard_normal(groups)[of] + 0.7 * rng.standard_normal(len(of))
    sides = []
    for shift in (gap, 0.0):
        own = 0.7 * rng.standard_normal(groups)[of] + common + shift
        luck = 0.5 * rng.standard_normal((k, groups))[:, of] + 0.5 * rng.standard_normal((k, len(of)))
        sides.append((1 + own + luck + 0.1 * rng.standard_normal((k, 1)) > 0).astype(np.float64))
    return sides[0], sides[1], of


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("groups", [40, 150])
def test_cov_the_interval_holds_for_new_groups(groups: int, k: int) -> None:
    """Equal arms, 1000 draws; images taken as if alone hold it too seldom. Standard error of .93: .008."""
    held = np.zeros(2)
    for draw in range(1000):
        a, b, of = world(np.random.default_rng([k, groups, draw]), groups, k, 0.0)
        for i, sampling in enumerate((Sampling(groups=of), Sampling())):
            e = crossed(a, b, sampling=sampling)
            held[i] += e.low <= 0 <= e.high
    assert held[0] / 1000 >= 0.93
    assert held[1] / 1000 < 0.91
