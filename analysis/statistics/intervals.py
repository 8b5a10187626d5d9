"""Estimators of ``METHOD.md`` section 5 on tables of scores: the numbers behind every verdict.

``Table[s, i]`` is the score of run ``s`` on image ``i``: right or wrong, or minus a loss; ``Sampling`` says how images
count. Shares are fractions (0.01 is one point). ``crossed`` is an interval that holds for new runs *and* new images;
``welch`` and ``permutation_p`` hold for this test set only.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.protocol.sampling import ALIKE, Sampling
from study.protocol.text import counted

Correct = NDArray[np.bool_]
Reals = NDArray[np.float64]
Table = Correct | Reals

TINY = 1e-6
"""Difference of two real scores that float32 cannot show: so that equal nets have an interval."""
PERMUTATION_LIMIT = 20_000
"""Up to this many splits the permutation test is exact; above it, this many are drawn."""


class Refused(ValueError):
    """A question that these runs cannot answer; the message says why and what would."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a difference of means with its t interval."""

    delta: float
    low: float
    high: float
    se: float
    df: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much one arm's runs differ.

    ``run`` is the distribution-wise variance v of one run (unbiased, so it may be negative), ``image`` the within-image
    variance w over runs, as n times what it gives a run's mean, and ``lost`` the part of v that n images take away, times n:
    v itself where images count alike, else the classes' own.
    """

    run: float
    image: float
    lost: float

    def total(self, images: int) -> float:
        """s2_run, the variance of a run's mean on this many images."""
        return max(0.0, (self.run * images - self.lost) / images + self.image / images)


def noise(table: Table, sampling: Sampling = ALIKE) -> Noise:
    """v and w of one arm, v = n/(n-1) (s2_run - w/n): Jordan 2023 (arXiv 2304.01910). Shape (k, n).

    Raises Refused below two runs or two images.
    """
    _, images = _shape(table)
    seen = float(sampling.mean(table).var(ddof=1))
    image = sampling.luck(table)
    lost = sampling.repeated(table)
    return Noise(run=seen - image + lost, image=images * image, lost=images * lost)


def crossed(
    first: Table, second: Table, *, sampling: Sampling = ALIKE, step: float = 1.0, confidence: float = 0.95
) -> Estimate:
    """Mean score of ``first`` minus ``second``, for new runs and new images (METHOD.md 5, Q2).

    Shapes (k_A, n) and (k_B, n) over the same images; the runs are independent, k_A and k_B may
    differ. V = Var_i(D_i)/n + max(0, v_A/k_A + v_B/k_B), df by Satterthwaite with n-1 for the images
    and k-1 for each arm's runs, whose term is as uncertain as s2_run/k that it is computed from (with
    v/k there instead, coverage falls to .938 at k=3 and a run sd of 0.3 pt). ``step``: least difference of two scores of an
    image, 0 where they are real numbers. Raises Refused below two runs per arm.
    """
    if first.shape[1:] != second.shape[1:]:
        raise Refused(f"the arms were scored on different images: {first.shape} and {second.shape}")
    difference = first.mean(axis=0) - second.mean(axis=0)
    return _interval(difference, [first, second], sampling, step, confidence)


