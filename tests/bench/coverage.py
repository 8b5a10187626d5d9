"""How often the intervals hold the truth under balanced accuracy and log-loss: ``python -m tests.bench.coverage``.

An image has a class and a difficulty that the arms share in part; a run shifts the logits of each class by its own luck, and
its answer to an image varies beyond that. Classes are unequal (70, 20 and 10 %), and the rarest is the hardest. The truth is
that of endless images and runs. Two figures per line: the crossed interval of two nets in hand, and the answer's over pairs of
searches.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import math
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from analysis.answer import over_pairs
from analysis.runs import Judge, Runs, apart
from analysis.statistics.intervals import Estimate
from study.protocol.metrics import FLOOR, METRICS

Kind = Literal["balanced-accuracy", "log-loss"]
SHARES = np.array([0.7, 0.2, 0.1])
CENTRES = np.array([4.0, 2.5, 1.5])
"""Mean logit of the right answer, by class."""
SPREAD, SHARED, NOISE = 3.0, 0.8, 1.5
"""Of an image's difficulty; the part of it that the arms share; and of one run's answer to one image."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)


def scores(kind: Kind, latent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of images whose right answer has these logits against all others together."""
    if kind == "log-loss":
        return np.maximum(-np.logaddexp(0, -latent), math.log(FLOOR))
    return (latent > 0).astype(np.float64)


def truth(kind: Kind, gap: float, run_sd: float) -> float:
    """The first arm's score minus the second's, on endless images and runs; ``gap`` is added to the first's logits."""
    sd = math.sqrt(SPREAD**2 + NOISE**2 + run_sd**2)

    def mean(shift: float) -> float:
        if kind == "balanced-accuracy":
            return float(stats.norm.cdf((CENTRES + shift) / sd).mean())
        by_class = [
            float((scores(kind, c + shift + sd * _NODES) * _WEIGHTS).sum() / _WEIGHTS.sum()) for c in CENTRES
        ]
        return float(np.dot(SHARES, by_class))

    return mean(gap) - mean(0.0)


class World:
    """One draw of test images: their classes, and what all nets find hard."""

    def __init__(self, rng: np.random.Generator, images: int) -> None:
        self.rng = rng
        self.labels = np.sort(rng.choice(3, images, p=SHARES))
        self.common = rng.standard_normal(images)
        self.own = {arm: rng.standard_normal(images) for arm in ("first", "second")}
        """What only one arm finds hard, in all its runs."""

    def runs(self, kind: Kind, k: int, arm: str, *, shift: float, run_sd: float, luck: float = 0.0) -> Runs:
        """``k`` runs of an arm; ``luck``: sd of what its search found, in logits."""
        rng, images = self.rng, len(self.labels)
        hard = SPREAD * (math.sqrt(SHARED) * self.common + math.sqrt(1 - SHARED) * self.own[arm])
        own = rng.standard_normal((k, 3)) * run_sd + luck * rng.standard_normal()
        noise = NOISE * rng.standard_normal((k, images))
        latent = (CENTRES[self.labels] + shift + hard) + own[:, self.labels] + noise
        table, metric = scores(kind, latent), METRICS[kind]
        right = latent > 0
        judge = Judge(metric=metric, sampling=metric.sampling(self.labels))
        return Runs(arm=arm, correct=right, full_run=None, judge=judge, own=right if metric.shares else table)


def held(e: Estimate, value: float) -> bool:
    return e.low <= value <= e.high


def coverage(
    kind: Kind, *, k: int, images: int, run_sd: float, gap: float, draws: int, seed: int = 0
) -> float:
    """Share of crossed intervals that hold the truth."""
    value = truth(kind, gap, run_sd)
    found = 0
    for draw in range(draws):
        world = World(np.random.default_rng([seed, draw]), images)
        first = world.runs(kind, k, "first", shift=gap, run_sd=run_sd)
        second = world.runs(kind, k, "second", shift=0.0, run_sd=run_sd)
        found += held(apart(first, second), value)
    return found / draws


def pairs_coverage(
    kind: Kind, *, pairs: int, images: int, run_sd: float, luck: float, gap: float, draws: int, seed: int = 0
) -> float:
    """Share of the answer's intervals that hold the truth, over ``pairs`` of searches whose finds differ by ``luck``."""
    value = truth(kind, gap, math.hypot(run_sd, luck))
    found = 0
    for draw in range(draws):
        world = World(np.random.default_rng([seed, draw]), images)
        sides = [
            {i: world.runs(kind, 2, arm, shift=shift, run_sd=run_sd, luck=luck) for i in range(pairs)}
            for arm, shift in (("first", gap), ("second", 0.0))
        ]
        found += held(over_pairs(sides[0], sides[1])[0], value)
    return found / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print("metric             k  images  run sd  gap   crossed  over 4 pairs")
    for kind in ("balanced-accuracy", "log-loss"):
        for k in (3, 5):
            for images in (300, 2000):
                for run_sd in (0.0, 0.1, 0.3):
                    for gap in (0.0, 0.5):
                        how = {"images": images, "run_sd": run_sd, "gap": gap, "draws": draws}
                        own = coverage(kind, k=k, **how)
                        four = pairs_coverage(kind, pairs=4, luck=0.2, **how) if k == 3 else math.nan
                        print(
                            f"{kind:18} {k}  {images:5}   {run_sd:.1f}    {gap:.1f}    {own:.3f}   {four:.3f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
