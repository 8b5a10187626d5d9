"""A watch over what workers do not say: silence, a full disk, nodes that join."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from study.execution import cluster  # first: it sets what Ray reads when it is imported

# isort: split
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.protocol.errors import StudyError
from study.protocol.question import Machine
from study.protocol.settings import SETTINGS
from study.scheduling.slots import Slots

SIGN_SECONDS = 1.0
"""Between two looks for silent trials."""


class Silence:
    """When each running trial was last heard of; ends the workers of those that say nothing for too long."""

    def __init__(self, patience: Callable[[str], float]) -> None:
        self._patience = patience
        self._heard: dict[str, float] = {}
        self._trials: dict[str, Any] = {}
        self._spoke: set[str] = set()
        """Trials whose worker has spoken in the present attempt."""
        self._processes: dict[Any, tuple[str, int]] = {}
        """Node and process of every actor that has spoken."""
        self._ended: set[str] = set()
        self._looked = 0.0

    def watch(self, trial_id: str, ray_trial: Any) -> None:
        """From now on: a worker can also freeze before its first word."""
        self._trials[trial_id] = ray_trial

    def begins(self, trial_id: str) -> None:
        """A new attempt of the trial."""
        self._spoke.discard(trial_id)
        self.heard_of(trial_id)

    def heard_of(self, trial_id: str) -> None:
        self._heard[trial_id] = time.monotonic()

    def spoke(self, trial_id: str, node: str, process: int) -> None:
        """The trial's worker has begun, in this process."""
        self._spoke.add(trial_id)
        self._processes[self._trials[trial_id].temporary_state.ray_actor] = (node, process)

    def has_spoken(self, trial_id: str) -> bool:
        return trial_id in self._spoke

    def forget(self, trial_id: str) -> None:
        """The trial no longer runs."""
        self._trials.pop(trial_id, None)

    def take_ended(self, trial_id: str) -> bool:
        """Whether the trial's worker was ended for its silence; asked once."""
        ended = trial_id in self._ended
        self._ended.discard(trial_id)
        return ended

    def look(self, now: float) -> None:
        """End the workers of silent trials."""
        if now < self._looked + SIGN_SECONDS:
            return
        self._looked = now
        for trial_id, ray_trial in self._trials.items():
            silent = now - self._heard[trial_id]
            if silent <= SETTINGS.silence_floor:  # nobody's patience is shorter
                continue
            actor = ray_trial.temporary_state.ray_actor
            if actor is not None and silent > self._patience(trial_id):
                self._ended.add(trial_id)
                self.heard_of(trial_id)
                ray.kill(actor)
                if actor in self._processes:  # a frozen one does not follow Ray's request
                    node, process = self._processes[actor]
                    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                    _end_process.options(scheduling_strategy=where).remote(process)


@ray.remote(num_cpus=0, max_retries=0)
def _end_process(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


class Waiting:
    """The trials that wait for a machine: they pay from when Ray grants it."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_machine: dict[str, Callable[[], bool]] = {}
        self._looked = 0.0

    def watch(self, trial_id: str, has_machine: Callable[[], bool]) -> None:
        self._has_machine[trial_id] = has_machine
        self._slots.wait(trial_id)

    def granted(self, trial_id: str) -> None:
        """The trial has its machine, if it waited for one."""
        if self._has_machine.pop(trial_id, None):
            self._slots.grant(trial_id)

    def forget(self, trial_id: str) -> None:
        """The trial no longer runs."""
        self._has_machine.pop(trial_id, None)

    def look(self, now: float) -> None:
        """Every 0.1 s; while thousands wait, every second."""
        if now >= self._looked + max(0.1, len(self._has_machine) / 5000):
            self._looked = now
            for trial_id in [t for t, has_machine in self._has_machine.items() if has_machine()]:
                self.granted(trial_id)


class Disk:
    """The free space of the run's folder."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Raises StudyError while there is still room to stop in order, and if the folder is gone."""
        if now < self._looked + SETTINGS.disk_seconds:
            return
        self._looked = now
        try:
            free = shutil.disk_usage(self._home).free
        except OSError as error:
            raise StudyError(f"the run directory {self._home} is gone: {error.strerror}") from error
        if free < SETTINGS.disk_floor:
            raise StudyError(
                f"the disk of {self._home} is nearly full: {free / 2**20:.0f} MiB are free, and "
                f"{SETTINGS.disk_floor / 2**20:.0f} are needed to go on. Make room, then resume"
            )


class Nodes:
    """The nodes that the study leaves alone, for their kind of GPU; what trials hold keeps them off."""

    def __init__(self, machine: Machine, say: Callable[[str], None]) -> None:
        self._machine = machine
        self._say = say
        self._strangers: set[str] = set()
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Name each once."""
        machine = self._machine
        if not machine.kind or now < self._looked + SETTINGS.nodes_seconds:
            return
        self._looked = now
        for node_id, node in cluster.nodes_with(machine.resource.upper()).items():
            if cluster.kind_of(node) != machine.kind and node_id not in self._strangers:
                self._strangers.add(node_id)
                self._say(
                    f"a node with {cluster.kind_of(node) or 'GPUs of an unknown kind'} has joined, and is left alone: "
                    f"this study runs on {machine.kind}, and run times on two kinds do not compare"
                )
