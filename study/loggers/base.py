"""A study seen in the tools people have open: Ray's metrics, Optuna's dashboard, TensorBoard, MLflow, W&B.

All of them are fed with the ledger's records and nothing else, in a thread of their own: training knows
nothing of them, and a tool that fails or is slow takes nothing from the study. The same records written
later (``python -m study log``) give the same.
"""

import fcntl
import importlib.util
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from study.protocol import consistency, ledger
from study.protocol.budget import PlanError
from study.protocol.history import History, LedgerError
from study.protocol.plan import Plan
from study.protocol.records import PHASES, Epoch, Outcome, Record, Trial, setting
from study.protocol.standing import states
from study.protocol.text import first_line

NEEDS = {
    "optuna": "optuna",
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
}
"""Tool -> the package that writes for it. The first two come with the study."""
METRICS_SECONDS = 1.0
FOLLOW_SECONDS = 1.0
CLOSE_SECONDS = 60.0
"""So long the study waits at its end for slow tools."""
log = logging.getLogger("ray.study")  # goes where Ray's own messages go


class Window(Protocol):
    """One tool. It is told every record in order, with the history that has it already."""

    def take(self, record: Record, history: History) -> None: ...

    def close(self) -> None: ...


def check(names: Iterable[str]) -> None:
    """Raises PlanError, saying what to install, when a tool's package is not there."""
    for name in names:
        if name not in NEEDS:
            raise PlanError(f"--log {name!r}: there are {', '.join(NEEDS)}")
        if importlib.util.find_spec(NEEDS[name]) is None:
            raise PlanError(f"--log {name} needs a package: pip install {NEEDS[name]}")


def window(name: str, plan: Plan, home: Path) -> Window:
    """The tool's window on a run: it writes into the run's folder, or where the tool's own settings say."""
    made: dict[str, Callable[[Plan, Path], Window]] = {
        "optuna": OptunaStorage,
        "tensorboard": TensorBoard,
        "mlflow": MLflow,
        "wandb": WandB,
    }
    return made[name](plan, home)


class Windows:
    """Feeds windows from a thread. One that raises is closed with a note in the log; the study goes on."""

    def __init__(self, path: Path, windows: Iterable[Window]) -> None:
        """Begins with the records that the ledger at ``path`` has."""
        self._open = list(windows)
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        for record in ledger.records(path):
            self._records.put(record)
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Never waits and never raises."""
        self._records.put(record)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait so long for slow tools; what they have not shown then, ``python -m study log`` will."""
        self._records.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        history = History()
        while (record := self._records.get()) is not None:
            history.add(record)
            self._each(lambda w, record=record: w.take(record, history))  # type: ignore[misc]
        self._each(lambda w: w.close())

    def _each(self, call: Callable[[Window], None]) -> None:
        for each in list(self._open):
            try:
                call(each)
            except Exception:
                log.exception("%s is closed: it failed", type(each).__name__)
                self._open.remove(each)


def failed(name: str, error: Exception) -> str:
    """One line on a tool's error."""
    return f"{name} failed: {type(error).__name__}: {first_line(error) or 'no reason given'}"


def write(home: Path, name: str, *, follow: bool = False, refresh: Callable[[], None] = lambda: None) -> str:
    """Write the run for one tool, and go on while the study does if asked; how to open it.

    ``refresh`` brings the ledger up to date where the study runs on another machine. Raises PlanError when there is
    no study or no such tool, when it is being written already, or the tool fails.
    """
    check([name])
    plan, _ = consistency.load(home)
    try:
        _write(window(name, plan, home), home, follow, refresh)
    except (PlanError, LedgerError):
        raise
    except Exception as error:  # tools raise what they like
        raise PlanError(failed(name, error)) from error
    return OPEN[name].format(home=home)


def _write(tool: Window, home: Path, follow: bool, refresh: Callable[[], None]) -> None:
    history, done = History(), 0
    try:
        while True:
            for record in itertools.islice(ledger.records(home / ledger.FILE), done, None):
                history.add(record)
                tool.take(record, history)
                done += 1
            finished = bool(history.opened) and set(history.opened[-1].trials) <= history.scores.keys()
            if not follow or finished:
                break
            time.sleep(FOLLOW_SECONDS)
            refresh()
    except BaseException:
        with suppress(Exception):  # what it failed of is told, not that it then cannot close either
            tool.close()
        raise
    tool.close()


