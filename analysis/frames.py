"""From a run's folder to tidy tables: one row per trial, per epoch, per arm and phase, per image and net.

``load(RUN)`` has those for people who work in pandas. Accuracies are fractions, costs resource-seconds. Figures and the report
are made from these tables.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis import outputs
from analysis.statistics.intervals import Refused
from study.protocol import consistency
from study.protocol.errors import StudyError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import PHASES, Epoch, Outcome, Phase, Trial
from study.protocol.rundir import RunDir
from study.protocol.text import class_columns

ENDS = ("finished", "stopped by ASHA", "stopped by the budget", "failed", "not ended")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A study as tables; see the functions of the same names."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    spend: pd.DataFrame
    predictions: pd.DataFrame


def load(run: Path | str) -> Frames:
    """The tables of the study in the folder ``run``. Raises StudyError, with a sentence that says what is wrong."""
    place = RunDir(Path(run))
    plan, history = consistency.load(place)
    return Frames(
        trials=trials(history),
        epochs=epochs(history),
        spend=spend(history, plan),
        predictions=predictions(place, plan, history),
    )


def write(run: Path, folder: Path, kind: Literal["csv", "parquet"]) -> list[Path]:
    """Write every table of ``load(run)`` as a file of ``folder``. Raises StudyError and OSError."""
    tables, written = load(run), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in vars(tables).items():
        path = folder / f"{name}.{kind}"
        if kind == "csv":
            table.to_csv(path, index=False)
        else:
            mixed = [c for c in table if pd.api.types.infer_dtype(table[c], skipna=True).startswith("mixed")]
            table.astype(dict.fromkeys(mixed, "string")).to_parquet(path, index=False)
        written.append(path)
    return written


def predictions(run: RunDir, plan: Plan, history: History) -> pd.DataFrame:
    """One row per net that met the test and image: image, label, arm, phase, pair, run, prediction, and one column per class.

    ``image`` is the file's name, or the position among the test images; ``run`` is the trial. A class's column has its probability,
    and its name, or ``class NAME`` where a column has that name already.
    """
    classes, tables = plan.data.classes, []
    for trial_id in history.scores:
        trial, path = history.trials[trial_id], run.prediction(trial_id)
        net = outputs.read(path, len(classes))
        about = {
            "image": net.names or tuple(map(str, range(len(net.labels)))),
            "label": np.array(classes)[net.labels],
            "arm": trial.arm, "phase": trial.phase, "pair": trial.pair, "run": trial_id,
            "prediction": np.array(classes)[net.predictions],
        }  # fmt: skip
        try:
            soft = outputs.probabilities(path, (len(net.labels), len(classes)))
        except Refused as refusal:
            raise StudyError(f"{run.predictions}: {refusal}") from refusal
        tables.append(
            pd.concat([pd.DataFrame(about), pd.DataFrame(soft, columns=class_columns(classes))], axis=1)
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_PREDICTION_COLUMNS)


def trials(history: History) -> pd.DataFrame:
    """One row per trial in the order of decision; settings in columns ``config.<name>``.

    Columns: trial, arm, phase, pair, state (``open`` before the end), reason, end (one of ENDS),
    epochs, cost, seed, val_accuracy and test_accuracy, val_score and test_score on the study's metric (more is better; NaN
    when there is none).
    """
    rows = []
    for trial in history.trials.values():
        outcome, seen = history.outcomes.get(trial.id), history.epochs.get(trial.id, [])
        score = history.scores.get(trial.id)
        rows.append(
            {
                "trial": trial.id,
                "arm": trial.arm,
                "phase": trial.phase,
                "pair": trial.pair,
                "state": outcome.state if outcome else "open",
                "reason": outcome.reason if outcome else "",
                "end": how_it_ended(outcome),
                "epochs": seen[-1].epoch if seen else 0,
                "cost": outcome.cost if outcome else (seen[-1].cost if seen else 0.0),
                "seed": trial.seed,
                "val_accuracy": seen[-1].val_accuracy if seen else float("nan"),
                "test_accuracy": score.test_accuracy if score else float("nan"),
                "val_score": seen[-1].val_score if seen else float("nan"),
                "test_score": score.test_score if score else float("nan"),
                **{f"config.{name}": value for name, value in trial.config.items()},
            }
        )
    return pd.DataFrame(rows, columns=None if rows else _TRIAL_COLUMNS)


def epochs(history: History) -> pd.DataFrame:
    """One row per epoch of every trial: trial, arm, phase, end, epoch, cost, losses and accuracies."""
    rows = [
        (t.id, t.arm, t.phase, how_it_ended(history.outcomes.get(t.id)), *(getattr(e, x) for x in _MEASURES))
        for t in history.trials.values()
        for e in history.epochs.get(t.id, [])
    ]
    return pd.DataFrame(rows, columns=["trial", "arm", "phase", "end", *_MEASURES])


def spend(history: History, plan: Plan) -> pd.DataFrame:
    """One row per arm and phase: arm, phase, cost, share (of the arm's own spend)."""
    rows = []
    for arm in plan.arms:
        whole = history.spent(arm)
        for phase in PHASES:
            cost = history.spent(arm, phase)
            rows.append((arm, phase, cost, cost / whole if whole else 0.0))
    return pd.DataFrame(rows, columns=["arm", "phase", "cost", "share"])


def activities(history: History, plan: Plan) -> pd.DataFrame:
    """Where the resource-seconds went: arm, phase, activity (one of ACTIVITIES), cost, share (of the arm's own spend).

    The time that a trial holds its slot after its last report is ``draining``. Time that its reports do not account for is
    ``waiting``: for its worker, and for the driver between two reports.
    """
    rows = []
    for arm in plan.arms:
        found = {(phase, activity): 0.0 for phase in PHASES for activity in ACTIVITIES}
        for trial in history.trials.values():
            if trial.arm == arm:
                for activity, cost in _of_trial(history, trial, plan.machine.fraction).items():
                    found[trial.phase, activity] += cost
        for phase, activity in _OUTSIDE_TRIALS.items():
            found[phase, activity] += history.spent(arm, phase)
        whole = sum(found.values())
        rows += [(arm, *key, cost, cost / whole if whole else 0.0) for key, cost in found.items()]
    return pd.DataFrame(rows, columns=["arm", "phase", "activity", "cost", "share"])


def _of_trial(history: History, trial: Trial, fraction: float) -> dict[str, float]:
    epochs, held = history.epochs.get(trial.id, []), history.booked[trial.id]
    found = {name: fraction * sum(getattr(e, field) for e in epochs) for name, field in _SECONDS.items()}
    found["start-up"] -= fraction * sum(e.startup_seconds for e in _begun_again(history, trial))
    found["training"] -= found["data"]
    left = max(0.0, held - sum(found.values()))
    ended = bool(epochs) and trial.id in history.outcomes
    found["draining"] = min(left, max(0.0, held - epochs[-1].cost)) if ended else 0.0
    return {**found, "waiting": left - found["draining"]}


def _begun_again(history: History, trial: Trial) -> list[Epoch]:
    """The first epochs after a resume: their start-up is booked as lost, in ``Resumed``."""
    epochs = history.epochs.get(trial.id, [])
    firsts = {
        next((e.epoch for e in epochs if e.epoch > record.epoch and e.startup_seconds), 0)
        for record in history.resumed.get(trial.id, [])
    }
    return [e for e in epochs if e.epoch in firsts]


def how_it_ended(outcome: Outcome | None) -> str:
    """One of ENDS: stops by ASHA and by the budget mean different things."""
    if outcome is None:
        return "not ended"
    if outcome.state == "stopped":
        return "stopped by the budget" if outcome.reason.startswith("budget") else "stopped by ASHA"
    return outcome.state


_SECONDS = {
    "training": "train_seconds",
    "evaluation": "eval_seconds",
    "start-up": "startup_seconds",
    "data": "data_seconds",
    "checkpoints": "checkpoint_seconds",
}
_OUTSIDE_TRIALS: dict[Phase, str] = {"probe": "measuring", "test": "scoring", "lost": "lost"}
ACTIVITIES = (*_SECONDS, "waiting", "draining", *_OUTSIDE_TRIALS.values())
_TRIAL_COLUMNS = [
    "trial", "arm", "phase", "pair", "state", "reason", "end", "epochs", "cost", "seed",
    "val_accuracy", "test_accuracy", "val_score", "test_score",
]  # fmt: skip
_PREDICTION_COLUMNS = ["image", "label", "arm", "phase", "pair", "run", "prediction"]
_MEASURES = ("epoch", "cost", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_score")
