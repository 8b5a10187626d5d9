"""The static step gives the digits of the earlier core and never waits for the device."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import old_core
from torch._subclasses.fake_tensor import FakeTensorMode

from search_spaces import Arm, ImageSpec, load
from study.data.images import Images
from study.protocol.records import Config, Epoch, Trial
from study.training import evaluation, loop
from study.training.augment import POLICIES
from study.training.checkpoint import pack, unpack
from study.training.evaluation import Split
from study.training.loop import Training

CPU = torch.device("cpu")
SPEC = ImageSpec(channels=3, size=16, classes=4)
BATCH, IMAGES, HELD_OUT = 8, 30, 10
"""Three steps in an epoch, which leaves out six images."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(module: Any = loop) -> Any:
    draw = torch.Generator().manual_seed(5)
    shape = (IMAGES + HELD_OUT, SPEC.channels, SPEC.size, SPEC.size)
    return module.Split(
        images=torch.randint(256, shape, dtype=torch.uint8, generator=draw),
        labels=torch.randint(SPEC.classes, (len(range(shape[0])),), generator=draw),
        train=torch.arange(IMAGES),
        val=torch.arange(IMAGES, IMAGES + HELD_OUT),
    )


def trial(arm: Arm, *, epochs: int = 3, **changes: Any) -> Trial:
    config: Config = {**arm.default(), "batch_size": BATCH, "lr": 0.1, "label_smoothing": 0.1, **changes}
    return Trial(
        id="t", arm="a", phase="search", index=0, pair=0, config=config, seed=3, fold=0, epochs=epochs
    )


def a_run(module: Any, arm: Arm, asked: Trial) -> Any:
    net = module.build(arm, asked.config, SPEC, seed=asked.seed, device=CPU)
    return module.Training(net, asked, data(module), classes=SPEC.classes)


def timeless(epoch: Epoch) -> Epoch:
    return dataclasses.replace(epoch, train_seconds=0.0, eval_seconds=0.0, data_seconds=0.0)


def weights(run: Any) -> list[torch.Tensor]:
    return [value.clone() for value in run.net.state_dict().values()]


