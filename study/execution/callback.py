"""Books what the workers report and how their trials end.

Why a worker was lost is read from what Ray wrote down. The schedule decides what becomes of its trial.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from study.execution import cluster  # first: it sets what Ray reads when it is imported

# isort: split
from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT

from study.execution import watch
from study.execution.messages import Assignment, Began, Blocked, Failed, Message, Restored, Trained
from study.protocol import validation
from study.protocol.errors import LedgerError, StudyError
from study.protocol.records import SCORED_PHASES
from study.protocol.rundir import RunDir
from study.protocol.text import printable
from study.scheduling.retries import LossKind
from study.scheduling.schedule import Schedule
from study.storage.sync import Mirror
from study.training import checkpoint

LEAVE_SECONDS = 20.0
"""Time for running trials to write their checkpoints when the study stops."""
VAIN = 12
"""Workers in a row, over some minutes, that never began: after as many the study stops."""


class Runner(tune.Callback):
    """Between Ray Tune and the schedule: what workers report goes to the ledger, and the answer back."""

    def __init__(
        self,
        schedule: Schedule,
        run: RunDir,
        tick: Callable[[], None],
        leaving: Callable[[], bool],
        say: Callable[[str], None],
        mirror: Mirror | None,
    ) -> None:
        self._schedule = schedule
        self._dir = run
        self._tick = tick
        self._leaving = leaving
        self._mirror = mirror
        self._said_unsaved = False
        self._silence = watch.Silence(schedule.retries.patience)
        self._disk = watch.Disk(run.path)
        self._nodes = watch.Nodes(schedule.plan.machine, say)
        self._left_at = 0.0
        self._waiting = watch.Waiting(schedule.slots)
        self._vain = 0
        self.not_before = 0.0
        """No trial starts earlier: workers could not be had."""
        self._ended: set[str] = set()
        """Trials that ended by themselves or by decision, not because the study leaves."""
        self.error: StudyError | None = None

    def leaving(self) -> bool:
        """Whether the study stops here: asked to, or because it must."""
        return self.error is not None or self._leaving()

    def leave_for(self, error: StudyError) -> None:
        """Stop in order, then raise ``error``; the first one counts."""
        self.error = self.error or error

    def added(self, ray_trial: Any, has_machine: Callable[[], bool]) -> None:
        """Watch over the trial. It pays from when Ray grants it a machine, not from when it was asked for: a node may be lost."""
        trial_id = _id(ray_trial)
        self._silence.watch(trial_id, ray_trial)
        if not has_machine():
            self._waiting.watch(trial_id, has_machine)

    def begins(self, trial_id: str) -> None:
        self._silence.begins(trial_id)

    def take(self, result: dict[str, Any]) -> bool:
        """Book a worker's result; True if its trial stops here."""
        message = Message.of(result)
        if message is None:
            return bool(result.get("done"))
        trial_id = message.trial
        self._silence.heard_of(trial_id)
        try:
            self._keep(message)
            result |= message.without_payload().result()  # Tune keeps the last result in memory
            goes_on = self._book(message)
        except LedgerError as error:
            self.leave_for(error)
            return True  # it stays open: no end is written of what the ledger does not have
        except OSError as error:
            self.leave_for(StudyError(f"what a trial found cannot be kept: {error}"))
            return True
        self._say_unsaved(message.unsaved)
        if message.ends or not goes_on:
            self._ended.add(trial_id)
        return trial_id in self._ended or self.leaving()

    def _book(self, message: Message) -> bool:
        """Whether the trial goes on."""
        match message.event:
            case Began(node=node, process=process):
                self._silence.spoke(message.trial, node, process)
                self._vain = 0
            case Restored(epoch=epoch, seconds=seconds):
                self._schedule.resumed(message.trial, epoch, seconds)
            case Trained(epoch=trained):
                return self._schedule.report(trained)
            case Blocked(reason=reason):
                self.leave_for(StudyError(reason))
            case _:
                pass
        return True

    def _keep(self, message: Message) -> None:
        """What a trial hands over is on disk before the ledger says so."""
        if message.net is not None:
            checkpoint.save(self._dir.checkpoint(message.trial), message.net)
        if message.kept is not None:
            validation.save(self._dir.validation(message.trial), message.kept)

    def _say_unsaved(self, reason: str) -> None:
        if reason and self._mirror and not self._said_unsaved:
            self._said_unsaved = True
            self._mirror.say(
                f"note: a worker cannot use {self._mirror.uri} ({reason}). The study goes on; a trial that is "
                "interrupted meanwhile begins anew. Every node needs credentials of its own"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self._silence.heard_of(_id(trial))
        self._waiting.granted(_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        if self.leaving() and _id(trial) not in self._ended:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        trial_id, message = _id(trial), Message.of(trial.last_result)
        self._forget(trial_id)
        if trial_id not in self._ended or isinstance(self.error, LedgerError):
            return
        self._ended.remove(trial_id)
        failed = message.event if message and isinstance(message.event, Failed) else None
        try:
            if failed and failed.out_of_memory:
                self._lost(trial_id, "out of memory", failed.reason)
            else:
                self._schedule.end(trial_id, failed.reason if failed else "")
                self._tidy(trial_id)
        except LedgerError as error:
            self.leave_for(error)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker is gone; what an arm raises comes as a result instead."""
        del iteration, trials, info
        trial_id = _id(trial)
        self._forget(trial_id)
        if self.leaving():
            return  # it resumes from its last checkpoint when the study does
        kind, reason = _what_ended(trial)
        silenced = self._silence.take_ended(trial_id)
        try:
            if not self._silence.has_spoken(trial_id):
                self._never_began(trial_id, reason)
            elif silenced:
                self._lost(trial_id, "hang", "no sign of life, and its worker was ended")
            else:
                self._lost(trial_id, kind, reason)
        except LedgerError as failure:
            self.leave_for(failure)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, trials, info
        now = time.monotonic()
        self._waiting.look(now)
        if self.leaving():
            self._left_at = self._left_at or now
            if now - self._left_at > LEAVE_SECONDS:
                raise tune.TuneError("a trial did not stop in time; it goes on from its last checkpoint")
        else:
            try:
                self._schedule.slots.beat()
                self._silence.look(now)
                self._disk.look(now)
                self._nodes.look(now)
            except StudyError as error:
                self.leave_for(error)
        self._tick()

    def _forget(self, trial_id: str) -> None:
        self._silence.forget(trial_id)
        self._waiting.forget(trial_id)

    def _never_began(self, trial_id: str, reason: str) -> None:
        """No worker could be had, as while Ray still counts on a lost node: wait, and try again."""
        self._vain += 1
        self.not_before = time.monotonic() + min(30.0, 0.5 * 2**self._vain)
        self._schedule.put_back(trial_id, f"no worker: {reason}")
        if self._vain >= VAIN:
            self.leave_for(StudyError(f"Ray could not start a worker {VAIN} times in a row: {reason}"))

    def _lost(self, trial_id: str, kind: LossKind, reason: str) -> None:
        if self._schedule.lost(trial_id, kind, reason) is not None:
            self._tidy(trial_id)

    def _tidy(self, trial_id: str) -> None:
        """Keep only nets that may meet the test set."""
        history = self._schedule.ledger
        if history.trials[trial_id].phase not in SCORED_PHASES or not history.finished(trial_id):
            with suppress(OSError):
                checkpoint.remove(self._dir.checkpoint(trial_id))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _id(ray_trial: Any) -> str:
    return Assignment.of(ray_trial.config).trial.id


def _what_ended(trial: Any) -> tuple[LossKind, str]:
    """Why a trial's worker is gone, from what Ray wrote down."""
    try:
        said = Path(trial.error_file or "").read_text(errors="replace")
    except OSError as error:
        said = f"Ray left no reason: {error.strerror}"
    if full := re.search(r"running low on memory.*? was (.+? used / .+? limit)", said, re.DOTALL):
        return "out of memory", f"Ray ended its worker at {full[1]} of the machine's memory"
    detail = re.search(r"Worker exit detail: (.+?)\. Some common causes|(its node has died)", said)
    return "worker died", printable(detail[1] or detail[2]) if detail else cluster.last_line(said)
