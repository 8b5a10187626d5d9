"""The study's own code under known truths: paired searches, selection and the interval.

Commands:  python -m tests.bench.aa play FILE.jsonl [--families NAME ...] [--budgets 25 50 100] [--studies N]
           python -m tests.bench.aa table FILE.jsonl
           python -m tests.bench.aa looks FILE.jsonl
Needs:     the recorded curves of ../shared/data/taskset (synthetic tables stand in where they are absent).
Cost:      0.1 to 1.6 s a study, by budget and table, on one core; ``play`` appends to the file and continues it.
Expected:  at 50 and 100 full runs per arm the interval over pairs covers in .95 to 1.00, names an arm where there is no
           difference in 0 to 5 % and the wrong one at half an sd of luck in at most .4 %; the nets in hand cover in .57 to
           .95 and name one in 5 to 43 %. At 25 the guard claims nothing in 0 to 100 %, by family. Over two looks an arm is
           named in 2 % where 5 % (declared) and 6 % are allowed: between equal arms the test images make most of an
           interval's width. (1,000 studies of a cell.)

``play`` runs whole studies of two arms through the study's own ``Schedule`` in simulated time (see ``worlds``) and records
every search's find, its true accuracy and its number of confirmations. ``table`` scores the finds on test
images drawn anew for each study and judges them with ``analysis.answer``; the old rule judges the nets in hand with
``analysis.verdict``. A gap between the arms is added to the first arm's scores, which leaves the searches unchanged.

``looks`` joins two studies of one cell, with the second's pairs as those of a second look, and counts any
arm named over both looks without a difference, declared and not.

Families: each recorded table under two names, two pairs of different tables, and synthetic landscapes, among them arms of
unequal cost, few images, and tuning that gains 2, 0 and -0.5 pt. ``luck`` is the sd of a search's find over all
studies of a cell. The truth of different arms is the mean difference over all studies of their cell. ``play --families
gain`` plays nine others: tuning gains of -0.5, 0 and 2 pt by 36, 300 and 5,000 validation images in a fold, to see how often the net in
hand is worse than the default. For comparison, an imitation of the first version's rule on the same finds: retrain each on
its own split and the best two twice more; the default is no candidate.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from support.synthetic import right_wrong

from analysis import answer
from analysis.answer import Answer, Finds
from analysis.results import beat_default
from analysis.runs import Runs
from analysis.statistics.intervals import Correct
from analysis.verdict import Verdict, judge
from bench.taskset import FOLDER, load
from bench.worlds import NAMES, RUN_SD, Family, Landscape, Play, World, question, worlds
from study.protocol import levels
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.selection import found_by
from study.scheduling.schedule import derive_seed

BUDGETS = (25, 50, 100)
STATED = 0.05
GAPS = (0.5, 1.0, 2.0, 4.0)
"""True gaps to try, in sds of the luck."""
ROPE = 0.005


def families(data: Path = FOLDER) -> dict[str, Family]:
    """All families by name."""
    tables = load(data)
    easy, even, worse = Landscape(), Landscape(gain=0.0), Landscape(gain=-0.005)
    other = Landscape(best=0.925, at=(0.7, 0.3, 0.6), rough=0.002)
    found = [
        *(Family(name=f"recorded {name}", worlds=(t, t), same=True) for name, t in tables.items()),
        Family(name="recorded GRU64, GRU128", worlds=(tables["GRU64"], tables["GRU128"]), same=False),
        Family(name="recorded LSTM128, VRNN64", worlds=(tables["LSTM128"], tables["VRNN64"]), same=False),
        Family(name="tuning gains 2 pt", worlds=(easy, easy), same=True),
        Family(name="tuning gains 0 pt", worlds=(even, even), same=True),
        Family(name="tuning gains -0.5 pt", worlds=(worse, worse), same=True),
        Family(name="few images", worlds=(easy, easy), same=True, train=1500, test=360),
        Family(name="rough", worlds=(Landscape(gain=0.01, rough=0.008),) * 2, same=True),
        Family(name="different, unequal costs", worlds=(easy, other), same=False, costs=(1.0, 1.5)),
        Family(name="eight side by side", worlds=(easy, easy), same=True, slots=8),
    ]
    return {family.name: family for family in found}


def gains() -> dict[str, Family]:
    """Families by tuning gain and number of validation images."""
    found = {}
    for gain, (train, images) in itertools.product(
        (-0.005, 0.0, 0.02), ((180, 36), (1500, 300), (50_000, 5000))
    ):
        land = Landscape(gain=gain)
        name = f"gain {100 * gain:g} pt, {images} val"
        found[name] = Family(name=name, worlds=(land, land), same=True, train=train)
    return found


@dataclass(frozen=True, kw_only=True)
class Study:
    """The finds of one study's searches; accuracies are noise-free fractions."""

    family: str
    budget: float
    seed: int
    finds: tuple[tuple[float, ...], tuple[float, ...]]
    """Per arm and pair, the true test accuracy of the confirmed setting."""
    runs: tuple[tuple[int, ...], tuple[int, ...]]
    defaults: tuple[tuple[bool, ...], tuple[bool, ...]]
    """Whether the default is confirmed."""
    beat: tuple[int, int]
    """Full-length settings that beat the default on validation."""
    hand: tuple[int, int]
    default: tuple[float, float]
    """True test accuracy of the default."""
    trials: int
    found: tuple[tuple[float, ...], ...] = ()
    """Per arm and pair, the true test accuracy of the search's find, or of the default without one."""
    val_images: int = 0


