"""Does one joint search pick the better architecture as often as a search per architecture? Replayed.

Command:   python -m tests.bench.replay [--repeats N] [--data DIR] [--budget RUNS] [--start adam|random]
           [--out FIGURE.png]
Needs:     the recorded curves of ../shared/data/taskset (a synthetic table stands in where they are absent).
Cost:      40 repeats (the default) in 7 minutes on one core.
Expected:  right verdicts 59 % joint against 82 % per arm, ratio 0.72 [0.66, 0.79]; with ``--start random`` and
           24 repeats, 2 minutes: 48 % against 70 %, ratio 0.68 [0.54, 0.84].

Both ways drive the study's own ``ArmSearch`` (TPE, ASHA rungs at checkpoints 1, 5 and 16 of 50), one trial
at a time, for the same total cost in checkpoints (x an arm's cost factor):

- per arm: a search of its own for each architecture, with its own rungs, at half the budget each;
- joint: the architecture as one more Choice axis, one TPE, one set of rungs, the whole budget. Which arm's
  name comes first, and thus has the first trial, alternates.

A proposed config becomes the nearest row unused in this search (per architecture). Value: minus the
validation loss. A search's find for an arm: the row trained furthest, then best on validation. The
verdict: each arm's found row at full length on test, the lower loss wins; an arm without a trial run
to the end has nothing to confirm and loses. In brackets the kinder reading, in which the row of such
an arm is trained to the end first.

The truth: which arm's best row on validation, of all 1000, has the lower test loss (endless tuning). As a
second truth: which arm is better in expectation after 100 random rows, about as many as half of 20 runs try.
Both depend on the table alone, not on a way of searching. Pairs with truths less than 0.02 apart have
no clearly better arm: shown, not pooled.

Every search begins with a default setting: Adam's usual one (``--start adam``), or in each repeat another
recorded row drawn at random (``--start random``), the same for both ways.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from analysis.report.figures import OKABE_ITO, STYLE, WIDTH
from bench.taskset import FOLDER, WORST, Curves, Rows, load, with_arm
from search_spaces import Config, default
from study.protocol.allocation import rungs
from study.protocol.records import Epoch, Outcome, State, Trial
from study.scheduling.sampler import ArmSearch
from study.scheduling.schedule import derive_seed

GAP = 0.02
"""Test loss by which truths must differ for a pair to have a better arm."""
TRIES = 100
WAYS = ("joint", "per arm")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial of a replayed search."""

    arm: str
    row: int
    checkpoints: int
    loss: float
    """Validation loss at its last checkpoint."""
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """One repeat of one pair, searched in one way. ``better`` is the truly better arm."""

    pair: tuple[str, str]
    way: str
    repeat: int
    named: str
    """The arm that the verdict favours; empty if no trial of either ran to the end."""
    named_retrained: str
    """The same with every found row trained to full length first."""
    share: float
    """The better arm's share of the spend."""
    better_never_finished: bool
    any_never_finished: bool
    trials: int
    regret: float
    """Test loss of the better arm's found row, above the arm's truth."""

    @property
    def right(self) -> bool:
        return self.named == self.pair[0]

    @property
    def right_retrained(self) -> bool:
        return self.named_retrained == self.pair[0]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One pair in one way, over all repeats."""

    better: str
    other: str
    gap: float
    """Of the truths."""
    gap_random: float
    """Of the expectations after TRIES random rows; below 0 the other arm is the better one by then."""
    pooled: bool
    way: str
    repeats: int
    right: float
    low: float
    high: float
    right_retrained: float
    share_low: float
    share: float
    share_high: float
    better_never_finished: float
    any_never_finished: float
    regret: float


def search(
    arms: Mapping[str, Curves],
    *,
    budget: float,
    costs: Mapping[str, float],
    seed: int,
    start: Config | None = None,
) -> list[Run]:
    """Search until ``budget`` is spent: one arm by itself, or several jointly, the first-named one first.

    The first trial has the setting ``start``, by default Adam's usual one.
    """
    names = tuple(arms)
    one = arms[names[0]]
    space = with_arm(one.space, names) if len(names) > 1 else one.space
    finder = ArmSearch(space, rungs(one.checkpoints), seed=seed)
    begin: Config = default(space) | (start or {})
    rows = {name: Rows(curves) for name, curves in arms.items()}
    runs: list[Run] = []
    spent = 0.0
    while budget - spent >= min(costs[name] for name in names) - 1e-9:
        trial = f"t{len(runs)}"
        config = finder.ask(trial) if runs else begin
        arm = str(config.get("arm", names[0]))
        row = rows[arm].draw(config)
        run, why = _train(finder, trial, arms[arm], row, room=budget - spent, cost=costs[arm])
        spent += run.checkpoints * costs[arm]
        state: State = "failed" if run.failed else "stopped" if why else "finished"
        end = Outcome(trial=trial, state=state, reason=why or "full length", epochs=run.checkpoints, cost=0.0)
        if runs:
            finder.tell(end, -run.loss)
        else:  # as a study adds its default's run
            finder.restore(_trial(trial, arm, begin, one.checkpoints), [_epoch(trial, 1, run.loss)], end)
        runs.append(run)
    return runs


def _train(
    finder: ArmSearch, trial: str, curves: Curves, row: int, *, room: float, cost: float
) -> tuple[Run, str]:
    """Play the row until it ends, diverges, is stopped or the budget is spent. Returns the reason, empty at full length."""
    why, failed, loss = "", False, WORST
    for checkpoint in range(1, curves.checkpoints + 1):
        loss = float(curves.valid[row, checkpoint])
        if np.isnan(loss):
            why, failed, loss = "diverged: nan", True, WORST
            break
        passed = finder.report(_epoch(trial, checkpoint, loss))
        if checkpoint == curves.checkpoints:
            break
        if not passed:
            why = "asha: below the best third"
            break
        if room - checkpoint * cost < cost - 1e-9:
            why = "budget: spent"
            break
    return Run(arm=curves.name, row=row, checkpoints=checkpoint, loss=loss, failed=failed), why


def _trial(name: str, arm: str, config: Config, length: int) -> Trial:
    return Trial(
        id=name, arm=arm, phase="search", index=0, pair=0, config=config, seed=0, fold=0, epochs=length
    )  # fmt: skip


def _epoch(trial: str, checkpoint: int, loss: float) -> Epoch:
    return Epoch(
        trial=trial, epoch=checkpoint, train_loss=loss, train_accuracy=-loss, val_loss=loss,
        val_accuracy=-loss, train_seconds=1.0, eval_seconds=0.0,
    )  # fmt: skip


def found(runs: Sequence[Run], arm: str) -> Run | None:
    """The study's choice: furthest trained, then best; None if every trial of the arm diverged."""
    lasting = [r for r in runs if r.arm == arm and not r.failed]
    return max(lasting, key=lambda r: (r.checkpoints, -r.loss), default=None)


