"""Test images worth a look: those on which the arms differ most, and those that every net gets wrong."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.protocol.history import History

Ints = NDArray[np.int64]
MOST = 12
"""Images of either kind."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Positions among the test images, the most telling first."""

    differ: tuple[int, ...]
    missed: tuple[int, ...]
    all_missed: int
    """How many images every net gets wrong."""


def nets_to_show(history: History, arm: str, scored: Container[str]) -> list[str]:
    """The runs of the arm's latest net in hand that are ``scored``."""
    if not any(arm in manifest.in_hand for manifest in history.manifests):
        return []
    return [t.id for t in history.confirmed(arm, history.in_hand(arm)) if t.id in scored]


def choose(labels: Ints, named: Mapping[str, Ints]) -> Examples:
    """``named``: per arm (runs, images), the classes that its nets name. The same input gives the same images.

    The arms differ most where the shares of their runs that are right do. Of the images that all get wrong, those come first
    for which most nets name the same class: their label may be wrong. Ties are broken by lot, so that no class comes first.
    """
    if not named:
        return Examples(differ=(), missed=(), all_missed=0)
    shares = np.stack([(runs == labels).mean(axis=0) for runs in named.values()])
    gap, lot = np.ptp(shares, axis=0), np.random.default_rng(0).permutation(len(labels))
    differ = [i for i in np.lexsort((lot, -gap))[:MOST] if gap[i] > 0]
    missed = np.flatnonzero(shares.max(axis=0) == 0)
    votes = np.concatenate(list(named.values()))[:, missed]
    agreed = [np.bincount(column).max() for column in votes.T]
    order = np.lexsort((lot[missed], -np.array(agreed, dtype=np.int64)))[:MOST]
    return Examples(
        differ=tuple(map(int, differ)), missed=tuple(map(int, missed[order])), all_missed=len(missed)
    )