def play(family: Family, *, budget: float, seed: int, run_sd: float = RUN_SD) -> Study:
    """One whole study of two arms."""
    plan, made = question(family, budget=budget, seed=seed), worlds(family)
    history = Play(plan, made, dict(zip(NAMES, family.costs, strict=True)), run_sd).run()
    found = [history.choices(arm) for arm in NAMES]

    def both(values: Iterable[Any]) -> Any:
        first, second = values
        return first, second

    return Study(
        family=family.name,
        budget=budget,
        seed=seed,
        finds=both(
            tuple(made[arm].truth(history.confirmed(arm, c.pair)[0]) for c in own)
            for arm, own in zip(NAMES, found, strict=True)
        ),
        runs=both(
            tuple(len(history.confirmed(arm, c.pair)) for c in own)
            for arm, own in zip(NAMES, found, strict=True)
        ),
        defaults=both(tuple(c.default for c in own) for own in found),
        beat=both(beat_default(history, arm, range(plan.pairs)) for arm in NAMES),
        hand=both(history.in_hand(arm) for arm in NAMES),
        default=both(made[arm].truth(history.of(arm, "baseline")[0]) for arm in NAMES),
        trials=len(history.trials),
        found=both(
            tuple(_found(plan, history, made[arm], arm, pair) for pair in range(plan.pairs)) for arm in NAMES
        ),
        val_images=plan.val_images,
    )


def _found(plan: Plan, history: History, world: World, arm: str, pair: int) -> float:
    trial, _ = found_by(plan, history, arm, pair)
    return world.truth(trial or history.of(arm, "baseline")[0])


