"""Accuracy against cost: the time to train a full run, and the time to classify one image (METHOD.md 7)."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report import figures
from analysis.report.section import Context, Drawing, Part, Section, Table
from analysis.results import Evidence
from analysis.scores import accuracies
from study.protocol.metrics import Metric
from study.protocol.text import duration, listed


def table(evidence: Evidence) -> pd.DataFrame:
    """One row per arm and setting: arm, kind, mean, low, high, training (resource-seconds of a full run's epochs),
    milliseconds (inference per image), params, macs, peak_bytes, and front (tuned only: no other tuned arm is
    as accurate and as cheap in both, and better in one, by the point values)."""
    found = accuracies(evidence)
    if found.empty:
        return found
    shelves = {"default": evidence.default, "tuned": evidence.tuned}
    found = found[["arm", "kind", "runs", "mean", "low", "high"]].copy()
    keys = list(zip(found["arm"], found["kind"], strict=True))
    audits = [evidence.plan.audits[arm] for arm, _ in keys]
    found["training"] = [shelves[kind][arm].full_run for arm, kind in keys]
    found["milliseconds"] = [1000 / a.eval_images_per_second for a in audits]
    found["params"] = [a.params for a in audits]
    found["macs"] = [a.macs for a in audits]
    found["peak_bytes"] = [a.peak_bytes for a in audits]
    tuned = found[found["kind"] == "tuned"]
    found["front"] = [
        row["kind"] == "tuned" and not any(_beats(other, row) for _, other in tuned.iterrows())
        for _, row in found.iterrows()
    ]
    return found


def section(context: Context) -> Section:
    costs, metric = table(context.evidence), context.metric
    if costs.empty:
        return Section(
            title="Accuracy against cost",
            text=("Accuracy cannot be set against cost yet: no run has been scored on the test images.",),
        )
    front = [str(arm) for arm in costs.loc[costs["front"], "arm"]]
    beaten = [
        arm
        for arm in context.evidence.plan.arms
        if arm not in front and arm in set(costs.loc[costs["kind"] == "tuned", "arm"])
    ]
    text = []
    if front:
        text.append(
            f"On the Pareto front of {metric.title}, training cost and inference time, by the point values: {listed(front)}."
            + (f" Another arm is at least as good in all three as {listed(beaten)}." if beaten else "")
        )
    else:
        text.append("There is no Pareto front yet: no tuned setting has been scored.")
    rows = tuple(
        (
            f"{r['arm']}, {r['kind']}",
            metric.shown(r["mean"]),
            duration(r["training"]),
            f"{r['milliseconds']:.3g}",
            f"{r['params'] / 1e6:.3g}",
            f"{r['macs'] / 1e6:.4g}",
            f"{r['peak_bytes'] / 2**20:.0f}",
        )
        for r in costs.to_dict("records")
    )
    head = (
        "setting",
        "test, %" if metric.name == "accuracy" else f"test {metric.axis}",
        "full run",
        "ms per image",
        "million params",
        "million MACs",
        "peak MiB",
    )
    return Section(
        title="Accuracy against cost",
        text=tuple(text),
        drawing=Drawing("costs", partial(draw, costs, context.palette, metric)),
        tables=(Table(head=head, rows=rows),),
        note="Full run: the resource-time of its epochs, training and validation, without start-up; median over these runs. "
        "Inference time, size and memory were measured before the study at the arm's default setting, on one trial's share of "
        "the machine.",
        facts={"rows": costs.to_dict("records")},
    )


def _beats(other: "pd.Series[float]", row: "pd.Series[float]") -> bool:
    better = (
        other["mean"] - row["mean"],
        row["training"] - other["training"],
        row["milliseconds"] - other["milliseconds"],
    )
    return min(better) >= 0 and max(better) > 0


@figures.styled
def draw(table: pd.DataFrame, palette: figures.Palette, metric: Metric) -> Figure:
    """The score against training and against inference."""
    figure = figures.new(5.6)
    figures.title(figure, f"Test {metric.axis}, against what it costs")
    training, inference = figure.subplots(2, 1, sharey=True)
    table = table.assign(minutes=table["training"] / 60)
    for ax, column, label in (
        (training, "minutes", "resource-minutes of one full training run"),
        (inference, "milliseconds", "milliseconds per image at inference"),
    ):
        draw_costs(table, column, ax, palette, metric)
        ax.set_xlabel(label)
    handles = [Line2D([], [], color=palette[arm], marker="D", ls="", label=arm) for arm in palette]
    handles += [
        Line2D([], [], color="#444444", marker="D", ls="", label="tuned"),
        Line2D([], [], color="#444444", mfc="white", marker="D", ls="", label="default"),
    ]
    figure.legend(handles=handles, ncols=2, loc="outside lower left")
    return figures.laid_out(figure)


def draw_costs(table: pd.DataFrame, column: str, ax: Axes, palette: figures.Palette, metric: Metric) -> None:
    """Test score with its interval against ``column``; filled tuned, hollow default.

    Columns: arm, kind (``default`` | ``tuned``), mean, low, high (NaN without interval), and ``column``.
    """
    for row in figures.records(table):
        colour, x = palette[row["arm"]], row[column]
        face = colour if row["kind"] == "tuned" else "white"
        ax.plot(
            [x, x],
            [metric.drawn(row["low"]), metric.drawn(row["high"])],
            color=colour,
            lw=2,
            solid_capstyle="butt",
        )
        ax.plot(x, metric.drawn(row["mean"]), marker="D", ms=7, color=colour, mfc=face, mew=1.6, ls="")
    ax.set_xlim(0, 1.15 * float(table[column].max()))  # from 0: a small saving must look small
    ax.grid(axis="y")


PART = Part(order=100, build=section, key="accuracy_against_cost")
