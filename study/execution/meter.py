"""The processes that measure arms, side by side as the study's trials will train.

Since neighbours slow each other down, the processes first get ready and then train during the same seconds.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch

import search_spaces
from search_spaces import RECIPE, Arm, ArmError, Config, ImageSpec
from study.data.images import Images
from study.execution import feasibility, packing, rehearsal
from study.execution.packing import Way
from study.execution.rehearsal import MEASURE_SECONDS, Rehearsal, Speed
from study.memory import all_memory, cores, free_memory, out_of_memory
from study.protocol.errors import InputError
from study.protocol.question import Machine
from study.protocol.text import first_line
from study.training.device import describe, device_of

Result = TypeVar("Result")
KILLED = 0.05
"""Part of a machine's memory: when less is free, Ray 2.60 kills a process."""


class Meter:
    """One measuring process; ``tasks.side_by_side`` starts them."""

    def begin(self, pool: Images | None, recipe: str = RECIPE) -> None:
        """Returns when the process is up, torch included. It trains on ``pool`` instead of made-up images if given."""
        self._pool, self._recipe = pool, recipe
        self._rehearsal: Rehearsal | None = None

    def check_cores(self, counted: int) -> None:
        """Raises InputError if this process may use fewer cores than Ray counts on its node."""
        if (may := cores()) < counted:
            raise InputError(
                f"Ray counts {counted} cores on a node where its processes may use {may} (by affinity or quota, as in a batch "
                f"system's job): start it there with ray start --num-cpus={may}"
            )

    def complexity(self, name: str, config: Config, images: ImageSpec) -> tuple[int, int]:
        return named(lambda arm: rehearsal.complexity(arm, config, images), name, self._recipe)

    def rough_speed(self, name: str, images: ImageSpec) -> tuple[float, int]:
        """``feasibility.images_per_second`` on the GPU, or one core."""
        # Ray hides the GPU from a process that holds none
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        return named(lambda arm: feasibility.images_per_second(arm, images, device), name, self._recipe)

    def prepare(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        machine: Machine,
        channels_last: bool,
        graphed: bool = False,
    ) -> bool:
        """Build the arm and train its first steps; False if the memory, or a trial's part of it, is too small."""
        self._rehearsal = None  # its memory is free before the next is built
        make = functools.partial(
            Rehearsal, config=config, images=images, device=device_of(machine), channels_last=channels_last,
            graphed=graphed, pool=self._pool,
        )  # fmt: skip

        def ready() -> bool:
            self._rehearsal = named(make, name, self._recipe)
            return True

        return self._if_it_fits(ready) or False

    def speed(self, name: str, seconds: float = MEASURE_SECONDS) -> Speed | None:
        """Train what is prepared for about ``seconds``; None if the memory is too small after all."""
        prepared, self._rehearsal = self._rehearsal, None
        assert prepared is not None
        return self._if_it_fits(lambda: named(lambda _: prepared.speed(seconds), name, self._recipe))

    def _if_it_fits(self, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except Exception as error:
            if not out_of_memory(error):
                raise
            return None
        finally:  # the error is gone, and with it what it held
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def graph_fault(
        self, name: str, config: Config, images: ImageSpec, machine: Machine, channels_last: bool
    ) -> str:
        """Why the arm's step must not be replayed as a graph; empty if it may. After a fault this process is useless."""
        device = device_of(machine)
        try:
            return named(
                lambda arm: rehearsal.graph_fault(arm, config, images, device, channels_last=channels_last),
                name,
                self._recipe,
            )
        except Exception as error:  # noqa: BLE001  # anything that a capture raises: the arm trains without
            return f"{type(error).__name__}: {first_line(error)}"

    def gpu(self) -> tuple[str, int]:
        """The GPU as its driver describes it, and the bytes that CUDA and its libraries take of it in this process.

        Ask after training something, while no other process of ours is on the GPU.
        """
        device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return describe(device), total - free - torch.cuda.memory_reserved()

    def largest_batch(
        self,
        name: str,
        config: Config,
        images: ImageSpec,
        way: Way,
        batch_sizes: tuple[int, ...],
        to_come: int,
        graphed: bool,
    ) -> tuple[int, float]:
        """The largest batch that the way's trials can train with, and the share of the memory that one of them then takes.

        On a GPU, measure until it runs out of memory. On a CPU, Ray would kill the process, so extrapolate from the smallest
        batch, in proportion; this overstates by up to a half, since the weights do not grow. ``to_come`` is the memory that the
        study itself will take. Raises InputError if that many trials do not fit with any batch size, ArmError if one does not.
        """
        sizes = sorted(batch_sizes)

        def measured(size: int) -> Speed | None:
            setting: Config = {**config, "batch_size": size}
            fits = self.prepare(name, setting, images, way.machine, True, graphed)
            return self.speed(name, 0.0) if fits else None

        cpu = way.machine.resource == "cpu"
        found = (
            _largest_on_cores(measured, name, way, sizes, to_come)
            if cpu
            else _largest_on_a_gpu(measured, sizes)
        )
        if found is None:
            raise ArmError(f"arm {name} does not fit into the memory even with batches of {sizes[0]}")
        return found

    def mps(self) -> bool:
        """Whether NVIDIA's Multi-Process Service runs here, so that kernels of several processes share the GPU."""
        pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # CUDA's default
        return (pipes / "control").exists()


def named(function: Callable[[Arm], Result], name: str, recipe: str) -> Result:
    """``function(arm)``, with the arm's name on any error of its code; lack of memory and bad images are not the arm's fault."""
    try:
        return function(search_spaces.load(name, recipe))
    except Exception as error:  # any fault of an arm becomes a sentence with its name
        if isinstance(error, ArmError | InputError) or out_of_memory(error):
            raise
        raise ArmError(
            f"arm {name} cannot be built and trained at its default setting: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from None


def _largest_on_a_gpu(
    measured: Callable[[int], Speed | None], sizes: Sequence[int]
) -> tuple[int, float] | None:
    for size in reversed(sizes):
        found = measured(size)
        if found is not None:
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            return size, (found.peak_bytes + context) / total
    return None


def _largest_on_cores(
    measured: Callable[[int], Speed | None], name: str, way: Way, sizes: Sequence[int], to_come: int
) -> tuple[int, float] | None:
    smallest = sizes[0]
    measured(smallest)  # loads what is loaded once
    device_of(way.machine)  # gives back what it left
    # the measuring processes stand for the study's own: their memory is taken already
    free = max(1, free_memory() - to_come - int(KILLED * all_memory()))
    resident = psutil.Process().memory_info().rss
    found = measured(smallest)
    if found is None:
        return None
    each = max(0, found.peak_bytes - resident) / smallest
    shares = {size: each * size / free for size in sizes}
    size = packing.largest(way, shares)
    if size is None and way.trials > 1:
        raise InputError(
            f"the memory has no room for {packing.describe(way)}: of the {free / 2**30:.1f} GiB that are free, {name} takes "
            f"{each * smallest / 2**30:.1f} with batches of {smallest}. Give a larger --fraction, or none"
        )
    size = size or smallest  # it has just trained alone
    return size, shares[size]
