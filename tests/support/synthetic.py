"""Seeded right/wrong tables from a latent-logit model, and complete run directories made of them.

The model: an image has a difficulty that the arms share in part, a run shifts all its logits by its
own distribution-wise luck, and errors are independent per image given both. ``SPREAD`` and ``SHARED``
are set so that two nets at 93 % disagree on 6.5 % of the images, of which 30 % stays after averaging
over runs (METHOD.md 8).
"""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from study.protocol import allocation, validation
from study.protocol.budget import Budget
from study.protocol.ledger import Ledger
from study.protocol.metrics import Name, log_probabilities
from study.protocol.plan import Plan
from study.protocol.question import Audit, DataCard, Machine, Packed
from study.protocol.records import (
    Choice,
    Config,
    Cost,
    Epoch,
    Manifest,
    Outcome,
    Phase,
    Scored,
    State,
    TestOpened,
    Trial,
    Tuning,
)
from study.protocol.rundir import RunDir
from study.protocol.selection import choose, find, in_hand

SPREAD = 5.6
SHARED = 0.9
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)


def _mean(location: float, spread: float = SPREAD) -> float:
    p = 1 / (1 + np.exp(-(location + spread * _NODES)))
    return float((p * _WEIGHTS).sum() / _WEIGHTS.sum())


@functools.cache
def location(accuracy: float) -> float:
    """The mean logit at which the expected accuracy over images is ``accuracy``."""
    return float(optimize.brentq(lambda m: _mean(m) - accuracy, -60, 60))


def right_wrong(
    rng: np.random.Generator,
    *,
    runs: tuple[int, ...],
    accuracies: tuple[float, ...],
    images: int,
    run_sd: float,
    shared: float = SHARED,
) -> list[NDArray[np.bool_]]:
    """One (runs, images) table per arm. ``run_sd``: distribution-wise sd of one run, as a fraction."""
    common = rng.standard_normal(images, dtype=np.float32)
    tables = []
    for k, accuracy in zip(runs, accuracies, strict=True):
        own = rng.standard_normal(images, dtype=np.float32)
        centre = location(accuracy)
        latent = centre + SPREAD * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
        slope = (_mean(centre + 0.01) - _mean(centre - 0.01)) / 0.02
        shift = rng.standard_normal((k, 1)) * run_sd / slope
        chance = 1 / (1 + np.exp(-(latent + shift.astype(np.float32))))
        tables.append(rng.random((k, images), dtype=np.float32) < chance)
    return tables


def audit(macs: int = 1_000_000) -> Audit:
    return Audit(
        params=250_000,
        macs=macs,
        images_per_second=900.0,
        eval_images_per_second=3000.0,
        peak_bytes=400 << 20,
        startup_seconds=2.5,
    )


def plan(
    arms: tuple[str, ...] = ("resnet8", "resnext8"),
    *,
    images: int = 2000,
    rope: float = 0.005,
    classes: int = 10,
    metric: Name = "accuracy",
) -> Plan:
    return Plan(
        arms=arms,
        metric=metric,
        data=DataCard(
            spec="cifar10",
            classes=tuple(f"class {i}" for i in range(classes)),
            train=10_000,
            test=images,
            size=32,
            channels=3,
            fingerprint="f" * 64,
        ),
        budget=Budget(seconds=5400.0 * len(arms), resource="cpu"),
        epochs=9,
        rope=rope,
        seed=0,
        train_fraction=1.0,
        widen=(),
        spaces={},
        batch_sizes=(64, 128),
        audits={arm: audit(1_000_000 + 20_000 * i) for i, arm in enumerate(arms)},
        machine=Machine(resource="cpu", slots=2, fraction=1.0, threads=1, name="2 cores"),
        probe_cost=dict.fromkeys(arms, 12.0),
        command="python study/run.py --budget 60cpu-minutes --data cifar10",
        versions={"python": "3.11.9", "torch": "2.15.0"},
        code="c" * 64,
        packing=tuple(packed(arm) for arm in arms),
        packing_notes=("Packing chosen by images/s of all trials together, at batch size 64.",),
    )


def packed(arm: str) -> Packed:
    return Packed(
        arm=arm,
        trials=2,
        fraction=1.0,
        threads=1,
        batch_size=64,
        channels_last=True,
        images_per_second=1813.0,
        peak_bytes=400 << 20,
    )


