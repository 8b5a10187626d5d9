"""The searches pair by pair: what each found, how selection decided, and what stands beside the answer."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from analysis.report.section import Section, Table, span
from analysis.results import Evidence, choices, in_hand
from analysis.statistics.mcnemar import Paired, paired
from analysis.statistics.ranks import rank_shares
from analysis.statistics.superiority import holm, superiority
from analysis.summary import Findings, default_setting
from analysis.verdict import Runs
from study.protocol.records import Choice, Config
from study.protocol.text import chance, counted, listed, points


def searches(evidence: Evidence, found: Findings) -> Section:
    """What every search found, on the test images, and the difference of each pair."""
    arms = [arm for arm in evidence.plan.arms if evidence.finds.get(arm)]
    numbers = sorted({pair for arm in arms for pair in evidence.finds[arm]})
    several = [a for a in found.answers if a.differences]
    heads = [f"{a.first} − {a.second}" for a in several]
    rows = []
    for pair in numbers:
        cells = [points(runs.mean) if (runs := evidence.finds[arm].get(pair)) else "–" for arm in arms]
        gaps = []
        for a in several:
            both = [evidence.finds[arm].get(pair) for arm in (a.first, a.second)]
            gaps.append(points(both[0].mean - both[1].mean, sign=True) if both[0] and both[1] else "–")
        rows.append((f"pair {pair + 1}", *cells, *gaps))
    text = [_told(evidence, arm) for arm in arms]
    if found.lucks:
        luck = [f"{points(found.lucks[i].sd)} pt for {heads[i]}" for i in range(len(heads))]
        text.append(f"Luck of one pair (sd of its difference, these test images included): {listed(luck)}.")
    if any(a.holm_p is not None for a in found.answers):
        p = [
            f"{a.first} against {a.second} {a.p:.3g} ({a.holm_p:.3g})"
            for a in found.answers
            if a.p is not None
        ]
        text.append(
            f"Two-sided p of the t statistic over the pairs, with Holm's adjustment in brackets: {listed(p)}."
        )
    return Section(
        title="Search against search",
        text=tuple(text) or ("No search of an arm has a scored run of what it found yet.",),
        tables=(Table(head=("mean test accuracy, %", *arms, *heads), rows=tuple(rows)),) if rows else (),
        note="The searches of a pair began with the same random settings on what the arms share and held out the same images. "
        "What each found was selected against the default and trained again with fresh seeds, by itself; the answer's interval is "
        "over the differences of the pairs, with what lasts of the differences between images added, so it holds for new searches "
        "of this share."
        if rows
        else "",
        facts={
            "pairs": evidence.plan.pairs,
            "told": text,
            "means": {arm: {str(p + 1): r.mean for p, r in evidence.finds[arm].items()} for arm in arms},
            "luck": [asdict(luck) for luck in found.lucks],
            "full_runs": {arm: full_runs(evidence, arm) for arm in arms},
        },
    )


def full_runs(evidence: Evidence, arm: str) -> dict[str, float]:
    """Pair, from 1 -> the full runs that the arm's search of it really spent."""
    tuning = evidence.history.tuning
    if tuning is None or arm not in tuning.full_run:
        return {}
    return {
        str(pair + 1): evidence.history.spent(arm, "search", pair=pair) / tuning.full_run[arm]
        for pair in sorted(evidence.finds.get(arm, {}))
    }


def _told(evidence: Evidence, arm: str) -> str:
    """How much each search of the arm had, and how many found something."""
    spent = list(full_runs(evidence, arm).values())
    found = choices(evidence.history, arm, evidence.look)
    kept = sum(choice.default for choice in found)
    ends = list(dict.fromkeys(f"{end:.1f}" for end in (min(spent), max(spent)))) if spent else []
    each = "each " if len(found) > 1 else ""
    share = f", {each}of {' to '.join(ends)} full runs" if ends else ""
    told = f"{arm}: {counted(len(found), 'search', 'searches')}{share}"
    confirmed = "found nothing better than the default, which was confirmed in its place"
    if len(found) == 1:
        return f"{told}; it {confirmed if kept else 'found a setting that leads the default'}."
    if kept:
        return f"{told}; {'all' if kept == len(found) else kept} {confirmed}."
    return f"{told}; each found a setting that leads the default."


