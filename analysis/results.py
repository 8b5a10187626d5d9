"""Reads a run directory: the plan, the ledger, and every net's predictions on the test images.

A verdict rests on nothing else. A run that failed by itself stays as a row of guesses. A run that an interruption left
open does not count yet; the report mentions it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import npz
from analysis.runs import Runs
from study.protocol import allocation, consistency
from study.protocol.accounting import trained
from study.protocol.errors import StudyError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Choice, Config, Trial
from study.protocol.rundir import RunDir
from study.protocol.text import counted

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One trial of the random slice. ``index`` counts within the arm: equal ones share the common axes."""

    index: int
    config: Config
    cost: float
    val: float | None
    """Validation accuracy at full length; None when it failed."""
    test: float | None
    train: float | None
    """Running accuracy on the augmented training images of the last epoch."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run directory, read and checked. ``default`` and ``tuned`` lack arms without scored runs."""

    plan: Plan
    history: History
    default: dict[str, Runs]
    """Baseline runs: the arm's fixed setting."""
    tuned: dict[str, Runs]
    """Confirmation runs of the net in hand: the find with the best validation mean."""
    finds: dict[str, dict[int, Runs]]
    """Per arm and pair, the confirmation runs of what that search found."""
    slices: dict[str, tuple[Draw, ...]]
    """The random slice: i.i.d. configs that were never stopped."""
    open: tuple[str, ...]
    """What an answer still lacks; empty when it lacks nothing."""
    look: int = 1
    """The latest look at the test whose nets are all scored; 1 before the first is."""
    under_way: str = ""
    """What the next look still lacks; empty when none was requested."""
    guessing: float = 0.0
    """Share of the most frequent class among the test images: the accuracy of always naming it."""


def read(run: Path) -> Evidence:
    """Everything in the folder ``run``. Raises StudyError, naming the file and the fault."""
    if not run.is_dir():
        raise StudyError(f"{run} is no folder: give the folder of a study, as in runs/ID")
    question, history = consistency.load(RunDir(run))
    shelf = _Shelf(RunDir(run).predictions, history, len(question.data.classes))
    done, to_come = _looks(history)
    look = max(1, done)

    def shelved(trials: Callable[[str], list[Trial]]) -> dict[str, Runs]:
        found = {arm: shelf.runs(question, arm, trials(arm)) for arm in question.arms}
        return {arm: runs for arm, runs in found.items() if runs is not None}

    def found_by(arm: str) -> dict[int, Runs]:
        each = {c.pair: history.confirmed(arm, c.pair) for c in choices(history, arm, look)}
        return {pair: runs for pair, t in each.items() if (runs := shelf.runs(question, arm, t))}

    return Evidence(
        plan=question,
        history=history,
        default=shelved(lambda arm: history.of(arm, "baseline")),
        tuned=shelved(lambda arm: in_hand_runs(history, arm, look)),
        finds={arm: found for arm in question.arms if (found := found_by(arm))},
        slices={arm: _draws(history, arm) for arm in question.arms},
        open=() if done else to_come,
        look=look,
        under_way="; ".join(to_come) if done else "",
        guessing=shelf.guessing,
    )


def choices(history: History, arm: str, look: int) -> list[Choice]:
    """The finds of the arm's searches, of all looks up to this one."""
    found = [c for m in history.manifests if m.look <= look for c in m.choices.get(arm, ())]
    return sorted(found, key=lambda choice: choice.pair)


def in_hand(history: History, arm: str, look: int) -> Choice | None:
    """The find with the best validation mean, as the latest manifest up to this look says; None before the first."""
    named = [m.in_hand[arm] for m in history.manifests if m.look <= look and arm in m.in_hand]
    return next((c for c in choices(history, arm, look) if named and c.pair == named[-1]), None)


def in_hand_runs(history: History, arm: str, look: int) -> list[Trial]:
    """The confirmation runs of the net in hand."""
    choice = in_hand(history, arm, look)
    return [] if choice is None else history.confirmed(arm, choice.pair)


def beat_default(history: History, arm: str) -> int:
    """Settings of the arm that at full length, in a search or at random, beat the default's run on the same fold.

    A fold on which the default failed counts as beaten.
    """
    default: dict[int, float] = {}
    for trial in history.of(arm, "baseline"):
        accuracy = history.val_accuracy(trial.id)
        default[trial.fold] = -1.0 if accuracy is None or not history.finished(trial.id) else accuracy
    usual = [t.config for t in history.of(arm, "baseline")[:1]]
    ahead: list[Config] = []
    for trial in (*history.full_length(arm, "search"), *history.full_length(arm, "slice")):
        accuracy = history.val_accuracy(trial.id)
        if accuracy is None or trial.config in usual or trial.config in ahead:
            continue
        if accuracy > default.get(trial.fold, -1.0):
            ahead.append(trial.config)
    return len(ahead)