def judge(
    pair: tuple[Curves, Curves], runs: Sequence[Run], costs: Mapping[str, float], way: str, repeat: int
) -> Case:
    """The verdict of both arms' runs on the pair (better, other)."""
    better, other = pair
    length = better.checkpoints
    takes = {c.name: found(runs, c.name) for c in pair}
    ended = {name: run is not None and run.checkpoints == length for name, run in takes.items()}
    losses = {}
    for curves in pair:
        run = takes[curves.name]
        losses[curves.name] = WORST if run is None else float(curves.final_test[run.row])
    spend = {c.name: sum(r.checkpoints * costs[c.name] for r in runs if r.arm == c.name) for c in pair}
    ahead = better.name if losses[better.name] < losses[other.name] else other.name
    lasting = [name for name, whole in ended.items() if whole]
    return Case(
        pair=(better.name, other.name),
        way=way,
        repeat=repeat,
        named=ahead if len(lasting) == 2 else "".join(lasting),
        named_retrained=ahead,
        share=spend[better.name] / sum(spend.values()),
        better_never_finished=not ended[better.name],
        any_never_finished=not all(ended.values()),
        trials=len(runs),
        regret=losses[better.name] - better.truth,
    )


def replay(
    arms: Mapping[str, Curves],
    *,
    repeats: int,
    budget: float,
    dearer: float = 1.0,
    random_start: bool = False,
    first_seed: int = 0,
) -> list[Case]:
    """Every pair, in both ways, ``repeats`` times. ``budget``: full runs of average cost, both arms together.

    ``dearer``: cost of a checkpoint of the pair's truly better arm, relative to the other's.
    """
    cases = []
    for repeat in range(first_seed, first_seed + repeats):
        start = _random_start(arms, repeat) if random_start else None
        alone: dict[tuple[str, float], list[Run]] = {}
        for number, pair in enumerate(ordered_pairs(arms)):
            better, other = pair
            costs = {better.name: dearer, other.name: 1.0}
            total = budget * better.checkpoints * (dearer + 1) / 2
            turn = pair if (repeat + number) % 2 else (other, better)
            seed = derive_seed("replay", repeat, better.name, other.name)
            together = search({c.name: c for c in turn}, budget=total, costs=costs, seed=seed, start=start)
            cases.append(judge(pair, together, costs, "joint", repeat))
            own: list[Run] = []
            for curves in pair:  # an arm's own search does not depend on its opponent
                key = curves.name, costs[curves.name]
                if key not in alone:
                    seed = derive_seed("replay", repeat, curves.name)
                    one = {curves.name: curves}
                    alone[key] = search(one, budget=total / 2, costs=costs, seed=seed, start=start)
                own += alone[key]
            cases.append(judge(pair, own, costs, "per arm", repeat))
    return cases


