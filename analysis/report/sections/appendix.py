"""Appendix: other ways to look at the nets in hand. None of them is the answer."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from analysis.report.section import Context, Part, Section, Table, span
from analysis.statistics.mcnemar import Paired, paired
from analysis.statistics.ranks import rank_shares
from analysis.statistics.superiority import holm, superiority
from study.protocol.text import chance, counted, points


def section(context: Context) -> Section:
    """Per pair of arms, of the nets in hand: how often a run wins, this test set only, and the first net of each side."""
    evidence, found, metric = context.evidence, context.found, context.metric
    text: list[str] = []
    facts = []
    ordered = sorted(evidence.tuned.values(), key=lambda r: -float(np.mean(r.means)))
    arms = [runs.arm for runs in ordered]
    several = bool(found.nets) and len(ordered) > 2
    shares = (
        rank_shares([runs.scores for runs in ordered], evidence.judge.sampling)
        if several
        else np.ones((1, 1))
    )
    adjusted = holm([v.permutation_p for v in found.nets])
    for v, p in zip(found.nets, adjusted, strict=True):
        first, second = evidence.tuned[v.first], evidence.tuned[v.second]
        wins = superiority(np.array(first.means), np.array(second.means))
        nets = paired(first.correct[0], second.correct[0])
        beats = (
            f"{v.first} against {v.second}. On this test set {wins.sentence(v.first, v.second)}; by counting wins alone, "
            f"without their size, an advantage is {wins.standing} from {v.k_first} and {v.k_second} runs."
        )
        here = (
            f"This test set only: {metric.minus(v.first, v.second)} is {span(v.this_test_set, metric)} by Welch's interval over the "
            f"runs; permutation p = {v.permutation_p:.3f}{_together(p, len(found.nets))}."
        )
        text += [beats, here, _nets(v.first, v.second, nets)]
        facts.append(
            {"first": v.first, "second": v.second, "nets": asdict(nets)}
            | {"superiority": asdict(wins) | {"standing": wins.standing}}
            | {"welch": asdict(v.this_test_set), "permutation_p": v.permutation_p, "holm_p": p}
        )
    if several:
        text.append(
            "The order of the nets in hand, where runs and images are both drawn anew (pigeonhole bootstrap): how often each "
            "has each rank. With a few runs that differ much it is surer than it should be."
        )
    return Section(
        title="Appendix: other ways to look at the nets in hand",
        text=tuple(text) or ("There are no nets of two arms in hand to look at.",),
        tables=(_ranks(arms, shares),) if several else (),
        note="None of this is the answer: it holds for other runs of the settings in hand on the same test images, or for two "
        'nets. "Maybe meaningful": an advantage of three wins in four is not ruled out. The intervals of P(A > B) and Tango\'s '
        "are at 95 % each, even where those of the pairs hold together."
        if text
        else "",
        facts={"pairs": facts}
        | ({"ranks": dict(zip(arms, shares.tolist(), strict=True))} if several else {}),
    )


def _ranks(arms: list[str], shares: NDArray[np.float64]) -> Table:
    """How often each arm comes first, second, ... in the pigeonhole bootstrap."""
    return Table(
        head=("share of resamples", *(f"rank {i}" for i in range(1, len(arms) + 1))),
        rows=tuple((arm, *map(chance, row)) for arm, row in zip(arms, shares, strict=True)),
    )


def _together(adjusted: float, pairs_in_all: int) -> str:
    return f" ({adjusted:.3f} by Holm over {pairs_in_all} pairs of arms)" if pairs_in_all > 1 else ""


def _nets(first: str, second: str, nets: Paired) -> str:
    return (
        f"Two trained nets only (Q1), the first run of each side: only {first} is right on "
        f"{counted(nets.n10, 'image')}, only {second} on {nets.n01}; difference {points(nets.delta, sign=True)} pt "
        f"(Tango's 95 % interval {points(nets.low, sign=True)} to {points(nets.high, sign=True)}), McNemar mid-p = "
        f"{nets.mid_p:.3g}. It tells nothing about other runs: two seeds of one setting often differ as much."
    )


PART = Part(order=150, build=section, key="appendix")
