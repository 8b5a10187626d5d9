"""What the workers tell, booked; and a watch over what they do not tell: silence, a full disk, nodes that join.

Why a worker is gone is read from what Ray wrote down. What becomes of its trial, the schedule decides.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from study.execution import cluster  # first: it sets what Ray reads when it is imported
from study.protocol.settings import SETTINGS
from study.protocol.text import printable

# isort: split
import ray
from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.protocol import validation
from study.protocol.history import LedgerError
from study.protocol.records import SCORED_PHASES, Epoch
from study.protocol.selection import StudyError
from study.scheduling.retries import LossKind
from study.scheduling.schedule import Schedule
from study.storage.sync import Mirror
from study.training import checkpoint

LEAVE_SECONDS = 20.0
"""So long running trials may take to write their checkpoints when the study stops."""
VAIN = 12
"""So many workers in a row that never began, over some minutes, and the study stops."""
SIGN_SECONDS = 1.0
"""Between two looks at who is silent: with a thousand trials a look takes as long as a result."""


class Runner(tune.Callback):
    """Books what the workers tell and how trials end, and watches over what they do not tell."""

    def __init__(
        self,
        schedule: Schedule,
        home: Path,
        tick: Callable[[], None],
        leaving: Callable[[], bool],
        say: Callable[[str], None],
        mirror: Mirror | None,
    ) -> None:
        self._schedule = schedule
        self._mirror = mirror
        self._told_unsaved = False
        self._home = home
        self._tick = tick
        self._leaving = leaving
        self._say = say
        self._left_at = self._disk_seen = self._nodes_seen = self._signs_seen = 0.0
        self._strangers: set[str] = set()
        """Nodes with another kind of GPU than the study's, which have been told of."""
        self._waiting: dict[str, Callable[[], bool]] = {}
        """Trials without a machine, and whether each has one now."""
        self._heard: dict[str, float] = {}
        self._trials: dict[str, Any] = {}
        self._spoke: set[str] = set()
        """Trials whose worker has spoken in the present try."""
        self._of_actor: dict[Any, tuple[str, int]] = {}
        """Node and process of every actor that has spoken."""
        self._vain = 0
        self.not_before = 0.0
        """No trial is started earlier: workers could not be had."""
        self._ended: set[str] = set()
        """Trials that ended by themselves or by decision, not because the study leaves."""
        self._silenced: set[str] = set()
        self.error: StudyError | LedgerError | None = None

    def leaving(self) -> bool:
        """Whether the study stops here: asked to, or because it must."""
        return self.error is not None or self._leaving()

    def leave_for(self, error: StudyError | LedgerError) -> None:
        """Stop in order, and raise ``error`` then; the first one counts."""
        self.error = self.error or error

    def added(self, ray_trial: Any, has_machine: Callable[[], bool]) -> None:
        """Watch over it from the beginning: a worker can also freeze before it says a word.

        It pays from when Ray grants it a machine, not from when it was asked for: a node may have been lost.
        """
        trial_id = ray_trial.config["trial"]["id"]
        self._trials[trial_id] = ray_trial
        if not has_machine():
            self._waiting[trial_id] = has_machine
            self._schedule.slots.wait(trial_id)

    def begins(self, trial_id: str) -> None:
        self._spoke.discard(trial_id)
        self.heard_of(trial_id)

    def heard_of(self, trial_id: str) -> None:
        self._heard[trial_id] = time.monotonic()

    def take(self, result: dict[str, Any]) -> bool:
        """Book a worker's result; True when its trial stops here."""
        trial_id = result.get("trial")
        if trial_id is None:
            return bool(result.get("done"))
        self.heard_of(trial_id)
        if "process" in result:
            self._spoke.add(trial_id)
            self._of_actor[self._trials[trial_id].temporary_state.ray_actor] = result["process"]
            self._vain = 0
        goes_on = True
        try:
            self._keep(trial_id, result)
            if "resumed" in result:
                self._schedule.resumed(trial_id, **result["resumed"])
            if "epoch" in result:
                goes_on = self._schedule.report(Epoch(**result["epoch"]))
        except LedgerError as error:
            self.leave_for(error)
            return True  # it stays open: no end is written of what the ledger does not have
        except OSError as error:
            self.leave_for(StudyError(f"what a trial found cannot be kept: {error}"))
            return True
        self._tell_unsaved(result.get("unsaved"))
        if "blocked" in result:
            self.leave_for(StudyError(result["blocked"]))
        if result.get("done") or not goes_on:
            self._ended.add(trial_id)
        return trial_id in self._ended or self.leaving()

    def _keep(self, trial_id: str, result: dict[str, Any]) -> None:
        """What a trial hands over is on disk before the ledger says that it is there; and Tune would keep it."""
        if "net" in result:
            checkpoint.save(checkpoint.path_of(self._home, trial_id), result.pop("net"))
        if "correct" in result:
            validation.save(self._home, trial_id, result.pop("correct"))

    def _tell_unsaved(self, reason: str | None) -> None:
        if reason and self._mirror and not self._told_unsaved:
            self._told_unsaved = True
            self._mirror.say(
                f"note: a worker cannot use {self._mirror.uri} ({reason}). The study goes on; a trial that is "
                "interrupted meanwhile begins anew. Every node needs credentials of its own"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self.heard_of(trial.config["trial"]["id"])
        self._start_paying()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        if self.leaving() and trial.config["trial"]["id"] not in self._ended:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        trial_id, result = trial.config["trial"]["id"], trial.last_result or {}
        self._trials.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        if trial_id not in self._ended or isinstance(self.error, LedgerError):
            return
        self._ended.remove(trial_id)
        try:
            if "memory" in result:
                self._lost(trial_id, "out of memory", result["failure"])
            else:
                self._schedule.end(trial_id, result.get("failure", ""))
                self._tidy(trial_id)
        except LedgerError as error:
            self.leave_for(error)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker is gone; what an arm raises comes as a result instead."""
        del iteration, trials, info
        trial_id = trial.config["trial"]["id"]
        self._trials.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        if self.leaving():
            return  # it goes on from its last checkpoint when the study does
        kind, reason = _what_ended(trial)
        try:
            if trial_id not in self._spoke:
                self._silenced.discard(trial_id)
                self._never_began(trial_id, reason)
            elif trial_id in self._silenced:
                self._silenced.remove(trial_id)
                self._lost(trial_id, "hang", "no sign of life, and its worker was ended")
            else:
                self._lost(trial_id, kind, reason)
        except LedgerError as failure:
            self.leave_for(failure)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, trials, info
        self._start_paying()
        now = time.monotonic()
        if self.leaving():
            self._left_at = self._left_at or now
            if now - self._left_at > LEAVE_SECONDS:
                raise tune.TuneError("a trial did not stop in time; it goes on from its last checkpoint")
        else:
            self._watch_trials(now)
            self._watch_disk(now)
            self._watch_nodes(now)
        self._tick()

    def _start_paying(self) -> None:
        """Seen at every step, ten times a second at least."""
        for trial_id in [t for t, has_machine in self._waiting.items() if has_machine()]:
            del self._waiting[trial_id]
            self._schedule.slots.grant(trial_id)

    def _watch_trials(self, now: float) -> None:
        """Write a sign of life now and then, and end workers that give none."""
        try:
            self._schedule.slots.beat()
        except LedgerError as error:
            self.leave_for(error)
        if now < self._signs_seen + SIGN_SECONDS:
            return
        self._signs_seen = now
        for trial_id, ray_trial in self._trials.items():
            actor = ray_trial.temporary_state.ray_actor
            if actor is not None and now - self._heard[trial_id] > self._schedule.retries.patience(trial_id):
                self._silenced.add(trial_id)
                self.heard_of(trial_id)
                ray.kill(actor)
                if actor in self._of_actor:  # one that is frozen does not follow Ray's request
                    node, pid = self._of_actor[actor]
                    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                    _end_process.options(scheduling_strategy=where).remote(pid)

    def _watch_disk(self, now: float) -> None:
        """Stop in order while there is still room to do it."""
        if now < self._disk_seen + SETTINGS.disk_seconds:
            return
        self._disk_seen = now
        try:
            free = shutil.disk_usage(self._home).free
        except OSError as error:
            self.leave_for(StudyError(f"the run directory {self._home} is gone: {error.strerror}"))
            return
        if free < SETTINGS.disk_floor:
            self.leave_for(
                StudyError(
                    f"the disk of {self._home} is nearly full: {free / 2**20:.0f} MiB are free, and "
                    f"{SETTINGS.disk_floor / 2**20:.0f} are needed to go on. Make room, then resume"
                )
            )

    def _watch_nodes(self, now: float) -> None:
        """Say which nodes are left alone, for their kind of GPU; what trials hold keeps them off."""
        machine = self._schedule.plan.machine
        if not machine.kind or now < self._nodes_seen + SETTINGS.nodes_seconds:
            return
        self._nodes_seen = now
        for node_id, node in cluster.nodes_with(machine.resource.upper()).items():
            if cluster.kind_of(node) != machine.kind and node_id not in self._strangers:
                self._strangers.add(node_id)
                self._say(
                    f"a node with {cluster.kind_of(node) or 'GPUs of an unknown kind'} has joined, and is left alone: "
                    f"this study runs on {machine.kind}, and run times on two kinds do not compare"
                )

    def _never_began(self, trial_id: str, reason: str) -> None:
        """No worker could be had, as while a node that is gone is still counted on: wait, and try again."""
        self._vain += 1
        self.not_before = time.monotonic() + min(30.0, 0.5 * 2**self._vain)
        self._schedule.put_back(trial_id, f"no worker: {reason}")
        if self._vain >= VAIN:
            self.leave_for(StudyError(f"Ray could not start a worker {VAIN} times in a row: {reason}"))

    def _lost(self, trial_id: str, kind: LossKind, reason: str) -> None:
        if self._schedule.lost(trial_id, kind, reason) is not None:
            self._tidy(trial_id)

    def _tidy(self, trial_id: str) -> None:
        """Only the nets that may meet the test set are kept."""
        history = self._schedule.ledger
        if history.trials[trial_id].phase not in SCORED_PHASES or not history.finished(trial_id):
            with suppress(OSError):
                checkpoint.remove(checkpoint.path_of(self._home, trial_id))

    def __getstate__(self) -> dict[str, Any]:
        return {}


@ray.remote(num_cpus=0, max_retries=0)
def _end_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _what_ended(trial: Any) -> tuple[LossKind, str]:
    """Why a trial's worker is gone, from what Ray wrote down about it."""
    try:
        said = Path(trial.error_file or "").read_text(errors="replace")
    except OSError as error:
        said = f"Ray left no reason: {error.strerror}"
    if full := re.search(r"running low on memory.*? was (.+? used / .+? limit)", said, re.DOTALL):
        return "out of memory", f"Ray ended its worker at {full[1]} of the machine's memory"
    detail = re.search(r"Worker exit detail: (.+?)\. Some common causes|(its node has died)", said)
    return "worker died", printable(detail[1] or detail[2]) if detail else cluster.last_line(said)
