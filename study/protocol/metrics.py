"""What nets are judged by: the score of every image, what a mean of them is called, and how it is written.

Inside the study more is always better: a loss is scored by its negative, and a difference is the lead of the first. Only
``value`` and its like turn the sign for a reader. Needs only numpy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from study.protocol.errors import InputError
from study.protocol.sampling import ALIKE, Sampling
from study.protocol.text import listed, percent, points

Name = Literal["accuracy", "balanced-accuracy", "top5", "log-loss", "brier"]
NAMES: tuple[Name, ...] = get_args(Name)
Labels = NDArray[np.integer]
Scores = NDArray[np.bool_] | NDArray[np.float64] | NDArray[np.float32]
"""Per image, more is better: right or wrong, or minus a loss."""
FLOOR = 1e-7
"""Least probability that a net may give: one image that it is sure about, and wrong, costs it at most 16.1 nats."""
LOWEST = np.float32(math.log(FLOOR))
TOP = 5
FEWEST_IMAGES = 10
"""Test images of a class below which there is no verdict under balanced accuracy (METHOD.md 10)."""


def log_probabilities(probabilities: "NDArray[np.floating]") -> NDArray[np.float32]:
    """As they are stored and scored: natural logarithms, float32, of probabilities of at least ``FLOOR``."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), FLOOR, 1.0)
    return np.log(clipped).astype(np.float32)


def _right(logs: NDArray[np.float32], labels: Labels) -> Scores:
    return np.asarray(logs.argmax(axis=1) == labels)


def _among_five(logs: NDArray[np.float32], labels: Labels) -> Scores:
    """Of equal classes the lower number comes first; a class at ``FLOOR`` is not named at all."""
    own = np.take_along_axis(logs, labels[:, None], axis=1)
    ahead = (logs > own) | ((logs == own) & (np.arange(logs.shape[1]) < labels[:, None]))
    return np.asarray((ahead.sum(axis=1) < TOP) & (own[:, 0] > LOWEST))


def _log_score(logs: NDArray[np.float32], labels: Labels) -> Scores:
    return logs[np.arange(len(labels)), labels].astype(np.float64)


def _brier(logs: NDArray[np.float32], labels: Labels) -> Scores:
    """Minus the squared distance from (0, ..., 1, ..., 0), summed over classes: 0 to -2 (Brier 1950)."""
    p = np.exp(logs.astype(np.float64))
    own = p[np.arange(len(labels)), labels]
    return np.asarray(-((p**2).sum(axis=1) - 2 * own + 1))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to judge nets. ``scores(log_probabilities, labels)`` gives the score of every image."""

    name: Name
    title: str
    scores: Callable[[NDArray[np.float32], Labels], Scores]
    guessing: Callable[[Sequence[float]], float]
    """The best score without looking at images, from the classes' shares."""
    guess: str
    """What reaches it."""
    unit: str = "pt"
    lower: bool = False
    """Whether less is better, to a reader."""
    by_class: bool = False
    """Whether each class counts alike, rather than each image."""
    worst: float = 0.0
    """Least score of an image; the best is 1, or 0 for a loss."""
    rope: float | None = 0.005
    """Margin without ``--rope``; None where there is none."""
    widest: float = 0.2
    """Largest margin."""
    of_luck: float = 1.0
    """How many times as much as in accuracy settings differ by, and ..."""
    of_images: float = 1.0
    """... two nets on one image: for forecasts before anything was measured (METHOD.md 8)."""

    @property
    def shares(self) -> bool:
        """Whether an image is right or wrong, and the mean a share."""
        return not self.lower

    @property
    def best(self) -> float:
        """Highest score of an image."""
        return 0.0 if self.lower else 1.0

    def sampling(self, labels: Labels, groups: Labels | None = None) -> Sampling:
        """How images with these labels count, and come in these groups."""
        classes = labels if self.by_class else None
        return ALIKE if classes is None and groups is None else Sampling(classes, groups)

    def spread(self, mean: float) -> float:
        """Variance of one image's score about a mean, where no image is known: of right or wrong, or as a loss has it."""
        return mean * (1 - mean) if self.shares else mean**2

    # -- for a reader

    def margin(self, given: float) -> float:
        """The margin from what was typed, in points or nats. Raises InputError when it is too large."""
        scale = 100 if self.shares else 1
        if not 0 < given <= scale * self.widest:
            unit = f"{self.title} points" if self.shares else self.unit or f"of the {self.title}"
            raise InputError(
                f"--rope {given:g} is out of range: above 0 and at most {scale * self.widest:g} {unit}"
            )
        return given / scale

    def typed(self, margin: float) -> str:
        """The margin as ``margin`` reads it."""
        return f"{100 * margin if self.shares else margin:g}"

    def number(self, lead: float, *, sign: bool = False) -> str:
        """A difference without its unit: ``1.23``, ``−0.0123``; the lead of the first, so that more is better."""
        if self.shares:
            return points(lead, sign=sign)
        text = f"{abs(lead):.4f}"
        zero = not float(text)
        return ("−" if lead < 0 and not zero else "+" if sign and not zero else "") + text

    def gap(self, lead: float, *, sign: bool = False) -> str:
        """A difference: ``1.23 pt``, ``0.0123 nats``, ``0.0123``."""
        return f"{self.number(lead, sign=sign)} {self.unit}".rstrip()

    def gap_of(self, lead: float, *, sign: bool = False) -> str:
        """The same with the metric's name, for the first in a sentence: ``1.23 pt``, ``1.23 pt of balanced accuracy``."""
        return self.gap(lead, sign=sign) + ("" if self.name == "accuracy" else f" of {self.kind}")

    @property
    def kind(self) -> str:
        """``accuracy``, ``log-loss (lower is better)``: the metric in a sentence."""
        return self.title + (" (lower is better)" if self.lower else "")

    def minus(self, first: str, second: str) -> str:
        """What a signed difference is: ``A minus B``, or ``the lead of A over B`` where less is better."""
        return f"the lead of {first} over {second}" if self.lower else f"{first} minus {second}"

    @property
    def against(self) -> str:
        """Between two names over a signed difference: a minus sign, or ``ahead of`` where less is better."""
        return "ahead of" if self.lower else "−"

    def shown(self, score: float) -> str:
        """A mean without its unit: ``93.12``, ``0.4312``."""
        return points(score) if self.shares else f"{-score + 0.0:.4f}"

    def span(self, low: float, high: float) -> str:
        """The ends of a mean's interval, the lower number first: ``92.90 to 93.40``."""
        return " to ".join(self.shown(end) for end in ((high, low) if self.lower else (low, high)))

    def value(self, score: float) -> str:
        """A mean: ``93.12 %``, ``0.4312 nats``, ``0.1234``."""
        return percent(score) if self.shares else f"{self.shown(score)} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """A mean's name over a column or at an axis: ``accuracy, %``, ``log-loss, nats (lower is better)``."""
        unit = "%" if self.shares else self.unit
        return self.title + (f", {unit}" if unit else "") + (" (lower is better)" if self.lower else "")

    def drawn(self, score: Any) -> Any:
        """A mean, or an array of them, as ``axis`` has it: in percent, or the loss itself."""
        return 100 * score if self.shares else -score

    @property
    def steps(self) -> float:
        """What a difference is multiplied by to be drawn."""
        return 100.0 if self.shares else 1.0


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            name="accuracy", title="accuracy", scores=_right, guessing=max, guess="guessing the most frequent class",
        ),
        Metric(
            name="balanced-accuracy", title="balanced accuracy", scores=_right, by_class=True,
            guessing=lambda shares: 1 / len(shares), guess="naming the same class for every image",
        ),
        Metric(
            name="top5", title="top-5 accuracy", scores=_among_five,
            guessing=lambda shares: sum(sorted(shares)[-TOP:]), guess="naming the five most frequent classes",
        ),
        Metric(
            name="log-loss", title="log-loss", scores=_log_score, unit="nats", lower=True, worst=math.log(FLOOR),
            guessing=lambda shares: sum(s * math.log(s) for s in shares if s), rope=None, widest=2.0, of_luck=3.0, of_images=1.6,
            guess="giving every image the shares of the classes",
        ),
        Metric(
            name="brier", title="Brier score", scores=_brier, unit="", lower=True, worst=-2.0,
            guessing=lambda shares: sum(s * s for s in shares) - 1, rope=None, widest=0.4, of_luck=1.5, of_images=0.9,
            guess="giving every image the shares of the classes",
        ),
    )
}  # fmt: skip
ACCURACY = METRICS["accuracy"]