def _draws(history: History, arm: str) -> tuple[Draw, ...]:
    draws = []
    for trial in history.of(arm, "slice"):
        outcome = history.outcomes.get(trial.id)
        if outcome is None:
            continue
        done, score = history.finished(trial.id), history.scores.get(trial.id)
        last = history.epochs[trial.id][-1] if done else None
        draws.append(
            Draw(
                index=trial.index,
                config=trial.config,
                cost=outcome.cost,
                val=last.val_accuracy if last else None,
                train=last.train_accuracy if last else None,
                test=score.test_accuracy if score else None,
            )
        )
    return tuple(draws)


def fell_short(history: History, trial: str) -> bool:
    """Whether the trial failed by itself (diverged, crashed) and therefore counts as guessing."""
    outcome = history.outcomes.get(trial)
    return outcome is not None and outcome.state == "failed" and trial not in history.scores


class _Shelf:
    """Prediction files of one study: all must be about the same images."""

    def __init__(self, folder: Path, history: History, classes: int) -> None:
        self.history = history
        self.predicted: dict[str, Labels] = {}
        labels: Labels | None = None
        for trial in history.scores:
            path = folder / f"{trial}.npz"
            found, self.predicted[trial] = _load(path, classes)
            labels = found if labels is None else labels
            if not np.array_equal(found, labels):
                raise StudyError(f"{path} has other labels than the study's other predictions")
            recorded = history.scores[trial].test_accuracy
            if abs(float((self.predicted[trial] == found).mean()) - recorded) > 1e-6:
                raise StudyError(f"{path} does not give the accuracy {recorded} that the ledger has")
        self.labels = labels
        self.guessing = 0.0 if labels is None else float(np.bincount(labels).max() / len(labels))

    def runs(self, question: Plan, arm: str, trials: list[Trial]) -> Runs | None:
        """The arm's trials that count as runs, None when there are none."""
        if self.labels is None:
            return None
        guess = np.bincount(self.labels).argmax()
        names = [t.id for t in trials if t.id in self.predicted or fell_short(self.history, t.id)]
        rows = [
            self.predicted[name] == self.labels if name in self.predicted else self.labels == guess
            for name in names
        ]
        if not rows:
            return None
        return Runs(
            arm=arm,
            correct=np.stack(rows),
            full_run=self._full_run(question, arm, trials),
            failed=tuple(row for row, name in enumerate(names) if name not in self.predicted),
        )

    def _full_run(self, question: Plan, arm: str, trials: list[Trial]) -> float:
        """Epochs alone, and the median: start-up and a busy machine are no property of the setting."""
        costs = [trained(question, self.history, t) for t in trials if self.history.finished(t.id)]
        if costs:
            return float(np.median(costs))
        tuning = self.history.tuning
        return (
            tuning.full_run[arm] if tuning and arm in tuning.full_run else allocation.full_run(question, arm)
        )


def _load(path: Path, classes: int) -> tuple[Labels, Labels]:
    try:
        found, _ = npz.read(path, ("labels",), ("predictions",))
        labels, predictions = found["labels"], found["predictions"]
    except npz.ArraysError as error:
        if not path.exists():
            raise StudyError(f"{path} is missing, though the ledger has its score") from error
        raise StudyError(f"{path} cannot be read: it {error}") from error
    except KeyError as error:
        raise StudyError(f"{path} cannot be read: it has no array {error}") from error
    whole = labels.dtype.kind in "iu" and predictions.dtype.kind in "iu"
    alike = labels.ndim == 1 and labels.shape == predictions.shape
    if not (whole and alike and len(labels) and labels.min() >= 0):
        raise StudyError(f"{path}: labels and predictions must be two lists of class numbers, of one length")
    if (beyond := max(int(labels.max()), int(predictions.max()))) >= classes:
        raise StudyError(f"{path} names class {beyond}, and the study has {classes}, counted from 0")
    return labels.astype(np.int64), predictions.astype(np.int64)


def _looks(history: History) -> tuple[int, tuple[str, ...]]:
    """The latest complete look (0 for none), and what the next requested look still lacks."""
    asked = history.extension.look if history.extension else 1
    done = 0
    for look in range(1, asked + 1):
        if to_come := _to_come(history, look):
            return done, to_come
        done = look
    return done, ()


def _to_come(history: History, look: int) -> tuple[str, ...]:
    manifest = next((m for m in history.manifests if m.look == look), None)
    if manifest is None:
        what = "no setting has been frozen" if look == 1 else f"no setting of look {look} has been frozen"
        return (f"{what} for confirmation", "the test set has not been opened")
    missing: list[str] = []
    for arm, found in manifest.choices.items():
        trials = [t for choice in found for t in history.confirmed(arm, choice.pair)]
        if not trials:
            missing.append(f"{arm} has no confirmation run")
        if running := [t for t in trials if t.id not in history.outcomes]:
            missing.append(f"{arm}: {counted(len(running), 'confirmation run')} not ended")
        if unscored := sum(history.finished(t.id) and t.id not in history.scores for t in trials):
            missing.append(f"{arm}: {counted(unscored, 'confirmation run')} not scored on the test images")
    if len({opened.manifest for opened in history.opened}) < look:
        missing.append("the test set has not been opened")
    return tuple(missing)
