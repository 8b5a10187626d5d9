"""A hopeless budget is refused before anything long is measured; the refusal names a sufficient one."""

import dataclasses
import re
import time

import pytest
import torch
from support.plans import PLAN

from search_spaces import Arm, ArmError, ImageSpec, load
from study.execution import feasibility
from study.protocol.budget import Budget
from study.protocol.errors import InputError

ARMS = {"tiny_resnet": load("tiny_resnet"), "tiny_resnext": load("tiny_resnext")}
PHOTOS = dataclasses.replace(PLAN.data, train=280, size=224, channels=3)


def check(budget: str, *, speed: float = 100.0, batch: int = 32, epochs: int | None = None) -> None:
    feasibility.check(
        ARMS,
        PHOTOS,
        Budget.parse(budget),
        epochs=epochs,
        train_fraction=1.0,
        measure=lambda _: (speed, batch),
    )


def test_refusing_a_hopeless_budget_names_a_sufficient_one() -> None:
    """280 images, 224 of them for training, 3 epochs at 100 images/s: 6.7 s a run, 15.5 runs of two arms."""
    check("2cpu-minutes")  # a machine busy with other work may be twice as fast later
    with pytest.raises(
        InputError, match="a budget of 1cpu-minutes is too small: 280 images of 224 x 224"
    ) as caught:
        check("1cpu-minutes")
    named = re.search(r"This would do: --budget (\S+)", str(caught.value))
    assert named is not None
    check(named[1])
    with pytest.raises(InputError, match="fewer --epochs"):
        check("4cpu-minutes", epochs=20)


def test_a_rough_measurement_refuses_less() -> None:
    with pytest.raises(InputError):
        check("2cpu-minutes", speed=80.0)
    check("2cpu-minutes", batch=2, speed=80.0)
    check("1gpu-minutes", speed=50.0)
    with pytest.raises(InputError):
        check("1gpu-minutes", speed=20.0)


def test_a_second_is_enough_to_know_an_arms_speed() -> None:
    arm, images = load("small_resnet"), ImageSpec(channels=3, size=32, classes=10)
    before = torch.get_num_threads()
    began = time.monotonic()
    speed, batch = feasibility._on_one_core("small_resnet", arm, dataclasses.replace(PHOTOS, size=32))
    assert time.monotonic() - began < 10 * feasibility.SECONDS
    assert batch >= feasibility.USUAL
    assert speed > 0
    assert torch.get_num_threads() == before
    net = arm.build(arm.default(), images)
    assert all(p.grad is None for p in net.parameters())


def test_a_slow_first_step_says_nothing_of_an_arms_speed() -> None:
    """After a reboot the first step reads the kernels from disk; this took 1.8 s once."""

    class Slow(torch.nn.Linear):
        slept = False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not self.slept:
                self.slept = True
                time.sleep(1.5 * feasibility.SECONDS)
            return super().forward(images.flatten(1))

    arm = Arm(lambda _, images: Slow(images.size**2, images.classes), space=load("tiny_resnet").space)
    speed, batch = feasibility.images_per_second(
        arm, ImageSpec(channels=1, size=8, classes=10), torch.device("cpu")
    )
    assert batch > feasibility.SMALLEST
    assert speed > 100


def test_an_arm_that_cannot_be_trained_is_named() -> None:
    def build(_config: object, _images: object) -> torch.nn.Module:
        return torch.nn.Linear(3, 3)

    broken = Arm(build, space=load("tiny_resnet").space)
    with pytest.raises(ArmError, match="arm broken cannot be built and trained"):
        feasibility.check(
            {"broken": broken}, PHOTOS, Budget.parse("1cpu-hours"), epochs=None, train_fraction=1.0
        )
