"""How much an arm asks of its tuner, and whether one fixed setting would have misled.

Everything here reads the random slice: i.i.d. settings of an arm, each run to full length once. (Tuned
minus default, the other meaning of tunability, is ``intervals.crossed`` on confirmation and baseline.)
Accuracies are fractions; a diverged trial comes with the accuracy of guessing, never left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.expected_best import all_weights
from analysis.statistics.intervals import Reals, Refused, vary, welch
from study.protocol.text import counted

RESAMPLES = 2000
WITHIN = 0.01
"""Accuracy below the best that still counts as near it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Tunability:
    """One arm's curve "expected best of n random settings", n = 1 .. horizon, as single numbers."""

    horizon: int
    one: Interval
    """Expected accuracy of a single random setting: no tuning at all."""
    omega: Interval
    """Mean of the curve with weights that fall linearly from n = 1 on: early finds count more."""
    area: Interval
    """Plain mean of the curve: the area under it, per setting tried."""
    last: float
    """Expected best of ``horizon`` settings. Its interval is ``expected_best.median_band``'s: no jackknife holds there."""


def tunability(values: Reals, *, horizon: int | None = None, confidence: float = 0.95) -> Tunability:
    """Omega-tunability (Sivaprasad 2020, arXiv 1910.11758) of a slice's accuracies, ``values`` (N,).

    The curve is the unbiased ``expected_best.expected_best``; intervals by the jackknife over trials and
    Student's t, which covers .90 to .95 at N = 12 to 40 where the percentile bootstrap covers .87 to .92
    (simulated; .87 at N = 12 when every seventh run diverges). Give arms that are compared the
    same ``horizon``, by default half the slice: near N the jackknife fails too. Raises Refused below four
    trials and for horizon >= N.
    """
    size = len(values)
    steps = size // 2 if horizon is None else horizon
    if size < 4 or not 1 <= steps < size:
        raise Refused(
            f"the random slice has {counted(size, 'trial')}; at least {max(4, steps + 1)} are needed for this"
        )
    early = np.arange(steps, 0, -1) / (steps * (steps + 1) / 2)
    measures = np.stack([np.eye(steps)[0], early, np.full(steps, 1 / steps)], axis=1)
    ranked = np.sort(values)
    curve = all_weights(size)[:steps] @ ranked
    left = np.stack([np.delete(ranked, i) for i in range(size)]) @ all_weights(size - 1)[:steps].T @ measures
    half = float(stats.t.ppf((1 + confidence) / 2, size - 1)) * np.sqrt(
        (size - 1) ** 2 / size * left.var(axis=0, ddof=1)
    )
    one, omega, area = (
        Interval(value=float(v), low=float(v - h), high=float(v + h))
        for v, h in zip(curve @ measures, half, strict=True)
    )
    return Tunability(horizon=steps, one=one, omega=omega, area=area, last=float(curve[-1]))


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How forgiving an arm is: what random settings come to. Exact binomial (Clopper-Pearson) intervals."""

    trials: int
    near: Interval
    """Share of settings within ``within`` of the best; given ``best``, which is itself not exact."""
    diverged: Interval
    best: float
    within: float


def sensitivity(
    values: Reals, diverged: Sequence[bool], *, best: float | None = None, within: float = WITHIN
) -> Sensitivity:
    """Share of a slice near the best, and share that diverged. ``values`` and ``diverged`` (N,).

    ``best``: a validation accuracy from elsewhere (the selected setting's); by default the slice's own
    best, which flatters small slices. Raises Refused for an empty slice.
    """
    size = len(values)
    if not size or len(diverged) != size:
        raise Refused("sensitivity needs a slice: an accuracy and a fate for each of its trials")
    top = float(values.max()) if best is None else best
    near = int((values >= top - within - 1e-12).sum())
    return Sensitivity(
        trials=size,
        near=binomial(near, size),
        diverged=binomial(int(sum(diverged)), size),
        best=top,
        within=within,
    )


@dataclass(frozen=True, kw_only=True)
class Trap:
    """How often one setting drawn from the slice, and one run per arm at it, would have crowned the wrong arm."""

    wrong: Interval
    """Share of draws in which the arm that is worse when tuned came out ahead; a draw without a winner counts half."""
    paired: bool
    """Whether both arms ran the same settings. If not, each arm had its own draw: a different, harder
    question, since a shared setting is good or bad for both; its share lies nearer to one half."""
    settings: int
    """Common settings if paired, else the smaller slice."""


def fixed_setting_trap(
    first: Reals,
    second: Reals,
    *,
    better: Literal["first", "second"],
    settings: tuple[Sequence[str], Sequence[str]] | None = None,
    resamples: int = RESAMPLES,
) -> Trap:
    """The share of single shared settings that mislead. ``first`` (N_A,), ``second`` (N_B,) slice accuracies.

    ``better``: the arm that the verdict calls better when tuned (without one there is no wrong arm).
    ``settings``: the names of each trial's shared-recipe setting; trials are paired by them, others left
    out. Without: all N_A x N_B pairs. Percentile bootstrap over settings (over both slices unpaired),
    never narrower at an end than Clopper-Pearson when all draws agree (METHOD.md 7, P(A > B)).
    Raises Refused below two common settings or trials, ValueError when a setting occurs twice in an arm.
    """
    a, b = (first, second) if better == "second" else (second, first)  # a: the arm whose win is wrong
    rng = np.random.default_rng(0)
    if settings is not None:
        a, b = _paired(a, b, settings if better == "second" else settings[::-1])
    size = min(len(a), len(b))
    if size < 2:
        raise Refused("at least two settings that both arms ran are needed to say how often one misleads")
    if settings is not None:
        wins = (np.sign(a - b) + 1) / 2
        shares = wins[rng.integers(size, size=(resamples, size))].mean(axis=1)
    else:
        wins = (np.sign(a[:, None] - b) + 1) / 2
        rows, columns = (rng.integers(len(x), size=(resamples, len(x))) for x in (a, b))
        counts_a = np.apply_along_axis(np.bincount, 1, rows, minlength=len(a)) / len(a)
        counts_b = np.apply_along_axis(np.bincount, 1, columns, minlength=len(b)) / len(b)
        shares = ((counts_a @ wins) * counts_b).sum(axis=1)
    share, tail = float(wins.mean()), (1 - 0.95) / 2
    low, high = (float(q) for q in np.quantile(shares, [tail, 1 - tail]))
    if share in (0.0, 1.0):
        exact = binomial(round(share * size), size)
        low, high = exact.low, exact.high
    return Trap(wrong=Interval(value=share, low=low, high=high), paired=settings is not None, settings=size)


def generalisation_gaps(runs: pd.DataFrame) -> pd.DataFrame:
    """Train minus validation accuracy per arm and kind of run, with a 95 % t interval over runs.

    ``runs``: one row per full-length run; columns arm, kind (``confirmed``, ``slice``, ...),
    train_accuracy, val_accuracy. Columns out: arm, kind, runs, train, val, gap, low, high (NaN for one
    run). Training accuracy is the running one on augmented images, so a gap may be negative; compare
    arms, not its size, and only at comparable augmentation.
    """
    rows = []
    for (arm, kind), own in runs.groupby(["arm", "kind"], sort=False):
        gaps = (own["train_accuracy"] - own["val_accuracy"]).to_numpy(dtype=np.float64)
        mean, half = float(gaps.mean()), math.nan
        if len(gaps) > 1:
            t = float(stats.t.ppf(0.975, len(gaps) - 1))
            half = t * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
        rows.append(
            {"arm": arm, "kind": kind, "runs": len(gaps)}
            | {"train": float(own["train_accuracy"].mean()), "val": float(own["val_accuracy"].mean())}
            | {"gap": mean, "low": mean - half, "high": mean + half}
        )
    return pd.DataFrame(rows, columns=["arm", "kind", "runs", "train", "val", "gap", "low", "high"])


def gap_differences(runs: pd.DataFrame, first: str, second: str, *, confidence: float = 0.95) -> pd.DataFrame:
    """How much larger ``first``'s train-validation gap is than ``second``'s, per kind of run (Welch).

    ``runs`` as for ``generalisation_gaps``. Columns out: kind, delta, low, high, and what delta is made of: train
    and val, the differences in mean accuracy (delta = train - val). A kind of which an arm has fewer than
    two runs is left out, and one whose gaps do not vary in either arm.
    """
    rows = []
    for kind, own in runs.groupby("kind", sort=False):
        gaps = own["train_accuracy"] - own["val_accuracy"]
        a, b = (gaps[own["arm"] == arm].to_numpy(dtype=np.float64) for arm in (first, second))
        try:
            found = welch(a, b, confidence=confidence)
        except Refused:
            continue
        if not vary(a, b):
            continue
        train, val = (
            float(own.loc[own["arm"] == first, kept].mean() - own.loc[own["arm"] == second, kept].mean())
            for kept in ("train_accuracy", "val_accuracy")
        )
        rows.append((kind, found.delta, found.low, found.high, train, val))
    return pd.DataFrame(rows, columns=["kind", "delta", "low", "high", "train", "val"])


def _paired(a: Reals, b: Reals, settings: tuple[Sequence[str], Sequence[str]]) -> tuple[Reals, Reals]:
    places = []
    for values, names in zip((a, b), settings, strict=True):
        if len(names) != len(values) or len(set(names)) != len(names):
            raise ValueError("each trial needs the name of its setting, and no setting twice in one arm")
        places.append({name: float(v) for name, v in zip(names, values, strict=True)})
    common = [name for name in places[0] if name in places[1]]
    return np.array([places[0][name] for name in common]), np.array([places[1][name] for name in common])


def binomial(count: int, size: int) -> Interval:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    exact = stats.binomtest(count, size).proportion_ci(0.95)
    return Interval(value=count / size, low=float(exact.low), high=float(exact.high))
