"""From an interval to its word, by the table of METHOD.md 4, and the doubts that hold the word back.

Differences and the ROPE are fractions of accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from study.protocol.text import percent, points

Word = Literal["better", "better, size unclear", "practical tie", "inconclusive"]


def worded(low: float, high: float, rope: float) -> Word:
    """The table's word for an interval."""
    if low > rope or high < -rope:
        return "better"
    if (low > 0 and high > rope) or (high < 0 and low < -rope):
        return "better, size unclear"
    return "practical tie" if -rope <= low and high <= rope else "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What is known against the nets and their test images."""

    guessing: float = 0.0
    """Share of the most frequent class, which a net that learnt nothing can reach too."""
    copies: int = 0
    """Test images that are training images too."""
    images: int = 0
    """Test images."""
    idle: Sequence[str] = ()
    """Of the two arms, those whose nets are not shown to be above guessing."""

    def hold_back(self, low: float, high: float, rope: float) -> tuple[Word, str, str]:
        """The word for the interval, and where a doubt weakens it a sentence and what to do about it, else two empty ones."""
        word, doubt, remedy = worded(low, high, rope), "", ""
        if self.copies:
            # Nets may know these by heart, one arm's better than the other's: that shifts the difference by their share.
            share = self.copies / self.images
            careful = worded(low - share, high + share, rope)
            if careful != word:
                word, remedy = careful, "Take the copies out of test/, or out of train/, and ask again."
                doubt = (
                    f"{self.copies} of the {self.images} test images are training images too, which alone can make up "
                    f"{points(share)} pt."
                )
        if len(self.idle) == 2 or (self.idle and not word.startswith("better")):
            word = "inconclusive"
            who = "Neither of them is" if len(self.idle) == 2 else f"{self.idle[0]} is not"
            doubt = f"{who} shown to be above guessing the most frequent class ({percent(self.guessing)})."
            remedy = (
                "A net that learnt nothing says nothing of its architecture: train longer (--epochs), or look at the images "
                "and labels."
            )
        return word, doubt, remedy
