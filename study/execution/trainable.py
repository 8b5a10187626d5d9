"""What Ray ships to a node: it trains one trial after the other and reports each epoch.

Only numbers come back; the driver decides whether to go on. A worker process lives on between trials, so that torch is imported
once. A report comes every few seconds, also within an epoch, so that the driver can stop a trial soon and tell a slow one from
a dead one.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from study.execution import ray_patches  # first: it sets what Ray reads when it is imported

# isort: split
import ray
import torch
from ray import tune

from study.data.images import Images
from study.data.weights import Content
from study.execution.checkpoints import Checkpoints
from study.execution.messages import (
    Alive,
    Assignment,
    Began,
    Blocked,
    Complete,
    Event,
    Failed,
    Message,
    Restored,
    Trained,
)
from study.memory import out_of_memory
from study.protocol import validation
from study.protocol.errors import StudyError
from study.protocol.plan import Plan
from study.protocol.records import SCORED_PHASES, Epoch, setting
from study.protocol.rundir import RunDir
from study.protocol.settings import SETTINGS
from study.protocol.text import first_line
from study.storage import objects
from study.training.device import device_of, give_back
from study.training.loop import DivergedError, Training
from study.training.trial import training

LONGEST_SLICE = 8.0
"""Less than half of ``callback.LEAVE_SECONDS``: a study that stops waits for its trials' reports, then for their checkpoints."""
REPORTS_PER_SECOND = 100
"""Of all trials together; a driver takes some hundreds at most, at 2 ms each."""


def slice_seconds(slots: int) -> float:
    """Training between two reports of a trial when ``slots`` trials run at a time."""
    return max(SETTINGS.report_seconds, min(LONGEST_SLICE, slots / REPORTS_PER_SECOND))


class StudyTrial(tune.Trainable):
    """Ray Tune's face of a trial: one ``step`` trains to the epoch's end, or for some seconds, and returns a ``Message``.

    An error of the arm is a message too, so that the process survives it.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters passes what every trial shares
        self,
        config: dict[str, Any],
        plan: dict[str, Any],
        pool: Images,
        home: str,
        weights: dict[str, Content] | None = None,
    ) -> None:
        self._plan = Plan.from_dict(plan)
        self._pool, self._weights = pool, weights or {}
        self._dir = RunDir(Path(home))
        self._at_uri = objects.Storage(home) if objects.is_uri(home) else None  # _storage is Tune's own
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run: Training | None = None  # the last trial's memory is free before the device is set up
        self._given = Assignment.of(new_config)
        self._trial = self._given.trial
        self._known = self._given.epochs
        self._device: torch.device | None = None
        self._checkpoints = Checkpoints(self._trial, self._dir, self._at_uri)
        self._began = False
        self._measures: list[dict[str, Any]] = []
        self._kept: validation.Kept | None = None
        self._startup = 0.0
        return True

    def step(self) -> dict[str, Any]:
        ray_patches.name_process(f"{self._trial.id} {setting(self._trial.config)}")
        try:
            event = self._step()
        except DivergedError as error:
            event = Failed(reason=f"diverged: {error}")
        except StudyError as error:
            event = Blocked(reason=first_line(error))
        except Exception as error:  # noqa: BLE001  # an arm's fault ends its trial, not the study
            said = first_line(error)
            full = out_of_memory(error)
            event = Failed(
                reason=said if full else f"error: {type(error).__name__}: {said}", out_of_memory=full
            )
        if isinstance(event, Failed):  # the error is gone, which held the net and what it computed
            self.cleanup()
            give_back(self._device or torch.device("cpu"))
        net, unsaved = self._checkpoints.handover()
        kept, self._kept = self._kept, None
        return Message(trial=self._trial.id, event=event, net=net, kept=kept, unsaved=unsaved).result()

    def _step(self) -> Event:
        if not self._began:
            self._began = True
            return Began(node=ray.get_runtime_context().get_node_id(), process=os.getpid())
        if self._run is None:
            return self._begin()
        if self._known < len(self._measures):  # the checkpoint knows more than the ledger
            return self._trained(Epoch(**self._measures[self._known]))
        if self._run.epoch == self._trial.epochs:
            return Complete()
        epoch = self._run.advance(slice_seconds(self._plan.machine.slots))
        if epoch is None:
            if self._checkpoints.due:
                self._save()
            return Alive()
        self._measures.append(dataclasses.asdict(epoch))
        if epoch.epoch == self._trial.epochs and self._trial.phase in SCORED_PHASES:
            self._save(final=True)
        elif self._checkpoints.due:
            self._save()
        writing, startup = self._checkpoints.seconds(), self._startup
        self._startup = 0.0
        return self._trained(dataclasses.replace(epoch, startup_seconds=startup, checkpoint_seconds=writing))

    def _begin(self) -> Event:
        """Build the net, and load the newest whole checkpoint."""
        began = time.monotonic()
        self._device = device_of(self._plan.machine, self._given.fraction)
        self._run = training(self._plan, self._trial, self._pool, self._device, self._weights)
        state = self._checkpoints.load(self._device) if self._given.again else None
        if state is not None:
            try:
                self._run.load(state)
                self._measures = state["measures"]
            except (KeyError, RuntimeError, ValueError):  # of other code, whose change was accepted
                self._run = training(self._plan, self._trial, self._pool, self._device, self._weights)
        self._startup = time.monotonic() - began
        if not self._given.again:
            return Alive()
        self._known = min(self._known, self._run.epoch)
        # epochs that the checkpoint has and the ledger lacks are reported next: they were not trained in vain
        ahead = sum(m["train_seconds"] + m["eval_seconds"] for m in self._measures[self._known :])
        return Restored(epoch=self._known, seconds=ahead + self._run.seconds)

    def _trained(self, epoch: Epoch) -> Event:
        self._known = epoch.epoch
        last = self._known == self._trial.epochs
        if last and self._trial.phase in validation.PHASES:
            assert self._run is not None
            self._kept = self._run.kept()
        return Trained(epoch=epoch, last=last)

    def _save(self, *, final: bool = False) -> None:
        assert self._run is not None
        self._checkpoints.save({"measures": self._measures, **self._run.state(final=final)}, final=final)

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """None: the driver reads messages alone, and would unpack, flatten and keep statistics of what Tune adds to each."""
        del args, kwargs
        return {}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks for it when the study stops; it goes to the study's own place, not to Tune's."""
        del checkpoint_dir
        if self._run is not None and self._run.epoch < self._trial.epochs:
            self._save()

    def cleanup(self) -> None:
        self._run = None
