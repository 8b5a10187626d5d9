"""``python -m analysis compare A B``: the same verdict for predictions that came from elsewhere.

A side is one ``.npz`` file or a folder of them: ``labels`` (images,) with ``predictions`` (runs, images)
or (images,), or ``probabilities`` (runs, images, classes) or (images, classes). A folder's files are runs,
stacked in the order of their names. One run per side answers for these two nets (Q1) and no more: how a
setting does when it is trained again (Q2) cannot be seen from one run. Runs of a side that name the same
class for every image, by the same probabilities where both have them, are taken for one net that was stored
several times, and are counted once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import npz
from analysis.power import disagreement
from analysis.statistics.intervals import Correct, Refused
from analysis.statistics.mcnemar import Paired, paired
from analysis.statistics.superiority import Superiority, superiority
from analysis.verdict import Runs, Verdict, judge
from study.protocol.errors import InputError
from study.protocol.text import chance, counted, listed, percent, points

NEAR = 0.1
"""Runs that disagree on less than this part of what separate trainings do (``planner.disagreement``) are too much alike."""
ENOUGH = 20
"""Images that separate trainings would disagree on, under which close runs may be chance."""
REFUSED = "refused"
"""The verdict on sides of which one has a single net."""
SCOPE = (
    "Holds for the settings that made these predictions, retrained with fresh seeds, on new images of the same "
    "kind, if each side's runs are independent trainings of one setting and none was chosen by these images. "
    "Nothing is known here about how the settings were tuned, so it is no answer for the architectures."
)
SCOPE_OF_NETS = (
    "Holds for these two trained nets only{which}, on new images of the same kind. Which setting or architecture "
    "is better when trained again (Q2) is refused: {reason}."
)

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Side A against side B; differences are A minus B, everything is a fraction of the images."""

    first: str
    second: str
    accuracy_first: float
    """Mean over all runs of the side, copies left out."""
    accuracy_second: float
    k_first: int
    """Runs of the side, copies left out."""
    k_second: int
    nets: Paired
    """Q1: the first run of each side."""
    verdict: Verdict | None
    """Q2: all runs. None where it is refused."""
    superiority: Superiority | None
    """None where the verdict is."""
    scope: str
    warning: str
    """What makes the answer doubtful; empty when nothing does."""

    def facts(self) -> dict[str, float | int | str | None]:
        """What ``--json`` prints. ``n10`` to ``tango_high`` are about the first run of each side."""
        return {
            "accuracy_a": self.accuracy_first,
            "accuracy_b": self.accuracy_second,
            "delta": self.accuracy_first - self.accuracy_second,
            "n10": self.nets.n10,
            "n01": self.nets.n01,
            "mcnemar_exact_p": self.nets.exact_p,
            "mcnemar_mid_p": self.nets.mid_p,
            "tango_low": self.nets.low,
            "tango_high": self.nets.high,
            "crossed_low": self.verdict.low if self.verdict else None,
            "crossed_high": self.verdict.high if self.verdict else None,
            "verdict": self.verdict.word if self.verdict else REFUSED,
            "scope": self.scope,
            "warning": self.warning or None,
        }

    def told(self) -> str:
        """What a person reads: the verdict and what stands behind it, the two nets, the scope."""
        a, b, nets = self.first, self.second, self.nets
        means = (
            f"Mean accuracy on the {counted(nets.images, 'image')}: "
            f"{a} {percent(self.accuracy_first)} ({counted(self.k_first, 'run')}), "
            f"{b} {percent(self.accuracy_second)} ({counted(self.k_second, 'run')})."
        )
        who = "The two nets" if self.k_first == self.k_second == 1 else "The first run of each side"
        appendix = (
            f"{who}, no evidence on other runs: only {a} is right on {counted(nets.n10, 'image')}, "
            f"only {b} on {nets.n01}; difference {points(nets.delta, sign=True)} pt "
            f"(95 % interval {points(nets.low, sign=True)} to {points(nets.high, sign=True)}), "
            f"McNemar p = {nets.exact_p:.3g} exact, {nets.mid_p:.3g} mid-p."
        )
        warning = [f"Warning: {self.warning}"] if self.warning else []
        return "\n".join([*warning, *self._answer(), means, "", appendix, "", self.scope])

    def _answer(self) -> list[str]:
        v, s = self.verdict, self.superiority
        if v is None or s is None:
            which = f"{self.first} or {self.second}"
            return [f"Refused: these runs cannot tell whether {which} is better when trained again."]
        margin = points(v.rope)
        chances = (
            f"By the t posterior with a flat prior: {v.first} better by more than {margin} pt {chance(v.p_first)}, within {margin} pt "
            f"{chance(v.p_tie)}, {v.second} better by more than {margin} pt {chance(v.p_second)}."
        )
        wins = (
            f"On these images {s.told(v.first, v.second)}; by counting wins alone, without their size, an advantage "
            f"is {s.standing} from {v.k_first} and {v.k_second} runs."
        )
        advice = [v.advice] if v.word == "inconclusive" else []
        return [v.sentence, *advice, *([chances] if v.has_chances else []), wins]