def _random_start(arms: Mapping[str, Curves], repeat: int) -> Config:
    """The setting of a recorded row, the same row for every arm."""
    curves = next(iter(arms.values()))
    row = np.random.default_rng(derive_seed("start", repeat)).integers(len(curves.settings))
    return {name: float(value) for name, value in zip(curves.axes, curves.settings[row], strict=True)}


def ordered_pairs(arms: Mapping[str, Curves]) -> list[tuple[Curves, Curves]]:
    """Every pair as (truly better, other), widest gap first."""
    pairs = [(a, b) if a.truth < b.truth else (b, a) for a, b in itertools.combinations(arms.values(), 2)]
    return sorted(pairs, key=lambda p: p[0].truth - p[1].truth)


def summarise(arms: Mapping[str, Curves], cases: Sequence[Case]) -> list[Summary]:
    """One row per pair and way, pairs by their gap; 95 % intervals by Wilson."""
    rows = []
    for better, other in ordered_pairs(arms):
        for way in WAYS:
            mine = [c for c in cases if c.pair == (better.name, other.name) and c.way == way]
            low, high = wilson(sum(c.right for c in mine), len(mine))
            shares = np.quantile([c.share for c in mine], [0.05, 0.5, 0.95])
            rows.append(
                Summary(
                    better=better.name,
                    other=other.name,
                    gap=other.truth - better.truth,
                    gap_random=other.expected(TRIES) - better.expected(TRIES),
                    pooled=other.truth - better.truth >= GAP,
                    way=way,
                    repeats=len(mine),
                    right=float(np.mean([c.right for c in mine])),
                    low=low,
                    high=high,
                    right_retrained=float(np.mean([c.right_retrained for c in mine])),
                    share_low=float(shares[0]),
                    share=float(shares[1]),
                    share_high=float(shares[2]),
                    better_never_finished=float(np.mean([c.better_never_finished for c in mine])),
                    any_never_finished=float(np.mean([c.any_never_finished for c in mine])),
                    regret=float(np.mean([c.regret for c in mine])),
                )
            )
    return rows


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """95 % interval of a rate."""
    interval = stats.binomtest(hits, tries).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def rates(
    cases: Sequence[Case], truths: Mapping[frozenset[str], str]
) -> dict[str, tuple[float, float, float]]:
    """Right verdicts per way, and joint / per arm, each with a 95 % bootstrap over repeats.

    ``truths``: the better arm of every pair that counts. The bootstrap draws repeats: within one, the
    pairs share the arms' own searches.
    """
    chosen = [c for c in cases if frozenset(c.pair) in truths]
    numbers = sorted({c.repeat for c in chosen})
    table = {
        way: np.array(
            [
                np.mean(
                    [c.named == truths[frozenset(c.pair)] for c in chosen if c.way == way and c.repeat == n]
                )
                for n in numbers
            ]
        )
        for way in WAYS
    }
    picks = np.random.default_rng(0).integers(len(numbers), size=(4000, len(numbers)))
    means = {way: (float(t.mean()), t[picks].mean(axis=1)) for way, t in table.items()}
    joint, alone = means["joint"], means["per arm"]
    means["ratio"] = (joint[0] / max(alone[0], 1e-9), joint[1] / np.maximum(alone[1], 1e-9))
    return {
        name: (centre, float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975)))
        for name, (centre, draws) in means.items()
    }


