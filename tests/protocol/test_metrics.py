"""Every metric against direct computation (REF), and its words."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    top_k_accuracy_score,
)

from study.protocol.errors import InputError
from study.protocol.metrics import (
    FLOOR,
    LOWEST,
    METRICS,
    NAMES,
    at_start,
    log_probabilities,
    unfit,
)

CLASSES = 8


def drawn(images: int = 500, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Log-probabilities of a net that has learnt something, and labels of unequal classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, images, p=np.arange(1, CLASSES + 1) / 36)
    logits = rng.normal(0, 2, (images, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    odds = np.exp(logits)
    return log_probabilities(odds / odds.sum(axis=1, keepdims=True)), labels


def test_log_probabilities_are_clipped_float32() -> None:
    found = log_probabilities(np.array([[1.0, 0.0], [0.25, 0.75]], dtype=np.float32))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.log(np.array([[1, FLOOR], [0.25, 0.75]])).astype(np.float32))


def test_ref_every_metric_is_what_scikit_learn_computes() -> None:
    logs, labels = drawn()
    p = np.exp(logs.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    named, every = logs.argmax(axis=1), list(range(CLASSES))
    expected = {
        "accuracy": accuracy_score(labels, named),
        "balanced-accuracy": balanced_accuracy_score(labels, named),
        "top5": top_k_accuracy_score(labels, p, k=5, labels=every),
        "log-loss": -log_loss(labels, p, labels=every),
        "brier": -brier_score_loss(labels, p, labels=every, scale_by_half=False),
    }
    assert expected.keys() == set(NAMES)
    for name, value in expected.items():
        metric = METRICS[name]
        score = float(metric.sampling(labels).mean(metric.scores(logs, labels)))
        assert score == pytest.approx(value, abs=2e-6), name


def test_guessing_is_the_best_that_the_same_answer_for_every_image_reaches() -> None:
    _, labels = drawn()
    shares = np.bincount(labels, minlength=CLASSES) / len(labels)
    logs = np.broadcast_to(log_probabilities(shares), (len(labels), CLASSES))
    for name in NAMES:
        metric = METRICS[name]
        reached = float(metric.sampling(labels).mean(metric.scores(logs, labels)))
        assert reached == pytest.approx(metric.guessing(list(shares)), abs=1e-6), name


def test_a_net_that_knows_all_and_one_that_errs_with_certainty_reach_the_ends() -> None:
    labels = np.arange(CLASSES)
    for shift, end in ((0, "best"), (1, "worst")):
        logs = log_probabilities(np.eye(CLASSES)[(labels + shift) % CLASSES])
        for name in NAMES:
            scores = METRICS[name].scores(logs, labels)
            assert scores == pytest.approx(np.full(CLASSES, getattr(METRICS[name], end)), abs=1e-5), name


def test_a_class_at_the_floor_is_not_among_the_five() -> None:
    logs = np.full((1, CLASSES), LOWEST)
    logs[0, 7] = np.log(0.999)
    for label in range(CLASSES):
        assert METRICS["top5"].scores(logs, np.array([label]))[0] == (label == 7)


def test_less_is_better_turns_the_sign_for_a_reader_only() -> None:
    metric = METRICS["log-loss"]
    assert metric.value(-0.4312) == "0.4312 nats"
    assert metric.span(-0.5, -0.4) == "0.4000 to 0.5000"
    assert metric.gap(0.0123, sign=True) == "+0.0123 nats"
    assert metric.gap(-0.00001, sign=True) == "0.0000 nats"
    assert METRICS["accuracy"].gap_of(0.0123) == "1.23 pt"


@pytest.mark.parametrize(("name", "given", "margin"), [("top5", 0.5, 0.005), ("log-loss", 0.02, 0.02)])
def test_margins_are_in_the_metrics_unit(name: str, given: float, margin: float) -> None:
    metric = METRICS[name]
    assert metric.margin(given) == pytest.approx(margin)
    assert float(metric.typed(margin)) == given
    with pytest.raises(InputError, match="out of range"):
        metric.margin(100 * metric.widest + 1)


def test_what_allows_no_verdict_is_said_with_a_way_on() -> None:
    balanced, top5 = METRICS["balanced-accuracy"], METRICS["top5"]
    assert "9 of b" in unfit(balanced, ("a", "b"), (40, 9))
    assert not unfit(balanced, ("a", "b"), (10, 10))
    assert "5 classes" in unfit(top5, tuple("abcde"), (10,) * 5)
    assert not unfit(top5, tuple("abcdef"), (1,) * 6)
    assert not unfit(METRICS["accuracy"], ("a", "b"), (2, 0))


def test_unequal_classes_are_told_before_anything_is_spent() -> None:
    few = at_start(METRICS["accuracy"], (720, 28), (72, 3))
    assert "--metric log-loss" in few and "--metric balanced-accuracy" not in few
    assert "balanced-accuracy" in at_start(METRICS["accuracy"], (720, 280), (72, 28))
    for counts in ((500, 480), (5, 3), (100,) * 10):
        assert not at_start(METRICS["accuracy"], counts, counts)
    assert "50.00 %" in at_start(METRICS["balanced-accuracy"], (720, 280), (72, 28))
    assert "nats" in at_start(METRICS["log-loss"], (720, 280), (72, 28))
