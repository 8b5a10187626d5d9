"""The frozen question: what is compared, on which data, for which budget, and what the budget buys.

A Plan is written to ``plan.json`` before the first trial. The arithmetic of shares is here, so that
``--plan`` and the study use the same numbers.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from study.records import Scalar, from_plain, parse

FILE = "plan.json"
BASELINE_RUNS = 3
SELECT_FLOOR = 5
"""Selection runs with two islands; a budget for one island only is too small for any search."""
FULL_ISLANDS = 4
"""Independent searches per arm from which an interval over searches is worth reading (method.md 2.3)."""
ISLANDS = {FULL_ISLANDS: 40, 2: 16}
"""Full runs per arm from which a share is divided into this many searches (method.md 2.3)."""
SLICE_SHARE = (0.15, 0.2)
"""Aim and ceiling: part of the search share that goes to random configs which are never stopped (method.md 2.2, P2r)."""
TUNING_RUNS_FLOOR = 8
"""Full-run equivalents of tuning per arm under which no search deserves the name (method.md 2.2)."""
CONFIRM_FLOOR = 3
"""Confirmation runs per arm under which no plan is made (method.md 2.3)."""
CONFIRM_CEILING = 20
CONFIRM_SHARE = 0.2
"""Part of an arm's share that is set apart for confirmation, before anything else."""
MARGIN = 1.1
"""Full runs are reserved at this multiple of their measured cost, since machines are noisy."""
FEWEST_RUNS = BASELINE_RUNS + TUNING_RUNS_FLOOR + MARGIN * (SELECT_FLOOR + CONFIRM_FLOOR + 1)
"""Full runs per arm from which a plan is made. One more than the floor is set apart for confirmation from 20 on,
where the search would be left with too few again."""
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
AIM = 26
"""Full runs per arm that a chosen length leaves room for."""


