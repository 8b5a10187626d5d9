"""``python -m analysis compare A B``: the same verdict for predictions that came from elsewhere.

One run per side answers for these two nets (Q1) and no more: one run cannot show how a setting does when it is trained
again (Q2). ``predictions`` says what a side may be.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.power import disagreement
from analysis.predictions import KINDS, Side, both
from analysis.runs import Runs
from analysis.statistics.intervals import Refused
from analysis.statistics.mcnemar import Paired, paired
from analysis.statistics.superiority import Superiority, superiority
from analysis.verdict import Verdict, judge
from study.protocol.text import chance, counted, escaped, percent, points

NEAR = 0.1
"""Runs that disagree on less than this share of the usual (``power.disagreement``) are too much alike."""
ENOUGH = 20
"""Fewest images that separate trainings must disagree on: with fewer, close runs may be chance."""
REFUSED = "refused"
"""The verdict where a side has a single net."""
SCOPE = (
    "Holds for the settings that made these predictions, retrained with fresh seeds, on new images of the same "
    "kind, if each side's runs are independent trainings of one setting and none was chosen by these images. "
    "Nothing is known here about how the settings were tuned, so it is no answer for the architectures."
)
SCOPE_OF_NETS = (
    "Holds for these two trained nets only{which}, on new images of the same kind. Which setting or architecture "
    "is better when trained again (Q2) is refused: {reason}."
)


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
    """Why the answer is doubtful; empty when it is not."""

    def facts(self) -> dict[str, float | int | str | None]:
        """For ``--json``. ``n10`` to ``tango_high`` are about the first run of each side."""
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

    def text(self) -> str:
        """For a reader: the verdict and its numbers, the two nets, the scope."""
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
            f"On these images {s.sentence(v.first, v.second)}; by counting wins alone, without their size, an advantage "
            f"is {s.standing} from {v.k_first} and {v.k_second} runs."
        )
        advice = [v.advice] if v.word == "inconclusive" else []
        return [v.sentence, *advice, *([chances] if v.has_chances else []), wins]


def compare(first: Path, second: Path, *, rope: float) -> Comparison:
    """Read both sides and judge them; ``rope`` is a fraction.

    Raises InputError for anything that cannot be read or does not fit together.
    """
    a, b, apart = both(first, second)
    names = _names(first, second)
    nets = paired(a.correct[0], b.correct[0])
    try:
        if alone := _alone(names, (a, b)):
            raise Refused(alone)
        runs = [Runs(arm=n, correct=s.correct, full_run=None) for n, s in zip(names, (a, b), strict=True)]
        most = np.unique(a.labels, return_counts=True)[1].max()
        verdict = judge(*runs, rope=rope, guessing=float(most / len(a.labels)))
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
            [*filter(None, [apart]), *_copied(names, (a, b)), *_alike(names, (a, b)), *_shared(names, (a, b))]
        ),
    )


def _alone(names: tuple[str, str], sides: tuple[Side, Side]) -> str:
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


def _copied(names: tuple[str, str], sides: tuple[Side, Side]) -> list[str]:
    return [
        f"Of the {side.stored} runs of {name} only {counted(len(side.correct), 'net')} can be distinguished: the others "
        "name the same class for every image as one of these, so each net is counted once."
        for name, side in zip(names, sides, strict=True)
        if len(side.correct) < side.stored
    ]


def _alike(names: tuple[str, str], sides: tuple[Side, Side]) -> list[str]:
    """Sides with two runs that are closer to each other than separate trainings come."""
    sentences = []
    for name, side in zip(names, sides, strict=True):
        right, (runs, images) = side.correct.astype(np.float64), side.correct.shape
        one_is_right = right @ (1 - right).T
        apart = (one_is_right + one_is_right.T)[np.triu_indices(runs, 1)] / images
        usual = disagreement(float(right.mean()))
        if runs > 1 and usual * images >= ENOUGH and apart.min() < NEAR * usual:
            sentences.append(
                f"Two runs of {name} differ in being right on {percent(float(apart.min()))} of the images, where separate "
                f"trainings of this accuracy differ on about {percent(usual, 1)}: if they are stages of one training, or "
                "averages that share nets, the interval is too narrow."
            )
    return sentences


def _shared(names: tuple[str, str], sides: tuple[Side, Side]) -> list[str]:
    if not (nets := sum(net.is_among(sides[1].nets) for net in sides[0].nets)):
        return []
    sentence = (
        f"{counted(nets, 'run')} of {names[0]} and of {names[1]} name the same class for every image: if they are the "
        "same nets, a side is compared with itself, and the answer says nothing."
    )
    return [sentence]


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The shortest names that tell the sides apart, printable on any terminal."""
    for a, b in (
        tuple(p.stem if p.suffix.lower() in KINDS else p.name for p in (first, second)),
        (str(first), str(second)),
    ):
        if a and b and a != b:
            return escaped(a), escaped(b)
    return "A", "B"
