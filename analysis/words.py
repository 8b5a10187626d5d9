"""From an interval to its word, by the table of METHOD.md 4, and the doubts that hold the word back.

Differences, where more is better, and the ROPE are in the metric's unit, shares as fractions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.runs import Judge

Word = Literal["better", "better, size unclear", "practical tie", "inconclusive"]


def worded(low: float, high: float, rope: float) -> Word:
    """The table's word for an interval."""
    if low > rope or high < -rope:
        return "better"
    if (low > 0 and high > rope) or (high < 0 and low < -rope):
        return "better, size unclear"
    return "practical tie" if -rope <= low and high <= rope else "inconclusive"


NEITHER = "Neither of them is"
"""How the doubt begins about two arms that are not shown to have learnt anything."""


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What is known against the nets and their test images."""

    guessing: float = 0.0
    """The score without looking at images, which a net that learnt nothing can reach too."""
    copies: int = 0
    """Test images that are training images too."""
    images: int = 0
    """Test images."""
    idle: Sequence[str] = ()
    """Of the two arms, those whose nets are not shown to be above guessing."""
    judge: Judge = Judge()  # noqa: RUF009  # frozen

    @property
    def _reach(self) -> float:
        """What the copies alone can make of a difference: all of a share; of a loss, from that of guessing to none."""
        metric, weights = self.judge.metric, self.judge.sampling.weights(self.images)
        each = 1.0 if metric.shares else -self.guessing
        return each * min(1.0, self.copies * float(weights.max()))

    def hold_back(self, low: float, high: float, rope: float) -> tuple[Word, str, str]:
        """The word for the interval, and where a doubt weakens it a sentence and what to do about it, else two empty ones."""
        word, doubt, remedy = worded(low, high, rope), "", ""
        if self.copies:
            # Nets may know these by heart, one arm's better than the other's: that shifts the difference by their share.
            share = self._reach
            careful = worded(low - share, high + share, rope)
            if careful != word:
                word, remedy = careful, "Take the copies out of test/, or out of train/, and ask again."
                doubt = (
                    f"{self.copies} of the {self.images} test images are training images too, which alone can make up "
                    f"{self.judge.metric.gap(share)}."
                )
        if len(self.idle) == 2 or (self.idle and not word.startswith("better")):
            word = "inconclusive"
            who = NEITHER if len(self.idle) == 2 else f"{self.idle[0]} is not"
            metric = self.judge.metric
            better = "below" if metric.lower else "above"
            doubt = f"{who} shown to be {better} {metric.guess} ({metric.value(self.guessing)})."
            remedy = (
                "Nets that do not clearly beat guessing say nothing about their architectures: train longer (--epochs), or check "
                "the images and labels."
            )
        return word, doubt, remedy