OPEN = {
    "optuna": "optuna-dashboard {home}/optuna.journal",
    "tensorboard": "tensorboard --logdir {home}/tensorboard",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db",
    "wandb": "wandb sync {home}/wandb/offline-run-*",
}


class RayMetrics:
    """Gauges at every Ray node's Prometheus endpoint, ``ray_study_...``."""

    def __init__(self, plan: Plan, run: str) -> None:
        from ray.util.metrics import Gauge

        self._plan = plan
        self._next = 0.0
        self._history: History | None = None

        def gauge(name: str, what: str, *tags: str) -> Gauge:
            made = Gauge(f"study_{name}", description=what, tag_keys=("run", *tags))
            return made.set_default_tags({"run": _ascii(run)}) or made

        self._spent = gauge("spent_seconds", "Resource-seconds spent", "arm", "phase")
        self._left = gauge("left_seconds", "Resource-seconds of the arm's share that are left", "arm")
        self._best = gauge("best_val_accuracy", "Best full-length search trial so far (optimistic)", "arm")
        self._trials = gauge("trials", "Trials", "arm", "state")

    def take(self, record: Record, history: History) -> None:
        del record
        self._history = history
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + METRICS_SECONDS
            self._set(history)

    def close(self) -> None:
        if self._history is not None:
            self._set(self._history)

    def _set(self, history: History) -> None:
        for arm in self._plan.arms:
            tags = {"arm": _ascii(arm)}
            for phase in PHASES:
                self._spent.set(history.spent(arm, phase), {**tags, "phase": phase})
            self._left.set(max(0.0, self._plan.share - history.spent(arm)), tags)
            accuracy = history.best.get(arm)
            if accuracy is not None:
                self._best.set(accuracy, tags)
            for state, count in states(history, arm).items():
                self._trials.set(count, {**tags, "state": state})


def _ascii(text: str) -> str:
    """Ray's (2.60) tags hold nothing else."""
    return text.encode("ascii", "backslashreplace").decode()


class OptunaStorage:
    """``optuna.journal`` in the run's folder: per arm one study of what was searched, one of all other runs."""

    def __init__(self, plan: Plan, home: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._plan = plan
        path = home / "optuna.journal"
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise PlanError(
                f"{path} is being written by another process, a study with --log optuna or a `log --follow`: open it, "
                f"optuna-dashboard {path}, or end that first"
            ) from None
        self._file.truncate(0)  # written anew from the ledger, which is the truth
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by one that was killed
        # Optuna's usual lock is a link, and a run directory with links is refused
        self._storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        self._studies: dict[str, int] = {}
        self._trials: dict[str, int] = {}
        for arm in plan.arms:
            for name in (arm, f"{arm} (other runs)"):
                study = self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
                self._studies[name] = study
                self._storage.set_study_user_attr(study, "metric", "validation accuracy")

    def take(self, record: Record, history: History) -> None:
        states = self._optuna.trial.TrialState
        match record:
            case Trial():
                self._begin(record)
            case Epoch():
                trial = self._trials[record.trial]
                self._storage.set_trial_intermediate_value(trial, record.epoch, record.val_accuracy)
            case Outcome():
                accuracy = history.val_accuracy(record.trial)
                state = {"finished": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}[
                    record.state
                ]
                trial = self._trials[record.trial]
                self._storage.set_trial_user_attr(trial, "end", record.reason)
                self._storage.set_trial_user_attr(trial, "resource-seconds", round(record.cost, 1))
                value = None if accuracy is None or record.state == "failed" else [accuracy]
                self._storage.set_trial_state_values(trial, state, value)
            case _:
                pass

    def _begin(self, trial: Trial) -> None:
        searched = trial.phase in ("search", "slice")
        space = self._plan.spaces[trial.arm]
        template = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params=trial.config,
            distributions={name: self._distribution(space[name]) for name in trial.config},
            user_attrs={"trial": trial.id, "phase": trial.phase, "pair": trial.pair},
        )
        study = self._studies[trial.arm if searched else f"{trial.arm} (other runs)"]
        self._trials[trial.id] = self._storage.create_new_trial(study, template)

    def _distribution(self, axis: dict[str, Any]) -> Any:
        kinds = self._optuna.distributions
        if "options" in axis:
            return kinds.CategoricalDistribution(axis["options"])
        whole = isinstance(axis["low"], int) and isinstance(axis["high"], int)
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        return kind(axis["low"], axis["high"], log=axis["log"])

    def close(self) -> None:
        """Every record is in the file already."""
        self._file.close()


