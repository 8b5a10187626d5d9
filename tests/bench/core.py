"""Training speed of today's core beside the core before recipes and the static step, in turns in one process of one thread.

The built-in arms by the recipe sgd, at the post's setting with another batch size; ``support.old_core`` is commit d04a70d.
Both give the same digits (``tests/training/test_step.py``).

Command:   python -m tests.bench.core [--arms A,B] --json core.json
"""
# ruff: noqa: T201 - a command speaks to its user

import time
from functools import partial
from types import ModuleType
from typing import Any

import torch
from support import old_core
from torch import nn

from bench.gpu.common import a_net, a_run, config
from bench.timing import in_turns, parser, save, table
from study.memory import keep_freed
from study.training import loop

ARMS = "tiny_resnet,tiny_resnext,small_resnet,small_resnext,resnet50,resnext50"
CORES = {"old": old_core, "today": loop}


def images_per_second(net: nn.Module, arm: str, batch: int, steps: int, core: ModuleType) -> float:
    """Per CPU second, which other work disturbs less, of an epoch of this many steps after another that warms up."""
    epochs = a_run(net, arm, config(arm, batch), steps=steps, epochs=2, module=core).epochs()
    next(epochs)
    began = time.process_time()
    next(epochs)
    return steps * batch / (time.process_time() - began)


def side_by_side(arm: str, batch: int, seconds: float, turns: int) -> dict[str, float]:
    """Images per CPU second of each core, the median of ``turns`` epochs of about ``seconds``."""
    net = a_net(arm, config(arm, batch))
    steps = max(2, round(seconds * images_per_second(net, arm, batch, 2, loop) / batch))
    return in_turns(
        {name: partial(images_per_second, net, arm, batch, steps, core) for name, core in CORES.items()},
        turns,
    )


def main(arguments: list[str] | None = None) -> None:
    options = parser("core", __doc__)
    options.add_argument("--arms", default=ARMS, help="%(default)s")
    options.add_argument("--batch", type=int, default=32, help="images of a step (%(default)s)")
    options.add_argument("--seconds", type=float, default=2.0, help="of a measured epoch (%(default)s)")
    options.add_argument("--turns", type=int, default=5, help="measures of each, in turns (%(default)s)")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed()
    began, found = time.perf_counter(), dict[str, Any]()
    for arm in given.arms.split(","):
        found[arm] = side_by_side(arm, given.batch, given.seconds, given.turns)
    rows = [
        (arm, f"{it['old']:.0f}", f"{it['today']:.0f}", f"{it['today'] / it['old']:.3f}")
        for arm, it in found.items()
    ]
    print(table([f"images per CPU second, batch {given.batch}", "old", "today", "today / old"], rows))
    print(f"medians of {given.turns} turns; measured in {time.perf_counter() - began:.0f} s")
    save(given.json, found)


if __name__ == "__main__":
    main()