RATE: dict[str, Any] = {"low": 1e-3, "high": 1.0, "log": True, "default": 0.1}
AUGMENTATION: dict[str, Any] = {"options": ["none", "flip", "flip+crop"], "default": "flip+crop"}
SPACES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet8": {"learning_rate": RATE, "augmentation": AUGMENTATION},
    "resnext8": {
        "learning_rate": RATE,
        "augmentation": AUGMENTATION,
        "cardinality": {"options": [2, 4, 8], "default": 8},
    },
}
"""The spaces that ``Diary`` searches, as in the plan, for reports that show them."""


class Diary:
    """Writes one synthetic study into a folder, phase by phase, in a real study's order."""

    def __init__(self, folder: Path, question: Plan, *, seed: int = 0) -> None:
        self.folder, self.run = folder, RunDir(folder)
        self.plan, self.rng = question, np.random.default_rng(seed)
        (folder / "predictions").mkdir(parents=True)
        question.save(folder / "plan.json")
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.labels = self.rng.integers(0, len(question.data.classes), question.data.test)
        for arm, cost in question.probe_cost.items():
            self.ledger.add(Cost(arm=arm, phase="probe", what="measured", cost=cost))

    def trial(
        self,
        arm: str,
        phase: Phase,
        *,
        state: State,
        reason: str,
        epochs: int,
        level: float = 0.9,
        pair: int = 0,
        fold: int = 0,
        config: Config | None = None,
    ) -> str:
        index = len(self.ledger.of(arm, phase))
        name = f"arm{self.plan.arms.index(arm)}-{phase}-{index}"
        drawn: Config = {
            "learning_rate": float(round(10 ** self.rng.uniform(-3, 0), 5)) if phase == "search" else 0.1,
            "augmentation": "flip+crop",
        }
        if phase == "slice":  # the arms draw the same setting under the same index
            rng = np.random.default_rng(index)
            drawn["learning_rate"] = float(round(10 ** rng.uniform(-3, 0), 5))
            drawn["augmentation"] = str(rng.choice(["none", "flip", "flip+crop"]))
            for axis, what in self.plan.spaces.get(arm, {}).items():
                if "options" in what and axis not in drawn:  # the arm's own
                    drawn[axis] = what["options"][int(rng.integers(len(what["options"])))]
        self.ledger.add(
            Trial(
                id=name,
                arm=arm,
                phase=phase,
                index=index,
                pair=pair,
                config=drawn if config is None else config,
                seed=len(self.ledger.trials),
                fold=fold,
                epochs=self.plan.epochs,
            )
        )
        cost = 2.5
        for epoch in range(1, epochs + 1):
            cost += 10.0 * self.rng.uniform(0.95, 1.1)
            accuracy = float(level * (1 - 0.6 * math.exp(-epoch / 2.5)) + self.rng.normal(0, 0.004))
            self.ledger.add(
                Epoch(
                    trial=name,
                    epoch=epoch,
                    train_loss=2 * math.exp(-epoch / 3) + 0.2,
                    train_accuracy=min(1.0, accuracy + 0.02 + 0.0001 * (index % 3)),  # gaps vary
                    val_loss=2 * math.exp(-epoch / 3) + 0.4,
                    val_accuracy=min(1.0, accuracy),
                    train_seconds=9.0,
                    eval_seconds=0.5,
                    cost=cost,
                    score=None if self.plan.metric == "accuracy" else self.as_score(min(1.0, accuracy)),
                )
            )
        self.ledger.add(Outcome(trial=name, state=state, reason=reason, epochs=epochs, cost=cost + 0.3))
        return name

    def as_score(self, accuracy: float) -> float:
        """What goes with an accuracy, in the metric's unit."""
        return accuracy if self.plan.judged.shares else 3 * (accuracy - 1)

    def full(
        self,
        arm: str,
        phase: Phase,
        runs: int,
        level: float = 0.9,
        config: Config | None = None,
        pair: int = 0,
        folds: Sequence[int] | None = None,
    ) -> list[str]:
        """Full-length trials of ``config`` or the default, each with its own fold (of ``folds``, if given)."""
        if folds is None:
            apart = phase in ("baseline", "confirm")
            folds = [(pair + run) % self.plan.folds if apart else 0 for run in range(runs)]
        return [
            self.trial(
                arm,
                phase,
                state="finished",
                reason="full length",
                epochs=self.plan.epochs,
                level=level,
                config=config,
                pair=pair,
                fold=fold,
            )
            for fold in folds
        ]

    def select(self, arm: str, level: float, pairs: Sequence[int] | None = None) -> None:
        """The selection runs of the find of each of the arm's searches."""
        for pair in range(self.plan.pairs) if pairs is None else pairs:
            found = find(self.plan, self.ledger, arm, pair)
            folds = allocation.select_folds(self.plan, pair) if found else ()
            self.full(arm, "select", len(folds), level, found, pair, folds)

    def validated(self) -> None:
        """Store the right/wrong vector of every baseline and selection run on its validation images."""
        tables: dict[int, NDArray[np.float64]] = {}
        images = self.plan.val_images
        for trial in self.ledger.trials.values():
            accuracy = self.ledger.val_accuracy(trial.id)
            if (
                trial.phase in ("baseline", "select")
                and self.ledger.finished(trial.id)
                and accuracy is not None
            ):
                hard = tables.setdefault(trial.fold, self.rng.uniform(size=images))
                # runs agree on most images: an image hard for one is hard for the others
                order = np.argsort(hard + self.rng.normal(0, 0.05, images))
                correct = np.zeros(images, dtype=np.bool_)
                correct[order[: round(accuracy * images)]] = True
                scores = correct if self.plan.judged.shares else 3 * (correct - np.float32(1))
                classes = np.arange(images) % len(self.plan.data.classes)
                kept = validation.Kept(scores, classes if self.plan.judged.by_class else None)
                validation.save(self.run.validation(trial.id), kept)

    def slice(self, arm: str, trials: int, shift: float) -> list[str]:
        """Random settings; the best have a learning rate of 0.1. ``shift``: the arm's offset in accuracy."""
        names = []
        for index in range(trials):
            rate = 10 ** np.random.default_rng(index).uniform(-3, 0)
            level = 0.9 + shift - 0.1 * abs(math.log10(rate) + 1)
            if rate > 0.7:
                self.trial(arm, "slice", state="failed", reason="diverged: loss nan", epochs=1, level=0.2)
                continue
            names.append(
                self.trial(
                    arm, "slice", state="finished", reason="full length", epochs=self.plan.epochs, level=level
                )
            )
        return names

    def search(self, arm: str, trials: int = 18) -> None:
        for i in range(trials):
            pair = i % self.plan.pairs
            # every search finds a setting that beats the default, right after the full-length one
            level = self.rng.uniform(0.6, 0.92) if i // self.plan.pairs != 1 else self.rng.uniform(0.92, 0.94)
            if i % 9 == 5:
                end: tuple[State, str, int] = ("failed", "diverged: loss nan", 1)
                level = 0.2
            elif i == trials - 1:
                end = ("stopped", "budget: share spent", 4)
            elif level > 0.82 or i < self.plan.pairs:  # a search begins with a full-length setting
                end = ("finished", "full length", 9)
            else:
                end = ("stopped", "asha: rung", 1 if level < 0.72 else 3)
            self.trial(
                arm, "search", state=end[0], reason=end[1], epochs=end[2], level=level,
                pair=pair, fold=allocation.search_fold(self.plan, pair),
            )  # fmt: skip

    def freeze(self, runs: int) -> dict[str, tuple[Choice, ...]]:
        """Freeze the finds of the arms' searches by the study's own rule, each with ``runs`` confirmation runs."""
        self.validated()
        pairs = range(self.plan.pairs)
        choices = {
            arm: tuple(
                replace(choose(self.plan, self.ledger, arm, pair, validation.reader(self.run)), runs=runs)
                for pair in pairs
            )
            for arm in self.plan.arms
        }
        self.ledger.add(Manifest.of(choices, {arm: in_hand(found) for arm, found in choices.items()}))
        return choices

    def open(self, trials: list[str]) -> None:
        self.ledger.add(TestOpened(manifest=self.ledger.manifests[-1].sha256, trials=tuple(trials)))

    def score(self, trials: list[str], right: NDArray[np.bool_]) -> None:
        """Store predictions that are right where ``right`` (runs, images) is true."""
        classes = len(self.plan.data.classes)
        for trial, row in zip(trials, right, strict=True):
            wrong = (self.labels + self.rng.integers(1, classes, len(self.labels))) % classes
            predicted = np.where(row, self.labels, wrong)
            probabilities = np.full((len(predicted), classes), 0.1 / classes)
            probabilities[np.arange(len(predicted)), predicted] += 0.9
            logs = log_probabilities(probabilities)
            np.savez(
                self.folder / "predictions" / f"{trial}.npz",
                labels=self.labels,
                predictions=predicted,
                log_probabilities=logs,
            )
            judged, score = self.plan.judged, None
            if judged.name != "accuracy":
                score = float(judged.sampling(self.labels).mean(judged.scores(logs, self.labels)))
            self.ledger.add(Scored(trial=trial, test_accuracy=float(row.mean()), score=score))