class TensorBoard:
    """``tensorboard/<trial>`` in the run's folder: scalars per epoch, hyperparameters at the end."""

    def __init__(self, plan: Plan, home: Path) -> None:
        del plan
        self._folder = home / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._again = {path.name for path in self._folder.glob("*")}
        """Trials that an earlier session, or an earlier ``log``, has written: they are written anew."""

    def take(self, record: Record, history: History) -> None:
        from tensorboardX.summary import hparams

        match record:
            case Trial():
                self._open(record.id)
            case Epoch():
                writer = self._writers[record.trial]
                for name, value in measures(record).items():
                    writer.add_scalar(name, value, record.epoch)
                writer.flush()
            case Outcome():
                writer = self._writers.pop(record.trial)
                trial = history.trials[record.trial]
                writer.add_text("end", f"{record.state}: {record.reason}")
                settings = {"arm": trial.arm, "phase": trial.phase, **trial.config}
                # not add_hparams, whose own file has the same name when it is made in the same second
                for summary in hparams(settings, ["val_accuracy"]):  # its name: the epochs have the values
                    writer.file_writer.add_summary(summary)
                writer.close()
            case _:
                pass

    def _open(self, trial_id: str) -> None:
        from tensorboardX import SummaryWriter

        folder = self._folder / trial_id
        if trial_id in self._again:
            for old in folder.glob("events.*"):
                old.unlink()
        self._writers[trial_id] = SummaryWriter(str(folder))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """One MLflow run per trial, within one for the study: at MLFLOW_TRACKING_URI, or in ``mlflow.db``."""

    def __init__(self, plan: Plan, home: Path) -> None:
        # of MLflow's own seven a server that is not there would take minutes to find out
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=address)
        name = f"study {home.resolve().name}"
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._runs: dict[str, str] = {}
        for old in self._client.search_runs([self._experiment], max_results=50_000) if found else ():
            self._client.delete_run(old.info.run_id)  # written anew from the ledger, which is the truth
        study = self._client.create_run(self._experiment, run_name=name, tags={"command": plan.command})
        self._study = study.info.run_id

    def take(self, record: Record, history: History) -> None:
        del history
        match record:
            case Trial():
                from mlflow.entities import Param

                tags = {"mlflow.parentRunId": self._study, "arm": record.arm, "phase": record.phase}
                run = self._client.create_run(
                    self._experiment, run_name=f"{record.id} {setting(record.config)}", tags=tags
                )
                self._runs[record.id] = run.info.run_id
                params = [Param(name, str(value)) for name, value in record.config.items()]
                self._client.log_batch(run.info.run_id, params=params)
            case Epoch():
                from mlflow.entities import Metric

                now = int(time.time() * 1000)
                values = [Metric(name, value, now, record.epoch) for name, value in measures(record).items()]
                self._client.log_batch(self._runs[record.trial], metrics=values)
            case Outcome():
                run_id = self._runs.pop(record.trial)
                self._client.set_tag(run_id, "end", record.reason)
                ends = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
                self._client.set_terminated(run_id, ends[record.state])
            case _:
                pass

    def close(self) -> None:
        self._client.set_terminated(self._study)


class WandB:
    """One W&B run per trial in the group of the study; offline in ``wandb/`` unless WANDB_MODE says otherwise."""

    def __init__(self, plan: Plan, home: Path) -> None:
        del plan
        self._home = home
        self._runs: dict[str, Any] = {}

    def take(self, record: Record, history: History) -> None:
        del history
        match record:
            case Trial():
                import wandb

                self._runs[record.id] = wandb.init(
                    project="resnext-study", group=self._home.resolve().name, name=record.id, dir=str(self._home),
                    job_type=record.phase, tags=[record.arm, record.phase], config=dict(record.config),
                    mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
                )  # fmt: skip
                self._runs[record.id].define_metric("*", step_metric="epoch")
            case Epoch():
                # not W&B's own step, which never goes back: an epoch may come again after an interruption
                self._runs[record.trial].log({"epoch": record.epoch, **measures(record)})
            case Outcome():
                run = self._runs.pop(record.trial)
                run.summary.update(
                    {"state": record.state, "end": record.reason, "resource_seconds": record.cost}
                )
                run.finish(exit_code=int(record.state == "failed"))
            case _:
                pass

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


def measures(epoch: Epoch) -> dict[str, float]:
    """What every tool is told of an epoch."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "train_seconds", "cost")
    return {name: getattr(epoch, name) for name in names}