class WithDropout(torch.nn.Module):
    """Draws from torch's global generator, as a user's arm may."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.dropout = net, torch.nn.Dropout(0.3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(self.dropout(images))
        return logits


def dropping(arm: Arm) -> Arm:
    return Arm(lambda config, images: WithDropout(arm.build(config, images)), space=arm.space)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_the_static_step_gives_the_digits_of_the_core_before_it(policy: str, schedule: str) -> None:
    arm = dropping(load("tiny_resnext"))
    asked = trial(arm, augment=policy, schedule=schedule)
    old, new = a_run(old_core, arm, asked), a_run(loop, arm, asked)
    assert [timeless(e) for e in old.epochs()] == [timeless(e) for e in new.epochs()]
    assert all(map(torch.equal, weights(old), weights(new)))


def test_fetched_images_give_the_same_digits() -> None:
    """Also after a resume, which fetches prefetched images again."""
    asked = trial(load("tiny_resnet"), epochs=2)
    expected = [timeless(e) for e in a_run(old_core, load("tiny_resnet"), asked).epochs()]
    runs = []
    for _ in range(2):
        resident = data()
        fetched = Images(resident.images.numpy(), resident.labels.numpy())
        net = loop.build(load("tiny_resnet"), asked.config, SPEC, seed=asked.seed, device=CPU)
        split = dataclasses.replace(resident, images=fetched)
        runs.append(Training(net, asked, split, classes=SPEC.classes))
    assert runs[0].advance(0.0) is None
    runs[1].load(unpack(pack(runs[0].state()), CPU) or {})
    for run in runs:
        assert [timeless(e) for e in run.epochs()] == expected


@pytest.mark.parametrize("policy", ["none", "trivial", "flip+resizedcrop.08"])
def test_a_run_stopped_at_any_step_and_moved_gives_the_same_digits(policy: str) -> None:
    arm = dropping(load("tiny_resnet"))
    asked = trial(arm, epochs=2, augment=policy)
    whole = a_run(old_core, arm, asked)
    expected = [timeless(e) for e in whole.epochs()]
    steps = asked.epochs * (IMAGES // BATCH)
    for stop in range(1, steps):
        run, found = a_run(loop, arm, asked), []
        for _ in range(stop):  # no time: every call trains one step
            found += [epoch for epoch in [run.advance(0.0)] if epoch]
        content = pack(run.state())
        state = unpack(content, CPU)
        assert state is not None
        again = a_run(loop, arm, asked)
        again.load(state)
        found += again.epochs()
        assert [timeless(e) for e in found] == expected
        assert all(map(torch.equal, weights(whole), weights(again)))


@pytest.mark.parametrize("arm", ["tiny_resnet", "tiny_resnext", "resnet50", "resnext50"])
def test_nothing_in_a_step_waits_for_the_device(arm: str) -> None:
    """Under FakeTensorMode tensors have no values: reading one, as ``.item()`` does, fails."""
    for policy, channels in itertools.product(POLICIES, (1, 3)):
        spec = ImageSpec(channels=channels, size=32, classes=10)
        asked = trial(load(arm), augment=policy)
        with FakeTensorMode():
            net = load(arm).build(asked.config, spec)
            images = torch.zeros((IMAGES, channels, 32, 32), dtype=torch.uint8)
            rows = torch.arange(IMAGES)
            labels = torch.zeros(IMAGES, dtype=torch.int64)
            run = Training(net, asked, Split(images=images, labels=labels, train=rows, val=rows), classes=10)
            run._generator = run._step._generator = None  # type: ignore[assignment]  # has no fake twin
            run._step.run()
            run._step.run()


def test_the_fake_device_would_see_a_step_that_waits() -> None:
    with FakeTensorMode(), pytest.raises(Exception, match="item|data-dependent|Unbacked|scalar"):
        float(torch.zeros(()).sum())


def halved(asked: Trial, arm: Arm, monkeypatch: pytest.MonkeyPatch, *, half: bool) -> Training:
    """A run in mixed precision on the CPU, with and without bfloat16 copies of the weights."""
    monkeypatch.setattr(evaluation, "mixed_precision", lambda _: torch.autocast("cpu", dtype=torch.bfloat16))
    monkeypatch.setattr(loop, "HALVED", ("cpu",) if half else ())
    run: Training = a_run(loop, arm, asked)
    return run


def test_bfloat16_copies_of_the_weights_give_autocasts_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = dropping(load("tiny_resnext"))
    asked = trial(arm)
    plain, half = (halved(asked, arm, monkeypatch, half=half) for half in (False, True))
    assert {p.dtype for p in half.net.parameters()} == {torch.bfloat16, torch.float32}
    assert [timeless(e) for e in plain.epochs()] == [timeless(e) for e in half.epochs()]
    assert all(map(torch.equal, weights(plain), weights(half)))
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}


def test_a_run_with_bfloat16_copies_stops_anywhere_and_keeps_its_float32_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = load("tiny_resnet")
    asked = trial(arm, epochs=2)
    whole = halved(asked, arm, monkeypatch, half=False)
    expected = [timeless(e) for e in whole.epochs()]
    run = halved(asked, arm, monkeypatch, half=True)
    for _ in range(2):
        assert run.advance(0.0) is None
    state = unpack(pack(run.state()), CPU)
    assert state is not None
    assert {value.dtype for value in state["net"].values()} <= {torch.float32, torch.int64}
    again = halved(asked, arm, monkeypatch, half=True)
    again.load(state)
    assert [timeless(e) for e in again.epochs()] == expected
    assert all(map(torch.equal, weights(whole), weights(again)))