def mean_score(
    table: Table,
    *,
    sampling: Sampling = ALIKE,
    step: float = 1.0,
    ends: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> Estimate:
    """One arm's mean score by the same variance, for new runs and new images. Shape (k, n).

    The interval is cut at ``ends``. Raises Refused below two runs.
    """
    found = _interval(table.mean(axis=0), [table], sampling, step, confidence)
    return replace(found, low=max(ends[0], found.low), high=min(ends[1], found.high))


def welch(first: Reals, second: Reals, *, confidence: float = 0.95) -> Estimate:
    """Welch's t interval on run accuracies: other runs on *this test set only* (METHOD.md 5, Q2')."""
    if min(len(first), len(second)) < 2:
        raise Refused("one run per arm says nothing about how runs vary: at least two are needed")
    terms = [float(x.var(ddof=1)) / len(x) for x in (first, second)]
    df = satterthwaite(sum(terms), terms, [len(first) - 1, len(second) - 1])
    return t_interval(float(first.mean() - second.mean()), sum(terms), df, confidence)


def vary(*samples: Reals) -> bool:
    """Whether any sample has two values that differ. Where none does, ``welch`` has no width and would claim certainty.

    One that varies will do: its own degrees of freedom are then all that Satterthwaite's leave, as is right for
    the other taken as it is (AA-2 at two searches and 360 images: one arm's tie in 13 to 26 %, and 0 is left out of
    fewer than 2 % of these intervals).
    """
    return any(float(np.ptp(x)) > 1e-12 for x in samples)


def permutation_p(first: Reals, second: Reals, *, seed: int = 0) -> float:
    """Two-sided permutation p of the difference in mean accuracy, without assumptions on its shape.

    Every split of the runs when there are at most PERMUTATION_LIMIT, else that many drawn with
    ``seed``. With three runs per arm it cannot go below 0.10, so it never makes a verdict.
    """
    both = np.concatenate([first, second])
    size, total = len(first), len(both)
    observed = abs(float(first.mean() - second.mean()))
    exact = math.comb(total, size) <= PERMUTATION_LIMIT
    if exact:
        chosen = np.array(list(itertools.combinations(range(total), size)))
    else:
        rng = np.random.default_rng(seed)
        chosen = rng.permuted(np.tile(np.arange(total), (PERMUTATION_LIMIT, 1)), axis=1)[:, :size]
    sums = both[chosen].sum(axis=1)
    gaps = np.abs(sums / size - (both.sum() - sums) / (total - size))
    extreme = int((gaps >= observed - 1e-12).sum())
    return extreme / len(chosen) if exact else (extreme + 1) / (len(chosen) + 1)


def rope_probabilities(estimate: Estimate, rope: float) -> tuple[float, float, float]:
    """P(second by more than rope), P(within it), P(first by more), from the t posterior.

    Benavoli 2017 with independent runs (correlation 0); flat prior.
    """
    if estimate.se == 0:
        below, above = float(estimate.delta < -rope), float(estimate.delta > rope)
    else:
        below = float(stats.t.cdf((-rope - estimate.delta) / estimate.se, estimate.df))
        above = float(stats.t.sf((rope - estimate.delta) / estimate.se, estimate.df))
    return below, 1 - below - above, above


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the width of the interval for more runs or more images follows from: two arms, measured once."""

    kinds: tuple[Noise, Noise]
    images: int
    """Those measured."""
    lasting: float
    """What the arms really do differently per image, as n times what it gives the variance of their difference."""
    floor: float
    """``one_image`` on the images measured."""

    def half_width(
        self, *, runs: float, images: int | None = None, confidence: float = 0.95, power: float = 0.5
    ) -> float:
        """Half-width to expect from ``runs`` runs per arm (``math.inf`` allowed), on the same images or on ``images`` like them.

        With ``power`` above one half, the true gap whose interval leaves 0 in that share of studies.

        More runs shrink the run terms and the part of Var_i(D_i) that is one run's luck on an image; what
        the arms really do differently per image stays.
        """
        images = images or self.images
        floor = self.floor * (self.images / images) ** 2
        image = max((self.lasting + sum(z.image for z in self.kinds) / runs) / images, floor)
        variance = image + max(0.0, sum(z.run for z in self.kinds)) / runs
        df = images - 1.0
        if not math.isinf(runs):
            terms = [image, *(z.total(images) / runs for z in self.kinds)]
            df = satterthwaite(variance, terms, [images - 1, runs - 1, runs - 1])
        return float(stats.t.ppf((1 + confidence) / 2, df) + stats.t.ppf(power, df)) * math.sqrt(variance)


def forecast(first: Table, second: Table, *, sampling: Sampling = ALIKE, step: float = 1.0) -> Forecast:
    """From shapes (k_A, n) and (k_B, n) over the same images. Raises Refused below two runs per arm."""
    kinds = noise(first, sampling), noise(second, sampling)
    images = first.shape[1]
    seen = images * sampling.variance(first.mean(axis=0) - second.mean(axis=0))
    lasting = max(0.0, seen - sum(z.image / len(t) for z, t in zip(kinds, (first, second), strict=True)))
    return Forecast(kinds=kinds, images=images, lasting=lasting, floor=one_image(sampling, images, step))


def _interval(
    per_image: Reals, arms: Sequence[Table], sampling: Sampling, step: float, confidence: float
) -> Estimate:
    images = len(per_image)
    kinds = [noise(table, sampling) for table in arms]
    terms = sampling.terms(per_image)
    # The formula's image term is 0 when no image is answered differently, which on a few hundred images
    # proves little: it is never taken below that of one image on which the arms differ.
    floor = one_image(sampling, images, step)
    image = sum(term for term, _ in terms)
    if image < floor:
        image, terms = floor, [(floor, images - 1)]
    run = max(0.0, sum(z.run / len(t) for z, t in zip(kinds, arms, strict=True)))
    df = satterthwaite(
        image + run,
        [*(term for term, _ in terms), *(z.total(images) / len(t) for z, t in zip(kinds, arms, strict=True))],
        [*(df for _, df in terms), *(len(t) - 1 for t in arms)],
    )
    return t_interval(float(sampling.mean(per_image)), image + run, df, confidence)


def one_image(sampling: Sampling, images: int, step: float) -> float:
    """The variance of one image, or of one group of the mean size, on which the arms differ by ``step``."""
    groups = images if sampling.groups is None else len(np.unique(sampling.groups))
    return (max(step, TINY) * max(float(sampling.weights(images).max()), 1 / groups)) ** 2


def satterthwaite(variance: float, terms: list[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a variance made of these terms; not below those of the weakest term."""
    denominator = sum(term**2 / df for term, df in zip(terms, dfs, strict=True))
    if denominator == 0:
        return float(sum(dfs))
    # Terms that cancel in the variance must not leave fewer degrees of freedom than the weakest of them
    # has: one run set against itself would get an interval of any width.
    return max(variance**2 / denominator, float(min(dfs)))


def t_interval(delta: float, variance: float, df: float, confidence: float) -> Estimate:
    se = math.sqrt(variance)
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    return Estimate(delta=delta, low=delta - half, high=delta + half, se=se, df=df, confidence=confidence)


def _shape(table: Table) -> tuple[int, int]:
    runs, images = table.shape
    if runs < 2:
        raise Refused(
            f"{counted(runs, 'run')} of an arm cannot show how its runs vary: at least two per arm are needed"
        )
    if images < 2:
        raise Refused("at least two test images are needed")
    return runs, images
