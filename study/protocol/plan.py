"""The plan: the whole question, frozen, with the machine it was planned for; written to ``plan.json`` before the first trial."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from study.protocol import allocation
from study.protocol.budget import LONGEST, Budget
from study.protocol.codec import from_plain, parse
from study.protocol.errors import InputError
from study.protocol.metrics import METRICS, Metric
from study.protocol.question import Audit, DataCard, Measured, Question, Weights
from study.protocol.records import Extension, Scalar
from study.protocol.rundir import write

EPOCHS_CEILING = 10_000


@dataclass(frozen=True, kw_only=True)
class Plan(Question, Measured):
    """The whole question. Two studies with equal plans ask the same thing of the same machine."""

    @property
    def judged(self) -> Metric:
        """What nets are judged by."""
        return METRICS[self.metric]

    @property
    def margin(self) -> str:
        """The ROPE's half-width as it was given, ``0.5 pt``."""
        return f"{self.judged.typed(self.rope)} {self.judged.unit}".rstrip()

    @functools.cached_property
    def guess(self) -> float:
        """The score without looking at images."""
        counts = self.data.train_counts or (1,) * len(self.data.classes)
        total = sum(counts)
        return self.judged.guessing([count / total for count in counts])

    @property
    def share(self) -> float:
        """Resource-seconds per arm, all phases together."""
        return self.budget.seconds / len(self.arms)

    @functools.cached_property
    def pairs(self) -> int:
        """Paired searches per arm."""
        return allocation.pairs(self)

    @property
    def folds(self) -> int:
        """Disjoint parts of the training pool, each held out in turn; one baseline run per fold."""
        return max(allocation.FOLDS_FLOOR, self.pairs)

    @property
    def val_images(self) -> int:
        """Images of each fold."""
        return allocation.fold_images(self, self.folds)

    @property
    def train_images(self) -> int:
        """Images that one run trains on."""
        return allocation.images_beside(self, self.val_images)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which ASHA decides, ascending; the full length is not among them."""
        return allocation.rungs(self.epochs)

    def save(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all. Raises OSError, and InputError for text that could not be read again."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        try:
            parse(text)
        except ValueError as error:
            raise InputError(
                f"this question cannot be written down: {error}. Rename what has such a name"
            ) from error
        write(path, f"{text}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises InputError when the file is not a plan of this version, or one that no study could have written."""
        try:
            if not path.is_file():
                raise InputError("it is missing" if not path.exists() else "it is not a file")
            plan = cls.from_dict(parse(path.read_text()))
            _check(plan)
        except (InputError, OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a plan of this version: {error}") from error
        return plan

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Raises TypeError, naming the field, when ``body`` is not what ``asdict`` made of a Plan."""
        plan: Self = from_plain(cls, body)
        return plan

    def extended(self, extension: Extension | None) -> "Plan":
        """The plan of all arms, including one that an extension added: each with the same share as before.

        Raises InputError when the extension lacks what a plan has for every arm.
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
            weights={**self.weights, **added.weights},
        )
        _check(plan)
        if plan.pairs != self.pairs:
            raise InputError(f"the added arm has {plan.pairs} searches, the others have {self.pairs}")
        return plan


@dataclass(frozen=True, kw_only=True)
class _Added:
    """What an extension has of an added arm."""

    audits: dict[str, Audit]
    spaces: dict[str, dict[str, dict[str, Any]]]
    probe_cost: dict[str, float]
    weights: dict[str, Weights] = dataclasses.field(default_factory=dict)


def _check(plan: Plan) -> None:
    """Raises InputError for a value that neither the command line nor measuring could have given."""
    if len(plan.arms) < 2 or len(set(plan.arms)) < len(plan.arms):
        raise InputError(f"arms: {list(plan.arms)} are not two or more different ones")
    for name, known in (("audits", plan.audits), ("probe_cost", plan.probe_cost)):
        if known.keys() != set(plan.arms) or not plan.weights.keys() <= known.keys():
            raise InputError(f"{name}: not one for each arm")
    if len(plan.data.classes) < 2 or not plan.batch_sizes:
        raise InputError(
            "data: fewer than two classes" if plan.batch_sizes else "batch_sizes: there are none"
        )
    _check_counts(plan.data)
    for name, value, low, high in _limits(plan):
        if not low <= value <= high:
            raise InputError(f"{name}: {value:g} is not from {low:g} to {high:g}")
    for arm, space in plan.spaces.items():
        for axis, what in space.items():
            if not _is_axis(what):
                raise InputError(f"spaces: {arm}: {axis}: neither a range nor a choice")


def _check_counts(card: DataCard) -> None:
    classes = len(card.classes)
    whole = all(len(each) in (0, classes) for each in (card.train_counts, card.test_counts))
    if not (whole and bool(card.train_counts) == bool(card.test_counts)):
        raise InputError("data: train_counts, test_counts: not one for each class")
    if not all(0 <= left.label < classes for left in card.left_out):
        raise InputError("data: left_out: a label beyond the classes")


def _limits(plan: Plan) -> Iterator[tuple[str, float, float, float]]:
    """Every number: its name, its value, the lowest and the highest it may be."""
    machine, small, large = plan.machine, 1e-9, 1e15
    yield "budget: seconds", plan.budget.seconds, small, LONGEST
    yield "epochs", plan.epochs, 1, EPOCHS_CEILING
    yield "rope", plan.rope, small, plan.judged.widest
    yield "seed", plan.seed, 0, 2**31 - 1
    yield "train_fraction", plan.train_fraction, small, 1
    yield "data: train", plan.data.train, 1, large
    yield "data: test", plan.data.test, 1, large
    yield "data: size", plan.data.size, 1, 2**16
    yield "data: channels", plan.data.channels, 1, 2**10
    for name, counts in (("train_counts", plan.data.train_counts), ("test_counts", plan.data.test_counts)):
        yield f"data: {name}", len(counts), 0, len(plan.data.classes)
        yield from ((f"data: {name}", count, 0, large) for count in counts)
    yield "machine: slots", machine.slots, 1, 2**20
    yield "machine: fraction", machine.fraction, small, 2**10
    yield "machine: threads", machine.threads, 1, 2**16
    yield "machine: context_bytes", machine.context_bytes, 0, large
    yield from (("batch_sizes", size, 1, large) for size in plan.batch_sizes)
    yield from ((f"probe_cost: {arm}", cost, 0, large) for arm, cost in plan.probe_cost.items())
    for arm, audit in plan.audits.items():
        for name, value in vars(audit).items():
            if isinstance(value, int | float):
                low = small if "per_second" in name else 0
                yield f"audits: {arm}: {name}", value, low, large


def _is_axis(what: Mapping[str, Any]) -> bool:
    """Whether this is what ``spaces.describe`` makes of an axis."""
    if "options" in what:
        options = what["options"]
        return isinstance(options, list) and all(isinstance(o, Scalar) for o in options)
    ends: list[Any] = [what.get(name) for name in ("low", "high", "default")]
    if not all(isinstance(x, int | float) for x in ends):
        return False
    low, high, _ = ends
    return bool(-1e15 < low < high < 1e15 and (not what.get("log") or low > 0))
