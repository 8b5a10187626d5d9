"""Curves of the expected best accuracy by tuning budget, from the two sources that can give them (METHOD.md 7).

The random slice: i.i.d. settings, never stopped early, so "the best of n" has an unbiased estimate and a
band that assumes nothing. The searches of the pairs: each a step curve of its own incumbent.
Trials of one TPE or ASHA search are neither: they depend on each other, drift, and end early, and a
curve read off them is far too good at small budgets. No function here takes them.

Accuracies are fractions, higher is better; costs are resource-seconds. A diverged trial is no gap in the
data: give it the accuracy of guessing before it comes here (non-finite values raise ValueError).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.intervals import Reals, Refused
from analysis.statistics.median_band import median_band
from study.protocol.text import counted, duration, level, percent

RESAMPLES = 1000
SEARCHES_FLOOR = 3
"""Fewest searches per arm whose resampling says something about a crossing."""


def expected_best(values: Reals, draws: int) -> float:
    """Mean of the best of ``draws`` trials of the slice, ``values`` (N,): unbiased for new trials.

    The U-statistic of Tang 2020 (arXiv 2009.03454): the i-th smallest is the best of n with probability
    C(i-1, n-1) / C(N, n). Raises Refused for n > N: beyond its own trials a slice knows nothing.
    """
    return float(_weights(len(_finite(values)), draws) @ np.sort(values))


def evp_selected(val: Reals, test: Reals, draws: int) -> float:
    """Expected TEST accuracy of the trial with the best validation accuracy among ``draws`` of the slice.

    ``val`` and ``test`` (N,), the same trials. The U-statistic's weights on the test accuracies in the
    order of validation: unbiased, where the best validation accuracy itself is optimistic. Trials that
    tie in validation are as likely to be chosen as each other. Raises Refused for n > N.
    """
    if _finite(val).shape != _finite(test).shape:
        raise ValueError(f"validation and test of the same trials are needed: {val.shape} and {test.shape}")
    _, place, size = np.unique(val, return_inverse=True, return_counts=True)
    shared = (np.bincount(place, weights=test) / size)[place]
    return float(_weights(len(val), draws) @ shared[np.argsort(val, kind="stable")])


def all_weights(trials: int) -> Reals:
    """Every n at once, (N, N): row n - 1 times the sorted values is ``expected_best`` of n draws."""
    return np.stack([_weights(trials, n) for n in range(1, trials + 1)])


def slice_curve(
    values: Reals,
    costs: Reals,
    *,
    test: Reals | None = None,
    confidence: float = 0.95,
    support: tuple[float, float] = (0.0, 1.0),
) -> pd.DataFrame:
    """What n random settings of one arm would have found, n = 1 .. N: to the slice's own budget, no further.

    ``values`` (N,) validation accuracies, ``costs`` (N,) what each full run cost; ``test`` (N,) only once
    the test set is open. Columns: n, cost (n times the mean cost), mean (``expected_best``, validation,
    optimistic), median, low, high (``median_band``), bounded (False where the upper bound is just the end of ``support``), and
    with ``test`` also test (``evp_selected``).
    """
    if _finite(values).shape != _finite(costs).shape:
        raise ValueError(f"a cost for every trial is needed: {values.shape} and {costs.shape}")
    draws = np.arange(1, len(values) + 1)
    median, low, high = median_band(values, confidence=confidence, support=support)
    table = pd.DataFrame(
        {
            "n": draws,
            "cost": draws * float(costs.mean()),
            "mean": all_weights(len(values)) @ np.sort(values),
            "median": median,
            "low": low,
            "high": high,
            "bounded": high < support[1],
        }
    )
    if test is not None:
        table["test"] = [evp_selected(values, test, int(n)) for n in draws]
    return table


def search_curve(steps: pd.DataFrame, *, per_search: float, confidence: float = 0.95) -> pd.DataFrame:
    """Mean incumbent of an arm's searches after each spend, with a pointwise t band over searches.

    ``steps``: one row per full-length run that a search finished; columns pair (its number), cost (the
    search's spend when that run ended), val_score. ``per_search``: B/R, where the curve stops; a run
    that ended past it does not count. Columns: cost, mean, low, high (NaN for one search, and where all are level:
    that shows no spread, which is not a spread of 0), searches. It
    begins where every search has an incumbent. Validation of a chosen trial: optimistic. The band of
    four searches covers about .9 (simulated), since the best of a few runs is skewed.
    Raises Refused when a search has no run within ``per_search``.
    """
    costs, best = _incumbents([steps], per_search)
    table = pd.DataFrame({"cost": costs, "mean": best[0].mean(axis=0), "low": math.nan, "high": math.nan})
    searches = len(best[0])
    if searches > 1:
        t = float(stats.t.ppf((1 + confidence) / 2, searches - 1))
        spread = best[0].std(axis=0, ddof=1)
        half = t * np.where(spread > 1e-12, spread, math.nan) / math.sqrt(searches)
        table["low"] = (table["mean"] - half).clip(lower=0)
        table["high"] = (table["mean"] + half).clip(upper=1)
    return table.assign(searches=searches)


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """From which budget on one arm's curve stays above the other's, within the budgets that both were seen at."""

    word: Literal["crossing", "crossing not established", "no crossing seen"]
    leader: Literal["first", "second"] | None
    """Who is ahead at ``end``; None when the curves end level."""
    at: float
    """Resource-seconds from which the leader stays ahead; ``start`` when it was never behind."""
    low: float
    high: float
    """Bootstrap interval of ``at``; ``math.inf`` where it reaches beyond what was seen."""
    kept: float
    """Share of the resamples in which the leader is ahead at every budget that was seen."""
    start: float
    end: float
    confidence: float

    def sentence(self, first: str, second: str) -> str:
        """One sentence with the arms' names."""
        seen = f"between {duration(self.start)} and {duration(self.end)} of tuning"
        ahead, behind = (second, first) if self.leader == "second" else (first, second)
        if self.leader is None:
            return f"No crossing seen {seen}: the curves of {first} and {second} end level."
        if self.word == "crossing":
            return (
                f"{ahead} leads from {duration(self.at)} of tuning on ({level(self.confidence)} {duration(self.low)} to "
                f"{duration(self.high)}); with less, {behind} is ahead."
            )
        if self.word == "no crossing seen":
            noise = (
                ""
                if self.kept >= self.confidence
                else f", but that order is itself within the noise: {percent(self.kept, 0)} of resamples keep it"
            )
            return f"No crossing seen {seen}: {ahead}'s curve is the higher one throughout{noise}."
        return f"No crossing established {seen}: the curves change places, but within their noise."


def crossover_searches(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    per_search: float,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Crossover:
    """Where the mean incumbents of two arms' searches cross; the interval resamples searches.

    ``first``, ``second``: steps as for ``search_curve``. Raises Refused below SEARCHES_FLOOR searches per
    arm, and as ``search_curve``.
    """
    grid, (a, b) = _incumbents([first, second], per_search)
    if min(len(a), len(b)) < SEARCHES_FLOOR:
        few = counted(min(len(a), len(b)), "search", "searches")
        raise Refused(
            f"{few} of an arm cannot show where curves cross: at least {SEARCHES_FLOOR} per arm are needed"
        )
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(len(x), size=(resamples, len(x)))].mean(axis=1) for x in (a, b)]
    return _crossover(a.mean(axis=0) - b.mean(axis=0), means[0] - means[1], grid, per_search, confidence)


