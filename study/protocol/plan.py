"""The frozen question: what is compared, on which data, for which budget, and what the budget buys.

A Plan is written to ``plan.json`` before the first trial. The arithmetic of shares is here, so that
``--plan`` and the study use the same numbers.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from study.protocol.errors import InputError, StudyError
from study.protocol.records import Config, Extension, Scalar, from_plain, parse
from study.protocol.rundir import write
from study.protocol.settings import SETTINGS

FOLDS_FLOOR = 3
"""Disjoint folds of the training pool, at least: a search's own and two more to select on (METHOD.md 2)."""
PAIRS = {8: 200, 6: 100, 4: 50, 3: 25}
"""Paired searches per arm, and full runs per arm from which a share is divided into so many (METHOD.md 3)."""
SELECT_ROUNDS = 2
"""Selection runs of what a search found, one on each of so many folds that are not its own (METHOD.md 3)."""
SLICE_SHARE = (0.15, 0.2)
"""Aim and ceiling: part of the search share that goes to random configs which are never stopped (METHOD.md 3)."""
SLICE_FLOOR = 5
"""Random settings under which none are run: a band over fewer is trivial, and the searches need the money."""
TUNING_RUNS_FLOOR = 8
"""Full-run equivalents of tuning per arm under which no search deserves the name, the restored defaults counted."""
CONFIRM_FLOOR = 3
"""Confirmation runs of the net in hand under which no plan is made (METHOD.md 3)."""
CONFIRM_EACH = 2
"""Confirmation runs of every other find, at least."""
CONFIRM_CEILING = SETTINGS.confirm_ceiling
"""Confirmation runs of one find, at most."""
CONFIRM_SHARE = 0.2
"""Part of an arm's share that is set apart for confirmation, before anything else."""
MARGIN = 1.1
"""Full runs are reserved at this multiple of their measured cost, since machines are noisy."""
VAL_SHARE = (0.1, 0.2)
"""Part of the training pool in a fold: the second where images are few, the first where they are many."""
VAL_IMAGES = 1000
"""Images of a fold that are enough for the smaller share (METHOD.md 2)."""
FEWEST_RUNS = FOLDS_FLOOR + TUNING_RUNS_FLOOR - 1 + MARGIN * (SELECT_ROUNDS + CONFIRM_FLOOR)
"""Full runs per arm from which a plan is made: one search, whose first trial is a default that is paid already."""
LAYOUT_AXIS = "cardinality"
"""The axis that decides which layout is faster: grouped convolutions have kernels of their own."""
REDUCTION = 3
"""ASHA's reduction factor: the best third of a rung goes on."""
MATCHED = 0.05
"""Arms whose MACs differ by more are not matched: ResNeXt's own "matched" templates are up to 4.5 % apart."""
EPOCHS = (3, 50)
"""Shortest and longest full run that is chosen without ``--epochs``; 50 is the seed post's length."""
SHORTEST = 60.0
"""Resource-seconds under which nothing is measured: starting workers thrice and timing two arms takes about as long."""
LONGEST = 1e6 * 3600
"""Resource-seconds above which no budget is meant."""
EPOCHS_CEILING = 10_000
ROPE_CEILING = 0.2
SCATTER = 1.25
"""The same arms measured twice differ by less: a budget that a refusal names must do then too."""
AIMS = ((60, 10), (30, 3))
"""A chosen length leaves room for 60 full runs per arm, enough for four pairs of searches also where a run costs a fifth more
than was measured; where these would be shorter than 10 epochs, too short for two rungs, for 30, three pairs."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Resource-seconds of one kind: ``8gpu-hours``, ``20cpu-minutes``."""

    seconds: float
    resource: Literal["gpu", "cpu"]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InputError for anything that is no sane amount with a known unit."""
        match = re.fullmatch(
            r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(gpu|cpu)-?(hour|minute)s?\s*", text.lower()
        )
        if match is None:
            raise InputError(
                f"budget {text!r} is not understood: give a positive number and one of gpu-hours, "
                "gpu-minutes, cpu-hours, cpu-minutes, as in 8gpu-hours or 10cpu-minutes"
            )
        amount, resource, unit = match.groups()
        seconds = float(amount) * (3600 if unit == "hour" else 60)
        if not SHORTEST <= seconds <= LONGEST:
            raise InputError(
                f"budget {text!r} is out of range: at least a minute, which measuring the arms and starting workers "
                "takes, and at most a million hours"
            )
        return cls(seconds=seconds, resource="gpu" if resource == "gpu" else "cpu")

    def __str__(self) -> str:
        hours = self.seconds / 3600
        amount, unit = (
            (hours, "hours") if hours >= 1 and hours == round(hours, 2) else (self.seconds / 60, "minutes")
        )
        return f"{amount:.10g}{self.resource}-{unit}"


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """What the study knows of its images without opening the sealed test part."""

    spec: str
    """As given: ``cifar10``, ``digits``, ``folder:PATH``."""
    classes: tuple[str, ...]
    train: int
    """Images in the training pool, validation included."""
    test: int
    size: int
    """Pixels per side."""
    channels: int
    fingerprint: str
    """SHA-256 over all images and labels, test included."""
    note: str = ""
    """How the images were made square, or the test part set apart, when the study had to choose."""
    copies: int = 0
    """Test images that are training images too, pixel for pixel."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Complexity and measured speed of one arm at its default setting."""

    params: int
    macs: int
    """Multiply-accumulates of one forward pass of one image."""
    images_per_second: float
    """Training, forward + backward + step, on what one trial holds."""
    eval_images_per_second: float
    peak_bytes: int
    """Peak memory of training: device memory on a GPU, resident memory of the process on a CPU."""
    startup_seconds: float
    """From the grant of the resource to the first training step on a fresh worker."""
    channels_last: bool = True
    """The faster layout of this arm's tensors at its default setting."""
    layouts: dict[str, bool] = dataclasses.field(default_factory=dict)
    """Whether channels_last is faster at the other options of ``LAYOUT_AXIS``, as far as they were measured."""
    graphed: bool = False
    """Whether its training step is replayed as one CUDA graph: tried, and found to give the digits of eager steps."""

    def layout(self, config: Config) -> bool:
        """Whether a net of this setting trains in channels_last."""
        return self.layouts.get(str(config.get(LAYOUT_AXIS)), self.channels_last)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What every trial holds, and how many run side by side."""

    resource: Literal["gpu", "cpu"]
    slots: int
    fraction: float
    """Of one GPU, or CPU cores, that a trial holds: the factor between wall and resource-seconds."""
    threads: int
    """CPU threads per trial."""
    name: str
    kind: str = ""
    """Ray's name of the only kind of GPU that trials run on; empty where Ray reports none."""
    gpu: str = ""
    """The GPU as its driver describes it, ``device.described``: Ray's names put several models into one kind."""
    context_bytes: int = 2**30
    """GPU memory that every process takes for CUDA and its libraries, as measured, outside the wall around its tensors."""

    def slots_of(self, fraction: float) -> int:
        """How many of the study's slots a trial takes that holds this.

        A whole GPU is all slots of one, though three that hold 0.3333 do not add up to it.
        """
        most = int(1 / self.fraction) if self.resource == "gpu" else self.slots
        return min(most, self.slots, math.ceil(fraction / self.fraction - 1e-9))


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One way to share a GPU, or a machine's cores, as it was measured with one arm."""

    arm: str
    trials: int
    """Side by side on one GPU, or on the cores of one node."""
    fraction: float
    threads: int
    batch_size: int
    channels_last: bool
    images_per_second: float
    """Training, all of them together."""
    peak_bytes: int
    """Of the largest of them, as in ``Audit``."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A study that has opened the same test files before this one began."""

    run: str
    """Its folder's name."""
    arms: tuple[str, ...]
    level: float
    """Error, over all its looks, that its sentence on one pair of arms allows itself."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole question. Two studies with equal plans ask the same thing of the same machine."""

    arms: tuple[str, ...]
    data: DataCard
    budget: Budget
    epochs: int
    rope: float
    """Half-width of the region of practical equivalence, as a fraction of accuracy."""
    seed: int
    train_fraction: float
    """Part of the images left for training that every run trains on: does the answer hinge on the data's size?"""
    widen: tuple[str, ...]
    """Numeric axes searched beyond their usual ends, for every arm that has them."""
    spaces: dict[str, dict[str, dict[str, Any]]]
    """Per arm and axis what was searched: ``low``, ``high``, ``log`` or ``options``, with ``default``."""
    batch_sizes: tuple[int, ...]
    """Options of the shared batch-size axis that every arm can hold in memory."""
    audits: dict[str, Audit]
    machine: Machine
    probe_cost: dict[str, float]
    """Resource-seconds already spent on measuring each arm."""
    command: str
    versions: dict[str, str]
    code: str
    """SHA-256 over the source of ``study`` and of the arms."""
    packing: tuple[Packed, ...] = ()
    """What was measured to choose ``machine.fraction`` and every arm's layout, in the order of measuring."""
    packing_notes: tuple[str, ...] = ()
    """Sentences: what was chosen, what was not measured and why."""
    looks: Literal[1, 2] = 1
    """How often the test may be looked at, as declared before the first trial (METHOD.md 6)."""
    earlier: tuple[Earlier, ...] = ()
    test_source: str = ""
    """SHA-256 over the source files of the test's images, or their pixels where a data set is one file."""

    def extended(self, extension: Extension | None) -> "Plan":
        """The plan of all arms, with that which an extension added: each with the same share as before.

        Raises InputError when the extension has not what a plan has of every arm.
        """
        if extension is None or extension.pairs:
            return self
        try:
            added = from_plain(_Added, extension.plan)
        except TypeError as error:
            raise InputError(f"the added arm: {error}") from error
        arms = (*self.arms, *extension.arms)
        plan = dataclasses.replace(
            self,
            arms=arms,
            budget=Budget(seconds=self.share * len(arms), resource=self.budget.resource),
            spaces={**self.spaces, **added.spaces},
            audits={**self.audits, **added.audits},
            probe_cost={**self.probe_cost, **added.probe_cost},
        )
        plan._check()
        if plan.pairs != self.pairs:
            raise InputError(f"the added arm is of {plan.pairs} searches, the others of {self.pairs}")
        return plan

    @property
    def share(self) -> float:
        """Resource-seconds per arm, all phases together."""
        return self.budget.seconds / len(self.arms)

    @property
    def train_images(self) -> int:
        """Images that one run trains on."""
        return self._train_images(self.val_images)

    def _train_images(self, val_images: int) -> int:
        return max(len(self.data.classes), round(self.train_fraction * (self.data.train - val_images)))

    @property
    def val_images(self) -> int:
        """Images of each fold: 20 % of the pool where images are few, 10 % where they are many (METHOD.md 2)."""
        return self._val_images(self.folds)

    def _val_images(self, folds: int) -> int:
        pool, (least, most) = self.data.train, VAL_SHARE
        wanted = max(least * pool, min(most * pool, VAL_IMAGES))
        return max(len(self.data.classes), math.floor(min(pool / folds, wanted)))

    def epoch_cost(self, arm: str) -> float:
        """Estimated resource-seconds of one epoch with its validation."""
        return self._epoch_cost(arm, self.val_images)

    def _epoch_cost(self, arm: str, val_images: int) -> float:
        audit, train = self.audits[arm], self._train_images(val_images)
        wall = train / audit.images_per_second + val_images / audit.eval_images_per_second
        return wall * self.machine.fraction

    def test_cost(self, arm: str) -> float:
        """Estimated resource-seconds of scoring one net on the test set."""
        return self.data.test / self.audits[arm].eval_images_per_second * self.machine.fraction

    def full_run(self, arm: str) -> float:
        """Estimated resource-seconds of one full-length run, its test score included."""
        return self.epochs * self.epoch_cost(arm) + self.test_cost(arm)

    @property
    def startup(self) -> float:
        """Resource-seconds per arm that go by while every slot's worker imports torch."""
        seconds = max(a.startup_seconds for a in self.audits.values())
        return seconds * self.machine.slots * self.machine.fraction / len(self.arms)

    @property
    def overhead(self) -> float:
        """Resource-seconds per arm that no run gets: measuring, starting workers for trials and for the test."""
        return max(self.probe_cost.values()) + 2 * self.startup

    @property
    def full_runs(self) -> float:
        """Full-length runs that one arm's share buys, counted for the dearest arm."""
        return self._full_runs(self.val_images)

    def _full_runs(self, val_images: int) -> float:
        costs = (self.epochs * self._epoch_cost(a, val_images) + self.test_cost(a) for a in self.arms)
        return (self.share - self.overhead) / max(costs)

    @property
    def tuning_runs(self) -> float:
        """Full-run equivalents per arm that are left for the searches and the random settings."""
        return self.full_runs - self.folds - MARGIN * (self.select_runs + self.confirm_reserved)

    def budget_for_pairs(self, pairs: int) -> Budget:
        """The smallest budget that is divided into so many searches per arm, length kept. Raises KeyError for others."""
        return self._budget_of(PAIRS[pairs])

    def _budget_of(self, full_runs: float, *, spare: float = 1.02) -> Budget:
        """What buys every arm this many full runs, in whole minutes and a little more."""
        share = self.overhead + full_runs * max(self.full_run(a) for a in self.arms)
        minutes = math.ceil(spare * share * len(self.arms) / 60)
        return Budget(seconds=60.0 * minutes, resource=self.budget.resource)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which ASHA decides, ascending; the full length is not among them."""
        return rungs(self.epochs)

    @functools.cached_property
    def pairs(self) -> int:
        """Paired searches per arm, R: 8, 6, 4 or 3 by the full runs that a share buys; 1 where these are under 25."""
        for pairs, runs in PAIRS.items():
            if self._full_runs(self._val_images(max(FOLDS_FLOOR, pairs))) >= runs:
                return pairs
        return 1

    @property
    def folds(self) -> int:
        """Disjoint parts of the training pool, each of which is held out in turn; one baseline run per fold."""
        return max(FOLDS_FLOOR, self.pairs)

    def search_fold(self, pair: int) -> int:
        return pair % self.folds

    def select_folds(self, pair: int) -> tuple[int, ...]:
        """The folds, never the search's own, on which what it found is selected."""
        return tuple((pair + i) % self.folds for i in range(1, SELECT_ROUNDS + 1))

    def confirm_fold(self, pair: int, run: int) -> int:
        return (pair + run) % self.folds

    @property
    def select_runs(self) -> int:
        """Selection runs per arm, at most: a search that found nothing needs none."""
        return SELECT_ROUNDS * self.pairs

    @property
    def confirm_each(self) -> int:
        """Confirmation runs of every find for which cost is set apart before the search."""
        least = CONFIRM_EACH if self.pairs > 1 else CONFIRM_FLOOR
        return min(CONFIRM_CEILING, max(least, math.floor(CONFIRM_SHARE * self.full_runs / self.pairs)))

    @property
    def confirm_reserved(self) -> int:
        """Confirmation runs per arm for which cost is set apart; the net in hand has at least ``CONFIRM_FLOOR``."""
        return self.pairs * self.confirm_each + max(0, CONFIRM_FLOOR - self.confirm_each)

    def save(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all. Raises OSError."""
        write(path, f"{json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises InputError when the file is not a plan of this version, or one that nobody could have made."""
        try:
            if not path.is_file():
                raise InputError("it is missing" if not path.exists() else "it is no file")
            plan = cls.from_dict(parse(path.read_text()))
            plan._check()
        except (StudyError, OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is no plan of this version: {error}") from error
        return plan

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Raises TypeError, naming the field, when ``body`` is not what ``asdict`` made of a Plan."""
        plan: Self = from_plain(cls, body)
        return plan

    def _check(self) -> None:
        """Raises InputError for a value that the command line or the probe would never have given."""
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms: {list(self.arms)} are not two or more different ones")
        for name, known in (("audits", self.audits), ("probe_cost", self.probe_cost)):
            if known.keys() != set(self.arms):
                raise InputError(f"{name}: not one for each arm")
        if len(self.data.classes) < 2 or not self.batch_sizes:
            raise InputError(
                "data: fewer than two classes" if self.batch_sizes else "batch_sizes: there are none"
            )
        for name, value, low, high in self._limits():
            if not low <= value <= high:
                raise InputError(f"{name}: {value:g} is not from {low:g} to {high:g}")
        for arm, space in self.spaces.items():
            for axis, what in space.items():
                if not _is_axis(what):
                    raise InputError(f"spaces: {arm}: {axis}: neither a range nor a choice")

    def _limits(self) -> list[tuple[str, float, float, float]]:
        """Every number by its name, with the lowest and the highest that it may be."""
        machine, small, large = self.machine, 1e-9, 1e15
        limits: list[tuple[str, float, float, float]] = [
            ("budget: seconds", self.budget.seconds, small, LONGEST),
            ("epochs", self.epochs, 1, EPOCHS_CEILING),
            ("rope", self.rope, small, ROPE_CEILING),
            ("seed", self.seed, 0, 2**31 - 1),
            ("train_fraction", self.train_fraction, small, 1),
            ("data: train", self.data.train, 1, large),
            ("data: test", self.data.test, 1, large),
            ("data: size", self.data.size, 1, 2**16),
            ("data: channels", self.data.channels, 1, 2**10),
            ("machine: slots", machine.slots, 1, 2**20),
            ("machine: fraction", machine.fraction, small, 2**10),
            ("machine: threads", machine.threads, 1, 2**16),
            ("machine: context_bytes", machine.context_bytes, 0, large),
            *(("batch_sizes", size, 1, large) for size in self.batch_sizes),
            *((f"probe_cost: {arm}", cost, 0, large) for arm, cost in self.probe_cost.items()),
        ]
        for arm, audit in self.audits.items():
            for name, value in vars(audit).items():
                if isinstance(value, int | float):
                    low = small if "per_second" in name else 0
                    limits.append((f"audits: {arm}: {name}", value, low, large))
        return limits


@dataclass(frozen=True, kw_only=True)
class _Added:
    """What an extension has of an added arm."""

    audits: dict[str, Audit]
    spaces: dict[str, dict[str, dict[str, Any]]]
    probe_cost: dict[str, float]


def _is_axis(what: Mapping[str, Any]) -> bool:
    """Whether this is what ``study.scheduling.sampler.describe`` makes of an axis."""
    if "options" in what:
        options = what["options"]
        return isinstance(options, list) and all(isinstance(o, Scalar) for o in options)
    ends: list[Any] = [what.get(name) for name in ("low", "high", "default")]
    if not all(isinstance(x, int | float) for x in ends):
        return False
    low, high, _ = ends
    return bool(-1e15 < low < high < 1e15 and (not what.get("log") or low > 0))


def unmatched(audits: Mapping[str, Audit]) -> str:
    """A warning when the arms' MACs are not within ``MATCHED`` of each other, else empty."""
    macs = {arm: audit.macs for arm, audit in audits.items()}
    small, large = min(macs, key=lambda a: macs[a]), max(macs, key=lambda a: macs[a])
    gap = macs[large] / macs[small] - 1
    if gap <= MATCHED:
        return ""
    more = f"{100 * gap:.0f} % more" if gap < 1 else f"{1 + gap:.1f} times the"
    return (
        f"The arms are not matched: {large} needs {more} multiply-accumulates per image {'than' if gap < 1 else 'of'} "
        f"{small}. Part of a difference may be size."
    )


def with_length(plan: Plan, epochs: int | None) -> Plan:
    """The plan with full runs of ``epochs``; without one, the longest that leaves room for ``AIM`` of them.

    Raises InputError, naming a budget that would do, when too few runs would be left.
    """
    if epochs is None:
        epochs = _affordable(plan)
    plan = dataclasses.replace(plan, epochs=epochs)
    if plan.tuning_runs + plan.pairs < TUNING_RUNS_FLOOR:
        raise InputError(
            f"a budget of {plan.budget} is too small: it buys each arm {max(0.0, plan.full_runs):.1f} full runs of "
            f"{epochs} epochs, of which {max(0.0, plan.tuning_runs):.1f} would be left for the search, and a search "
            f"of fewer than {TUNING_RUNS_FLOOR} says little. This would do: --budget {plan._budget_of(FEWEST_RUNS, spare=SCATTER)}"
            + (" (or fewer --epochs)" if epochs > EPOCHS[0] else "")
        )
    return plan


def _affordable(plan: Plan) -> int:
    """The length of a full run that leaves room for one of ``AIMS``, within ``EPOCHS``."""
    ceiling = EPOCHS[1]
    for runs, shortest in AIMS:
        left = (plan.share - plan.overhead) / runs
        longest = math.floor(min((left - plan.test_cost(arm)) / plan.epoch_cost(arm) for arm in plan.arms))
        if longest >= shortest:
            return min(longest, ceiling)
        ceiling = shortest
    return EPOCHS[0]


def slice_runs(tuning_runs: float) -> int:
    """Random configs per arm out of a tuning share of so many full runs: the next above the aim, within the ceiling."""
    aim, ceiling = SLICE_SHARE
    runs = min(math.ceil(aim * tuning_runs), math.floor(ceiling * tuning_runs))
    return runs if runs >= SLICE_FLOOR else 0


def rungs(epochs: int) -> tuple[int, ...]:
    """A third of the run, a third of that, ... down to one epoch (at most three rungs)."""
    found: list[int] = []
    rung = epochs // REDUCTION
    while rung >= 1 and len(found) < 3:
        found.insert(0, rung)
        rung //= REDUCTION
    return tuple(found)
