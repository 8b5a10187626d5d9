"""What a plan can promise before it runs: the smallest gap it can show, and whether it can prove a tie.

Rests on two assumptions: how often two nets of this accuracy disagree, and how much luck a run has. The luck is
measured by the study, and what is told after it rests on that. Accuracies, gaps and sds are fractions. Of the
libraries scipy only.
"""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import optimize, stats

from analysis.words import points, rough
from study.plan import CONFIRM_CEILING, Budget, Plan


@dataclass(frozen=True, kw_only=True)
class Nets:
    """What is assumed, or was measured, of the nets that are compared."""

    accuracy: float
    run_sd: float
    """Distribution-wise sd of one run: what a run keeps of its luck on endless images."""

    def __str__(self) -> str:
        return f"nets near {100 * self.accuracy:.0f} % whose runs differ by {points(self.run_sd)} pt (sd)"


RUN_SD = 0.001
"""Jordan 2023 (arXiv 2304.01910) finds the distribution-wise sd several times below the 0.15-0.25 pt that runs differ
by on a test set; 0.1 pt is the middle case of method.md's simulations, and no measured sd is taken for less."""
STRONG = Nets(accuracy=0.93, run_sd=RUN_SD)
"""The post's nets."""
UNKNOWN = (STRONG, Nets(accuracy=0.6, run_sd=0.005))
"""What a promise is given for before any net is trained. Small nets trained briefly: 0.2-1.2 pt were measured."""
LASTING = 0.3
"""Part of the disagreement that stays when each arm is averaged over endless runs. Set so that 5 runs
per arm on 10,000 images at 93 % give the standard error of 0.17 pt of method.md 2.3."""
POWER = 0.8
ENDLESS = 10**9
"""Runs per arm, where only the images' sampling is left."""


def disagreement(accuracy: float) -> float:
    """Share of images on which just one of two nets of this accuracy is right.

    p (1 - p), half of what independent errors would give: 6.5 % at 93 %, 4.1 % at 95.75 %, against
    6.5 % and 3.6 % among published CIFAR-10 nets (method.md 2.3).
    """
    return accuracy * (1 - accuracy)


def standard_error(*, runs: int, images: int, nets: Nets = STRONG) -> tuple[float, float]:
    """Expected se of the difference (a fraction) and its degrees of freedom, for ``runs`` per arm.

    Raises ValueError below two runs or two images, or for an accuracy outside (0, 1).
    """
    if runs < 2 or images < 2 or not 0 < nets.accuracy < 1:
        raise ValueError("the crossed interval needs 2 runs per arm, 2 images, an accuracy between 0 and 1")
    image = disagreement(nets.accuracy) * (LASTING + (1 - LASTING) / runs) / images
    run = 2 * nets.run_sd**2 / runs
    wobble = run + disagreement(nets.accuracy) * (1 - LASTING) / runs / images  # the runs' s2/k, both arms
    df = (image + run) ** 2 / (image**2 / (images - 1) + wobble**2 / (2 * (runs - 1)))
    return math.sqrt(image + run), df


def smallest_gap(*, runs: int, images: int, nets: Nets = STRONG, pairs: int = 1) -> float:
    """Smallest true difference whose interval excludes 0 in 80 % of studies. Raises ValueError as above.

    ``pairs``: intervals that hold together (Bonferroni).
    """
    se, df = standard_error(runs=runs, images=images, nets=nets)
    return se * (float(stats.t.ppf(1 - 0.025 / pairs, df)) + float(stats.t.ppf(POWER, df)))


def smallest_tie(*, runs: int, images: int, nets: Nets = STRONG, pairs: int = 1) -> float:
    """Smallest ROPE within which two equal arms are called a practical tie in 80 % of studies.

    The whole interval must fit, on both sides: t(.975) + t(.9) standard errors. That is method.md's
    3.2 se with many degrees of freedom, and 3.5 at 3 runs per arm. Raises ValueError as above.
    """
    se, df = standard_error(runs=runs, images=images, nets=nets)
    return se * (float(stats.t.ppf(1 - 0.025 / pairs, df)) + float(stats.t.ppf((1 + POWER) / 2, df)))


def tie_provable(rope: float, *, runs: int, images: int, nets: Nets = STRONG, pairs: int = 1) -> bool:
    """Whether this ROPE is wide enough for a tie to be proved with 80 % power. Raises ValueError as above."""
    return rope >= smallest_tie(runs=runs, images=images, nets=nets, pairs=pairs)


Reaches = Callable[..., float]
"""``smallest_gap`` or ``smallest_tie``."""


def runs_needed(
    size: float,
    reaches: Reaches,
    *,
    images: int,
    nets: Nets = STRONG,
    pairs: int = 1,
) -> int | None:
    """Fewest confirmation runs per arm at which ``reaches`` is no larger than ``size``; None if no number would do.

    More runs cannot help where the images' sampling alone is too coarse. Raises ValueError as ``standard_error``.
    """

    def enough(runs: int) -> bool:
        return reaches(runs=runs, images=images, nets=nets, pairs=pairs) <= size

    if not enough(ENDLESS):
        return None
    high = 2
    while not enough(high):
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=2, key=enough)


def images_needed(
    size: float,
    reaches: Reaches,
    *,
    runs: int,
    nets: Nets = STRONG,
    pairs: int = 1,
) -> int | None:
    """Test images from which ``reaches`` is no larger than ``size`` with ``runs`` per arm; None if never."""

    def lacking(log_images: float) -> float:
        images = round(math.exp(log_images))
        return reaches(runs=runs, images=images, nets=nets, pairs=pairs) - size

    low, high = math.log(2), math.log(1e8)
    if lacking(high) > 0:
        return None
    return 2 if lacking(low) < 0 else math.ceil(math.exp(optimize.brentq(lacking, low, high, xtol=1e-4)))