def unfit(metric: Metric, classes: Sequence[str], tested: Sequence[int]) -> str:
    """Why these classes and their numbers of test images allow no verdict under the metric; empty if they do."""
    if metric.name == "top5" and len(classes) <= TOP:
        return (
            f"--metric top5 needs more than {TOP} classes, and these images have {len(classes)}: every net would be right. "
            "Take --metric accuracy, balanced-accuracy, log-loss or brier"
        )
    few = [
        f"{count} of {name}" for name, count in zip(classes, tested, strict=False) if count < FEWEST_IMAGES
    ]
    if metric.by_class and few:
        named = listed(few[:3]) + (f" and {len(few) - 3} more classes" if len(few) > 3 else "")
        return (
            f"--metric balanced-accuracy needs at least {FEWEST_IMAGES} test images of every class, since each counts as much as "
            f"any other; there are {named}. Add test images, leave the class out, or take --metric accuracy, log-loss or brier"
        )
    return ""


def uneven(counts: Sequence[int]) -> bool:
    """Whether classes are clearly unequal: the largest has 1.5 times the images of the smallest, beyond chance."""
    most, least = max(counts, default=0), min(counts, default=0)
    return most >= 1.5 * least and most - least > 3 * math.sqrt(most + least)


def at_start(metric: Metric, counts: Sequence[int], tested: Sequence[int]) -> str:
    """What guessing reaches under another metric than accuracy, and which one would see classes that accuracy hardly does.

    ``counts`` and ``tested`` are the images of each class to train on and to test on.
    """
    if metric.name != "accuracy":
        shares = [count / sum(counts) for count in counts]
        return f"Judged by {metric.kind}: {metric.guess} reaches {metric.value(metric.guessing(shares))}."
    if not uneven(counts):
        return ""
    sees = (
        "--metric balanced-accuracy counts every class alike; log-loss sees more than the class that is named."
        if min(tested, default=0) >= FEWEST_IMAGES
        else f"--metric log-loss sees more than the class that is named; balanced-accuracy would take {FEWEST_IMAGES} test "
        "images of every class."
    )
    return (
        f"The classes are unequal ({min(counts)} to {max(counts)} images to train on): a net may do badly on the rare ones "
        f"and still reach a high accuracy. {sees}"
    )
