"""How many more runs, or test images, would decide between two settings: forecasts for a true gap of the margin.

What was measured is no size to plan for (post-hoc power). Gaps are in the metric's unit, shares as fractions.
"""

import bisect
import math
from collections.abc import Callable

from analysis.luck import MOST_IMAGES, POWER
from analysis.runs import Runs
from analysis.statistics.intervals import Estimate, forecast
from study.protocol.allocation import CONFIRM_CEILING
from study.protocol.text import rough


def what_would_decide(first: Runs, second: Runs, rope: float, more: int | None, images: int | None) -> str:
    """One sentence, for a true gap of the margin that ``takes`` so many more runs, or images."""
    have = min(len(first.correct), len(second.correct))
    if more == 0:
        said = "these runs would do"
    elif more is None:
        said = "no number of runs on this test set would do"
    else:
        said = f"about {rough(have + more)} runs per arm would do"
    if more is None or have + more > CONFIRM_CEILING:
        most = f"with {max(have, CONFIRM_CEILING)} runs per arm"
        said += (
            f"; {most}, no number of test images would"
            if images is None
            else f"; {most}, about {rough(images)} test images would"
        )
    return f"With {100 * POWER:.0f} % power for a true gap of the margin, {first.judge.metric.gap(rope)}: {said} (estimates)."


def takes(
    first: Runs, second: Runs, e: Estimate, target: float, power: float
) -> tuple[int | None, int | None]:
    """Runs to add per arm until a gap of ``target`` shows with this power; None where no number would do.

    Where that is more than a study makes, also the test images on which as many as it makes would show it.
    """
    have, size = min(len(first.correct), len(second.correct)), first.correct.shape[1]
    expected = forecast(first.scores, second.scores, **first.judge.how)

    def enough(runs: float, images: int) -> bool:
        return expected.half_width(runs=runs, images=images, confidence=e.confidence, power=power) < target

    more = _fewest(lambda more: enough(have + more, size), at_least=0) if enough(math.inf, size) else None
    if more is not None and have + more <= CONFIRM_CEILING:
        return more, None
    most = max(have, CONFIRM_CEILING)
    return more, _fewest(lambda images: enough(most, images), at_least=2) if enough(
        most, MOST_IMAGES
    ) else None


def _fewest(enough: Callable[[int], bool], *, at_least: int) -> int:
    high = at_least + 1
    while not enough(high):
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=at_least, key=enough)
