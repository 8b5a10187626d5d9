"""Ensembles against a reference that forms every one of them in plain Python, and intervals by simulation."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from analysis.statistics.ensembles import (
    CHUNK_BYTES,
    Labels,
    Members,
    Probabilities,
    compare,
    contrast,
    diversity,
    ensembles,
    mixing_helps,
)
from analysis.statistics.intervals import Refused, crossed

CLASSES = 4


def nets(
    rng: np.random.Generator,
    labels: Labels,
    own: Any,
    *,
    runs: int,
    strength: float = 1.5,
    luck: float = 0.0,
    classes: int = CLASSES,
) -> Probabilities:
    """Softmax of right-class strength + what the arm's nets share + each net's own noise."""
    logits = own + rng.normal(0, 1.5, (runs, len(labels), classes))
    logits[:, np.arange(len(labels)), labels] += strength + rng.normal(0, luck, (runs, 1))
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    probabilities: Probabilities = (odds / odds.sum(axis=2, keepdims=True)).astype(np.float16)
    return probabilities


def arms(
    seed: int, *, images: int = 60, runs: tuple[int, int] = (4, 3)
) -> tuple[Probabilities, Probabilities, Labels]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=images)
    first, second = (nets(rng, labels, rng.normal(0, 1, (images, CLASSES)), runs=k) for k in runs)
    return first, second, labels


def by_hand(first: Probabilities, second: Probabilities, labels: Labels, kind: Members) -> list[float]:
    """Share of all ensembles that are right, image by image."""
    shares = []
    for image, label in enumerate(labels):
        hits = []
        for a in itertools.combinations(range(len(first)), kind[0]):
            for b in itertools.combinations(range(len(second)), kind[1]):
                rows = [[float(p) for p in first[s, image]] for s in a]
                rows += [[float(p) for p in second[s, image]] for s in b]
                means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
                hits.append(means.index(max(means)) == label)
        shares.append(sum(hits) / len(hits))
    return shares


@pytest.mark.parametrize("kind", [(1, 0), (0, 2), (1, 1), (2, 1), (4, 0), (2, 2)])
def test_every_ensemble_is_formed(kind: Members) -> None:
    first, second, labels = arms(0)
    (found,) = ensembles(first, second, labels, [kind])
    assert list(found.right) == pytest.approx(by_hand(first, second, labels, kind))
    assert found.subsets == math.comb(4, kind[0]) * math.comb(3, kind[1])
    for run in range(4):
        rest = np.delete(first, run, axis=0)
        if kind[0] == 4:
            assert np.isnan(found.without[0][run]).all()
        else:
            assert list(found.without[0][run]) == pytest.approx(by_hand(rest, second, labels, kind))


def test_images_are_scored_in_pieces() -> None:
    images = CHUNK_BYTES // (4 * 7 * CLASSES) + 1000
    first, second, labels = arms(6, images=images)
    kinds = [(1, 1), (2, 0)]
    whole = ensembles(first, second, labels, kinds)
    tail = ensembles(first[:, -2000:], second[:, -2000:], labels[-2000:], kinds)
    for one, other in zip(whole, tail, strict=True):
        assert np.array_equal(one.right[-2000:], other.right)
        assert np.array_equal(one.without[0][:, -2000:], other.without[0])


def test_ref_1_single_nets_give_the_verdicts_own_interval() -> None:
    first, second, labels = arms(1, images=500, runs=(5, 4))
    a, b = ensembles(first, second, labels, [(1, 0), (0, 1)])
    found = contrast(a, b)
    right = [x.argmax(axis=2) == labels for x in (first, second)]
    reference = crossed(right[0], right[1])
    assert (found.delta, found.low, found.high) == pytest.approx(
        (reference.delta, reference.low, reference.high), abs=1e-7
    )
    assert found.df == pytest.approx(reference.df, rel=1e-5)
    other = contrast(b, a)
    assert (other.delta, other.low, other.high) == pytest.approx((-found.delta, -found.high, -found.low))


def test_tables_at_equal_count_and_equal_compute() -> None:
    first, second, labels = arms(2, images=300, runs=(6, 5))
    found = compare(first, second, labels, names=("a", "b"), costs=(2.0, 3.0))
    rows = found.accuracies.set_index(["of_first", "of_second"])
    assert rows.loc[(2, 2), "cost"] == 10
    assert rows.loc[(2, 2), "kind"] == "mixed"
    assert rows.loc[(3, 0), "accuracy"] == pytest.approx(np.mean(by_hand(first, second, labels, (3, 0))))
    inside = found.accuracies.dropna()
    assert ((inside["low"] <= inside["accuracy"]) & (inside["accuracy"] <= inside["high"])).all()
    assert list(found.accuracies.loc[found.accuracies["low"].isna(), "members"]) == [6, 5]
    count = found.contrasts.query("matched == 'count'")
    assert list(count["label"]) == [
        "1+1 mixed − 2 a", "1+1 mixed − 2 b", "2+2 mixed − 4 a", "2+2 mixed − 4 b"
    ]  # fmt: skip
    compute = found.contrasts.query("matched == 'compute'")
    # 2 of b cost 6: 3 of a, or 1 + 1 (5); 3 of b cost 9: 4 of a, or 2 + 1 (7); 4 of b cost 12: 6 of a, or 3 + 2
    assert list(compute["label"]) == [
        "1+1 mixed − 3 a", "1+1 mixed − 2 b", "2+1 mixed − 4 a", "2+1 mixed − 3 b",
        "3+2 mixed − 6 a", "3+2 mixed − 4 b",
    ]  # fmt: skip
    assert compute["low"].isna().tolist() == [False, False, False, False, True, False]
    again = compare(first, second, labels, names=("a", "b"), costs=(2.0, 3.0))
    assert again.contrasts.equals(found.contrasts)


def test_arms_that_err_differently_gain_by_mixing_and_equal_ones_do_not() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(CLASSES, size=4000)
    common = rng.normal(0, 1.5, (2, 4000, CLASSES))
    for shared, expected in ((False, [2, 4]), (True, [])):
        own = [common[0], common[0] if shared else common[1]]
        first, second = (nets(rng, labels, x, runs=5) for x in own)
        found = compare(first, second, labels, names=("a", "b"), costs=(1.0, 1.0))
        assert mixing_helps(found.contrasts) == expected
        within, _, between = found.diversity["disagreement"]
        assert (between > within + 0.02) is not shared


def test_diversity_counts_pairs_that_name_different_classes() -> None:
    first = np.eye(3)[[[0, 1, 2, 0], [0, 1, 1, 0]]]
    second = np.eye(3)[[[0, 1, 2, 1], [2, 2, 2, 2]]]
    table = diversity(first, second, names=("a", "b"))
    assert list(table["pair"]) == ["a-a", "b-b", "a-b"]
    assert list(table["pairs"]) == [1, 1, 4]
    assert list(table["disagreement"]) == pytest.approx([0.25, 0.75, (0.25 + 0.75 + 0.5 + 1) / 4])


def test_many_ensembles_are_sampled_by_the_seed() -> None:
    first, second, labels = arms(4, images=200, runs=(8, 8))
    whole, part, again, other = (
        ensembles(first, second, labels, [(3, 3)], limit=limit, seed=seed)[0]
        for limit, seed in ((10_000, 0), (200, 0), (200, 0), (200, 1))
    )
    assert (whole.subsets, part.subsets) == (math.comb(8, 3) ** 2, 200)
    assert np.array_equal(part.right, again.right)
    assert not np.array_equal(part.right, other.right)
    assert part.accuracy == pytest.approx(whole.accuracy, abs=0.01)
    assert contrast(part).se == pytest.approx(contrast(whole).se, rel=0.2)


def test_incomparable_nets_are_refused() -> None:
    first, second, labels = arms(5)
    with pytest.raises(Refused, match="at least two"):
        compare(first[:1], second, labels, names=("a", "b"), costs=(1, 1))
    with pytest.raises(ValueError, match="same images"):
        compare(first, second[:, :-1], labels, names=("a", "b"), costs=(1, 1))
    with pytest.raises(ValueError, match="cannot be taken"):
        ensembles(first, second, labels, [(5, 0)])


@pytest.mark.slow
@pytest.mark.parametrize("luck", [0.0, 0.2])
def test_intervals_of_mixed_minus_pure_cover(luck: float) -> None:
    images, fields = 400, 20_000
    rng = np.random.default_rng(6)
    labels = rng.integers(CLASSES, size=fields)
    own = rng.normal(0, 1, (2, fields, CLASSES))
    first, second = (nets(rng, labels, x, runs=40, luck=luck) for x in own)
    mixed, pure = ensembles(first, second, labels, [(1, 1), (2, 0)], limit=60)
    truth = contrast(mixed, pure).delta
    covered = 0
    for _ in range(200):
        here = rng.permutation(fields)[:images]
        a, b = (nets(rng, labels[here], x[here], runs=4, luck=luck) for x in own)
        found = contrast(*ensembles(a, b, labels[here], [(1, 1), (2, 0)]))
        covered += found.low <= truth <= found.high
    assert covered / 200 >= 0.92
