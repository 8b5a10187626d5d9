"""Which images a run trains on and which it validates on: stratified, and drawn from the seed alone (METHOD.md 2)."""

import numpy as np
from numpy.typing import NDArray

from study.data.groups import spread
from study.protocol.errors import InputError
from study.protocol.plan import Plan

Positions = NDArray[np.int64]
SEALED_SHARE = (0.1, 0.3)
"""Share of the images set apart where a data set brings no test: the first of many images, the second of few."""
SEALED_IMAGES = 1000
"""Test images that are enough for a smaller share."""


def sealed_share(images: int) -> float:
    """Share of ``images`` that becomes the test."""
    least, most = SEALED_SHARE
    return min(most, max(least, SEALED_IMAGES / images))


def split(
    labels: Positions, *, val: int, seed: int, groups: Positions | None = None
) -> tuple[Positions, Positions]:
    """Positions to train on and to validate on, ascending: exactly ``val`` of them in the second.

    Stratified: each class gives its share, rounded so that the sum fits, and has at least one image on
    both sides. Where images form groups, these stay whole, and ``val`` and the shares are met as well as they can be. Raises
    InputError where that cannot be.
    """
    if groups is not None:
        return _whole_groups(labels, groups, val / max(1, len(labels)), seed)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min(initial=2) < 2 or not 1 <= len(counts) <= val <= len(labels) - len(counts):
        raise InputError(
            f"{len(labels)} images of {len(counts)} classes (the rarest has {counts.min(initial=0)}) cannot be split "
            f"into {len(labels) - val} and {val} with one of each class on both sides"
        )
    rng = np.random.default_rng(seed)
    quota = val * counts / len(labels) + rng.uniform(0, 1e-6, len(counts))  # equal remainders: by lot
    taken = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    while (missing := val - taken.sum()) != 0:
        movable = taken < counts - 1 if missing > 0 else taken > 1
        want = np.where(movable, (quota - taken) * np.sign(missing), -np.inf)
        taken[want.argmax()] += np.sign(missing)
    held_out = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(taken):
        held_out[rng.permutation(np.flatnonzero(classes == label))[:count]] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def _whole_groups(
    labels: Positions, groups: Positions, share: float, seed: int
) -> tuple[Positions, Positions]:
    bins = spread(labels, groups, (1 - share, share), seed)
    for label in np.unique(labels):
        if len(np.unique(bins[labels == label])) < 2:
            raise InputError(
                f"the {len(labels)} images form {len(np.unique(groups))} groups, and one class lies in one of them alone: no "
                "split has it on both sides. Bring more groups of it, or leave the groups out"
            )
    return np.flatnonzero(bins == 0).astype(np.int64), np.flatnonzero(bins == 1).astype(np.int64)


def folds(
    labels: Positions, *, count: int, val: int, seed: int, groups: Positions | None = None
) -> list[Positions]:
    """``count`` disjoint sets of ``val`` positions each, ascending, stratified (METHOD.md 2); with groups, of about ``val``.

    The images, class by class and shuffled within a class, are taken at even distances and dealt out in turn. So every
    fold has its share of each class to within one image, and never all images of a class of two or more.
    """
    if groups is not None:
        share = val / len(labels)
        bins = spread(labels, groups, (*[share] * count, 1 - count * share), seed)
        return [np.flatnonzero(bins == fold).astype(np.int64) for fold in range(count)]
    rng = np.random.default_rng([seed, *b"folds"])
    by_class = rng.permutation(len(labels))
    by_class = by_class[np.argsort(labels[by_class], kind="stable")]
    chosen = by_class[(np.arange(count * val) * len(labels)) // (count * val)]
    return [np.sort(chosen[fold::count]).astype(np.int64) for fold in range(count)]


def split_for(
    plan: Plan, labels: Positions, *, fold: int, groups: Positions | None = None
) -> tuple[Positions, Positions]:
    """Positions that a run of the plan trains on, and those of the fold that it validates on, ascending.

    Raises InputError when there are too few images for that.
    """
    counts = np.bincount(labels, minlength=len(plan.data.classes))
    if plan.folds * plan.val_images > len(labels) or counts.min() < 2:
        raise InputError(
            f"{len(labels)} images of {len(counts)} classes (the rarest has {counts.min()}) cannot be divided into "
            f"{plan.folds} folds of {plan.val_images} to validate on"
        )
    held = folds(labels, count=plan.folds, val=plan.val_images, seed=plan.seed, groups=groups)
    if groups is not None and not all(
        len(each) and len(np.unique(np.delete(labels, each))) == len(counts) for each in held
    ):
        raise InputError(
            f"the training images form {len(np.unique(groups))} groups, too few or too unequal for {plan.folds} folds with every class "
            "beside each: bring more groups, or leave the groups out"
        )
    val = held[fold]
    train = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    if plan.train_fraction < 1:
        wanted = plan.train_images if groups is None else min(plan.train_images, len(train) - len(counts))
        _, kept = split(labels[train], val=wanted, seed=plan.seed + 1 + fold)
        train = train[kept]
    return train, val