def selection(evidence: Evidence) -> Section:
    """The default as a candidate of every search: lead, standard error and decision (METHOD.md 3)."""
    rows, facts, text = [], [], []
    variance: set[float] = set()
    for arm in evidence.plan.arms:
        held = in_hand(evidence.history, arm, evidence.look)
        for choice in choices(evidence.history, arm, evidence.look):
            variance.add(choice.run_variance)
            rows.append(_selected(evidence, arm, choice, held is not None and held.pair == choice.pair))
            facts.append({"arm": arm, "in_hand": bool(held and held.pair == choice.pair)} | _plain(choice))
            if choice.ties:
                text.append(f"{arm}, pair {choice.pair + 1}: {choice.ties}")
    if not rows:
        return Section(
            title="What selection decided",
            text=("No setting has been selected yet.",),
            facts={"choices": [], "told": []},
        )
    kept = [f["arm"] for f in facts if f["default"]]
    text.insert(
        0,
        f"The search found nothing better than the default in {len(kept)} of {len(rows)} searches."
        if kept
        else "In every search a setting led the default by half a standard error or more.",
    )
    text.append(
        "Luck of one run on validation (sd, beyond what the images of a fold make it differ by): "
        f"{listed([f'{points(v**0.5)} pt' for v in sorted(variance)])}."
    )
    return Section(
        title="What selection decided",
        text=tuple(text),
        tables=(
            Table(
                head=(
                    "validation, %",
                    "chosen",
                    "its mean",
                    "lead over the default",
                    "standard error",
                    "found, where not the default",
                ),
                rows=tuple(rows),
            ),
        ),
        note="What a search found was trained again on the two folds that follow its own, where the default had run too: the "
        "lead is the mean difference there. It is taken from half a standard error on, otherwise the default is confirmed. "
        "In hand: the find with the best mean, whose nets are the arm's.",
        facts={"choices": facts, "told": text},
    )


def _selected(evidence: Evidence, arm: str, choice: Choice, held: bool) -> tuple[str, ...]:
    lead = "–" if choice.lead is None else f"{points(choice.lead, sign=True)} pt"
    se = "–" if choice.lead_se is None else f"{points(choice.lead_se)} pt"
    return (
        f"{arm}, pair {choice.pair + 1}{', in hand' if held else ''}",
        "the default" if choice.default else "what it found",
        points(choice.val_accuracy),
        lead,
        se,
        "" if choice.default else _setting(choice.config, default_setting(evidence, arm) or {}),
    )


def _plain(choice: Choice) -> dict[str, object]:
    return {
        "pair": choice.pair + 1,
        "config": choice.config,
        "default": choice.default,
        "val_accuracy": choice.val_accuracy,
        "lead": choice.lead,
        "lead_se": choice.lead_se,
        "run_variance": choice.run_variance,
        "runs": choice.runs,
    }


def appendix(evidence: Evidence, found: Findings) -> Section:
    """Per pair of arms, of the nets in hand: how often a run wins, this test set only, and the first net of each side."""
    text: list[str] = []
    facts = []
    ordered = sorted(evidence.tuned.values(), key=lambda r: -float(np.mean(r.accuracies)))
    several = bool(found.nets) and len(ordered) > 2
    shares = rank_shares(ordered) if several else np.ones((1, 1))
    adjusted = holm([v.permutation_p for v in found.nets])
    for v, p in zip(found.nets, adjusted, strict=True):
        first, second = evidence.tuned[v.first], evidence.tuned[v.second]
        wins = superiority(np.array(first.accuracies), np.array(second.accuracies))
        nets = paired(first.correct[0], second.correct[0])
        beats = (
            f"{v.first} against {v.second}. On this test set {wins.told(v.first, v.second)}; by counting wins alone, "
            f"without their size, an advantage is {wins.standing} from {v.k_first} and {v.k_second} runs."
        )
        here = (
            f"This test set only: {v.first} minus {v.second} is {span(v.this_test_set)} by Welch's interval over the "
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
        tables=(_ranks(ordered, shares),) if several else (),
        note="None of this is the answer: it holds for other runs of the settings in hand on the same test images, or for two "
        'nets. "Maybe meaningful" means that an advantage of three wins in four is not ruled out. '
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


def _setting(config: Config, default: Config) -> str:
    """What of a setting differs from the default."""
    differs = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in config.items()
        if value != default.get(name)
    ]
    return ", ".join(differs) or "the default itself"


def _together(adjusted: float, pairs_in_all: int) -> str:
    return f" ({adjusted:.3f} by Holm over {pairs_in_all} pairs of arms)" if pairs_in_all > 1 else ""


def _nets(first: str, second: str, nets: Paired) -> str:
    return (
        f"Two trained nets only (Q1), the first run of each side: only {first} is right on "
        f"{counted(nets.n10, 'image')}, only {second} on {nets.n01}; difference {points(nets.delta, sign=True)} pt "
        f"(Tango's 95 % interval {points(nets.low, sign=True)} to {points(nets.high, sign=True)}), McNemar mid-p = "
        f"{nets.mid_p:.3g}. It tells nothing about other runs: two seeds of one setting often differ as much."
    )
