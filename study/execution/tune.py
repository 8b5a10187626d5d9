"""The study's trials as one Ray Tune experiment.

Tune executes and decides nothing. Its searcher asks the Schedule what to start, its stopper whether a trial goes on, and its
callback, the Runner, books how trials begin and end. Nothing of Tune's own state is ever restored: the ledger is the truth.
"""

import collections
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from study.execution import cluster, ray_patches  # first: they set what Ray reads when it is imported

# isort: split
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from study.data.images import Images
from study.data.weights import Content
from study.execution.callback import Runner
from study.execution.messages import Assignment
from study.execution.trainable import StudyTrial
from study.protocol.errors import LedgerError, StudyError
from study.protocol.question import Machine
from study.protocol.records import asdict, setting
from study.protocol.rundir import RunDir
from study.scheduling.schedule import Schedule
from study.storage.sync import Mirror

TUNES_OWN = ".tune"
"""Tune's own state while it runs; the ledger and the checkpoints hold all that is kept."""


def run_trials(
    schedule: Schedule,
    pool: Images,
    run: RunDir,
    tick: Callable[[], None],
    leaving: Callable[[], bool],
    say: Callable[[str], None],
    mirror: Mirror | None = None,
    weights: Mapping[str, Content] = MappingProxyType({}),
) -> None:
    """Run the study's trials to the end in one Tune experiment.

    ``weights`` are the files that arms begin from. ``tick`` is called after every event, ``say`` with a sentence for the user. When ``leaving`` turns true, every running trial
    writes a checkpoint and stops, and the call returns. With a ``mirror`` the workers see its URI instead of the run's
    folder. Raises StudyError when the study cannot finish.
    """
    run.checkpoints.mkdir(exist_ok=True)
    shutil.rmtree(run.path / TUNES_OWN, ignore_errors=True)  # of a session that was killed
    if schedule.done:
        return
    runner = Runner(schedule, run, tick, leaving, say, mirror)
    tuner = _tuner(
        schedule, pool, weights, run, runner, home=mirror.uri if mirror else str(run.path.resolve())
    )
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(schedule.plan.machine.slots)
    ray_patches.take_events_as_they_come()
    ray_patches.silence_missing_results()
    try:
        tuner.fit()
    except Exception as error:
        if runner.leaving():  # as on a full disk, where Tune trips over its own files
            logging.getLogger("ray.tune").warning("after the study had stopped: %r", error)
        elif isinstance(error, tune.TuneError):
            cause = str(error.__cause__ or error).strip().splitlines()
            raise StudyError(f"Ray Tune stopped: {cause[-1]} (more in ray.log)") from error
        else:
            raise
    finally:
        with suppress(LedgerError):  # reported before
            schedule.slots.leave()
        shutil.rmtree(run.path / TUNES_OWN, ignore_errors=True)
    if runner.error is not None:
        raise runner.error


def _tuner(
    schedule: Schedule,
    pool: Images,
    weights: Mapping[str, Content],
    run: RunDir,
    runner: Runner,
    *,
    home: str,
) -> tune.Tuner:
    """The experiment; ``home`` is the run's folder or URI as the workers see it."""
    plan = schedule.plan
    trainable = tune.with_resources(
        tune.with_parameters(StudyTrial, plan=asdict(plan), pool=pool, weights=dict(weights), home=home),
        lambda config: tune.PlacementGroupFactory(
            [cluster.resources(plan.machine, Assignment.of(config).fraction)]
        ),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asks(schedule, runner),
            scheduler=_KeepsWorkers(plan.machine, runner),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_title,
            trial_dirname_creator=lambda trial: Assignment.of(trial.config).name,
        ),
        run_config=tune.RunConfig(
            name=TUNES_OWN,
            storage_path=str(run.path.resolve()),
            stop=_Stops(runner),
            callbacks=[runner],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),  # the schedule decides on another try
            verbose=0,
        ),
    )


def _title(trial: Any) -> str:
    """What Ray shows of a trial: arm, phase, number and setting."""
    given = Assignment.of(trial.config)
    return f"{given.name} {setting(given.trial.config)}"


class _Asks(Searcher):
    """Tune asks for the next trial: ours, or none yet, or that there are no more."""

    def __init__(self, schedule: Schedule, runner: Runner) -> None:
        super().__init__()
        self._schedule = schedule
        self._runner = runner
        self._attempts: collections.Counter[str] = collections.Counter()

    def suggest(self, trial_id: str) -> Any:
        del trial_id  # Ray's own; ours is in the record
        if self._runner.leaving():
            return Searcher.FINISHED
        if time.monotonic() < self._runner.not_before:
            return None
        try:
            start = self._schedule.next()
        except StudyError as error:
            self._runner.leave_for(error)
            return Searcher.FINISHED
        if start is None:
            return Searcher.FINISHED if self._schedule.done else None
        trial = start.trial
        attempt = self._attempts[trial.id]
        self._attempts[trial.id] += 1
        self._runner.begins(trial.id)
        return Assignment(
            trial=trial, epochs=start.epochs, again=start.again, fraction=start.fraction, attempt=attempt
        ).config()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The runner has booked it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours is in Tune's state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing of ours is in Tune's state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _KeepsWorkers(FIFOScheduler):
    """First come, first served; keeps one idle worker per slot.

    An idle worker still holds its part of the machine. So while a trial waits that holds more than others, as one that ran out
    of memory does, no idle worker is kept.
    """

    def __init__(self, machine: Machine, runner: Runner) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._machine = machine
        self._runner = runner
        self._idle = ray_patches.IdleWorkers()
        self._usual: Any = None
        """What most trials ask Ray for, once one was added."""
        self._large: list[Any] = []
        """Trials that hold more, and wait for it."""
        self._pending: collections.deque[Any] = collections.deque()
        """Trials in the order in which they were added, without those that have begun."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if Assignment.of(trial.config).fraction == self._machine.fraction:
            self._usual = trial.placement_group_factory
        else:
            self._large.append(trial)
        self._keep(tune_controller)
        self._pending.append(trial)
        self._runner.added(trial, lambda: ray_patches.has_machine(tune_controller, trial))
        super().on_trial_add(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Tune asks after every event, and its own answer looks through all trials that ever were."""
        self._keep(tune_controller)
        while self._pending and self._pending[0].status != Trial.PENDING:
            self._pending.popleft()
        return self._pending[0] if self._pending else None

    def _keep(self, wrapped: Any) -> None:
        if self._usual is None:
            return
        self._large = [
            t for t in self._large if not t.is_finished() and not ray_patches.has_machine(wrapped, t)
        ]
        self._idle.keep(wrapped, self._usual, 0 if self._large else self._machine.slots)

    def __getstate__(self) -> dict[str, Any]:
        return {}


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
