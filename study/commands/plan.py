"""What a budget buys, on one screen: shown before a study runs, and by ``--plan`` instead of it.

``--verbose`` adds what was measured to plan it: the complexity audit, the ways to share a GPU or the cores, rungs and folds.
"""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis import power
from analysis.luck import POWER, half_width
from study.protocol import allocation, classes, levels, looks, question
from study.protocol.allocation import PAIRS
from study.protocol.plan import Plan
from study.protocol.question import Audit, DataCard, Packed
from study.protocol.text import counted, duration, level, percent

MUCH = 0.05
"""Part of the budget that measuring takes without a word."""


def overview(plan: Plan, *, verbose: bool = False) -> Group:
    """Which runs every arm gets, and in three sentences what they can resolve, what not, and what would."""
    machine = plan.machine
    wall = plan.budget.seconds / (machine.slots * machine.fraction)
    cpu = machine.resource == "cpu"
    each = counted(round(machine.fraction), "core") if cpu else f"{machine.fraction:g} of a GPU"
    shown: list[RenderableType] = [
        Text(
            f"plan: {' against '.join(plan.arms)} on {plan.data.spec}, recipe {plan.recipe}, for {plan.budget}, about {duration(wall)} of wall time; "
            f"{machine.slots} trials side by side, {each} each ({machine.name})"
        ),
        _phases(plan),
        *map(Text, outlook(plan)),
        *_measuring(plan),
        *([Text(_two_looks(plan))] if plan.looks == 2 else []),
    ]
    if warning := question.unmatched(plan.audits):
        shown.append(Text(f"warning: {warning}"))
    shown += [
        Text(f"note: {said}")
        for said in [*question.starts(plan.weights, plan.arms, plan.data.size), *question.pinned(plan.spaces)]
    ]
    if told := looks.describe_earlier(plan):
        shown.append(Text(f"note: {told}"))
    return Group(*shown, *(_details(plan) if verbose else ()))


def _measuring(plan: Plan) -> list[Text]:
    """That it took much of a small budget."""
    share = sum(plan.probe_cost.values()) / plan.budget.seconds
    return (
        [Text(f"Measuring took {percent(share, 0)} of the budget; of a larger one it takes about 3 %.")]
        if share > MUCH
        else []
    )


def _two_looks(plan: Plan) -> str:
    first, couples = levels.of_study(plan, first=plan.pairs), math.comb(len(plan.arms), 2)
    if plan.pairs < levels.FEWEST_PAIRS:
        return f"Two looks: the first has no interval on architectures, that of the second is at {level(1 - first.own / couples)}."
    over = f" over all {couples} pairs of arms" if couples > 1 else ""
    return (
        f"Two looks: the interval of the first is at {level(first.confidence)}, that of the second so that both together "
        f"hold at {level(1 - first.own)}{over}."
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("arm", "class") else "right")
    return table


def _phases(plan: Plan) -> Table:
    table = _table(
        f"runs per arm, counted in full runs of {plan.epochs} epochs",
        ("arm", "full run", "share", "default", "random", "searches", "select", "confirm"),
    )
    tuning = allocation.tuning_runs(plan) * max(allocation.full_run(plan, arm) for arm in plan.arms)
    random = allocation.slice_runs(allocation.tuning_runs(plan))
    for arm in plan.arms:
        each = max(0.0, tuning / allocation.full_run(plan, arm) - random) / plan.pairs
        table.add_row(
            Text(arm),
            duration(allocation.full_run(plan, arm)),
            duration(plan.share),
            str(plan.folds),
            str(random or "-"),
            f"{plan.pairs} x {each:.1f}",
            str(allocation.select_runs(plan)),
            f"{allocation.confirm_reserved(plan)}+",
        )
    return table


def class_table(card: DataCard) -> Table:
    """What was read of each class."""
    table = _table("images", classes.COLUMNS)
    for row in classes.rows(card):
        table.add_row(*map(Text, row))
    return table


def outlook(plan: Plan) -> tuple[str, str, str]:
    """What this budget can resolve, what it cannot, and what would, before any search has run (METHOD.md 5)."""
    margin, images, metric = plan.margin, f"{plan.data.test} test images", plan.judged
    if plan.pairs < min(PAIRS):
        fewest = min(PAIRS)
        return (
            f"This budget can say which of the two nets that it finds is better on {images}.",
            "It cannot say which architecture is: one search per arm does not show how much searches differ.",
            f"{fewest} pairs of searches would: --budget {allocation.budget_for_pairs(plan, fewest)} --epochs {plan.epochs}.",
        )
    kinds = power.assumed(plan)
    level = power.rate(plan)
    alpha = level(plan.pairs)
    gaps = [half_width(luck, plan.pairs, alpha, power=POWER) for luck in kinds]
    ties = [half_width(luck, plan.pairs, alpha, power=power.GOAL["tie"]) for luck in kinds]
    least = f"{' to '.join(dict.fromkeys(map(metric.number, gaps)))} {metric.unit}".rstrip()
    least += "" if metric.name == "accuracy" else f" of {metric.kind}"
    proves = plan.rope >= max(ties)
    needs = [power.takes_pairs(plan, luck, plan.rope, level, power.GOAL["gap"]) for luck in kinds]
    equal = "" if proves else f", nor show that equal arms are equal within {margin}"
    also = f", and prove equal arms equal within {margin}" if proves else ""
    takes = (
        needs[0]
        if needs[0] == needs[1]
        else f"in the best case {needs[0]}; if searches differ much, {needs[1]}"
    )
    return (
        (
            f"This budget can resolve a true gap of {least} between architectures in {100 * POWER:.0f} % of studies"
            f"{also}: {plan.pairs} pairs of searches, {images}."
        ),
        f"It cannot resolve a smaller gap{equal}.",
        f"To name an arm that is {margin} ahead takes {takes}.",
    )


# -- with --verbose


def _details(plan: Plan) -> list[RenderableType]:
    return [
        Text(),
        audit_table(plan.audits),
        Text(),
        packing_table(plan.packing),
        Text(" ".join(plan.packing_notes)),
        Text(
            f"\neach share buys {allocation.full_runs(plan):.1f} full runs of the most expensive arm, {allocation.tuning_runs(plan):.1f} of them for the "
            f"searches and the random settings. ASHA decides at epochs {', '.join(map(str, plan.rungs)) or 'none'}. "
            f"{plan.folds} folds of {plan.val_images} images to validate on, {plan.train_images} to train on"
        ),
        *map(Text, (power.promise(plan), *power.price(plan))),
    ]


def audit_table(audits: Mapping[str, Audit]) -> Table:
    table = _table(
        "complexity audit (default settings)",
        ("arm", "parameters", "MACs per image", "images/s training", "peak memory"),
    )
    for arm, audit in audits.items():
        table.add_row(
            Text(arm),
            f"{audit.params / 1e6:.2f} M",
            f"{audit.macs / 1e6:.1f} M",
            f"{audit.images_per_second:.0f}",
            f"{audit.peak_bytes / 2**30:.1f} GiB",
        )
    return table


def packing_table(packing: Sequence[Packed]) -> Table:
    table = _table(
        "packing: trials side by side",
        ("arm", "trials", "of each", "threads", "batch", "layout", "images/s of all", "peak memory"),
    )
    for row in packing:
        table.add_row(
            Text(row.arm),
            str(row.trials),
            f"{row.fraction:g}",
            str(row.threads),
            str(row.batch_size),
            "channels_last" if row.channels_last else "contiguous",
            f"{row.images_per_second:.0f}",
            f"{row.peak_bytes / 2**30:.1f} GiB",
        )
    return table
