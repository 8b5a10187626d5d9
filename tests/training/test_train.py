"""The training core learns, repeats itself to the last digit, and says when it diverges."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from support.plans import AUDIT
from support.training import CPU, a_trial, measures

from search_spaces import ImageSpec, load
from study.data.images import Images
from study.data.sealed import Prepared
from study.data.split import split_for
from study.execution import rehearsal
from study.protocol.metrics import Name, log_probabilities
from study.protocol.plan import Plan
from study.training.evaluation import EVAL_PIXELS, predict
from study.training.loop import DivergedError, build
from study.training.losses import class_weights
from study.training.trial import image_spec, start, training


def test_it_learns_real_images(plan: Plan, digits: Prepared) -> None:
    _, epochs = start(plan, a_trial(epochs=5), digits.train, CPU)
    curve = list(epochs)
    assert [e.epoch for e in curve] == [1, 2, 3, 4, 5]
    assert curve[-1].val_accuracy > 0.85
    assert curve[-1].train_loss < curve[0].train_loss
    assert all(e.train_seconds > 0 and e.eval_seconds > 0 for e in curve)


@pytest.mark.parametrize("policy", ["none", "flip+rotate", "flip+crop+cutout", "trivial"])
def test_the_same_seed_gives_the_same_numbers(plan: Plan, digits: Prepared, policy: str) -> None:
    curves = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # independent of the global state
        _, epochs = start(plan, a_trial(seed=seed, augment=policy), digits.train, CPU)
        curves.append(measures(list(epochs)))
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_the_callers_randomness_is_left_alone(plan: Plan, digits: Prepared) -> None:
    before = torch.random.get_rng_state()
    _, epochs = start(plan, a_trial(), digits.train, CPU)
    for _ in epochs:
        assert torch.equal(before, torch.random.get_rng_state())


def test_validation_images_are_not_trained_on(plan: Plan, digits: Prepared) -> None:
    """Blacking out the held-out images leaves the training measures unchanged."""
    trial = a_trial()
    _, val = split_for(plan, digits.train.labels, fold=trial.fold)
    pixels = digits.train.pixels.copy()
    pixels[val] = 0
    curves = []
    for pool in (digits.train, Images(pixels, digits.train.labels)):
        _, epochs = start(plan, trial, pool, CPU)
        curves.append(list(epochs))
    whole, blacked = curves
    assert [e.train_loss for e in whole] == [e.train_loss for e in blacked]
    assert whole[-1].val_accuracy > blacked[-1].val_accuracy


def test_correct_predictions_are_known_image_by_image(plan: Plan, digits: Prepared) -> None:
    run = training(plan, a_trial(epochs=1), digits.train, CPU)
    (epoch,) = run.epochs()
    correct = run.kept().scores
    assert correct.shape == (plan.val_images,)
    assert correct.mean() == epoch.val_accuracy


@pytest.mark.parametrize("metric", ["balanced-accuracy", "log-loss", "top5"])
def test_an_epochs_score_is_that_of_its_images(plan: Plan, digits: Prepared, metric: Name) -> None:
    asked = dataclasses.replace(plan, metric=metric, rope=0.01)
    run = training(asked, a_trial(epochs=1), digits.train, CPU)
    (epoch,) = run.epochs()
    kept = run.kept()
    assert epoch.score == epoch.val_score == pytest.approx(float(kept.sampling.mean(kept.scores)), abs=1e-6)
    _, val = split_for(plan, digits.train.labels, fold=0)
    labels = digits.train.labels[val]
    logs = log_probabilities(predict(run.net, run._data.images, run._data.val).numpy())
    assert np.asarray(kept.scores) == pytest.approx(asked.judged.scores(logs, labels), abs=1e-5)
    assert (kept.classes is not None) == (metric == "balanced-accuracy")
    # only what is measured differs, not the training
    (usual,) = training(plan, a_trial(epochs=1), digits.train, CPU).epochs()
    assert measures([usual]) == measures([epoch])
    assert usual.score is None


def test_a_balanced_loss_weighs_every_class_alike(plan: Plan, digits: Prepared) -> None:
    run = training(plan, a_trial(epochs=1), digits.train, CPU)
    data, classes = run._data, len(plan.data.classes)
    labels = data.labels[data.train]
    assert class_weights({"class_weights": "none"}, data, classes) is None
    assert class_weights({}, data, classes) is None
    weights = class_weights({"class_weights": "balanced"}, data, classes)
    assert weights is not None
    assert torch.bincount(labels, weights=weights[labels], minlength=classes).tolist() == pytest.approx(
        [len(labels) / classes] * classes, rel=1e-5
    )
    trial = dataclasses.replace(
        a_trial(epochs=1), config={**a_trial(epochs=1).config, "class_weights": "balanced"}
    )
    (weighed,) = training(plan, trial, digits.train, CPU).epochs()
    (usual,) = run.epochs()
    assert measures([weighed]) != measures([usual])


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_divergence_is_an_error_with_its_epoch(plan: Plan, digits: Prepared, lr: float) -> None:
    _, epochs = start(plan, a_trial(lr=lr), digits.train, CPU)
    with pytest.raises(DivergedError, match="epoch 1"):
        next(epochs)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_stopped_run_is_a_prefix_of_the_full_run(plan: Plan, digits: Prepared, schedule: str) -> None:
    """A run that ASHA stops has the full run's schedule."""
    _, whole = start(plan, a_trial(epochs=3, schedule=schedule), digits.train, CPU)
    _, other = start(plan, a_trial(epochs=3, schedule=schedule), digits.train, CPU)
    assert measures(list(itertools.islice(whole, 2))) == measures(list(other)[:2])