def write_run(
    folder: Path,
    *,
    arms: tuple[str, ...] = ("resnet8", "resnext8"),
    default: tuple[float, ...] = (0.90, 0.895),
    tuned: tuple[float, ...] = (0.92, 0.93),
    runs: int = 5,
    failed: int = 0,
    images: int = 2000,
    rope: float = 0.005,
    seed: int = 0,
    confirmed: bool = True,
    slice_runs: int = 0,
    spaces: dict[str, dict[str, dict[str, Any]]] | None = None,
    share: float = 5400.0,
    classes: int = 10,
    luck_sd: float = 0.002,
    metric: Name = "accuracy",
    searched: bool = True,
) -> Path:
    """A complete run directory; ``runs`` confirmation runs of every find, whose accuracies differ by ``luck_sd`` from
    search to search. ``failed``: confirmation runs of the last arm that diverged on top;
    without ``confirmed`` the study stands after its search; ``slice_runs`` random settings; ``spaces`` as in the plan;
    ``share`` of the budget per arm, which decides on the searches; not ``searched``: no search could be paid for."""
    budget = Budget(seconds=share * len(arms), resource="cpu")
    question = replace(
        plan(arms, images=images, rope=rope, classes=classes, metric=metric),
        spaces=spaces or {},
        budget=budget,
    )
    diary = Diary(folder, question, seed=seed)
    with diary.ledger:
        baseline = [
            diary.full(arm, "baseline", question.folds, level)
            for arm, level in zip(arms, default, strict=True)
        ]
        full_run = dict.fromkeys(arms, 100.0)
        diary.ledger.add(
            Tuning(per_arm=searched * 1000.0 + 100.0 * slice_runs, slice_runs=slice_runs, full_run=full_run)
        )
        draws = [diary.slice(arm, slice_runs, 0.01 * i) for i, arm in enumerate(arms)]
        for arm in arms if searched else ():
            diary.search(arm)
        if not confirmed:
            return folder
        for arm in arms:
            diary.select(arm, 0.93)
        choices = diary.freeze(runs)
        confirm = [
            [
                t
                for choice in choices[arm]
                for t in diary.full(arm, "confirm", runs, level, choice.config, choice.pair)
            ]
            for arm, level in zip(arms, tuned, strict=True)
        ]
        for _ in range(failed):
            diary.trial(arms[-1], "confirm", state="failed", reason="diverged: loss nan", epochs=2, level=0.2)
        diary.open([t for trials in baseline + draws + confirm for t in trials])
        for trials, levels in (
            (baseline, default),
            *((draws, default) for _ in range(slice_runs > 0)),
        ):
            _score(diary, trials, levels)
        of_pair = [[names[p * runs : (p + 1) * runs] for names in confirm] for p in range(question.pairs)]
        luck = diary.rng.normal(0, luck_sd, (question.pairs, len(arms)))
        for trials, shift in zip(of_pair, luck, strict=True):
            _score(diary, trials, [level + s for level, s in zip(tuned, shift, strict=True)])
        for arm in arms:
            diary.ledger.add(Cost(arm=arm, phase="test", what="scoring", cost=8.0))
    return folder


def _score(diary: Diary, trials: Sequence[Sequence[str]], levels: Sequence[float]) -> None:
    """Test scores of each arm's trials around the arm's level."""
    tables = right_wrong(
        diary.rng,
        runs=tuple(len(t) for t in trials),
        accuracies=tuple(min(0.9999, level) for level in levels),
        images=diary.plan.data.test,
        run_sd=0.001,
    )
    for names, table in zip(trials, tables, strict=True):
        diary.score(list(names), table)


def verdict_json(run: Path) -> dict[str, Any]:
    """The facts of a written report."""
    body: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    return body
