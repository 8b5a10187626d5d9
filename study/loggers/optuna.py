"""Optuna's dashboard: writes ``optuna.journal`` in the run's folder."""

import fcntl
from pathlib import Path
from typing import Any

from study.loggers.base import Tool
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Record, Trial


class OptunaStorage:
    """Per arm one Optuna study of what was searched, and one of all other runs."""

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
            raise InputError(
                f"{path} is being written by another process, a study with --log optuna or a `log --follow`: open it, "
                f"optuna-dashboard {path}, or end that first"
            ) from None
        self._file.truncate(0)  # written anew from the ledger, which is the truth
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by a killed process
        # Optuna's usual lock is a link, and a run directory with links is refused
        self._storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        self._studies: dict[str, int] = {}
        self._trials: dict[str, int] = {}
        for arm in plan.arms:
            for name in (arm, f"{arm} (other runs)"):
                study = self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
                self._studies[name] = study
                self._storage.set_study_user_attr(study, "metric", f"validation {plan.judged.title}")

    def take(self, record: Record, history: History) -> None:
        ends = self._optuna.trial.TrialState
        match record:
            case Trial():
                self._begin(record)
            case Epoch():
                trial = self._trials[record.trial]
                self._storage.set_trial_intermediate_value(trial, record.epoch, record.val_score)
            case Outcome():
                score = history.val_score(record.trial)
                state = {"finished": ends.COMPLETE, "stopped": ends.PRUNED, "failed": ends.FAIL}[record.state]
                trial = self._trials[record.trial]
                self._storage.set_trial_user_attr(trial, "end", record.reason)
                self._storage.set_trial_user_attr(trial, "resource-seconds", round(record.cost, 1))
                value = None if score is None or record.state == "failed" else [score]
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


TOOL = Tool(start=OptunaStorage, needs="optuna", shown_by="optuna-dashboard {home}/optuna.journal")