class PlanError(ValueError):
    """A question that cannot be asked like this; the message says what is allowed instead."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Resource-seconds of one kind: ``8gpu-hours``, ``20cpu-minutes``."""

    seconds: float
    resource: Literal["gpu", "cpu"]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PlanError for anything that is no sane amount with a known unit."""
        match = re.fullmatch(
            r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(gpu|cpu)-?(hour|minute)s?\s*", text.lower()
        )
        if match is None:
            raise PlanError(
                f"budget {text!r} is not understood: give a positive number and one of gpu-hours, "
                "gpu-minutes, cpu-hours, cpu-minutes, as in 8gpu-hours or 10cpu-minutes"
            )
        amount, resource, unit = match.groups()
        seconds = float(amount) * (3600 if unit == "hour" else 60)
        if not SHORTEST <= seconds <= LONGEST:
            raise PlanError(
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
    """The faster layout of this arm's tensors, in which all its trials train."""
    graphed: bool = False
    """Whether its training step is replayed as one CUDA graph: tried, and found to give the digits of eager steps."""


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
class Plan:
    """The whole question. Two studies with equal plans ask the same thing of the same machine."""

    arms: tuple[str, ...]
    data: DataCard
    budget: Budget
    epochs: int
    rope: float
    """Half-width of the region of practical equivalence, as a fraction of accuracy."""
    seed: int
    val_fraction: float
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

    @property
    def share(self) -> float:
        """Resource-seconds per arm, all phases together."""
        return self.budget.seconds / len(self.arms)

    @property
    def train_images(self) -> int:
        """Images that one run trains on."""
        return max(len(self.data.classes), round(self.train_fraction * (self.data.train - self.val_images)))

    @property
    def val_images(self) -> int:
        return max(len(self.data.classes), round(self.val_fraction * self.data.train))

    def epoch_cost(self, arm: str) -> float:
        """Estimated resource-seconds of one epoch with its validation."""
        audit = self.audits[arm]
        wall = self.train_images / audit.images_per_second + self.val_images / audit.eval_images_per_second
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
        return (self.share - self.overhead) / max(self.full_run(a) for a in self.arms)

    @property
    def tuning_runs(self) -> float:
        """Full-run equivalents per arm that are left for the search."""
        return self.full_runs - BASELINE_RUNS - MARGIN * (self.select_runs + self.confirm_reserved)

    @property
    def smallest_budget(self) -> Budget:
        """The smallest budget at which this question, with runs of this length, can be asked."""
        return self._budget_of(FEWEST_RUNS)

    def budget_for(self, runs: int) -> Budget:
        """The smallest budget of which this many confirmation runs per arm are set apart, length kept.

        Raises PlanError for more runs than any study makes.
        """
        if runs > CONFIRM_CEILING:
            raise PlanError(
                f"{runs} confirmation runs per arm are more than the {CONFIRM_CEILING} of any study"
            )
        if runs <= CONFIRM_FLOOR:
            return self.smallest_budget
        enough = self._budget_of(runs / CONFIRM_SHARE)
        return max(enough, self.smallest_budget, key=lambda budget: budget.seconds)

    def budget_for_islands(self, islands: int) -> Budget:
        """The smallest budget that is divided into 2 or 4 searches per arm, length kept. Raises KeyError for others."""
        return self._budget_of(ISLANDS[islands])

    def _budget_of(self, full_runs: float, *, spare: float = 1.02) -> Budget:
        """What buys every arm this many full runs, in whole minutes and a little more."""
        share = self.overhead + full_runs * max(self.full_run(a) for a in self.arms)
        minutes = math.ceil(spare * share * len(self.arms) / 60)
        return Budget(seconds=60.0 * minutes, resource=self.budget.resource)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which ASHA decides, ascending; the full length is not among them."""
        return rungs(self.epochs)

    @property
    def islands(self) -> int:
        """Independent searches per arm: 4, 2 below 40 full runs per arm, 1 below 16 (method.md 2.3)."""
        return next((islands for islands, runs in ISLANDS.items() if self.full_runs >= runs), 1)

    @property
    def candidates(self) -> int:
        """Settings per arm that enter selection: what each island found, and the best of the random slice."""
        return max(2, self.islands + 1)

    @property
    def extra_runs(self) -> int:
        """Further selection runs of each of the best two settings."""
        return 2 if self.islands == 4 else 1

    @property
    def select_runs(self) -> int:
        """Selection runs per arm, by sequential halving: one of every candidate, then more of the best two."""
        return self.candidates + 2 * self.extra_runs

    @property
    def confirm_reserved(self) -> int:
        """Confirmation runs per arm for which cost is set apart before the search."""
        return min(CONFIRM_CEILING, max(CONFIRM_FLOOR, math.floor(CONFIRM_SHARE * self.full_runs)))

    def save(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all. Raises OSError."""
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("w") as file:
                file.write(json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises PlanError when the file is not a plan of this version, or one that nobody could have made."""
        try:
            if not path.is_file():
                raise PlanError("it is missing" if not path.exists() else "it is no file")
            plan = cls.from_dict(parse(path.read_text()))
            plan._check()
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise PlanError(f"{path} is no plan of this version: {error}") from error
        return plan

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Raises TypeError, naming the field, when ``body`` is not what ``asdict`` made of a Plan."""
        plan: Self = from_plain(cls, body)
        return plan

    def _check(self) -> None:
        """Raises PlanError for a value that the command line or the probe would never have given."""
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise PlanError(f"arms: {list(self.arms)} are not two or more different ones")
        for name, known in (("audits", self.audits), ("probe_cost", self.probe_cost)):
            if known.keys() != set(self.arms):
                raise PlanError(f"{name}: not one for each arm")
        if len(self.data.classes) < 2 or not self.batch_sizes:
            raise PlanError(
                "data: fewer than two classes" if self.batch_sizes else "batch_sizes: there are none"
            )
        for name, value, low, high in self._limits():
            if not low <= value <= high:
                raise PlanError(f"{name}: {value:g} is not from {low:g} to {high:g}")
        for arm, space in self.spaces.items():
            for axis, what in space.items():
                if not _is_axis(what):
                    raise PlanError(f"spaces: {arm}: {axis}: neither a range nor a choice")

    def _limits(self) -> list[tuple[str, float, float, float]]:
        """Every number by its name, with the lowest and the highest that it may be."""
        machine, small, large = self.machine, 1e-9, 1e15
        limits: list[tuple[str, float, float, float]] = [
            ("budget: seconds", self.budget.seconds, small, LONGEST),
            ("epochs", self.epochs, 1, EPOCHS_CEILING),
            ("rope", self.rope, small, ROPE_CEILING),
            ("seed", self.seed, 0, 2**31 - 1),
            ("val_fraction", self.val_fraction, small, 0.9),
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
                limits.append((f"audits: {arm}: {name}", value, small if "per_second" in name else 0, large))
        return limits


def _is_axis(what: Mapping[str, Any]) -> bool:
    """Whether this is what ``study.search.describe`` makes of an axis."""
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

    Raises PlanError, naming a budget that would do, when too few runs would be left.
    """
    if epochs is None:
        left = (plan.share - plan.overhead) / AIM
        affordable = min((left - plan.test_cost(arm)) / plan.epoch_cost(arm) for arm in plan.arms)
        epochs = max(EPOCHS[0], min(EPOCHS[1], math.floor(affordable)))
    plan = dataclasses.replace(plan, epochs=epochs)
    if plan.tuning_runs < TUNING_RUNS_FLOOR:
        raise PlanError(
            f"a budget of {plan.budget} is too small: it buys each arm {max(0.0, plan.full_runs):.1f} full runs of "
            f"{epochs} epochs, of which {max(0.0, plan.tuning_runs):.1f} would be left for the search, and a search "
            f"of fewer than {TUNING_RUNS_FLOOR} says little. This would do: --budget {plan._budget_of(FEWEST_RUNS, spare=SCATTER)}"
            + (" (or fewer --epochs)" if epochs > EPOCHS[0] else "")
        )
    return plan


def slice_runs(tuning_runs: float) -> int:
    """Random configs per arm out of a tuning share of so many full runs: the next above the aim, within the ceiling."""
    aim, ceiling = SLICE_SHARE
    return min(math.ceil(aim * tuning_runs), math.floor(ceiling * tuning_runs))


def rungs(epochs: int) -> tuple[int, ...]:
    """A third of the run, a third of that, ... down to one epoch (at most three rungs)."""
    found: list[int] = []
    rung = epochs // REDUCTION
    while rung >= 1 and len(found) < 3:
        found.insert(0, rung)
        rung //= REDUCTION
    return tuple(found)
