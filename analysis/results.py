"""Reads a run directory: the plan, the ledger, and every net's predictions on the test images.

A verdict rests on nothing else. A run that failed by itself stays as a row of guesses. A run that an interruption left
open does not count yet; the report mentions it.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis import outputs
from analysis.outputs import Labels
from analysis.runs import Judge, Runs
from study.protocol import allocation, consistency
from study.protocol.accounting import trained, unsearched
from study.protocol.errors import StudyError
from study.protocol.history import History
from study.protocol.metrics import ACCURACY, Scores, log_probabilities
from study.protocol.plan import Plan
from study.protocol.records import Choice, Config, Trial
from study.protocol.rundir import RunDir
from study.protocol.sampling import ALIKE
from study.protocol.text import counted


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One trial of the random slice. ``index`` counts within the arm: equal ones share the common axes."""

    index: int
    config: Config
    cost: float
    val: float | None
    """Validation score at full length; None when it failed."""
    test: float | None
    val_accuracy: float | None
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
    """The test score without looking at images: under accuracy the share of the most frequent class."""
    judge: Judge = Judge()  # noqa: RUF009  # frozen
    labels: Labels = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Of the test images; none before a net is scored."""
    names: tuple[str, ...] = ()
    """The test images' files; empty where they come from none."""
    named: dict[str, Labels] = field(default_factory=dict)
    """Per arm (runs, images): the classes that the scored runs of its net in hand name; failed runs name none."""


def read(run: Path) -> Evidence:
    """Everything in the folder ``run``. Raises StudyError, naming the file and the fault."""
    if not run.is_dir():
        raise StudyError(f"{run} is not a folder: give the folder of a study, as in runs/ID")
    question, history = consistency.load(RunDir(run))
    shelf = _Shelf(RunDir(run).predictions, history, question)
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
        labels=shelf.labels,
        names=shelf.names,
        named={
            arm: named for arm in question.arms if len(named := shelf.named(in_hand_runs(history, arm, look)))
        },
        judge=shelf.judge,
    )


def choices(history: History, arm: str, look: int) -> list[Choice]:
    """The finds of the arm's searches, of all looks up to this one."""
    found = [c for m in history.manifests if m.look <= look for c in m.choices.get(arm, ())]
    return sorted(found, key=lambda choice: choice.pair)


def had_none(evidence: Evidence, arm: str) -> bool:
    """Whether no search of the arm could be paid for, so that the default was confirmed in each."""
    found = choices(evidence.history, arm, evidence.look)
    return unsearched(evidence.plan, evidence.history, arm) and all(choice.default for choice in found)


def in_hand(history: History, arm: str, look: int) -> Choice | None:
    """The find with the best validation mean, as the latest manifest up to this look says; None before the first."""
    named = [m.in_hand[arm] for m in history.manifests if m.look <= look and arm in m.in_hand]
    return next((c for c in choices(history, arm, look) if named and c.pair == named[-1]), None)


def in_hand_runs(history: History, arm: str, look: int) -> list[Trial]:
    """The confirmation runs of the net in hand."""
    choice = in_hand(history, arm, look)
    return [] if choice is None else history.confirmed(arm, choice.pair)


def beat_default(history: History, arm: str, pairs: Container[int]) -> int:
    """Settings of the arm that at full length, in these searches or at random, beat the default's run on the same fold.

    A fold on which the default failed counts as beaten.
    """
    default: dict[int, float] = {}
    for trial in history.of(arm, "baseline"):
        score = history.val_score(trial.id)
        default[trial.fold] = -math.inf if score is None or not history.finished(trial.id) else score
    usual = [t.config for t in history.of(arm, "baseline")[:1]]
    ahead: list[Config] = []
    searched = [t for t in history.full_length(arm, "search") if t.pair in pairs]
    for trial in (*searched, *history.full_length(arm, "slice")):
        score = history.val_score(trial.id)
        if score is None or trial.config in usual or trial.config in ahead:
            continue
        if score > default.get(trial.fold, -math.inf):
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
                val=last.val_score if last else None,
                val_accuracy=last.val_accuracy if last else None,
                train=last.train_accuracy if last else None,
                test=score.test_score if score else None,
            )
        )
    return tuple(draws)