def crossover_slices(
    first: Reals,
    first_costs: Reals,
    second: Reals,
    second_costs: Reals,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Crossover:
    """Where the ``expected_best`` curves of two arms' slices cross; the interval resamples trials.

    Values and costs (N_A,) and (N_B,) as for ``slice_curve``. Compared from the cost of one run of the
    dearer arm to half of the smaller slice: nearer to its end the bootstrap of a maximum fails
    (METHOD.md 7). Raises Refused below four trials per arm.
    """
    if min(len(first), len(second)) < 4:
        raise Refused("at least four trials of each arm's slice are needed to compare their curves")
    unit = [float(c.mean()) for c in (first_costs, second_costs)]
    start = max(unit)
    end = min(len(v) // 2 * c for v, c in zip((first, second), unit, strict=True))
    if end <= start:
        raise Refused(
            "the arms' slices share no range of budgets: one run of an arm costs more than the other's"
        )
    stops = np.concatenate([np.arange(1, len(v) + 1) * c for v, c in zip((first, second), unit, strict=True)])
    grid = np.unique(np.concatenate([[start], stops[(stops > start) & (stops <= end)]]))
    rng = np.random.default_rng(seed)
    curves, resampled = [], []
    for values, cost in zip((first, second), unit, strict=True):
        size = len(_finite(values))
        whole = np.floor(grid / cost * (1 + 1e-12)).astype(int)
        part, table = np.clip(grid / cost - whole, 0, 1)[:, None], all_weights(size)
        # Between whole numbers of draws in proportion: steps of arms that cost almost the same would cross at each.
        weights = ((1 - part) * table[whole - 1] + part * table[np.minimum(whole, size - 1)]).T
        curves.append(np.sort(values) @ weights)
        resampled.append(np.sort(values[rng.integers(size, size=(resamples, size))], axis=1) @ weights)
    return _crossover(curves[0] - curves[1], resampled[0] - resampled[1], grid, end, confidence)


def _crossover(gap: Reals, resampled: Reals, grid: Reals, end: float, confidence: float) -> Crossover:
    """``gap`` (G,) first minus second on ``grid``, ``resampled`` (S, G) the same of resamples."""
    start = float(grid[0])
    final = 0.0 if abs(gap[-1]) < 1e-12 else float(np.sign(gap[-1]))
    level_at_end = Crossover(
        word="no crossing seen",
        leader=None,
        at=math.inf,
        low=start,
        high=math.inf,
        kept=0.0,
        start=start,
        end=end,
        confidence=confidence,
    )
    if final == 0:
        return level_at_end
    at = float(_since(gap[None], grid, final)[0])
    since = _since(resampled, grid, final)
    kept = float((since == start).mean())
    tail = (1 - confidence) / 2
    low = float(np.quantile(since, tail, method="lower"))
    high = float(np.quantile(since, 1 - tail, method="higher"))
    word: Literal["crossing", "crossing not established", "no crossing seen"] = "crossing not established"
    if at == start:
        word = "no crossing seen"
    elif low > start and high < math.inf:
        word = "crossing"
    leader: Literal["first", "second"] = "first" if final > 0 else "second"
    return replace(level_at_end, word=word, leader=leader, at=at, low=low, high=high, kept=kept)


def _since(gaps: Reals, grid: Reals, sign: float) -> Reals:
    """Per row (S, G) the grid's value from which ``sign`` holds to the end; inf when it does not hold there."""
    lost = gaps * sign <= 1e-12
    last = np.where(lost.any(axis=1), gaps.shape[1] - np.argmax(lost[:, ::-1], axis=1), 0)
    found: Reals = np.append(grid, math.inf)[last]
    return found


def _incumbents(arms: Sequence[pd.DataFrame], per_search: float) -> tuple[Reals, list[Reals]]:
    """The common grid (G,) of spends and, per arm, each search's best so far on it (R, G)."""
    searches: list[list[tuple[Reals, Reals]]] = []
    for steps in arms:
        found = []
        for name, own in steps.sort_values("cost", kind="stable").groupby("pair"):
            own = own[own["cost"] <= per_search]  # BUD-3
            if own.empty:
                raise Refused(f"search {name} finished no full run within its budget, so it has no curve")
            best = np.maximum.accumulate(_finite(own["val_score"].to_numpy(dtype=np.float64)))
            found.append((own["cost"].to_numpy(dtype=np.float64), best))
        if not found:
            raise Refused("an arm without searches has no curve")
        searches.append(found)
    start = max(costs[0] for found in searches for costs, _ in found)
    stops = np.concatenate([costs for found in searches for costs, _ in found])
    grid = np.unique(np.concatenate([stops[stops >= start], [per_search]]))
    return grid, [
        np.stack([best[np.searchsorted(costs, grid, side="right") - 1] for costs, best in found])
        for found in searches
    ]


def _weights(trials: int, draws: int) -> Reals:
    """P(the i-th smallest of ``trials`` is the best of ``draws`` of them), (N,), from the top down."""
    if not 1 <= draws <= trials:
        raise Refused(
            f"the best of {draws} cannot be estimated from {counted(trials, 'trial')}: 1 to {trials} can"
        )
    i = np.arange(trials, 1, -1)
    falling = np.cumprod(np.concatenate([[draws / trials], np.maximum(i - draws, 0) / (i - 1)]))
    weights: Reals = falling[::-1]
    return weights


def _finite(values: Reals) -> Reals:
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("a row of finite numbers is needed; a diverged trial has the accuracy of guessing")
    return values