def compare(first: Path, second: Path, *, rope: float) -> Comparison:
    """Read both sides and judge them; ``rope`` is a fraction.

    Raises InputError for anything that cannot be read or does not fit together.
    """
    a, b = _read(first), _read(second)
    _same_labels(b.labels, second, a.labels, first)
    names = _names(first, second)
    nets = paired(a.correct[0], b.correct[0])
    try:
        if alone := _alone(names, (a, b)):
            raise Refused(alone)
        verdict = judge(
            *(
                Runs(arm=name, correct=side.correct, full_run=None)
                for name, side in zip(names, (a, b), strict=True)
            ),
            rope=rope,
            guessing=float(np.bincount(a.labels).max() / len(a.labels)),
        )
        beats = superiority(a.correct.mean(axis=1), b.correct.mean(axis=1))
        scope = SCOPE
    except Refused as error:
        verdict, beats = None, None
        which = "" if len(a.correct) == len(b.correct) == 1 else " (the first run of each side)"
        scope = SCOPE_OF_NETS.format(which=which, reason=error)
    return Comparison(
        first=names[0],
        second=names[1],
        accuracy_first=float(a.correct.mean()),
        accuracy_second=float(b.correct.mean()),
        k_first=len(a.correct),
        k_second=len(b.correct),
        nets=nets,
        verdict=verdict,
        superiority=beats,
        scope=scope,
        warning=" ".join(
            filter(
                None,
                [
                    *_copied(names, (a, b)),
                    *_alike(names, (a, b)),
                    _shared(names, sum(net.is_among(b.nets) for net in a.nets)),
                ],
            )
        ),
    )


def _alone(names: tuple[str, str], sides: tuple["_Side", "_Side"]) -> str:
    """Why a side with a single net is no answer to Q2; empty when both have two or more."""
    if min(len(side.correct) for side in sides) > 1:
        return ""
    stored = [
        f"the {side.stored} runs of {name} name the same class for every image, and one net stored {side.stored} "
        "times shows nothing of how runs vary"
        for name, side in zip(names, sides, strict=True)
        if len(side.correct) == 1 < side.stored
    ]
    return "; ".join(stored) or "one run cannot show how runs vary; it takes two or more per side"


def _copied(names: tuple[str, str], sides: tuple["_Side", "_Side"]) -> list[str]:
    return [
        f"Of the {side.stored} runs of {name} only {counted(len(side.correct), 'net')} can be told apart: the others "
        "name the same class for every image as one of these, so each net is counted once."
        for name, side in zip(names, sides, strict=True)
        if len(side.correct) < side.stored
    ]


def _alike(names: tuple[str, str], sides: tuple["_Side", "_Side"]) -> list[str]:
    """Sides of which two runs are closer to each other than separate trainings come."""
    told = []
    for name, side in zip(names, sides, strict=True):
        right, (runs, images) = side.correct.astype(np.float64), side.correct.shape
        one_is_right = right @ (1 - right).T
        apart = (one_is_right + one_is_right.T)[np.triu_indices(runs, 1)] / images
        usual = disagreement(float(right.mean()))
        if runs > 1 and usual * images >= ENOUGH and apart.min() < NEAR * usual:
            told.append(
                f"Two runs of {name} differ in being right on {percent(float(apart.min()))} of the images, where separate "
                f"trainings of this accuracy differ on about {percent(usual, 1)}: if they are stages of one training, or "
                "averages that share nets, the interval is too narrow."
            )
    return told


