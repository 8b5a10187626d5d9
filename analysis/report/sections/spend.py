"""What it cost: the resource-seconds of each arm by phase and by activity."""

from functools import partial

import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import frames
from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table, sentence
from study.protocol.accounting import budget
from study.protocol.standing import overspent
from study.protocol.text import duration, percent


def section(context: Context) -> Section:
    plan, history = context.evidence.plan, context.evidence.history
    spent, activities = frames.spend(history, plan), frames.activities(history, plan)
    total, whole = sum(history.spent(arm) for arm in plan.arms), budget(plan, history).seconds
    return Section(
        title="What it cost",
        text=(
            (
                f"Spent: {duration(total)} of {duration(whole)}, {percent(total / whole, 1)} of "
                f"the budget ({plan.budget.resource} time; fraction held x wall time, start-up included)."
            ),
            *([sentence(over)] if (over := overspent(plan, history)) else []),
        ),
        drawing=Drawing("spend", partial(spend, spent, context.palette)) if spent["cost"].sum() > 0 else None,
        tables=tuple(
            _table(plan.arms, table, *kinds)
            for table, kinds in (
                (spent, ("phase",)),
                (activities, ("activity",)),
                (activities, ("phase", "activity")),
            )
        ),
    )


def _table(arms: tuple[str, ...], costs: pd.DataFrame, *kinds: str) -> Table:
    """One row per phase or activity that cost anything: cost and share of the arm's spend per arm, cost of all."""
    rows = []
    for names, group in costs.groupby([*kinds], sort=False):
        of_arm = group.groupby("arm", sort=False)[["cost", "share"]].sum()
        if (all_arms := float(of_arm["cost"].sum())) > 0:
            cells = [
                cell
                for cost, share in zip(of_arm["cost"], of_arm["share"], strict=True)
                for cell in (f"{cost:.1f}", percent(share, 1))
            ]
            rows.append((": ".join(map(str, names)), *cells, f"{all_arms:.1f}"))
    head = (
        f"{': '.join(kinds)}, resource-seconds",
        *(cell for arm in arms for cell in (arm, "share")),
        "all",
    )
    return Table(head=head, rows=tuple(rows))


@figures.styled
def spend(table: pd.DataFrame, palette: figures.Palette) -> Figure:
    """One bar per arm."""
    figure = figures.new(0.5 * len(palette) + 1.8)
    figures.title(figure, "Cost per arm by phase, and its share")
    draw_spend(table, figure.subplots(), palette)
    return figures.laid_out(figure)


def draw_spend(table: pd.DataFrame, ax: Axes, palette: figures.Palette) -> None:
    """Resource-seconds per arm, stacked by phase, with each phase's share of the arm's own spend.

    Columns: arm, phase, cost, share.
    """
    seconds = table.groupby("arm", sort=False)["cost"].sum()
    unit, name = (3600, "hours") if seconds.max() >= 3 * 3600 else (60, "minutes")
    phases = [p for p in table["phase"].unique() if table.loc[table["phase"] == p, "cost"].sum() > 0]
    booked = {(r["arm"], r["phase"]): (r["cost"], r["share"]) for r in figures.records(table)}
    arms = [str(arm) for arm in seconds.index]
    for y, arm in enumerate(arms):
        left = 0.0
        for phase in phases:
            cost, share = booked[arm, phase]
            face = _shade(palette[arm], phases.index(phase), len(phases))
            ax.barh(y, cost / unit, left=left / unit, height=0.62, color=face, edgecolor="white", lw=1)
            if cost / seconds.max() > 0.1:
                ink = "white" if _dark(face) else "black"
                ax.text(
                    (left + cost / 2) / unit, y, f"{100 * share:.0f} %", ha="center", va="center", color=ink
                )
            left += cost
    figures.rows(ax, arms)
    ax.set_xlabel(f"resource-{name}")
    handles = [Patch(color=_shade("#444444", i, len(phases)), label=p) for i, p in enumerate(phases)]
    if handles:
        ax.legend(
            handles=handles, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.42 / (0.5 * len(seconds) + 0.3))
        )


def _shade(colour: str, step: int, steps: int) -> tuple[float, float, float]:
    strength = 0.25 + 0.75 * (step + 1) / steps
    r, g, b = (1 - strength * (1 - c) for c in colors.to_rgb(colour))
    return r, g, b


def _dark(colour: tuple[float, float, float]) -> bool:
    r, g, b = colour
    return 0.299 * r + 0.587 * g + 0.114 * b < 0.55


PART = Part(order=140, build=section)
