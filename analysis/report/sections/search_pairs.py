"""Search against search: what each search found, pair by pair, on the test images."""

from dataclasses import asdict

from analysis.report.section import Context, Part, Section, Table
from analysis.results import Evidence, choices, had_none
from study.protocol.text import counted, listed

BEGAN = (
    "The searches of a pair began with the same random settings of the parameters that the arms share, and held out the same "
    "images. Each find was selected against the default and trained again with fresh seeds."
)
OVER = (
    " The answer's interval is over the pairs' differences plus the part of the differences between images that more pairs "
    "would not remove, so it holds for new searches of this share."
)


def section(context: Context) -> Section:
    """What every search found, on the test images, and the difference of each pair."""
    evidence, found, metric = context.evidence, context.found, context.metric
    arms = [arm for arm in evidence.plan.arms if evidence.finds.get(arm)]
    numbers = sorted({pair for arm in arms for pair in evidence.finds[arm]})
    several = [a for a in found.answers if a.differences]
    heads = [f"{a.first} {metric.against} {a.second}" for a in several]
    rows = []
    for pair in numbers:
        cells = [metric.shown(runs.mean) if (runs := evidence.finds[arm].get(pair)) else "–" for arm in arms]
        gaps = []
        for a in several:
            both = [evidence.finds[arm].get(pair) for arm in (a.first, a.second)]
            gaps.append(metric.number(both[0].mean - both[1].mean, sign=True) if both[0] and both[1] else "–")
        rows.append((f"pair {pair + 1}", *cells, *gaps))
    text = [_searches(evidence, arm) for arm in arms]
    if found.lucks:
        luck = [f"{metric.gap(found.lucks[i].sd)} for {heads[i]}" for i in range(len(heads))]
        text.append(f"Luck of one pair (sd of its difference, these test images included): {listed(luck)}.")
    if any(a.holm_p is not None for a in found.answers):
        known = [a for a in found.answers if a.p is not None]
        p = listed([f"{a.first} against {a.second} {a.p:.3g} ({a.holm_p:.3g})" for a in known])
        text.append(
            f"Two-sided p of the t statistic over the pairs, with Holm's adjustment in brackets: {p}."
        )
    return Section(
        title="Search against search",
        text=tuple(text) or ("No search of an arm has a scored run of what it found yet.",),
        tables=(Table(head=(f"mean test {metric.axis}", *arms, *heads), rows=tuple(rows)),) if rows else (),
        note=f"{BEGAN}{OVER if found.lucks else ''}"
        if rows and not all(had_none(evidence, arm) for arm in arms)
        else "",
        facts={
            "pairs": len(numbers) or evidence.plan.pairs,
            "sentences": text,
            "means": {arm: {str(p + 1): r.mean for p, r in evidence.finds[arm].items()} for arm in arms},
            "luck": [asdict(luck) for luck in found.lucks],
            "full_runs": {arm: full_runs(evidence, arm) for arm in arms},
        },
    )


def full_runs(evidence: Evidence, arm: str) -> dict[str, float]:
    """Pair, counted from 1 -> the full runs that the arm's search spent."""
    tuning = evidence.history.tuning
    if tuning is None or arm not in tuning.full_run:
        return {}
    return {
        str(pair + 1): evidence.history.spent(arm, "search", pair=pair) / tuning.full_run[arm]
        for pair in sorted(evidence.finds.get(arm, {}))
    }


def _searches(evidence: Evidence, arm: str) -> str:
    """How much each search of the arm had, and how many found something."""
    spent = list(full_runs(evidence, arm).values())
    found = choices(evidence.history, arm, evidence.look)
    if had_none(evidence, arm):
        return f"{arm}: no search could be paid for; the default was confirmed in its place."
    kept = sum(choice.default for choice in found)
    ends = list(dict.fromkeys(f"{end:.1f}" for end in (min(spent), max(spent)))) if spent else []
    each = "each " if len(found) > 1 else ""
    share = f", {each}of {' to '.join(ends)} full runs" if ends else ""
    said = f"{arm}: {counted(len(found), 'search', 'searches')}{share}"
    confirmed = "found nothing better than the default, which was confirmed in its place"
    if len(found) == 1:
        return f"{said}; it {confirmed if kept else 'found a setting that leads the default'}."
    if kept:
        return f"{said}; {'all' if kept == len(found) else kept} {confirmed}."
    return f"{said}; each found a setting that leads the default."


PART = Part(order=30, build=section, key="search_against_search")
