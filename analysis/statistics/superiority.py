"""How likely a run of one arm beats a run of the other, and p-values of several pairs together.

A description beside the verdict, not a verdict: it compares run accuracies, hence it holds for other
runs on this test set only, and does not say by how much.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis.statistics.intervals import Reals, Refused
from study.protocol.text import counted

MEANINGFUL = 0.75
"""Bouthillier 2021 (arXiv 2103.03098): below this chance of winning, an advantage is of little use."""

Standing = Literal["not detectable", "detectable, not meaningful", "detectable, maybe meaningful"]


@dataclass(frozen=True, kw_only=True)
class Superiority:
    """P(a run of the first arm beats a run of the second), a tie counting half."""

    probability: float
    low: float
    high: float
    confidence: float

    @property
    def standing(self) -> Standing:
        """Of the arm that wins more often: detectable if its lower end is above one half, meaningful if
        its upper end is above 0.75 too (Bouthillier 2021 says "detectable and meaningful"; it is only not ruled out)."""
        ahead = self.probability >= 0.5
        low, high = (self.low, self.high) if ahead else (1 - self.high, 1 - self.low)
        if low <= 0.5:
            return "not detectable"
        return "detectable, maybe meaningful" if high > MEANINGFUL else "detectable, not meaningful"

    def sentence(self, first: str, second: str) -> str:
        """Names the arm that wins more often first."""
        p, low, high = self.probability, self.low, self.high
        if p < 0.5:
            first, second, p, low, high = second, first, 1 - p, 1 - high, 1 - low
        return (
            f"a run of {first} beats a run of {second} with probability {p:.2f} "
            f"({100 * self.confidence:g} % interval {low:.2f} to {high:.2f})"
        )


def superiority(first: Reals, second: Reals, *, confidence: float = 0.95) -> Superiority:
    """P(A > B) + P(A = B) / 2 from run accuracies, shapes (k_A,) and (k_B,).

    Mann-Whitney's estimate. Interval: Brunner and Munzel 2000 (Biometrical Journal 42, 17-25), their
    variance and degrees of freedom, on the logit scale so that it stays within 0 and 1. Where their
    variance is 0 (arms completely separated, or all runs tied) it claims certainty; there
    Clopper-Pearson's interval for min(k_A, k_B) independent pairs stands in. Raises Refused below two
    runs per arm.
    """
    if (fewest := min(len(first), len(second))) < 2:
        raise Refused(
            f"{counted(fewest, 'run')} of an arm cannot show how often it wins: at least two are needed"
        )
    wins = (first[:, None] > second).astype(np.float64) + (first[:, None] == second) / 2
    p = float(wins.mean())
    terms = [float(wins.mean(axis=axis).var(ddof=1)) / wins.shape[1 - axis] for axis in (0, 1)]
    variance = sum(terms)
    if variance < 1e-12 or p in (0.0, 1.0):
        low, high = _clopper_pearson(p * fewest, fewest, confidence)
    else:
        df = variance**2 / sum(t**2 / (wins.shape[1 - axis] - 1) for axis, t in enumerate(terms))
        half = float(stats.t.ppf((1 + confidence) / 2, df)) * math.sqrt(variance) / (p * (1 - p))
        centre = math.log(p / (1 - p))
        low, high = _expit(centre - half), _expit(centre + half)
    return Superiority(probability=p, low=low, high=high, confidence=confidence)


def holm(p_values: list[float]) -> list[float]:
    """P-values adjusted for being read together, in the given order: Holm 1979 (Scand. J. Stat. 6, 65-70).

    Rejecting what is at most alpha keeps the chance of any false rejection at alpha, however the tests depend.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def _clopper_pearson(wins: float, pairs: int, confidence: float) -> tuple[float, float]:
    """Exact binomial interval (Clopper and Pearson 1934); half a win counts half."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, wins, pairs - wins + 1)) if wins > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, wins + 1, pairs - wins)) if wins < pairs else 1.0
    return low, high


def _expit(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
