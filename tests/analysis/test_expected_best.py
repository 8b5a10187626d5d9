"""Where curves of the expected best cross, and invalid input. Bias, coverage and length: test_method.py."""

import math

import numpy as np
import pandas as pd
import pytest
from support.simulate import accuracies, steps

from analysis.statistics.expected_best import (
    crossover_searches,
    crossover_slices,
    evp_selected,
    search_curve,
)
from analysis.statistics.intervals import Refused


def searched(rng: np.random.Generator, searches: int, low: float, high: float, power: float) -> pd.DataFrame:
    """Searches of 16 runs of cost 1, each an accuracy from ``low`` to ``high``."""
    found = low + (high - low) * rng.random((searches, 16)) ** power
    return steps(*([(float(t + 1), float(v)) for t, v in enumerate(own)] for own in found))


def test_evp_selected_is_fast_on_a_large_table() -> None:
    rng = np.random.default_rng(0)
    val = rng.random(200_000)
    assert evp_selected(val, val, 200_000) == val.max()
    assert evp_selected(val, val, 1) == pytest.approx(float(val.mean()))


def test_one_search_has_a_curve_but_no_band() -> None:
    table = search_curve(steps([(10, 0.5), (30, 0.6)]), per_search=40)
    assert list(table["mean"]) == [0.5, 0.6, 0.6]
    assert table[["low", "high"]].isna().all(axis=None)


def test_level_searches_have_no_band() -> None:
    table = search_curve(steps([(10, 0.75), (30, 0.75)], [(20, 0.75), (40, 0.8)]), per_search=50)
    assert list(table["mean"]) == pytest.approx([0.75, 0.75, 0.775, 0.775])
    assert list(table["low"].isna()) == list(table["high"].isna()) == [True, True, False, False]


def test_crossing_of_searches_is_found_with_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(7)
    early, late = searched(rng, 8, 0.85, 0.87, 1), searched(rng, 8, 0.5, 0.95, 1)
    found = crossover_searches(late, early, per_search=16)
    assert (found.word, found.leader) == ("crossing", "first")
    # the mean of the best of t uniform draws: 0.85 + 0.02 t/(t+1) against 0.5 + 0.45 t/(t+1)
    true = next(t for t in range(1, 17) if 0.5 + 0.45 * t / (t + 1) > 0.85 + 0.02 * t / (t + 1))
    assert found.low <= true <= found.high
    assert found.sentence("late", "early").startswith("late leads from")
    other = crossover_searches(early, late, per_search=16)
    assert (other.leader, other.at) == ("second", found.at)
    assert other.sentence("early", "late").startswith("late leads from")


def test_curves_that_never_cross_are_reported_as_such() -> None:
    rng = np.random.default_rng(8)
    low, high = searched(rng, 4, 0.5, 0.6, 1), searched(rng, 4, 0.8, 0.9, 1)
    found = crossover_searches(low, high, per_search=16)
    assert (found.word, found.leader, found.at, found.end) == ("no crossing seen", "second", found.start, 16)
    assert found.sentence("low", "high").endswith("high's curve is the higher one throughout.")
    assert found.kept == 1
    level = crossover_searches(low, low, per_search=16)
    assert (level.word, level.leader, level.at) == ("no crossing seen", None, math.inf)
    assert "end level" in level.sentence("a", "b")
    with pytest.raises(Refused, match="2 searches"):
        crossover_searches(searched(rng, 2, 0, 1, 1), high, per_search=16)


@pytest.mark.slow
def test_equal_arms_seldom_show_a_crossing() -> None:
    rng = np.random.default_rng(9)
    words = [
        crossover_slices(
            accuracies(rng, 20), np.ones(20), accuracies(rng, 20), np.full(20, 1.3), resamples=300
        ).word
        for _ in range(200)
    ] + [
        crossover_searches(
            searched(rng, 4, 0.7, 0.95, 0.7), searched(rng, 4, 0.7, 0.95, 0.7), per_search=16, resamples=300
        ).word
        for _ in range(100)
    ]
    assert words[:200].count("crossing") <= 4
    assert words[200:].count("crossing") <= 10


def test_an_order_within_the_noise_is_labelled_so() -> None:
    rng, sure, seen = np.random.default_rng(11), 0, 0
    for _ in range(100):
        a, b = accuracies(rng, 20), accuracies(rng, 20)
        found = crossover_slices(a, np.ones(20), b, np.ones(20), resamples=300)
        noise = f"within the noise: {100 * found.kept:.0f} % of resamples keep it"
        if found.word == "no crossing seen":
            seen += 1
            assert (noise in found.sentence("a", "b")) == (found.kept < 0.95)
            sure += found.kept >= 0.95
    assert seen > 50
    assert sure <= 8


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
