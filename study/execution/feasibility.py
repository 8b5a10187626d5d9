"""Refuses hopeless budgets within seconds: by the number of images, their size, and a second of measuring per arm.

This measures more speed than a study will see: no optimiser, no augmentation, no neighbours. A budget too small even so is
refused before Ray starts and before anything longer is measured.
"""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional

from search_spaces import Arm, ArmError, ImageSpec, default
from study.protocol.allocation import EPOCHS, FEWEST_RUNS, SCATTER, VAL_SHARE
from study.protocol.budget import Budget
from study.protocol.errors import InputError
from study.protocol.question import DataCard
from study.protocol.text import first_line

SECONDS = 1.0
"""Time for measuring an arm; one step of the smallest batch may take longer."""
SMALLEST, USUAL = 2, 8
"""Images of the first step, and images beyond which a larger batch is hardly faster."""
SLACK = {"cpu": 2.0, "cuda": 10.0}
"""Multiple of the measured speed that a study may reach: cores may have other work for a second, and many small nets side by
side use a GPU that much better. Later refusals rest on the full measurements."""
FEW_SLACK = 3.0
"""The same, if only steps of a few images were measured."""
STARTING = 45.0
"""Resource-seconds per arm for starting and measuring in the budget that a refusal names."""


def images_per_second(arm: Arm, images: ImageSpec, device: torch.device) -> tuple[float, int]:
    """Speed of forward and backward at the default setting, with ever larger batches for about a second; and the last batch size.

    Raises whatever the arm's code raises.
    """
    config = default(arm.space)
    net = arm.build(config, images).to(device).train()
    largest = int(config.get("batch_size", 64))
    _step(net, images, SMALLEST, device)  # unmeasured: it loads kernels, from disk on a machine just started
    began, size, best = time.perf_counter(), SMALLEST, 0.0
    while True:
        took = min(_step(net, images, size, device) for _ in range(2))
        best = max(best, size / took)
        left = SECONDS - (time.perf_counter() - began)
        if size >= largest or 4 * took > left:
            return best, size
        size = min(2 * size, largest)


def _step(net: nn.Module, images: ImageSpec, size: int, device: torch.device) -> float:
    pixels = torch.rand(size, images.channels, images.size, images.size, device=device)
    labels = torch.arange(size, device=device) % images.classes
    began = time.perf_counter()
    loss = functional.cross_entropy(net(pixels), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    float(loss.detach())  # waits for a GPU
    net.zero_grad(set_to_none=True)
    return max(1e-6, time.perf_counter() - began)


def check(
    arms: Mapping[str, Arm],
    card: DataCard,
    budget: Budget,
    *,
    epochs: int | None,
    train_fraction: float,
    measure: Callable[[str], tuple[float, int]] | None = None,
) -> None:
    """Raises InputError, naming a budget that would do, if even runs at an impossible speed would be too few for a plan.

    ``measure`` gives an arm's speed as ``images_per_second`` does; the default measures here, on one core, where a
    core-second trains most. Raises ArmError if an arm cannot be trained.
    """
    length = epochs or EPOCHS[0]
    count = train_fraction * (1 - VAL_SHARE[1]) * card.train * length
    share = budget.seconds / len(arms)
    kind = "cpu" if budget.resource == "cpu" else "cuda"
    for name, arm in arms.items():
        speed, batch = measure(name) if measure else _on_one_core(name, arm, card)
        slack = max(SLACK[kind], FEW_SLACK if batch < USUAL else 0.0)
        if share * speed * slack / count >= FEWEST_RUNS:
            continue
        run = count / speed
        takes = f"{run:.0f} s" if run < 120 else f"{run / 60:.0f} min"
        enough = Budget.whole_minutes(len(arms) * (STARTING + SCATTER * FEWEST_RUNS * run), budget.resource)
        raise InputError(
            f"a budget of {budget} is too small: {card.train} images of {card.size} x {card.size} pixels, and {name} trains "
            f"about {speed:.3g} of them a second: a run of {length} epochs takes about {takes}, and each arm needs "
            f"{math.ceil(FEWEST_RUNS)} of them. This would do: --budget {enough} (or smaller arms or images"
            + (", or fewer --epochs)" if length > EPOCHS[0] else ")")
        )


def _on_one_core(name: str, arm: Arm, card: DataCard) -> tuple[float, int]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = ImageSpec(channels=card.channels, size=card.size, classes=len(card.classes))
        return images_per_second(arm, images, torch.device("cpu"))
    except Exception as error:  # noqa: BLE001  # any fault of an arm becomes a sentence with its name
        raise ArmError(
            f"arm {name} cannot be built and trained at its default setting: {type(error).__name__}: {first_line(error)}"
        ) from None
    finally:
        torch.set_num_threads(before)
