"""A hopeless budget is refused before anything long is measured; the refusal names a sufficient one."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from support.plans import PLAN

from search_spaces import Arm, ArmError, load
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


@pytest.mark.parametrize("rate", [5.0, 100.0, 1e4])
def test_measuring_an_arms_speed_takes_about_a_second(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """After a reboot the first step reads the kernels from disk; this took 1.8 s once, and does not count."""
    assert feasibility._on_one_core("tiny_resnet", load("tiny_resnet"), PHOTOS)[0] > 0
    clock = [0.0]

    def step(_net: object, _images: object, size: int, _device: object) -> float:
        took = size / rate if clock[0] else 1.8
        clock[0] += took
        return took

    monkeypatch.setattr(feasibility, "_step", step)
    monkeypatch.setattr(feasibility, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    before = torch.get_num_threads()
    speed, batch = feasibility._on_one_core("tiny_resnet", load("tiny_resnet"), PHOTOS)
    assert speed == pytest.approx(rate)
    assert clock[0] - 1.8 <= max(feasibility.SECONDS, 2 * feasibility.SMALLEST / rate) + 1e-9
    assert (batch >= feasibility.USUAL) == (rate >= 100)
    assert torch.get_num_threads() == before


def test_an_arm_that_cannot_be_trained_is_named() -> None:
    def build(_config: object, _images: object) -> torch.nn.Module:
        return torch.nn.Linear(3, 3)

    broken = Arm(build, space=load("tiny_resnet").space)
    with pytest.raises(ArmError, match="arm broken cannot be built and trained"):
        feasibility.check(
            {"broken": broken}, PHOTOS, Budget.parse("1cpu-hours"), epochs=None, train_fraction=1.0
        )
