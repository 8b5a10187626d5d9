"""Scores that are no means over images, each class counting alike: F1 and the area under the ROC curve (METHOD.md 10).

Shown with a jackknife interval and without a verdict. Images are left out one at a time, and runs one at a time; both parts
are added, so that the chance of runs on single images counts twice: the interval is rather too wide.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.statistics.intervals import Estimate, Reals, Refused, satterthwaite, t_interval

Labels = NDArray[np.integer]
Leaves = tuple[float, Reals]
"""A run's score, and the same without each image in turn, (images,)."""


def f1(named: Labels, labels: Labels, classes: int) -> Leaves:
    """Mean over the classes with test images of 2 tp / (2 tp + fp + fn), 0 where a class is never right."""
    right = named == labels
    tp = np.bincount(labels[right], minlength=classes).astype(np.float64)
    # 2 tp + fp + fn: as often as the class is there, and as it is named
    size = np.bincount(np.concatenate([labels, named]), minlength=classes).astype(np.float64)
    there = np.bincount(labels, minlength=classes) > 0
    own = _share(2 * tp, size)
    hit: Reals = np.where(there, _share(2 * tp - 2, size - 2.0) - own, 0.0)
    miss: Reals = np.where(there, _share(2 * tp, size - 1.0) - own, 0.0)
    mean = float(own[there].mean())
    change = np.where(right, hit[labels], miss[labels] + miss[named])
    return mean, mean + change / there.sum()


def _share(part: Reals, whole: Reals) -> Reals:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def auc(probabilities: "NDArray[np.floating]", labels: Labels) -> Leaves:
    """Mean over classes of the chance that an image of the class is given a higher probability of it than another image.

    Ties count half (Mann and Whitney). Classes with fewer than two images are left out. Raises Refused without any.
    """
    areas, changes = [], np.zeros(len(labels))
    for c in range(probabilities.shape[1]):
        inside = labels == c
        positives, negatives = int(inside.sum()), int((~inside).sum())
        if positives < 2 or negatives < 2:
            continue
        ranks = rankdata(probabilities[:, c])
        below = ranks[inside] - rankdata(probabilities[inside, c])
        above = positives - (ranks[~inside] - rankdata(probabilities[~inside, c]))
        total = float(below.sum())
        area = total / (positives * negatives)
        areas.append(area)
        changes[inside] += (total - below) / ((positives - 1) * negatives) - area
        changes[~inside] += (total - above) / (positives * (negatives - 1)) - area
    if not areas:
        raise Refused("no class has two test images and two of others")
    mean = float(np.mean(areas))
    return mean, mean + changes / len(areas)


def jackknife(runs: Sequence[Leaves], *, confidence: float = 0.95) -> Estimate:
    """Interval of the mean over runs, cut at 0 and 1. Raises Refused below two runs."""
    if len(runs) < 2:
        raise Refused("one run cannot show how runs vary: at least two are needed")
    scores, without = np.array([score for score, _ in runs]), np.mean([left for _, left in runs], axis=0)
    images = len(without)
    terms = [float(((without - without.mean()) ** 2).sum()) * (images - 1) / images]
    terms.append(float(scores.var(ddof=1)) / len(scores))
    df = satterthwaite(sum(terms), terms, [images - 1, len(scores) - 1])
    found = t_interval(float(scores.mean()), sum(terms), df, confidence)
    return Estimate(**vars(found) | {"low": max(0.0, found.low), "high": min(1.0, found.high)})
