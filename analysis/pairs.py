"""What stands beside the verdict on a pair: search against search (Q3), and the appendix (method.md 1 and 3)."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from analysis.estimate import Estimate, Refused
from analysis.evidence import Evidence, fell_short, island_runs
from analysis.findings import Findings, default_setting, procedure
from analysis.paired import Paired, paired
from analysis.ranks import rank_shares
from analysis.section import Section, Table, pairs, span
from analysis.superiority import holm, superiority
from analysis.verdict import Runs
from analysis.words import chance, counted, points
from study.records import Config


def searches(evidence: Evidence, found: Findings) -> Section:
    """Q3: would searching again give the same answer? Welch over the islands' own runs."""
    told, estimated = [], []
    for first, second, confidence in pairs(evidence, found):
        try:
            e = procedure(evidence, first, second, confidence)
        except Refused as refusal:
            told.append(f"Q3 is not estimated: {refusal}.")
            continue
        told.append(_told(evidence, first, second, e))
        estimated.append({"first": first, "second": second} | asdict(e))
    values = {arm: _values(evidence, arm) for arm in evidence.plan.arms}
    several = any(len(own) > 1 for own in values.values())
    return Section(
        title="Search against search",
        text=tuple(dict.fromkeys(told)),
        tables=(_islands(evidence, values),) if several else (),
        note="Each search had its own seed, split of the training images and share of the budget. What it found by itself was "
        "trained once more with a fresh seed and scored on the test images; the interval is Welch's over these "
        "values, so it holds for other searches with as much budget, on this test set."
        if several
        else "",
        facts={
            "islands": evidence.plan.islands,
            "estimated": bool(estimated),
            "told": list(dict.fromkeys(told)),
            "values": {arm: [accuracy for _, accuracy, _ in own] for arm, own in values.items()},
            "pairs": estimated,
        },
    )


def appendix(evidence: Evidence, found: Findings) -> Section:
    """Per pair: how often a run wins, this test set only, and the first net of each side."""
    text: list[str] = []
    facts = []
    ordered = sorted(evidence.tuned.values(), key=lambda r: -float(np.mean(r.accuracies)))
    several = bool(found.verdicts) and len(ordered) > 2
    shares = rank_shares(ordered) if several else np.ones((1, 1))
    adjusted = holm([v.permutation_p for v in found.verdicts])
    for v, p in zip(found.verdicts, adjusted, strict=True):
        first, second = evidence.tuned[v.first], evidence.tuned[v.second]
        wins = superiority(np.array(first.accuracies), np.array(second.accuracies))
        nets = paired(first.correct[0], second.correct[0])
        beats = (
            f"{v.first} against {v.second}. On this test set {wins.told(v.first, v.second)}; by counting wins alone, "
            f"without their size, an advantage is {wins.standing} from {v.k_first} and {v.k_second} runs."
        )
        here = (
            f"This test set only: {v.first} minus {v.second} is {span(v.this_test_set)} by Welch's interval over the "
            f"runs; permutation p = {v.permutation_p:.3f}{_together(p, len(found.verdicts))}."
        )
        text += [beats, here, _nets(v.first, v.second, nets)]
        facts.append(
            {"first": v.first, "second": v.second, "nets": asdict(nets)}
            | {"superiority": asdict(wins) | {"standing": wins.standing}}
            | {"welch": asdict(v.this_test_set), "permutation_p": v.permutation_p, "holm_p": p}
        )
    if several:
        text.append(
            "The order of all arms, where runs and images are both drawn anew (pigeonhole bootstrap): how often each arm "
            "has each rank."
        )
    return Section(
        title="Appendix: other ways to look at a pair",
        text=tuple(text) or ("There is no verdict, and so no pair to look at.",),
        tables=(_ranks(ordered, shares),) if several else (),
        note="None of this makes the verdict: it holds for other runs on the same test images, or for two nets. "
        "The intervals of P(A > B) and Tango's are each alone at 95 %, also where those of the pairs hold together."
        if text
        else "",
        facts={"pairs": facts}
        | (
            {"ranks": {r.arm: row for r, row in zip(ordered, shares.tolist(), strict=True)}}
            if several
            else {}
        ),
    )


def _ranks(ordered: list[Runs], shares: NDArray[np.float64]) -> Table:
    """How often each arm comes first, second, ... in the pigeonhole bootstrap."""
    return Table(
        head=("share of resamples", *(f"rank {i}" for i in range(1, len(ordered) + 1))),
        rows=tuple(
            (runs.arm, *(chance(share) for share in row)) for runs, row in zip(ordered, shares, strict=True)
        ),
    )


def _told(evidence: Evidence, first: str, second: str, e: Estimate) -> str:
    counts = sorted({len(evidence.islands[arm].correct) for arm in (first, second)})
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} and {counts[1]}"
    ahead, behind = (first, second) if e.delta > 0 else (second, first)
    if e.low > 0 or e.high < 0:
        end = (
            f"on this test set and with as much budget a new search of {ahead} gives more on average than one of {behind}: "
            "the interval leaves out 0"
        )
    else:
        end = "the interval includes 0, so which arm is the better one to search is open"
    return (
        f"Q3, tuning again from the start: over {over} independent searches per arm, {first} minus {second} is "
        f"{span(e)}; {end}."
    )


def _values(evidence: Evidence, arm: str) -> list[tuple[int, float, Config]]:
    """(island from 1, test accuracy, setting found) of every search whose own run counts."""
    if (runs := evidence.islands.get(arm)) is None:
        return []
    history = evidence.history
    trials = [t for t in island_runs(history, arm) if t.id in history.scores or fell_short(history, t.id)]
    return [(t.island + 1, a, t.config) for t, a in zip(trials, runs.accuracies, strict=True)]


def _islands(evidence: Evidence, values: dict[str, list[tuple[int, float, Config]]]) -> Table:
    rows: list[tuple[str, ...]] = []
    for arm, own in values.items():
        default = default_setting(evidence, arm) or {}
        rows += [(f"{arm}, search {n}", points(a), _setting(config, default)) for n, a, config in own]
        rows.append((f"{arm}, mean", points(sum(a for _, a, _ in own) / len(own)) if own else "–", ""))
    return Table(head=("own run", "test accuracy, %", "found, where not the default"), rows=tuple(rows))


def _setting(config: Config, default: Config) -> str:
    """What of a setting differs from the default."""
    differs = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in config.items()
        if value != default.get(name)
    ]
    return ", ".join(differs) or "the default itself"


def _together(adjusted: float, pairs_in_all: int) -> str:
    return f" ({adjusted:.3f} by Holm over {pairs_in_all} pairs)" if pairs_in_all > 1 else ""


def _nets(first: str, second: str, nets: Paired) -> str:
    return (
        f"Two trained nets only (Q1), the first run of each side: only {first} is right on "
        f"{counted(nets.n10, 'image')}, only {second} on {nets.n01}; difference {points(nets.delta, sign=True)} pt "
        f"(Tango's 95 % interval {points(nets.low, sign=True)} to {points(nets.high, sign=True)}), McNemar mid-p = "
        f"{nets.mid_p:.3g}. It tells nothing about other runs: two seeds of one setting often differ as much."
    )