def truths(rows: Sequence[Summary], *, after_random: bool = False) -> dict[frozenset[str], str]:
    """The better arm of every pair whose truths are at least GAP apart: in the end, or after TRIES random rows."""
    gaps = {(r.better, r.other): r.gap_random if after_random else r.gap for r in rows}
    return {frozenset(pair): pair[gap < 0] for pair, gap in gaps.items() if abs(gap) >= GAP}


Rates = Mapping[str, tuple[float, float, float]]


def report_text(rows: Sequence[Summary], pooled: Rates, after_random: Rates) -> str:
    """The table, the pooled ratio last."""
    head = (
        f"{'better > other':20}{'gap':>7}{'at 100':>8}  {'search':8}{'right [95 %]':>19}{'retrained':>11}"
        f"{'share of better (5-95 %)':>27}{'better/any never ended':>25}{'regret':>8}"
    )
    lines = [head]
    for r in rows:
        pair = f"{r.better} > {r.other}" + ("" if r.pooled else " *")
        right = f"{100 * r.right:.0f} % [{100 * r.low:.0f}, {100 * r.high:.0f}]"
        share = f"{r.share:.2f} ({r.share_low:.2f}-{r.share_high:.2f})"
        never = f"{100 * r.better_never_finished:.0f} / {100 * r.any_never_finished:.0f} %"
        lines.append(
            f"{pair:20}{r.gap:7.3f}{r.gap_random:8.3f}  {r.way:8}{right:>19}{f'{100 * r.right_retrained:.0f} %':>11}"
            f"{share:>27}{never:>25}{r.regret:8.3f}"
        )
    lines.append(f"* truths less than {GAP} apart: not pooled")
    for name, table in ((f"truth after {TRIES} random rows", after_random), ("truth in the end", pooled)):
        parts = [f"{way} {100 * c:.0f} % [{100 * a:.0f}, {100 * b:.0f}]" for way, (c, a, b) in table.items()][
            :2
        ]
        centre, low, high = table["ratio"]
        lines.append(
            f"right verdicts, {name}: {', '.join(parts)}, joint / per arm {centre:.2f} [{low:.2f}, {high:.2f}]"
        )
    return "\n".join(lines)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def draw(rows: Sequence[Summary], budget: float) -> Figure:
    """Above, how often each way names the better arm; below, how much of the budget that arm got."""
    figure = Figure(figsize=(WIDTH, 7.4), layout="constrained", facecolor="white")
    top, bottom = figure.subplots(2, 1, sharey=True)
    looks = {
        "per arm": {"color": OKABE_ITO[0], "marker": "o", "label": "a search per architecture"},
        "joint": {"color": OKABE_ITO[1], "marker": "s", "label": "one joint search"},
    }
    pairs = list(dict.fromkeys((r.better, r.other) for r in rows))
    for row in rows:
        look = looks[row.way]
        y = pairs.index((row.better, row.other)) + (0.16 if row.way == "joint" else -0.16)
        label = look["label"] if pairs.index((row.better, row.other)) == 0 else None
        face = look["color"] if row.pooled else "white"
        dot = {"marker": look["marker"], "color": look["color"], "mfc": face, "ms": 6.5, "ls": ""}
        for ax, low, middle, high in (
            (top, row.low, row.right, row.high),
            (bottom, row.share_low, row.share, row.share_high),
        ):
            ax.plot([100 * low, 100 * high], [y, y], color=look["color"], lw=2, solid_capstyle="butt")
            ax.plot(100 * middle, y, label=label, **dot)
        if row.way == "joint":
            bottom.text(
                106, y - 0.16, f"{100 * row.any_never_finished:.0f} %", va="center", clip_on=False, fontsize=9
            )
    bottom.text(106, -0.55, "an arm\nnever\nended", va="bottom", fontsize=9)
    gaps = {(r.better, r.other): (r.gap, r.gap_random) for r in rows}
    for ax in (top, bottom):
        ax.axvline(50, color="#555555", lw=1, ls=(0, (4, 3)), zorder=0)
        ax.set_xlim(-3, 103)
        ax.set_xticks(range(0, 101, 25))
        ax.tick_params(axis="y", length=0)
    top.set_yticks(
        range(len(pairs)),
        [f"{a} > {b}\nby {gaps[a, b][0]:.3f} ({gaps[a, b][1]:.3f})".replace("-", "−") for a, b in pairs],
    )
    top.set_ylim(len(pairs) - 0.5, -0.5)
    top.set_xlabel("better arm named (% of studies, 95 %)")
    bottom.set_xlabel("budget of the better arm (%, 5 to 95 %)")
    top.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handletextpad=0.3, columnspacing=1.2)
    figure.suptitle(
        f"Recorded curves searched again, {budget:g} full runs in all.\n"
        "Better arm by test loss in the end (after 100 random rows)",
        x=0.01, ha="left", fontsize=10.5, fontweight="bold",
    )  # fmt: skip
    figure.draw_without_rendering()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replay", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=40, help="studies of each pair and way (default 40)")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"recorded curves (default {FOLDER})")
    parser.add_argument("--budget", type=float, default=20, help="full runs of a pair, in all (default 20)")
    parser.add_argument("--dearer", type=float, default=1.0, help="cost factor of the better arm (default 1)")
    parser.add_argument(
        "--start", choices=("adam", "random"), default="adam", help="the default setting (adam)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat (default 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("replay.png"),
        help="the figure; the numbers go to the same name .json",
    )
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    arms = load(given.data)
    if not given.data.is_dir():
        print(f"{given.data} is absent: made-up tables stand in, the numbers say nothing about real curves")
    cases = replay(
        arms,
        repeats=given.repeats,
        budget=given.budget,
        dearer=given.dearer,
        random_start=given.start == "random",
        first_seed=given.seed,
    )
    rows = summarise(arms, cases)
    pooled = rates(cases, truths(rows))
    after_random = rates(cases, truths(rows, after_random=True))
    seconds = time.perf_counter() - began
    given.out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, given.budget).savefig(given.out, dpi=200)
    body = {
        "recorded": given.data.is_dir(),
        "repeats": given.repeats,
        "budget": given.budget,
        "dearer": given.dearer,
        "seed": given.seed,
        "truth": {name: curves.truth for name, curves in arms.items()},
        "expected_at_100": {name: curves.expected(TRIES) for name, curves in arms.items()},
        "rows": [asdict(r) for r in rows],
        "start": given.start,
        "pooled": pooled,
        "pooled_after_random": after_random,
        "seconds": seconds,
        "cases": [asdict(c) for c in cases],
    }
    given.out.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n")
    print(f"{given.out}, {given.out.with_suffix('.json')}: {given.repeats} repeats in {seconds:.0f} s")
    print(report_text(rows, pooled, after_random))


if __name__ == "__main__":
    main()
