"""Measures every arm before the search: complexity, speed and memory, at its default setting.

The measuring runs are the real training loop on made-up images, as many side by side as the study
will run, since neighbours slow each other down.
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray.exceptions
import torch
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from search_spaces import Arm, ArmError, Choice, Config, ImageSpec, default
from study import cluster
from study.plan import Audit, Budget, DataCard, Machine
from study.records import Trial
from study.search import restrict
from study.train import Split, build, fit
from study.worker import device_of, first_line, image_spec

Result = TypeVar("Result")
MEASURE_SECONDS = 2.0
STEPS_FLOOR = 4
"""A batch size that leaves fewer steps per epoch is no option."""
MOST_BATCHES = 4096
HEADROOM = 1.2
"""Two trials share a GPU when each may grow to this multiple of its measured peak."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was measured, and how trials will be packed because of it."""

    audits: dict[str, Audit]
    machine: Machine
    cost: dict[str, float]
    """Resource-seconds that measuring each arm held."""
    batch_sizes: tuple[int, ...]


def survey(arms: Mapping[str, Arm], card: DataCard, budget: Budget) -> Survey:
    """Measure all arms on the cluster, as many side by side as trials will run.

    Raises ArmError when an arm cannot be built and trained at its default setting.
    """
    machine, images = cluster.machine(budget), image_spec(card)
    cost = dict.fromkeys(arms, 0.0)
    batch_sizes = _batch_sizes(arms, card.train)
    if machine.resource == "gpu":
        peak = 0.0
        for name, (fitting, share), held in _each(largest_batch, arms, batch_sizes, images, machine):
            cost[name] += held
            peak = max(peak, share)
            batch_sizes = tuple(b for b in batch_sizes if b <= fitting)
        if peak * HEADROOM <= 0.5:
            machine = dataclasses.replace(
                machine, fraction=0.5, slots=2 * machine.slots, threads=max(1, machine.threads // 2)
            )
    measured: dict[str, list[Audit]] = {name: [] for name in arms}
    copies = max(1, machine.slots // len(arms))
    for name, audit, held in _each(measure, arms, batch_sizes, images, machine, copies=copies):
        cost[name] += held
        measured[name].append(audit)
    return Survey(
        audits={name: _mean(audits) for name, audits in measured.items()},
        machine=machine,
        cost=cost,
        batch_sizes=batch_sizes,
    )


def measure(name: str, config: Config, images: ImageSpec, machine: Machine, asked: float) -> Audit:
    """Train the arm on made-up images for a few seconds, in this process.

    ``asked`` is the ``time.time()`` at which the process was asked for. Raises what the arm raises.
    """
    arm = search_spaces.load(name)
    device = device_of(machine)
    params, macs = complexity(arm, config, images)
    startup = time.time() - asked
    batch, batches = int(config["batch_size"]), 2
    while True:
        seconds, eval_seconds = _time_epoch(arm, config, images, batches * batch, device)
        if seconds >= MEASURE_SECONDS or batches >= MOST_BATCHES:
            break
        batches = min(MOST_BATCHES, 1 + int(batches * min(8.0, 1.2 * MEASURE_SECONDS / seconds)))
    return Audit(
        params=params,
        macs=macs,
        images_per_second=batches * batch / seconds,
        eval_images_per_second=batches * batch / eval_seconds,
        peak_bytes=_peak_bytes(device),
        startup_seconds=startup,
    )


def largest_batch(
    name: str, config: Config, images: ImageSpec, machine: Machine, asked: float, batch_sizes: tuple[int, ...]
) -> tuple[int, float]:
    """The largest batch that trains without running out of GPU memory, and its peak as a share of the memory."""
    del asked
    arm, device = search_spaces.load(name), device_of(machine)
    for batch in sorted(batch_sizes, reverse=True):
        try:
            _time_epoch(arm, {**config, "batch_size": batch}, images, 2 * batch, device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            continue
        return batch, _peak_bytes(device) / torch.cuda.get_device_properties(device).total_memory
    raise ArmError(f"arm {name} does not fit into the GPU's memory even with batches of {min(batch_sizes)}")


def complexity(arm: Arm, config: Config, images: ImageSpec) -> tuple[int, int]:
    """Trainable parameters, and multiply-accumulates of one forward pass of one image; allocates no weights."""
    with torch.device("meta"):
        net = arm.build(config, images).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            net(torch.empty(1, images.channels, images.size, images.size))
    return sum(p.numel() for p in net.parameters() if p.requires_grad), counter.get_total_flops() // 2


def _each(
    function: Callable[..., Result],
    arms: Mapping[str, Arm],
    batch_sizes: tuple[int, ...],
    images: ImageSpec,
    machine: Machine,
    *,
    copies: int = 1,
) -> Iterator[tuple[str, Result, float]]:
    """Run a measuring function for every arm at its default; its errors name the arm."""
    extra = (batch_sizes,) if function is largest_batch else ()
    jobs = []
    for name, arm in arms.items():
        config = default(restrict(arm.space, batch_sizes))
        jobs += [(name, (function, name, config, images, machine, time.time(), *extra))] * copies
    try:
        yield from cluster.run_tasks(_named, jobs, machine)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ArmError) else error) from None


def _named(function: Callable[..., Result], name: str, *arguments: Any) -> Result:
    """``function(name, ...)``, with the arm's name on whatever its code raises."""
    try:
        return function(name, *arguments)
    except ArmError:
        raise
    except Exception as error:  # noqa: BLE001  # any fault of an arm becomes a sentence with its name
        raise ArmError(
            f"arm {name} cannot be built and trained at its default setting: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from None


def _batch_sizes(arms: Mapping[str, Arm], train: int) -> tuple[int, ...]:
    """The batch sizes that all arms share and that leave enough steps in an epoch; at least the smallest."""
    axes = [axis for arm in arms.values() if isinstance(axis := arm.space.get("batch_size"), Choice)]
    if len(axes) != len(arms):
        raise ArmError("every arm needs the shared axes: space={**RECIPE, ...} from search_spaces._shared")
    shared = sorted(set.intersection(*({int(o) for o in axis.options} for axis in axes)))
    return tuple(b for b in shared if b * STEPS_FLOOR <= train) or tuple(shared[:1])


def _mean(audits: list[Audit]) -> Audit:
    """The mean of what copies side by side measured."""
    first = audits[0]
    return dataclasses.replace(
        first,
        images_per_second=statistics.mean(a.images_per_second for a in audits),
        eval_images_per_second=statistics.mean(a.eval_images_per_second for a in audits),
        peak_bytes=max(a.peak_bytes for a in audits),
        startup_seconds=statistics.mean(a.startup_seconds for a in audits),
    )


def _time_epoch(
    arm: Arm, config: Config, images: ImageSpec, count: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of training on, and of evaluating, ``count`` images; the first epoch only warms up."""
    rng = np.random.default_rng(0)
    shape = (count, images.channels, images.size, images.size)
    made = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(device)
    everything = torch.arange(count, device=device)
    data = Split(images=made, labels=everything % images.classes, train=everything, val=everything)
    calm: Config = {**config, "lr": 1e-4}  # nothing to learn here, and nothing that could diverge
    trial = Trial(
        id="probe", arm="", phase="probe", index=0, island=0, config=calm, seed=0, split_seed=0, epochs=2
    )
    net = build(arm, calm, images, seed=0, device=device)
    _, last = fit(net, trial, data, classes=images.classes)
    return last.train_seconds, last.eval_seconds


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
