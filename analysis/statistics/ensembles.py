"""What the confirmation runs are worth together: ensembles of one arm, and of both mixed.

An ensemble's prediction is the class with the highest mean of its members' probabilities. Every number
is an average over the ensembles that the runs at hand can form. Intervals hold for new images and new
runs, as the verdict's do: images vary as they are, runs by the jackknife, and a single net's luck on an
image is not counted twice. With one member per side they are ``intervals.crossed`` exactly.

A run without probabilities (it failed) cannot be a member: leave it out and say so.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.intervals import Estimate, Reals, Refused, satterthwaite, t_interval

Probabilities = NDArray[np.floating[Any]]
"""Shape (runs, images, classes), any float type, also memory-mapped: read a few images at a time."""
Labels = NDArray[np.int64]
Members = tuple[int, int]
"""How many nets of the first and of the second arm."""
_Match = tuple[str, int, Members, Members, Members]
"""Matched by (``count``, ``compute``), members, and the make-up of both pure ensembles and of the mixed one."""

SUBSETS = 256
"""Most ensembles of a kind: where more can be formed, this many are drawn."""
LARGEST = 8
"""Most members: larger ensembles are rarely used, and take time to form."""
CHUNK_BYTES = 1 << 23
"""Of ensembles' summed probabilities at a time."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """All ensembles of one make-up, image by image."""

    members: Members
    right: Reals
    """(images,): share of the ensembles that are right."""
    without: tuple[Reals, Reals]
    """Per arm (runs, images): the same without each run; NaN when every ensemble needs that run."""
    subsets: int
    """Ensembles formed."""

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two arms' runs are worth together; see ``compare`` for the columns."""

    accuracies: pd.DataFrame
    contrasts: pd.DataFrame
    diversity: pd.DataFrame


def compare(
    first: Probabilities,
    second: Probabilities,
    labels: Labels,
    *,
    names: tuple[str, str],
    costs: tuple[float, float],
    confidence: float = 0.95,
) -> Comparison:
    """Pure ensembles of either arm against mixed ones, at equal member count and at equal compute.

    ``first`` (k_A, n, C), ``second`` (k_B, n, C), ``labels`` (n,); ``costs`` per member in any one unit
    (seconds of training, or of inference). Equal compute: what m members of the dearer arm cost buys as
    many of the cheaper one as it pays for, or of both in equal number and one more of the cheaper. m goes
    up to LARGEST.

    accuracies: kind (a name or ``mixed``), members, of_first, of_second, cost, subsets, accuracy, low, high.
    contrasts: matched (``count`` | ``compute``), members (of a pure ensemble; at equal compute of the dearer
    arm), label, against (the pure arm's name), delta, low, high: mixed minus pure; low and high are NaN
    when an ensemble needs every run of an arm, since then nothing shows how runs vary.
    diversity: pair (``A-A``, ``B-B``, ``A-B`` by name), pairs, disagreement (share of images that two nets
    name differently).
    Raises Refused below two runs per arm, ValueError when shapes do not fit. Same seed, same tables.
    """
    _check(first, second, labels)
    runs = len(first), len(second)
    pure, matches = range(1, min(*runs, LARGEST) + 1), _matches(runs, costs)
    kinds = {kind for match in matches for kind in match[2:]} | {k for m in pure for k in ((m, 0), (0, m))}
    found = {e.members: e for e in ensembles(first, second, labels, sorted(kinds))}
    contrasts: list[dict[str, object]] = []
    for matched, members, *pures, mixed in matches:
        for name, other in zip(names, pures, strict=True):
            estimate = contrast(found[mixed], found[other], confidence=confidence)
            label = f"{mixed[0]}+{mixed[1]} mixed − {sum(other)} {name}"
            contrasts.append(
                {"matched": matched, "members": members, "label": label}
                | {"against": name, "delta": estimate.delta, "low": estimate.low, "high": estimate.high}
            )
    rows = [_row(e, names, costs, confidence) for e in found.values()]
    return Comparison(
        accuracies=pd.DataFrame(rows).sort_values(["kind", "members"], kind="stable", ignore_index=True),
        contrasts=pd.DataFrame(
            contrasts, columns=["matched", "members", "label", "against", "delta", "low", "high"]
        ),
        diversity=diversity(first, second, names=names),
    )


