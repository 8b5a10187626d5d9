"""Curves of expected best: unbiased, inside their bands, and never past the budget that was spent."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.curves import (
    all_weights,
    crossover_islands,
    crossover_slices,
    evp_selected,
    expected_best,
    island_curve,
    median_band,
    slice_curve,
)
from analysis.estimate import Reals, Refused

RECORDED = Path(__file__).parent.parent.parent / "shared" / "data" / "taskset" / "patch32_GRU64_avg_bs128.npz"


def accuracies(rng: np.random.Generator, *shape: int) -> Reals:
    return rng.beta(8, 3, size=shape)


def recorded() -> tuple[Reals, Reals]:
    """Validation and test score (higher is better) of every setting of a table: real where it is at hand."""
    if RECORDED.exists():
        with np.load(RECORDED) as table:
            val, test = (
                -np.clip(np.nan_to_num(table[x][:, -1].astype(np.float64), nan=0.75), 0, 0.75)
                for x in ("valid", "test")
            )
        return val, test
    return made()


def made() -> tuple[Reals, Reals]:
    """A table whose validation and test scores err independently, as accuracies on finite images do."""
    rng = np.random.default_rng(0)
    true = 0.93 - rng.gamma(1.0, 0.01, 400)
    val, test = (rng.binomial(1000, true) / 1000 for _ in range(2))
    return val, test


def steps(*islands: list[tuple[float, float]]) -> pd.DataFrame:
    rows = [(i, cost, value) for i, own in enumerate(islands) for cost, value in own]
    return pd.DataFrame(rows, columns=["island", "cost", "val_accuracy"])


def searched(rng: np.random.Generator, islands: int, low: float, high: float, power: float) -> pd.DataFrame:
    """Islands of 16 runs of cost 1, each an accuracy from ``low`` to ``high``."""
    found = low + (high - low) * rng.random((islands, 16)) ** power
    return steps(*([(float(t + 1), float(v)) for t, v in enumerate(own)] for own in found))


@pytest.mark.slow
@pytest.mark.parametrize("trials", [8, 20])
def test_cov_3_band_covers_the_whole_median_curve(trials: int) -> None:
    rng = np.random.default_rng(3)
    true = stats.beta(8, 3).ppf(0.5 ** (1 / np.arange(1, trials + 1)))
    covered = 0
    for _ in range(1000):
        _, low, high = median_band(accuracies(rng, trials))
        covered += bool(((low <= true) & (true <= high)).all())
    assert covered / 1000 >= 0.95


def test_cov_3_holds_with_ties_and_says_where_it_knows_nothing() -> None:
    rng = np.random.default_rng(4)
    median, low, high = median_band(np.round(accuracies(rng, 20), 1))
    assert (low <= median).all()
    assert (median <= high).all()
    table = slice_curve(accuracies(rng, 20), np.ones(20))
    assert list(table["bounded"]) == [True, True] + [False] * 18  # method.md 1: trivial from n = 3 at N = 20


@pytest.mark.parametrize("draws", [1, 5, 20])
def test_cov_4_mean_of_the_best_is_unbiased(draws: int) -> None:
    rng = np.random.default_rng(draws)
    slices = np.sort(accuracies(rng, 20_000, 20), axis=1)
    found = slices @ all_weights(20)[draws - 1]
    assert [expected_best(values, draws) for values in slices[:5]] == pytest.approx(list(found[:5]))
    grid = np.linspace(0, 1, 20_001)
    truth = float(np.trapezoid(1 - stats.beta(8, 3).cdf(grid) ** draws, grid))
    assert abs(found.mean() - truth) < 1e-3


def test_cov_4_no_curve_beyond_the_slice() -> None:
    values = accuracies(np.random.default_rng(0), 20)
    for draws in (0, 21):
        with pytest.raises(Refused, match="20 trials"):
            expected_best(values, draws)
        with pytest.raises(Refused, match="20 trials"):
            evp_selected(values, values, draws)
    with pytest.raises(ValueError, match="diverged"):
        expected_best(np.array([0.9, math.nan]), 1)


def test_ref_1_expected_best_and_selected_test_agree_with_every_subset() -> None:
    rng = np.random.default_rng(1)
    val, test = np.round(accuracies(rng, 8), 1), accuracies(rng, 8)  # rounding makes ties
    assert len(set(val)) < 8
    for draws in range(1, 9):
        subsets = [np.array(s) for s in itertools.combinations(range(8), draws)]
        best = np.mean([val[s].max() for s in subsets])
        chosen = np.mean([test[s][val[s] == val[s].max()].mean() for s in subsets])
        assert expected_best(val, draws) == pytest.approx(float(best))
        assert evp_selected(val, test, draws) == pytest.approx(float(chosen))


@pytest.mark.parametrize("draws", [1, 5, 12])
@pytest.mark.parametrize("table", ["recorded", "made"])
def test_cov_5_test_of_the_chosen_trial_is_unbiased_on_a_recorded_table(table: str, draws: int) -> None:
    val, test = recorded() if table == "recorded" else made()
    truth = evp_selected(val, test, draws)  # over every slice of the table
    rng = np.random.default_rng(5)
    found = []
    for _ in range(3000):
        rows = rng.permutation(len(val))[:12]  # a row is never drawn twice
        found.append(evp_selected(val[rows], test[rows], draws))
    assert abs(np.mean(found) - truth) < 3.5 * np.std(found) / math.sqrt(3000)


def test_sel_1_the_best_validation_score_is_optimistic_and_the_selected_test_is_not() -> None:
    val, test = made()
    optimistic = [expected_best(val, n) - evp_selected(val, test, n) for n in (1, 8, 64)]
    assert abs(optimistic[0]) < 0.001
    assert 0.002 < optimistic[1] < optimistic[2]


def test_evp_selected_is_fast_on_a_large_table() -> None:
    rng = np.random.default_rng(0)
    val = rng.random(200_000)
    assert evp_selected(val, val, 200_000) == val.max()
    assert evp_selected(val, val, 1) == pytest.approx(float(val.mean()))


def test_bud_3_slice_curve_ends_at_the_slices_own_budget() -> None:
    rng = np.random.default_rng(0)
    values, costs = accuracies(rng, 12), rng.uniform(50, 150, 12)
    table = slice_curve(values, costs, test=values)
    assert list(table["n"]) == list(range(1, 13))
    assert table["cost"].iloc[-1] == pytest.approx(costs.sum())
    assert table["mean"].is_monotonic_increasing
    assert table["test"].to_numpy() == pytest.approx(table["mean"].to_numpy())
    assert slice_curve(values, costs).equals(table.drop(columns="test"))


def test_bud_3_island_curve_never_extends_past_its_share() -> None:
    table = island_curve(
        steps([(10, 0.5), (30, 0.6), (101, 0.99)], [(20, 0.7), (60, 0.6), (90, 0.8)]), per_island=100
    )
    assert list(table["cost"]) == [20, 30, 60, 90, 100]
    assert table["mean"].to_numpy() == pytest.approx([0.6, 0.65, 0.65, 0.7, 0.7])
    half = stats.t.ppf(0.975, 1) * np.std([0.5, 0.7], ddof=1) / math.sqrt(2)
    assert table.loc[0, "low"] == pytest.approx(max(0, 0.6 - half))
    assert set(table["islands"]) == {2}
    with pytest.raises(Refused, match="finished no full run"):
        island_curve(steps([(10, 0.5)], [(101, 0.9)]), per_island=100)


def test_one_island_has_a_curve_but_no_band() -> None:
    table = island_curve(steps([(10, 0.5), (30, 0.6)]), per_island=40)
    assert list(table["mean"]) == [0.5, 0.6, 0.6]
    assert table[["low", "high"]].isna().all(axis=None)


def test_crossing_of_islands_is_found_with_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(7)
    early, late = searched(rng, 8, 0.85, 0.87, 1), searched(rng, 8, 0.5, 0.95, 1)
    found = crossover_islands(late, early, per_island=16)
    assert (found.word, found.leader) == ("crossing", "first")
    # the mean of the best of t uniform draws: 0.85 + 0.02 t/(t+1) against 0.5 + 0.45 t/(t+1)
    true = next(t for t in range(1, 17) if 0.5 + 0.45 * t / (t + 1) > 0.85 + 0.02 * t / (t + 1))
    assert found.low <= true <= found.high
    assert found.told("late", "early").startswith("late leads from")
    other = crossover_islands(early, late, per_island=16)
    assert (other.leader, other.at) == ("second", found.at)
    assert other.told("early", "late").startswith("late leads from")


def test_no_crossing_is_an_answer() -> None:
    rng = np.random.default_rng(8)
    low, high = searched(rng, 4, 0.5, 0.6, 1), searched(rng, 4, 0.8, 0.9, 1)
    found = crossover_islands(low, high, per_island=16)
    assert (found.word, found.leader, found.at, found.end) == ("no crossing seen", "second", found.start, 16)
    assert "high's curve is the higher one throughout" in found.told("low", "high")
    level = crossover_islands(low, low, per_island=16)
    assert (level.word, level.leader, level.at) == ("no crossing seen", None, math.inf)
    assert "end level" in level.told("a", "b")
    with pytest.raises(Refused, match="2 islands"):
        crossover_islands(searched(rng, 2, 0, 1, 1), high, per_island=16)


@pytest.mark.slow
def test_equal_arms_seldom_show_a_crossing() -> None:
    rng = np.random.default_rng(9)
    words = [
        crossover_slices(
            accuracies(rng, 20), np.ones(20), accuracies(rng, 20), np.full(20, 1.3), resamples=300
        ).word
        for _ in range(200)
    ] + [
        crossover_islands(
            searched(rng, 4, 0.7, 0.95, 0.7), searched(rng, 4, 0.7, 0.95, 0.7), per_island=16, resamples=300
        ).word
        for _ in range(100)
    ]
    assert words[:200].count("crossing") <= 4
    assert words[200:].count("crossing") <= 10


def test_crossing_of_slices_counts_cost_not_trials() -> None:
    rng = np.random.default_rng(10)
    safe, wide = 0.85 + 0.005 * rng.random(40), 0.5 + 0.45 * rng.random(40)
    found = crossover_slices(safe, np.full(40, 2.0), wide, np.full(40, 2.0))
    assert (found.word, found.leader) == ("crossing", "second")
    assert found.start == 2
    assert found.end <= 40
    dearer = crossover_slices(safe, np.full(40, 2.0), wide, np.full(40, 4.0))
    assert dearer.at >= 1.5 * found.at
    again = crossover_slices(safe, np.full(40, 2.0), wide, np.full(40, 2.0))
    assert again == found
    with pytest.raises(Refused, match="four trials"):
        crossover_slices(safe[:3], np.ones(3), wide, np.ones(40))
