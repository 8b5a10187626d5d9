"""Worlds in which a whole study runs without training: recorded tables, and landscapes with a stated tuning gain.

A world gives a config's noise-free score after each report; ``Play`` adds the noise of runs and of validation
images, and drives the study's own ``Schedule`` in simulated time on two slots or more (hence asynchronous stopping).

Stated noise. Every run has a shift of its own, normal with sd ``RUN_SD``. Validation accuracies err by the binomial sd of
the fold's images: half of that variance is the fold's, shared by all settings of both arms validated on it; of the
rest one half stays through a run and one changes with every report. Baseline and selection runs also have a right/wrong
vector of that accuracy, in which an image hard for one run is hard for the others.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from support.synthetic import plan

from bench.taskset import Curves, Rows
from search_spaces import Arm, Choice, Config, Float, ImageSpec, Space
from study.protocol import allocation
from study.protocol.allocation import with_length
from study.protocol.budget import Budget
from study.protocol.history import History
from study.protocol.ledger import Ledger
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Record, Trial
from study.protocol.validation import Kept
from study.scheduling.schedule import Schedule

if TYPE_CHECKING:
    from torch import nn

RUN_SD = 0.003
EPOCHS = 10
"""Reports of a full run."""
SECONDS = 10.0
"""Simulated wall seconds of one report of an arm of cost 1."""
AGREE = 0.05
"""sd of a run's own hardness of images, on a scale where hardness is uniform from 0 to 1."""


class InMemory(Ledger):
    """The ledger's rules without its file: a thousand studies need no disk."""

    def __init__(self) -> None:
        History.__init__(self)
        self.watchers = []

    def add(self, record: Record) -> None:
        History.add(self, record)


class World(Protocol):
    """The scores of one arm's settings in one study."""

    space: Space

    def clean(self, trial: Trial, epoch: int) -> float | None:
        """Accuracy after this report without any noise; None where the run has diverged."""

    def truth(self, trial: Trial) -> float:
        """Test accuracy at full length, without noise."""