def first_version(study: Study, arm: int, *, run_sd: float = RUN_SD) -> float:
    """True accuracies of the finds that the first version's rule would select."""
    rng = np.random.default_rng([study.seed, arm, 5])
    finds = np.array(study.found[arm])

    def scores(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        truths = finds[rows]
        sampling = np.sqrt(truths * (1 - truths) / study.val_images)
        error: NDArray[np.float64] = np.hypot(run_sd, sampling) * rng.standard_normal(len(rows))
        return np.asarray(truths + error, dtype=np.float64)

    every = np.arange(len(finds))
    first = scores(every)
    best = every[np.argsort(-first)[:2]]
    mean = (first[best] + scores(best) + scores(best)) / 3
    return float(finds[best[int(mean.argmax())]])


def seeds(family: str, budget: float, count: int) -> list[int]:
    """Seeds that no two studies of any family share: equal seeds would share their luck."""
    return [derive_seed("aa", family, budget, s) % 2**31 for s in range(count)]


def scored(study: Study, images: int, *, run_sd: float = RUN_SD) -> tuple[list[dict[int, Runs]], list[Runs]]:
    """Confirmation runs of every find on the study's own test images, and those of the nets in hand."""
    rng = np.random.default_rng(derive_seed(study.seed, "test images"))
    tables: list[Correct] = right_wrong(
        rng,
        runs=tuple(k for own in study.runs for k in own),
        accuracies=tuple(round(min(0.999, a), 4) for own in study.finds for a in own),
        images=images,
        run_sd=run_sd,
    )
    pairs = len(study.finds[0])
    arms = [
        {pair: Runs(arm=name, correct=tables[place * pairs + pair], full_run=100.0) for pair in range(pairs)}
        for place, name in enumerate(NAMES)
    ]
    return arms, [runs[hand] for runs, hand in zip(arms, study.hand, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Old and new interval of one study, first minus second, and whether the guard allows a claim."""

    new: tuple[float, float, float]
    old: tuple[float, float, float]
    claims: bool
    truth: float
    """Mean true difference of the finds of this study."""
    hand: tuple[float, float]
    regret: tuple[float, float]


def both_rules(study: Study, family: Family) -> Judged:
    """Judge a study by ``analysis.answer`` (new) and ``analysis.verdict`` (old)."""
    arms, held = scored(study, family.test)
    finds = [
        Finds(arm=name, runs=runs, beat=beat)
        for name, runs, beat in zip(NAMES, arms, study.beat, strict=True)
    ]
    new: Answer = answer.judge(finds[0], finds[1], rope=ROPE, level=levels.of(), search="1 cpu-minute")
    old: Verdict = judge(held[0], held[1], rope=ROPE)
    assert new.delta is not None
    assert new.low is not None
    assert new.high is not None
    first, second = (np.array(f) for f in study.finds)
    return Judged(
        new=(new.delta, new.low, new.high),
        old=(old.delta, old.low, old.high),
        claims=not new.guard,
        truth=float((first - second).mean()),
        hand=(float(first[study.hand[0]]), float(second[study.hand[1]])),
        regret=(float(first.max()), float(second.max())),
    )


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Error rates and power of one rule in one cell."""

    coverage: float
    named: float
    """Rate of naming an arm; an error only between equal arms."""
    wrong: float
    """Rate of naming the wrong arm at half an sd of the luck."""
    power: tuple[float, ...]
    half: float
    """Mean half-width."""


def rates(intervals: NDArray[np.float64], claims: NDArray[np.bool_], truth: float, luck: float) -> Rates:
    """``intervals`` (studies, 3): difference, low, high at the true difference ``truth``; every gap shifts them.

    Gaps are true differences in sds of the luck, in both directions, since a cell's arms may differ.
    """
    low, high = intervals[:, 1] - truth, intervals[:, 2] - truth

    def named(gap: float) -> tuple[float, float]:
        """Rates of naming the better and the worse arm at this true gap, over both directions."""
        right = [((low + gap > 0) & claims).mean(), ((high - gap < 0) & claims).mean()]
        wrong = [((high + gap < 0) & claims).mean(), ((low - gap > 0) & claims).mean()]
        return float(np.mean(right)), float(np.mean(wrong))

    return Rates(
        coverage=float(((low <= 0) & (high >= 0)).mean()),
        named=float((((low > 0) | (high < 0)) & claims).mean()),
        wrong=named(0.5 * luck)[1],
        power=tuple(named(gap * luck)[0] for gap in GAPS),
        half=float((high - low).mean() / 2),
    )


def cell_lines(studies: Sequence[Study], family: Family) -> list[str]:
    """Two lines of a cell: the new rule and the old one."""
    judged = [both_rules(study, family) for study in studies]
    truth = 0.0 if family.same else float(np.mean([s.truth for s in judged]))
    finds = [np.concatenate([np.array(s.finds[arm]) for s in studies]) for arm in (0, 1)]
    luck = float(np.sqrt(np.mean([f.var(ddof=1) for f in finds])))
    pairs = len(studies[0].finds[0])
    claims = np.array([s.claims for s in judged])
    new = rates(np.array([s.new for s in judged]), claims, truth, luck)
    old = rates(np.array([s.old for s in judged]), np.ones(len(judged), dtype=np.bool_), truth, luck)
    tuned = [
        (s.finds[arm][s.hand[arm]], s.default[arm], s.defaults[arm][s.hand[arm]])
        for s in studies
        for arm in (0, 1)
    ]
    worse = float(np.mean([find < default - 1e-9 for find, default, _ in tuned]))
    by_rope = float(np.mean([find < default - ROPE for find, default, _ in tuned]))
    regret = float(np.mean([r - h for s in judged for r, h in zip(s.regret, s.hand, strict=True)]))
    head = f"{family.name:26}{studies[0].budget:5.0f}{pairs:3}{len(studies):6}{100 * luck:7.2f}"
    lines = []
    for name, rule, guard in (("pairs", new, 1 - claims.mean()), ("nets (old)", old, 0.0)):
        lines.append(
            f"{head}  {name:11}{rule.coverage:6.3f}{100 * rule.named:7.1f}{100 * rule.wrong:7.1f}"
            + "".join(f"{100 * p:6.0f}" for p in rule.power)
            + f"{100 * rule.half:7.2f}{_sds(rule.half, luck):>6}{100 * guard:7.1f}"
        )
        head = " " * len(head)
    lines[0] += f"{100 * worse:8.1f}{100 * by_rope:8.1f}{100 * regret:8.2f}"
    with_finds = [s for s in studies if s.found]
    if with_finds:
        first = [first_version(s, arm) - s.default[arm] for s in with_finds for arm in (0, 1)]
        lines[1] += (
            f"{100 * np.mean(np.array(first) < -1e-9):8.1f}{100 * np.mean(np.array(first) < -ROPE):8.1f}"
        )
    return lines


def _sds(half: float, luck: float) -> str:
    return f"{half / luck:.1f}" if luck > 0.0005 else "–"  # no luck, nothing to measure by


HEAD = (
    f"{'family':26}{'B':>5}{'R':>3}{'n':>6}{'luck':>7}  {'rule':11}{'cover':>6}{'named':>7}{'wrong':>7}"
    + "".join(f"{f'@{g:g}':>6}" for g in GAPS)
    + f"{'half':>7}{'sds':>6}{'guard':>7}{'worse':>8}{'by .5':>8}{'regret':>8}"
)
NOTE = (
    "luck: sd of what a search finds, pt. cover: of 95 % intervals. named: % in which an arm is named without a difference "
    "(between different arms: at one made 0). wrong: % naming the worse arm at half a sd of luck. @g: % naming the better arm "
    "at a gap of g sds. half: mean half-width, pt, and in sds of luck. guard: % in which nothing is claimed. worse: % of nets in hand truly "
    "below their default, by more than 0.5 pt, and under the old rule those of an imitation of the first version's selection; regret: in hand below the best find of its arm, pt."
)


def read(path: Path) -> list[Study]:
    """Read all complete lines."""
    found = []
    for line in path.read_text().splitlines():
        try:
            body = json.loads(line)
        except json.JSONDecodeError:
            continue
        pairs = {k: tuple(map(tuple, body[k])) for k in ("finds", "runs", "defaults", "found") if k in body}
        ends = {k: tuple(body[k]) for k in ("beat", "hand", "default")}
        found.append(Study(**(body | pairs | ends)))
    return found


def table(studies: Sequence[Study], known: dict[str, Family]) -> str:
    """The lines of every cell."""
    cells: dict[tuple[str, float], list[Study]] = {}
    for study in studies:
        if len(study.finds[0]) >= levels.FEWEST_PAIRS:
            cells.setdefault((study.family, study.budget), []).append(study)
    lines = [HEAD]
    for name, family in known.items():
        for (cell, _), own in sorted(cells.items()):
            if cell == name:
                lines += cell_lines(own, family)
    return "\n".join([*lines, NOTE])


def together(first: Study, second: Study) -> Study:
    """One study whose second look has the other's pairs. Its nets in hand and guard are meaningless."""
    return dataclasses.replace(
        first,
        finds=(first.finds[0] + second.finds[0], first.finds[1] + second.finds[1]),
        runs=(first.runs[0] + second.runs[0], first.runs[1] + second.runs[1]),
    )


def looks(studies: Sequence[Study], known: dict[str, Family]) -> str:
    """Rates of naming an arm at either look, without and with the guard, declared and not."""
    lines = [
        f"{'family':26}{'B':>5}{'looks':>7}{'n':>6}{'declared, %':>13}{'not, %':>8}{'guarded:':>10}{'':3}{'declared':>8}{'not':>6}"
    ]
    sums = np.zeros((2, 2))
    repeats = 0
    cells: dict[tuple[str, float], list[Study]] = {}
    for study in studies:
        if study.family in known and known[study.family].same and len(study.finds[0]) >= levels.FEWEST_PAIRS:
            cells.setdefault((study.family, study.budget), []).append(study)
    for (name, budget), own in cells.items():
        wrong = np.zeros((2, 2))
        count = len(own) // 2
        pairs = len(own[0].finds[0])
        for first, second in zip(own[:count], own[count : 2 * count], strict=True):
            arms, _ = scored(together(first, second), known[name].test)
            claims = [
                min(first.beat) >= answer.GUARD,
                min(a + b for a, b in zip(first.beat, second.beat, strict=True)) >= answer.GUARD,
            ]
            for row, declared in enumerate((2, 1)):
                named = []
                for look, have in ((1, pairs), (2, 2 * pairs)):
                    level = levels.of(looks=declared, look=look, first=pairs, now=have)
                    first_arm, second_arm = ({p: runs for p, runs in arm.items() if p < have} for arm in arms)
                    found, _ = answer.over_pairs(first_arm, second_arm, confidence=level.confidence)
                    named.append(found.low > 0 or found.high < 0)
                wrong[row, 0] += any(named)
                wrong[row, 1] += any(n and c for n, c in zip(named, claims, strict=True))
        sums, repeats = sums + wrong, repeats + count
        lines.append(_looks_line(name, budget, f"{pairs}, {2 * pairs}", wrong, count))
    if repeats:
        lines.append(_looks_line("all", math.nan, "", sums, repeats))
    return "\n".join(lines)


def _looks_line(name: str, budget: float, pairs: str, wrong: NDArray[np.float64], count: int) -> str:
    rate = 100 * wrong / max(1, count)
    return f"{name:26}{budget:5.0f}{pairs:>7}{count:6}{rate[0, 0]:13.1f}{rate[1, 0]:8.1f}{'':10}{'':3}{rate[0, 1]:8.1f}{rate[1, 1]:6.1f}"


def allowed(repeats: int) -> int:
    """The most exclusions of 0 compatible with the stated rate: more have a probability below 2 %."""
    return int(stats.binom.ppf(0.98, repeats, STATED))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.aa", description=__doc__.split("\n")[0])
    parser.add_argument("do", choices=("play", "table", "looks"))
    parser.add_argument("file", type=Path, help="studies, a line each")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="some of them (default all)")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=BUDGETS, help="full runs per arm (25 50 100)"
    )
    parser.add_argument("--studies", type=int, default=1000, help="of each cell (default 1000)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"recorded curves (default {FOLDER})")
    given = parser.parse_args(arguments)
    usual = families(given.data)
    known = usual | gains()
    chosen = list(gains()) if given.families == ["gain"] else given.families
    chosen = chosen or list(usual if given.do == "play" else known)
    if given.do != "play":
        made = [s for s in read(given.file) if s.family in chosen]
        print((table if given.do == "table" else looks)(made, {n: known[n] for n in chosen}))
        return
    began, done = time.monotonic(), set[tuple[str, float, int]]()
    if given.file.exists():
        done = {(s.family, s.budget, s.seed) for s in read(given.file)}
    for chunk in range(0, given.studies, 100):  # a hundred studies of every cell in turn
        for budget in given.budgets:
            for name in chosen:
                for seed in seeds(name, budget, given.studies)[chunk : chunk + 100]:
                    if (name, budget, seed) in done:
                        continue
                    if time.monotonic() - began > given.seconds:
                        return
                    line = json.dumps(vars(play(known[name], budget=budget, seed=seed)))
                    with given.file.open("a") as file:
                        file.write(line + "\n")


if __name__ == "__main__":
    main()