def test_a_layout_changes_speed_and_nothing_else(plan: Plan, digits: Prepared) -> None:
    """Sums in another order differ in the last digits, and chaos in later epochs; the first is the same."""
    firsts = []
    for channels_last in (True, False):
        audits = {"tiny_resnet": dataclasses.replace(AUDIT, channels_last=channels_last)}
        laid = dataclasses.replace(plan, audits=audits)
        net, epochs = start(laid, a_trial(lr=0.01), digits.train, CPU)
        kernels = [p for p in net.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert all(p.is_contiguous() is not channels_last for p in kernels)
        firsts.append(next(epochs))
    assert firsts[0].train_loss == pytest.approx(firsts[1].train_loss, rel=1e-4)
    assert firsts[0].val_loss == pytest.approx(firsts[1].val_loss, rel=1e-2)


def test_predictions_do_not_depend_on_the_evaluation_batch(
    plan: Plan, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = load("tiny_resnet")
    net = build(arm, arm.default(), image_spec(plan.data), seed=1, device=CPU)
    images, indices = torch.from_numpy(digits.train.pixels.copy()), torch.arange(100).flip(0)
    whole = predict(net, images, indices)
    monkeypatch.setitem(EVAL_PIXELS, "cpu", 7 * images.shape[-1] ** 2)
    torch.testing.assert_close(predict(net, images, indices), whole, atol=1e-5, rtol=1e-4)


def test_evaluation_never_changes_its_batch_or_its_kernels(
    plan: Plan, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller batches after running out of memory could use other kernels, and a rerun would differ in the last digit."""
    arm = load("tiny_resnet")
    net = build(arm, arm.default(), image_spec(plan.data), seed=1, device=CPU)
    images, indices = torch.from_numpy(digits.train.pixels.copy()), torch.arange(100)
    asked: list[int] = []

    def wall(_: object, inputs: tuple[torch.Tensor]) -> None:
        asked.append(len(inputs[0]))
        assert torch.backends.cudnn.deterministic
        if len(asked) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    net.register_forward_pre_hook(wall)
    monkeypatch.setitem(EVAL_PIXELS, "cpu", 40 * images.shape[-1] ** 2)
    assert len(predict(net, images, indices)) == 100
    assert asked == [40, 40, 20]
    with pytest.raises(torch.OutOfMemoryError):
        predict(net, images, indices)


def test_weights_come_from_the_seed(plan: Plan) -> None:
    arm, spec = load("tiny_resnet"), image_spec(plan.data)
    nets = [build(arm, arm.default(), spec, seed=s, device=CPU) for s in (1, 1, 2)]
    first, same, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in nets)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_audit_counts_what_torchvision_states() -> None:
    """25.56 M parameters and 4.09 GMACs at 224 pixels are torchvision's own figures for resnet50."""
    arm = load("resnet50")
    params, macs = rehearsal.complexity(arm, arm.default(), ImageSpec(channels=3, size=224, classes=1000))
    assert params == 25_557_032
    assert macs == pytest.approx(4.09e9, rel=0.005)


def test_a_train_fraction_takes_a_part_of_every_class_and_leaves_validation_alone(
    plan: Plan, digits: Prepared
) -> None:
    half = dataclasses.replace(plan, train_fraction=0.5)
    assert half.train_images == pytest.approx(plan.train_images / 2, abs=1)
    assert half.val_images == plan.val_images
    _, whole = start(plan, a_trial(), digits.train, CPU)
    _, part = start(half, a_trial(), digits.train, CPU)
    assert next(part).train_accuracy != next(whole).train_accuracy