class Recorded:
    """One recorded table. A loss becomes an accuracy as exp(-loss), 50 % at chance. One search never gets a row twice.

    The curve on the recorded test images stands for the truth, and validation errs around it by its fold's images: the
    recorded validation images are one set, whose error (up to 1 pt between rows) all folds would share; real folds do not.
    """

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.space: Space = {**curves.space, "batch_size": Choice(options=(128,), default=128)}
        self._rows: dict[tuple[str, int], Rows] = {}
        self._known: dict[str, int] = {}

    def row(self, trial: Trial) -> int:
        setting = json.dumps(trial.config, sort_keys=True)
        if setting not in self._known:
            rows = self._rows.setdefault((trial.phase, trial.pair), Rows(self.curves))
            self._known[setting] = rows.draw(trial.config)
        return self._known[setting]

    def clean(self, trial: Trial, epoch: int) -> float | None:
        loss = float(self.curves.test[self.row(trial), epoch * self.curves.checkpoints // EPOCHS])
        return None if math.isnan(loss) else math.exp(-loss)

    def truth(self, trial: Trial) -> float:
        return math.exp(-float(self.curves.final_test[self.row(trial)]))


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A smooth bowl in three numbers and a choice, roughened setting by setting; accuracies in fractions."""

    best: float = 0.93
    gain: float = 0.02
    """Accuracy of the best setting minus the default's; negative if the default beats all others."""
    rough: float = 0.003
    """sd of a setting's own offset, the same in every run of it."""
    at: tuple[float, float, float] = (0.5, 0.5, 0.3)
    """The best setting, on axes of length 1."""
    depth: tuple[float, float, float] = (0.25, 0.08, 0.03)
    """Fall of the accuracy per squared distance."""

    def world(self) -> "Bowl":
        return Bowl(self)


class Bowl:
    """A landscape with its space; the default is off along the learning rate by the distance that costs ``gain``."""

    def __init__(self, land: Landscape) -> None:
        self.land = land
        off = math.sqrt(max(0.0, land.gain) / land.depth[0])
        rate, decay = land.at[0] - min(off, land.at[0]), land.at[1]
        self.space: Space = {
            "learning_rate": Float(low=1e-3, high=1.0, default=10 ** (3 * rate - 3), log=True),
            "decay": Float(low=1e-6, high=1e-2, default=10 ** (4 * decay - 6), log=True),
            "smoothing": Float(low=0.0, high=0.2, default=0.2 * land.at[2]),
            "augment": Choice(options=("a", "b", "c", "d"), default="a"),
            "batch_size": Choice(options=(128,), default=128),
        }
        self._default = {name: axis.default for name, axis in self.space.items()}
        self._final: dict[str, float | None] = {}

    def _at(self, config: Config) -> float | None:
        key = json.dumps(config, sort_keys=True)
        if key not in self._final:
            self._final[key] = self._value(config)
        return self._final[key]

    def _value(self, config: Config) -> float | None:
        place = (
            (math.log10(float(config["learning_rate"])) + 3) / 3,
            (math.log10(float(config["decay"])) + 6) / 4,
            float(config["smoothing"]) / 0.2,
        )
        if place[0] > 0.95:
            return None
        if config == self._default:
            return self.land.best - self.land.gain
        fall = sum(
            depth * (x - best) ** 2
            for depth, x, best in zip(self.land.depth, place, self.land.at, strict=True)
        )
        fall += {"a": 0.0, "b": 0.002, "c": 0.005, "d": 0.015}[str(config["augment"])]
        own = np.random.default_rng([abs(hash_of(config)), 7]).standard_normal()
        return max(0.1, self.land.best - fall + self.land.rough * float(own))

    def clean(self, trial: Trial, epoch: int) -> float | None:
        final = self._at(trial.config)
        if final is None:
            return None if epoch > 1 else 0.1
        rate = (math.log10(float(trial.config["learning_rate"])) + 3) / 3
        return final - (final - 0.1) * math.exp(-epoch * (2.5 + 3 * rate) / EPOCHS)

    def truth(self, trial: Trial) -> float:
        return self._at(trial.config) or 0.1


def hash_of(config: Config) -> int:
    """A hash that is the same in every process."""
    text = json.dumps(config, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Two worlds to compare, and the number of images of a study."""

    name: str
    worlds: tuple[Landscape | Curves, Landscape | Curves]
    same: bool
    """One arm under two names."""
    costs: tuple[float, float] = (1.0, 1.0)
    train: int = 50_000
    """Images of the training pool: a fold has 10 to 20 % of them."""
    test: int = 2000
    slots: int = 2
    """Trials side by side: with more of them a rung decides on less."""


NAMES = ("one", "other")


def question(family: Family, *, budget: float, seed: int) -> Plan:
    """Two arms; the dearer one has ``budget`` full runs."""
    base = plan(NAMES, images=family.test)
    base = dataclasses.replace(
        base,
        seed=seed,
        epochs=EPOCHS,
        batch_sizes=(128,),
        data=dataclasses.replace(base.data, train=family.train),
        machine=dataclasses.replace(base.machine, slots=family.slots),
    )
    audits = {}
    for name, cost in zip(NAMES, family.costs, strict=True):
        audits[name] = dataclasses.replace(
            base.audits[name],
            images_per_second=0.9 * family.train / (cost * SECONDS),
            eval_images_per_second=1e9,
            startup_seconds=1.0,
        )
    base = dataclasses.replace(base, audits=audits)
    share = budget * max(allocation.full_run(base, name) for name in NAMES) + allocation.overhead(base)
    return with_length(
        dataclasses.replace(base, budget=Budget(seconds=1.001 * len(NAMES) * share, resource="cpu")), EPOCHS
    )


def worlds(family: Family) -> dict[str, World]:
    """Fresh worlds for one study, whose searches share no drawn rows with another study's."""
    return {
        name: Recorded(kind) if isinstance(kind, Curves) else kind.world()
        for name, kind in zip(NAMES, family.worlds, strict=True)
    }


@dataclass
class Play:
    """One study in simulated time."""

    plan: Plan
    worlds: Mapping[str, World]
    costs: Mapping[str, float]
    run_sd: float = RUN_SD
    ledger: InMemory = field(default_factory=InMemory)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.plan.seed, 11])
        images = self.plan.val_images
        self._fold = rng.standard_normal(self.plan.folds)
        self._hard = rng.random((self.plan.folds, images), dtype=np.float32)

    def kept(self, name: str) -> Kept | None:
        trial, accuracy = self.ledger.trials[name], self.ledger.val_accuracy(name)
        if accuracy is None or trial.phase not in ("baseline", "select"):
            return None
        hard = self._hard[trial.fold]
        own = np.random.default_rng([trial.seed, 3]).standard_normal(len(hard), dtype=np.float32)
        right = round(accuracy * len(hard))
        found = np.zeros(len(hard), dtype=np.bool_)
        found[np.argpartition(hard + AGREE * own, min(right, len(hard) - 1))[:right]] = True
        return Kept(found)

    def accuracy(self, trial: Trial, epoch: int) -> float | None:
        clean = self.worlds[trial.arm].clean(trial, epoch)
        if clean is None:
            return None
        own, now = np.random.default_rng(trial.seed).standard_normal(2 + EPOCHS)[[1, 1 + epoch]]
        shift = self.run_sd * float(np.random.default_rng(trial.seed).standard_normal())
        sampling = math.sqrt(clean * (1 - clean) / self.plan.val_images)
        noise = math.sqrt(0.5) * self._fold[trial.fold] + 0.5 * own + 0.5 * now
        return min(1.0, max(0.0, clean + shift + sampling * float(noise)))

    def run(self) -> InMemory:
        """Drive the schedule to its end."""
        now = [0.0]
        arms = {name: Arm(_never_built, space=world.space) for name, world in self.worlds.items()}
        schedule = Schedule(self.plan, self.ledger, arms, clock=lambda: now[0], kept=self.kept)
        running: list[tuple[float, int, Trial, int]] = []
        count = 0
        while True:
            while (start := schedule.next()) is not None:
                count += 1
                running.append((now[0] + SECONDS * self.costs[start.trial.arm], count, start.trial, 1))
            if not running:
                assert schedule.done
                return self.ledger
            running.sort(key=lambda item: item[:2])
            now[0], order, trial, epoch = running.pop(0)
            accuracy = self.accuracy(trial, epoch)
            if accuracy is None:
                schedule.end(trial.id, "diverged: nan")
                continue
            seconds = SECONDS * self.costs[trial.arm]
            report = Epoch(
                trial=trial.id, epoch=epoch, train_loss=1.0, train_accuracy=accuracy, val_loss=1.0,
                val_accuracy=accuracy, train_seconds=seconds, eval_seconds=0.0,
            )  # fmt: skip
            if schedule.report(report) and epoch < trial.epochs:
                running.append((now[0] + seconds, order, trial, epoch + 1))
            else:
                schedule.end(trial.id)


def _never_built(_config: Config, _images: ImageSpec) -> "nn.Module":
    raise AssertionError("a replay trains nothing")
