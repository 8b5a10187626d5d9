"""Tunability, sensitivity, the fixed-setting trap and train-validation gaps, by hand and by simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.expected_best import expected_best
from analysis.statistics.intervals import Reals, Refused
from analysis.statistics.tunability import (
    fixed_setting_trap,
    gap_differences,
    generalisation_gaps,
    sensitivity,
    tunability,
)


def accuracies(rng: np.random.Generator, *shape: int) -> Reals:
    return rng.beta(8, 3, size=shape)


def test_tunability_is_the_weighted_mean_of_the_curve() -> None:
    values = accuracies(np.random.default_rng(0), 12)
    found = tunability(values, horizon=4)
    curve = [expected_best(values, n) for n in (1, 2, 3, 4)]
    assert found.one.value == pytest.approx(values.mean())
    assert found.omega.value == pytest.approx((4 * curve[0] + 3 * curve[1] + 2 * curve[2] + curve[3]) / 10)
    assert found.area.value == pytest.approx(np.mean(curve))
    assert found.last == pytest.approx(curve[3])
    assert found.one.value < found.omega.value < found.area.value < found.last
    assert tunability(values).horizon == 6
    mean, half = values.mean(), stats.t.ppf(0.975, 11) * stats.sem(values)
    assert (found.one.low, found.one.high) == pytest.approx((mean - half, mean + half))
    with pytest.raises(Refused, match="12 trials"):
        tunability(values, horizon=12)


@pytest.mark.slow
@pytest.mark.parametrize("trials", [12, 20, 40])
def test_tunability_intervals_cover(trials: int) -> None:
    rng = np.random.default_rng(trials)
    horizon = trials // 2
    curve = np.array([accuracies(rng, 20_000, n).max(axis=1).mean() for n in range(1, horizon + 1)])
    weights = np.arange(horizon, 0, -1)
    omega, area = float(curve @ weights / weights.sum()), float(curve.mean())
    found = [tunability(accuracies(rng, trials)) for _ in range(500)]
    assert np.mean([f.omega.low <= omega <= f.omega.high for f in found]) >= 0.90
    assert np.mean([f.area.low <= area <= f.area.high for f in found]) >= 0.90


def test_sensitivity_counts_the_near_and_the_diverged() -> None:
    values = np.array([0.92, 0.9101, 0.90, 0.1, 0.91])
    found = sensitivity(values, [False, False, False, True, False])
    assert (found.trials, found.best) == (5, 0.92)
    assert (found.near.value, found.diverged.value) == (0.6, 0.2)
    assert found.diverged.low == pytest.approx(stats.beta(1, 5).ppf(0.025))
    assert found.diverged.high == pytest.approx(stats.beta(2, 4).ppf(0.975))
    assert sensitivity(values, [False] * 5, best=0.94).near.value == 0
    assert sensitivity(values, [False] * 5).diverged.high > 0.4  # none of five proves little
    with pytest.raises(Refused):
        sensitivity(np.array([]), [])


def test_trap_pairs_trials_by_their_common_setting() -> None:
    first, second = np.array([0.90, 0.80, 0.70, 0.60]), np.array([0.61, 0.69, 0.80, 0.95, 0.5])
    names = (["a", "b", "c", "d"], ["d", "c", "b", "a", "only here"])
    found = fixed_setting_trap(first, second, better="first", settings=names)
    # a: 0.90 against 0.95 is wrong, b: 0.80 against 0.80 has no winner, c is right, d is wrong
    assert (found.wrong.value, found.paired, found.settings) == (0.625, True, 4)
    other = fixed_setting_trap(second, first, better="second", settings=(names[1], names[0]))
    assert other == found
    mirrored = fixed_setting_trap(first, second, better="second", settings=names)
    assert mirrored.wrong.value == 1 - found.wrong.value
    with pytest.raises(ValueError, match="no setting twice"):
        fixed_setting_trap(first, second, better="first", settings=(["a", "a", "c", "d"], names[1]))
    with pytest.raises(Refused, match="two settings"):
        fixed_setting_trap(first[:1], second, better="first")


def test_trap_without_common_settings_takes_every_pair() -> None:
    first, second = np.array([0.9, 0.8, 0.7]), np.array([0.85, 0.75])
    pairs = [float(b > a) for a, b in itertools.product(first, second)]
    found = fixed_setting_trap(first, second, better="first")
    assert found.wrong.value == pytest.approx(sum(pairs) / 6)
    assert (found.paired, found.settings) == (False, 2)
    assert 0 <= found.wrong.low <= found.wrong.value <= found.wrong.high <= 1


def test_trap_that_never_sprang_is_not_called_impossible() -> None:
    names = [str(i) for i in range(10)]
    first, second = np.linspace(0.8, 0.9, 10), np.linspace(0.7, 0.79, 10)
    for settings in (None, (names, names)):
        found = fixed_setting_trap(first, second, better="first", settings=settings)
        assert (found.wrong.value, found.wrong.low) == (0, 0)
        assert found.wrong.high == pytest.approx(1 - 0.025**0.1)


@pytest.mark.slow
def test_trap_interval_covers_and_pairing_matters() -> None:
    rng = np.random.default_rng(1)
    names = [str(i) for i in range(30)]
    paired, unpaired, shares = 0, 0, []
    gap, luck = 0.01, 0.01  # the arms differ by one point; a shared setting moves both by far more
    true = float(stats.norm.cdf(-gap / (luck * math.sqrt(2))))
    blurred = float(stats.norm.cdf(-gap / math.sqrt(2 * (luck**2 + 0.05**2))))
    for _ in range(300):
        shared = rng.normal(0.8, 0.05, 30)
        a, b = shared + gap + rng.normal(0, luck, 30), shared + rng.normal(0, luck, 30)
        found = fixed_setting_trap(a, b, better="first", settings=(names, names), resamples=400)
        paired += found.wrong.low <= true <= found.wrong.high
        other = fixed_setting_trap(
            a, rng.normal(0.8, math.hypot(0.05, luck), 30), better="first", resamples=400
        ).wrong
        unpaired += other.low <= blurred <= other.high
        shares.append(other.value)
    assert paired / 300 >= 0.91
    assert unpaired / 300 >= 0.91
    assert np.mean(shares) == pytest.approx(blurred, abs=0.02)
    assert blurred > true + 0.15


def test_gaps_of_arms_and_their_difference() -> None:
    runs = pd.DataFrame(
        [("a", "confirmed", 0.99, 0.90), ("a", "confirmed", 0.98, 0.91), ("b", "confirmed", 0.95, 0.92)]
        + [("b", "confirmed", 0.94, 0.90), ("a", "slice", 0.5, 0.6)],
        columns=["arm", "kind", "train_accuracy", "val_accuracy"],
    )
    table = generalisation_gaps(runs).set_index(["arm", "kind"])
    assert table.loc[("a", "confirmed"), "gap"] == pytest.approx(0.08)
    assert table.loc[("a", "confirmed"), "runs"] == 2
    half = stats.t.ppf(0.975, 1) * stats.sem([0.09, 0.07])
    assert table.loc[("a", "confirmed"), "high"] == pytest.approx(0.08 + half)
    assert table.loc[("a", "slice"), "gap"] == pytest.approx(-0.1)
    assert math.isnan(float(str(table.loc[("a", "slice"), "low"])))
    between = gap_differences(runs, "a", "b")
    assert list(between["kind"]) == ["confirmed"]
    assert between.loc[0, "delta"] == pytest.approx(0.045)
    assert (between.loc[0, "train"], between.loc[0, "val"]) == pytest.approx((0.04, -0.005))
    assert gap_differences(runs, "b", "a").loc[0, "delta"] == pytest.approx(-0.045)
    still = runs.assign(train_accuracy=runs["val_accuracy"] + (runs["arm"] == "a") / 10)
    assert gap_differences(still, "a", "b").empty, "a certainty from runs that do not vary"
    assert generalisation_gaps(runs.iloc[:0]).empty
