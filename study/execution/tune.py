"""The study's trials as one Ray Tune experiment.

Tune is the executor; it decides nothing. Its searcher asks the Schedule what to start, its stopper whether a
trial goes on, and its callback, the Runner, tells when a trial began and ended. Nothing of Tune's own state is
ever restored: the ledger is the truth.
"""

import collections
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from study.execution import cluster  # first: it sets what Ray reads when it is imported

# isort: split
import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution import tune_controller
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from study.data.prepare import Images
from study.execution.callback import Runner
from study.execution.trainable import StudyTrial
from study.protocol.history import LedgerError
from study.protocol.question import Machine
from study.protocol.records import asdict, setting
from study.protocol.selection import StudyError
from study.scheduling.schedule import Schedule
from study.storage.sync import Mirror
from study.training import checkpoint

TUNES_OWN = ".tune"
"""Where Tune keeps its state while it runs; what we keep of a trial lies in the ledger and its checkpoint."""


def run_trials(
    schedule: Schedule,
    pool: Images,
    out: Path,
    tick: Callable[[], None],
    leaving: Callable[[], bool],
    say: Callable[[str], None],
    mirror: Mirror | None = None,
) -> None:
    """Run the study's trials to the end in one Tune experiment.

    ``tick`` is called after every event, ``say`` with a sentence for the user. When ``leaving`` turns true, every
    running trial writes a checkpoint and stops, and the call returns. With a ``mirror`` the workers see its URI
    instead of the folder ``out``. Raises StudyError or LedgerError when the study cannot be finished.
    """
    plan = schedule.plan
    (out / checkpoint.FOLDER).mkdir(exist_ok=True)
    runner = Runner(schedule, out, tick, leaving, say, mirror)
    home = mirror.uri if mirror else str(out.resolve())
    if schedule.done:
        return
    trainable = tune.with_resources(
        tune.with_parameters(StudyTrial, plan=asdict(plan), pool=pool, home=home),
        lambda config: tune.PlacementGroupFactory([cluster.resources(plan.machine, config["fraction"])]),
    )
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(plan.machine.slots)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asks(schedule, runner),
            scheduler=_KeepsWorkers(plan.machine, runner),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_title,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TUNES_OWN,
            storage_path=str(out.resolve()),
            stop=_Stops(runner),
            callbacks=[runner],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),  # the schedule decides on another try
            verbose=0,
        ),
    )
    vars(tune_controller)["RayActorManager"] = _SurvivesMemoryKills
    # at its end Tune (2.60) looks for result files that the ledger stands for, and warns once per trial
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    try:
        tuner.fit()
    except Exception as error:
        if runner.leaving():  # on a full disk, say, where Tune trips over its own files
            logging.getLogger("ray.tune").warning("after the study had stopped: %r", error)
        elif isinstance(error, tune.TuneError):
            cause = str(error.__cause__ or error).strip().splitlines()
            raise StudyError(f"Ray Tune stopped: {cause[-1]} (more in ray.log)") from error
        else:
            raise
    finally:
        with suppress(LedgerError):  # which has been told before
            schedule.slots.leave()
        shutil.rmtree(out / TUNES_OWN, ignore_errors=True)
    if runner.error is not None:
        raise runner.error


def _name(trial: Any) -> str:
    config = trial.config
    return f"{config['trial']['id']}.{config['try']}" if config["try"] else str(config["trial"]["id"])


def _title(trial: Any) -> str:
    """What Ray shows of a trial: arm, phase, number and config."""
    return f"{_name(trial)} {setting(trial.config['trial']['config'])}"


class _SurvivesMemoryKills(RayActorManager):
    """Takes a worker that Ray's memory watch ended for a lost one; Tune (2.60) stops at its class of error."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = ray.exceptions.RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


class _Asks(Searcher):
    """Tune asks for the next trial: ours, or none yet, or that there are no more."""

    def __init__(self, schedule: Schedule, runner: Runner) -> None:
        super().__init__()
        self._schedule = schedule
        self._runner = runner
        self._tries: collections.Counter[str] = collections.Counter()

    def suggest(self, trial_id: str) -> Any:
        del trial_id  # Ray's own; ours is in the record
        if self._runner.leaving():
            return Searcher.FINISHED
        if time.monotonic() < self._runner.not_before:
            return None
        try:
            start = self._schedule.next()
        except (StudyError, LedgerError) as error:
            self._runner.leave_for(error)
            return Searcher.FINISHED
        if start is None:
            return Searcher.FINISHED if self._schedule.done else None
        trial = start.trial
        self._tries[trial.id] += 1
        self._runner.begins(trial.id)
        return {
            "trial": asdict(trial),
            "epochs": start.epochs,
            "again": start.again,
            "fraction": start.fraction,
            "try": self._tries[trial.id] - 1,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The runner has booked it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours lives in Tune's state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing of ours lives in Tune's state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _KeepsWorkers(FIFOScheduler):
    """First come, first served; and keeps one idle worker per slot.

    Between two phases all slots fall idle for a moment, and Tune (2.60) then ends all idle workers but
    one. The new one is not up before the last one is free again and takes its trial, so that from then
    on trials shorter than a start-up run one at a time. The cache's limit is raised instead; where a
    version of Ray has no such cache, only speed is lost.

    An idle worker still holds its part of the machine. So while a trial waits that holds more than others, as one
    that ran out of memory does, the limit is none, and they go.
    """

    def __init__(self, machine: Machine, runner: Runner) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._machine = machine
        self._runner = runner
        self._usual: Any = None
        """What most trials ask Ray for, once one was added."""
        self._kept = 0
        self._large: list[Any] = []
        """Trials that hold more, and wait for it."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        controller = getattr(tune_controller, "_tune_controller", None)
        if trial.config["fraction"] == self._machine.fraction:
            self._usual = trial.placement_group_factory
        else:
            self._large.append(trial)
        self._keep(controller)
        self._runner.added(trial, lambda: _has_machine(controller, trial))
        super().on_trial_add(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Tune asks after every event."""
        self._keep(getattr(tune_controller, "_tune_controller", None))
        return super().choose_trial_to_run(tune_controller)

    def _keep(self, controller: Any) -> None:
        cache = getattr(controller, "_actor_cache", None)
        if cache is None or self._usual is None or not hasattr(cache, "increase_max"):
            return
        self._large = [t for t in self._large if not t.is_finished() and not _has_machine(controller, t)]
        wanted = 0 if self._large else self._machine.slots
        if wanted != self._kept:
            cache.increase_max(self._usual, wanted - self._kept)
            self._kept = wanted

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _has_machine(controller: Any, trial: Any) -> bool:
    """Whether Ray has granted the trial what it holds; also where a version of Ray does not say."""
    if trial.temporary_state.ray_actor is not None:
        return True
    granted = getattr(getattr(controller, "_actor_manager", None), "is_actor_started", None)
    actors = getattr(controller, "_trial_to_actor", None)
    if granted is None or actors is None:
        return True
    return trial in actors and bool(granted(actors[trial]))


class _Stops(tune.Stopper):
    """The first of ours to see a result: whether the trial stops here."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id
        return self._runner.take(result)

    def stop_all(self) -> bool:
        return False  # True would tear running trials down instead of letting them end

    def __getstate__(self) -> dict[str, Any]:
        return {}