def fell_short(history: History, trial: str) -> bool:
    """Whether the trial failed by itself (diverged, crashed) and therefore counts as guessing."""
    outcome = history.outcomes.get(trial)
    return outcome is not None and outcome.state == "failed" and trial not in history.scores


def _alike(first: Labels | None, second: Labels | None) -> bool:
    return first is second or (first is not None and second is not None and np.array_equal(first, second))


class _Shelf:
    """Prediction files of one study: all must be about the same images."""

    def __init__(self, folder: Path, history: History, plan: Plan) -> None:
        self.history = history
        self.predicted: dict[str, Labels] = {}
        self.names: tuple[str, ...] = ()
        self.scores: dict[str, Scores] = {}
        metric, classes = plan.judged, len(plan.data.classes)
        labels: Labels | None = None
        groups: Labels | None = None
        for trial, recorded in history.scores.items():
            path = folder / f"{trial}.npz"
            net = outputs.read(path, classes, soft=metric is not ACCURACY)
            found, self.predicted[trial] = net.labels, net.predictions
            if labels is None:
                labels, groups, self.names = found, net.groups, net.names
            if not np.array_equal(found, labels):
                raise StudyError(f"{path} has other labels than the study's other predictions")
            if not _alike(net.groups, groups):
                raise StudyError(f"{path} has other groups than the study's other predictions")
            accuracy = float((self.predicted[trial] == found).mean())
            if abs(accuracy - recorded.test_accuracy) > 1e-6:
                raise StudyError(
                    f"{path} does not give the accuracy {recorded.test_accuracy} that the ledger has"
                )
            if net.logs is not None:
                self.scores[trial] = metric.scores(net.logs, found)
                score = float(metric.sampling(found).mean(self.scores[trial]))
                if abs(score - recorded.test_score) > 1e-6:
                    raise StudyError(
                        f"{path} does not give the {metric.title} {metric.value(recorded.test_score)} that the ledger has"
                    )
        self.labels = np.zeros(0, dtype=np.int64) if labels is None else labels
        self.judge = Judge(
            metric=metric, sampling=ALIKE if labels is None else metric.sampling(labels, groups)
        )
        self.guessing = 0.0
        if labels is not None:
            self.shares = np.bincount(labels, minlength=classes) / len(labels)
            self.guessing = metric.guessing([float(s) for s in self.shares if s])

    def runs(self, question: Plan, arm: str, trials: list[Trial]) -> Runs | None:
        """The arm's trials that count as runs, None when there are none."""
        if not len(self.labels):
            return None
        names = [t.id for t in trials if t.id in self.predicted or fell_short(self.history, t.id)]
        if not names:
            return None
        metric, guess = self.judge.metric, self.shares.argmax()
        right = [self.predicted.get(name, guess) == self.labels for name in names]
        blind: Scores = np.zeros(0)
        kind = np.bool_ if metric.shares else np.float64
        if self.scores:  # what naming the shares of the classes for every image scores
            logs = log_probabilities(self.shares)
            blind = metric.scores(np.broadcast_to(logs, (len(self.labels), len(logs))), self.labels)
        return Runs(
            arm=arm,
            correct=np.stack(right),
            full_run=self._full_run(question, arm, trials),
            failed=tuple(row for row, name in enumerate(names) if name not in self.predicted),
            judge=self.judge,
            own=np.stack([self.scores.get(name, blind) for name in names]).astype(kind)
            if self.scores
            else None,
        )

    def named(self, trials: list[Trial]) -> Labels:
        """(runs, images) of those that are scored."""
        rows = [self.predicted[t.id] for t in trials if t.id in self.predicted]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.labels))

    def _full_run(self, question: Plan, arm: str, trials: list[Trial]) -> float:
        """Epochs alone, and the median: start-up and a busy machine are no property of the setting."""
        costs = [trained(question, self.history, t) for t in trials if self.history.finished(t.id)]
        if costs:
            return float(np.median(costs))
        tuning = self.history.tuning
        return (
            tuning.full_run[arm] if tuning and arm in tuning.full_run else allocation.full_run(question, arm)
        )


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
