"""Processes and tasks on fractions of the cluster's resources."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from study.execution.cluster import last_line, resources  # first: it sets what Ray reads when it is imported

# isort: split
import ray
import ray.exceptions
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from study.execution.packing import Hardware
from study.protocol.errors import StudyError
from study.protocol.question import Machine

Result = TypeVar("Result")


class Crew:
    """Actors of one kind on one GPU, or on the cores of one node, started on demand."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._actors: list[Any] = []

    def first(self, count: int) -> list[Any]:
        """``count`` of them, always the same."""
        self._actors += [self._start() for _ in range(count - len(self._actors))]
        return self._actors[:count]

    @contextmanager
    def apart(self) -> Iterator[Any]:
        """One more, which is ended afterwards whatever became of it."""
        one = self._start()
        try:
            yield one
        finally:
            ray.kill(one)

    def end(self) -> None:
        for one in self._actors:
            ray.kill(one)


@contextmanager
def side_by_side(kind: type, copies: int, have: Hardware) -> Iterator[Crew]:
    """Up to ``copies`` actors of ``kind`` on one GPU, or on the cores of the smallest node, which they hold entirely."""
    cores = min(have.cores)
    whole = {"CPU": float(cores)} if have.resource == "cpu" else {"GPU": 1.0}
    group = placement_group([whole])
    held = {"num_cpus": 0, "num_gpus": int(10_000 / (copies + 1)) / 10_000}
    if have.resource == "cpu":
        held = {"num_cpus": cores // copies, "num_gpus": 0}
    placed = PlacementGroupSchedulingStrategy(group)
    remote: Any = ray.remote(kind).options(**held, scheduling_strategy=placed, max_restarts=0)
    crew = Crew(remote.remote)
    try:
        yield crew
    finally:
        crew.end()
        remove_placement_group(group)


def run_tasks(
    function: Callable[..., Result], jobs: Iterable[tuple[str, tuple[Any, ...]]], machine: Machine
) -> Iterator[tuple[str, Result, float]]:
    """Run ``function(*args)`` for every job, one per slot at a time. Yields key, result and resource-seconds held.

    A job counts from when a slot is free for it to its end, the start-up of its process included. Raises StudyError when one
    fails, or loses its worker three times.
    """
    held = resources(machine, machine.fraction)
    cpus, gpus = held.pop("CPU"), held.pop("GPU", 0)
    # a process stays on its first GPU, and its next task may be granted another one
    tasks = 1 if gpus and machine.slots * machine.fraction > 1 else 0
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=held, max_retries=3, max_calls=tasks)(
        function
    )
    waiting = iter(jobs)  # lazy: a job that carries a net is made when a slot is free for it
    running: dict[Any, tuple[str, float]] = {}
    while True:
        for key, args in itertools.islice(waiting, machine.slots - len(running)):
            running[remote.remote(*args)] = (key, time.monotonic())
        if not running:
            return
        (done,), _ = ray.wait(list(running), num_returns=1)
        key, since = running.pop(done)
        seconds = (time.monotonic() - since) * machine.fraction
        try:
            result = ray.get(done)
        except ray.exceptions.RayError as error:
            raise StudyError(f"the task {function.__name__}({key}) failed: {last_line(error)}") from error
        yield key, result, seconds