def _shared(names: tuple[str, str], nets: int) -> str:
    if not nets:
        return ""
    return (
        f"{counted(nets, 'run')} of {names[0]} and of {names[1]} name the same class for every image: if they are the "
        "same nets, a side is compared with itself, and the answer says nothing."
    )


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The shortest names that tell the sides apart, printable on any terminal."""
    for a, b in (
        tuple(p.stem if p.suffix == ".npz" else p.name for p in (first, second)),
        (str(first), str(second)),
    ):
        if a and b and a != b:
            return _printable(a), _printable(b)
    return "A", "B"


def _printable(name: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return shown.encode(errors="replace").decode()


@dataclass(frozen=True)
class _Net:
    """What a net is known again by."""

    classes: bytes
    """Digest of the class that it names for each image."""
    probabilities: bytes = b""
    """Digest of these; empty where they are not stored."""

    def is_among(self, nets: "list[_Net]") -> bool:
        """Nets without fault name the same classes and are not the same: their probabilities tell, where both have any."""
        return any(
            self.classes == net.classes
            and (not self.probabilities or not net.probabilities or self.probabilities == net.probabilities)
            for net in nets
        )


@dataclass(frozen=True, kw_only=True)
class _Side:
    labels: Array
    correct: Correct
    """One row per net, in the order of the runs."""
    nets: "list[_Net]"
    stored: int
    """Runs as given, copies and all."""


def _read(path: Path) -> _Side:
    files = _files(path)
    labels: Array | None = None
    nets: list[_Net] = []
    correct: list[Correct] = []
    stored = 0
    for file in files:
        found, predicted, digests = _load(file)
        labels = found if labels is None else labels
        _same_labels(found, file, labels, files[0])
        for row, digest in zip(predicted, digests, strict=True):
            stored += 1
            net = _Net(_digest(row.astype(np.int64)), digest)
            if not net.is_among(nets):
                nets.append(net)
                correct.append(row == labels)
    assert labels is not None  # there is a file
    return _Side(labels=labels, correct=np.stack(correct), nets=nets, stored=stored)


def _digest(array: Array) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()


def _files(path: Path) -> list[Path]:
    try:
        found = sorted(p for p in path.iterdir() if p.suffix == ".npz") if path.is_dir() else [path]
        missing = [file for file in found if not file.is_file()]
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    if not found:
        raise InputError(f"{path} has no .npz file in it")
    if missing:
        raise InputError(f"{missing[0]} is not a file" if missing[0].exists() else f"{missing[0]} is missing")
    return found


def _load(path: Path) -> tuple[Array, Array, list[bytes]]:
    """Labels (images,) and predicted classes (runs, images) of one file, checked, and each run's digest of probabilities."""
    stored = _arrays(path)
    labels = stored["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{path}: labels must be whole numbers of shape (images,), not {_kind(labels)}")
    if not len(labels):
        raise InputError(f"{path} is about no image: labels is empty")
    if labels.min() < 0:
        raise InputError(f"{path}: labels must be class numbers from 0 on, not {labels.min()}")
    if "predictions" in stored:
        predicted = _predicted(path, stored["predictions"], len(labels))
        if "probabilities" in stored and stored["probabilities"].ndim > 1:
            classes = stored["probabilities"].shape[-1]
            for name, array in (("label", labels), ("prediction", predicted)):
                if array.max() >= classes:
                    raise InputError(
                        f"{path}: {name} {array.max()} is outside the {classes} classes of probabilities"
                    )
    else:
        predicted = _most_likely(path, stored["probabilities"], labels)
    soft = stored.get("probabilities", np.empty(0))
    runs = soft[None] if soft.ndim == 2 else soft
    if runs.shape[:-1] != predicted.shape:
        return labels, predicted, [b""] * len(predicted)
    return labels, predicted, [_digest(run) for run in runs]


def _predicted(path: Path, predictions: Array, images: int) -> Array:
    if predictions.dtype.kind not in "iu" or predictions.ndim not in (1, 2):
        raise InputError(
            f"{path}: predictions must be whole numbers of shape (images,) or (runs, images), "
            f"not {_kind(predictions)}"
        )
    if predictions.shape[-1] != images or not predictions.size:
        raise InputError(f"{path}: predictions of shape {predictions.shape} do not fit {images} labels")
    if predictions.min() < 0:
        raise InputError(f"{path}: predictions must be class numbers from 0 on, not {predictions.min()}")
    return np.atleast_2d(predictions)


def _most_likely(path: Path, probabilities: Array, labels: Array) -> Array:
    if probabilities.dtype.kind != "f" or probabilities.ndim not in (2, 3):
        raise InputError(
            f"{path}: probabilities must be floating-point numbers of shape (images, classes) or "
            f"(runs, images, classes), not {_kind(probabilities)}"
        )
    if probabilities.shape[-2] != len(labels) or not probabilities.size:
        raise InputError(
            f"{path}: probabilities of shape {probabilities.shape} do not fit {len(labels)} labels"
        )
    if labels.max() >= (classes := probabilities.shape[-1]):
        raise InputError(f"{path}: label {labels.max()} is outside the {classes} classes of probabilities")
    if not np.isfinite(probabilities).all():
        raise InputError(f"{path}: probabilities has values that are not finite (NaN or infinite)")
    predicted: Array = probabilities.argmax(axis=-1)
    return np.atleast_2d(predicted)


def _arrays(path: Path) -> dict[str, Array]:
    """``labels`` and the others; predictions win where both are stored, as they are exact."""
    try:
        found, names = npz.read(path, ("labels",), ("predictions",), ("probabilities",))
    except npz.ArraysError as error:
        raise InputError(f"{path} {error}") from error
    if (
        "labels" not in found
        or len(found) < 2
        or not all(isinstance(value, np.ndarray) for value in found.values())
    ):
        has = f"it has {listed(sorted(names))}" if names else "it has none"
        raise InputError(f"{path} must have arrays labels and predictions or probabilities: {has}")
    return found


def _same_labels(labels: Array, path: Path, others: Array, other: Path) -> None:
    if len(labels) != len(others):
        raise InputError(
            f"{path} is about {counted(len(labels), 'image')} and {other} about {len(others)}: "
            "both must be about the same images"
        )
    if not np.array_equal(labels, others):
        raise InputError(
            f"{path} has other labels than {other}: both must be about the same images, in the same order"
        )


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