def price(plan: Plan, *, measured: Nets | None = None) -> tuple[str, str]:
    """What a study that decides at the plan's margin and run length would cost, each in 80 % of studies: to name an arm
    that is ahead by the margin, and to prove equal arms equal. A gap between these two takes more.

    Before anything is ``measured`` it is told for two assumptions. Budgets are by the plan's own
    arithmetic of shares (``Plan.budget_for``). Raises ValueError as ``standard_error``.
    """
    kinds = UNKNOWN if measured is None else (measured,)

    def told(goal: str, reaches: Reaches) -> str:
        takes = [_takes(plan, reaches, nets) for nets in kinds]
        if len(set(takes)) > 1:
            takes = [
                f"{text} (nets near {100 * n.accuracy:.0f} %)" for n, text in zip(kinds, takes, strict=True)
            ]
        return f"{goal}, in {100 * POWER:.0f} % of studies: {'; '.join(dict.fromkeys(takes))}."

    margin = f"{100 * plan.rope:g} pt"
    return (
        told(f"To name an arm that is {margin} ahead", smallest_gap),
        told(f"To prove equal arms equal within {margin}", smallest_tie),
    )


def _takes(plan: Plan, reaches: Reaches, nets: Nets) -> str:
    """The runs per arm and the budget, or that no number of runs would do and how many test images would."""
    pairs, test = math.comb(len(plan.arms), 2), plan.data.test
    runs = runs_needed(plan.rope, reaches, images=test, nets=nets, pairs=pairs)
    if runs is not None and runs <= plan.confirm_reserved:
        return f"{runs} confirmation runs per arm, which this budget pays for"
    if runs is not None and runs <= CONFIRM_CEILING:
        budget = plan.budget_for(runs)
        return (
            f"{runs} confirmation runs per arm, a study of about {_hours(budget)} "
            f"(--budget {budget} --epochs {plan.epochs})"
        )
    images = images_needed(plan.rope, reaches, runs=CONFIRM_CEILING, nets=nets, pairs=pairs)
    if images is None:
        instead = f", and {CONFIRM_CEILING} on no number of test images: the runs differ too much"
    else:
        instead = f", but {CONFIRM_CEILING} on about {rough(images)} test images"
    if runs is None:
        return f"no number of runs on these {test} test images{instead}"
    alone = Budget(seconds=sum(runs * plan.full_run(arm) for arm in plan.arms), resource=plan.budget.resource)
    return (
        f"{runs} confirmation runs per arm, about {_hours(alone)} for these alone and more than the {CONFIRM_CEILING} "
        f"a study makes{instead}"
    )


def _hours(budget: Budget) -> str:
    hours = budget.seconds / 3600
    return f"{hours:.2f} {budget.resource}-hours" if hours < 10 else f"{hours:.0f} {budget.resource}-hours"


def promise(*, runs: int, images: int, rope: float, measured: Nets | None = None, arms: int = 2) -> str:
    """What these runs can show, in two sentences. Raises ValueError as ``standard_error``.

    Before anything is ``measured``, the gap is given for two assumptions, and the tie is judged at the
    one under which it is harder to prove.
    """
    pairs = math.comb(arms, 2)
    kinds = UNKNOWN if measured is None else (measured,)
    gaps = [
        f"{points(smallest_gap(runs=runs, images=images, nets=n, pairs=pairs))} pt"
        + (f" for {n}" if measured is None else "")
        for n in kinds
    ]
    ground = (
        ", both assumed before any run"
        if measured is None
        else f" for nets near {100 * measured.accuracy:.0f} %, at the run-to-run spread measured here "
        f"({'at most ' if measured.run_sd <= RUN_SD else ''}{points(measured.run_sd)} pt)"
    )
    shown = (
        f"With {runs} confirmation runs per arm on {images} test images, the smallest true gap that shows in "
        f"{100 * POWER:.0f} % of studies is about {' and '.join(gaps)}{ground}."
    )
    margin = max(smallest_tie(runs=runs, images=images, nets=n, pairs=pairs) for n in kinds)
    if rope >= margin:
        return f"{shown} If the arms are equal, a practical tie within {100 * rope:g} pt can be proved."
    return (
        f"{shown} If the arms are equal, a practical tie within {100 * rope:g} pt will often stay unproved: "
        f"that takes a margin of {points(margin)} pt, more runs or more test images."
    )


def searches(plan: Plan) -> str:
    """How often each arm is searched, and what an interval over the searches (Q3) can therefore show."""
    if plan.pairs > 1:
        return (
            f"{plan.pairs} pairs of searches: an interval over searches reaches {_reach(plan, plan.pairs)} "
            "either way."
        )
    return (
        "One search per arm cannot say what another search would find; 3 pairs of searches, from --budget "
        f"{plan.budget_for_pairs(3)} --epochs {plan.epochs} on, reach {_reach(plan, 3)}."
    )


def _reach(plan: Plan, pairs: int) -> str:
    """Half-width of Welch's interval over this many searches per arm, in sds of what one search finds."""
    df = 2 * (pairs - 1)
    t = float(stats.t.ppf(1 - 0.025 / math.comb(len(plan.arms), 2), df))
    return f"{t * math.sqrt(2 / pairs):.1f} times the spread (sd) between searches (t = {t:.1f}, about {df} degrees of freedom)"