def _matches(runs: Members, costs: tuple[float, float]) -> list[_Match]:
    """The comparisons that these runs allow: at equal count, then at equal compute."""
    matches = [("count", m, (m, 0), (0, m), (m // 2, m // 2)) for m in range(2, min(*runs, LARGEST) + 1, 2)]
    for m in range(2, min(max(runs), LARGEST) + 1):
        paid = m * max(costs) * (1 + 1e-9)
        a, b, both = (int(paid // c) for c in (*costs, sum(costs)))
        if a <= runs[0] and b <= runs[1]:
            extra = int(paid - both * sum(costs) >= min(costs))
            mixed = (both + extra, both) if costs[0] <= costs[1] else (both, both + extra)
            matches.append(("compute", m, (a, 0), (0, b), mixed))
    return matches


def ensembles(
    first: Probabilities,
    second: Probabilities,
    labels: Labels,
    kinds: Sequence[Members],
    *,
    limit: int = SUBSETS,
    seed: int = 0,
) -> list[Ensemble]:
    """Every make-up in ``kinds``, scored in one pass over the images; shapes as for ``compare``.

    Needs about CHUNK_BYTES for probabilities at a time and, per make-up, (1 + k_A + k_B) x images float64.
    Raises ValueError for a make-up that the runs cannot form.
    """
    runs, images, classes = (len(first), len(second)), len(labels), first.shape[2]
    rng = np.random.default_rng(seed)
    chosen = [_subsets(kind, runs, limit, rng) for kind in kinds]
    right = [np.zeros(images) for _ in kinds]
    without = [np.zeros((sum(runs), images)) for _ in kinds]
    at_once = max(1, CHUNK_BYTES // (4 * classes * max(map(len, chosen), default=1)))
    for here in (slice(start, start + at_once) for start in range(0, images, at_once)):
        nets = np.concatenate([np.asarray(x[:, here], dtype=np.float32) for x in (first, second)])
        for i, members in enumerate(chosen):
            sums = (members @ nets.reshape(sum(runs), -1)).reshape(len(members), -1, classes)
            hits = (sums.argmax(axis=2) == labels[here]).astype(np.float32)
            right[i][here] = hits.mean(axis=0)
            without[i][:, here] = (1 - members).T @ hits
    for members, table in zip(chosen, without, strict=True):
        counts = (1 - members).sum(axis=0, dtype=np.float64)
        table /= np.where(counts > 0, counts, math.nan)[:, None]
    return [
        Ensemble(members=kind, right=r, without=(w[: runs[0]], w[runs[0] :]), subsets=len(members))
        for kind, members, r, w in zip(kinds, chosen, right, without, strict=True)
    ]


def contrast(one: Ensemble, other: Ensemble | None = None, *, confidence: float = 0.95) -> Estimate:
    """Accuracy of ``one`` minus ``other`` (or its own), for new images and new runs.

    Both come from the same call of ``ensembles``, so runs they share cancel. Paired by image; per arm the
    jackknife over its runs, less the part of it that is chance per image (as ``intervals.crossed``, which
    this is for one member). se, low and high are NaN when an ensemble needs every run of an arm.
    """
    images = len(one.right)
    difference = one.right - (other.right if other else 0.0)
    image = max(float(difference.var(ddof=1)) / images, 1 / images**2)
    run, terms, dfs = 0.0, [image], [images - 1.0]
    for arm in (0, 1):
        if not one.members[arm] and not (other and other.members[arm]):
            continue
        left = one.without[arm] - (other.without[arm] if other else 0.0)
        spread = (len(left) - 1) ** 2 / len(left)  # var(ddof=1) of leave-one-out values -> jackknife variance
        total = spread * float(left.mean(axis=1).var(ddof=1))
        chance = spread * float(left.var(axis=0, ddof=1).mean())
        run += images / (images - 1) * (total - chance / images)
        terms.append(total)
        dfs.append(len(left) - 1.0)
    variance = image + max(0.0, run) if math.isfinite(run) else math.nan
    df = satterthwaite(variance, terms, dfs)
    return t_interval(float(difference.mean()), variance, df, confidence)


def diversity(first: Probabilities, second: Probabilities, *, names: tuple[str, str]) -> pd.DataFrame:
    """How often two nets name different classes: of one arm, of the other, one of each (mean over pairs)."""
    named = [np.stack([net.argmax(axis=1) for net in nets]) for nets in (first, second)]
    rows = []
    for i, j in ((0, 0), (1, 1), (0, 1)):
        pairs = [
            float((named[i][s] != named[j][t]).mean())
            for s in range(len(named[i]))
            for t in range(len(named[j]))
            if i != j or s < t
        ]
        rows.append(
            {"pair": f"{names[i]}-{names[j]}", "pairs": len(pairs), "disagreement": float(np.mean(pairs))}
        )
    return pd.DataFrame(rows)


def mixing_helps(contrasts: pd.DataFrame) -> list[int]:
    """Ensemble sizes at which the mixed one beats both pure ones, at the level of the intervals: the arms err differently.

    ``contrasts`` as from ``compare``. Both intervals lie above 0, so no correction for two looks is due; for
    looking at several sizes none is made: each holds by itself.
    """
    own = contrasts[contrasts["matched"] == "count"]
    return [int(str(m)) for m, rows in own.groupby("members") if bool((rows["low"] > 0).all())]


def _row(
    e: Ensemble, names: tuple[str, str], costs: tuple[float, float], confidence: float
) -> dict[str, Any]:
    a, b = e.members
    estimate = contrast(e, confidence=confidence)
    return {
        "kind": "mixed" if a and b else names[0] if a else names[1],
        "members": a + b,
        "of_first": a,
        "of_second": b,
        "cost": a * costs[0] + b * costs[1],
        "subsets": e.subsets,
        "accuracy": e.accuracy,
        "low": max(0.0, estimate.low) if math.isfinite(estimate.low) else math.nan,
        "high": min(1.0, estimate.high) if math.isfinite(estimate.high) else math.nan,
    }


def _subsets(kind: Members, runs: Members, limit: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Who is a member, (ensembles, k_A + k_B) of 0 and 1: every ensemble there is, or ``limit`` different ones."""
    sizes = list(zip(kind, runs, strict=True))
    if not sum(kind) or not all(0 <= m <= k for m, k in sizes):
        raise ValueError(f"{kind} members cannot be taken from {runs} runs")
    found: Iterable[tuple[int, ...]]
    if math.prod(math.comb(k, m) for m, k in sizes) <= limit:
        ways = [itertools.combinations(range(k), m) for m, k in sizes]
        found = [(*a, *(runs[0] + t for t in b)) for a, b in itertools.product(*ways)]
    else:
        drawn: set[tuple[int, ...]] = set()
        while len(drawn) < limit:
            a, b = (sorted(map(int, rng.permutation(k)[:m])) for m, k in sizes)
            drawn.add((*a, *(runs[0] + t for t in b)))
        found = sorted(drawn)
    rows = list(found)
    members = np.zeros((len(rows), sum(runs)), dtype=np.float32)
    np.put_along_axis(members, np.array(rows), 1, axis=1)
    return members


def _check(first: Probabilities, second: Probabilities, labels: Labels) -> None:
    if (
        first.ndim != 3
        or second.ndim != 3
        or first.shape[1:] != second.shape[1:]
        or len(labels) != first.shape[1]
    ):
        raise ValueError(
            f"(runs, images, classes) of the same images are needed: {first.shape}, {second.shape}, {labels.shape}"
        )
    if min(len(first), len(second)) < 2:
        raise Refused("ensembles need at least two confirmation runs with probabilities per arm")
