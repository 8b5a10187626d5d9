"""The report: a pure function of plan, ledger and predictions; the same inputs give the same bytes.

Writes into the run's own folder: ``report.html`` (one self-contained file), ``report.md``,
``verdict.json`` (fractions, stable keys) and ``figures/*.svg|png``.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis import frames, summary
from analysis.answer import Answer
from analysis.power import price, promise
from analysis.report import figures, figures_tuning, marginals
from analysis.report.section import Section, again, plain
from analysis.report.sections import (
    costs,
    ensembles,
    generalisation,
    health,
    hyperparameters,
    pairwise,
    robustness,
    tuning_curves,
)
from analysis.results import Evidence, in_hand, read
from analysis.summary import Findings
from analysis.verdict import Verdict
from study.protocol import text as words
from study.protocol.errors import StudyError
from study.protocol.records import PHASES, Config

HTML, MARKDOWN, JSON, FIGURES = "report.html", "report.md", "verdict.json", "figures"
FORMAT = 3
"""Of verdict.json: raised when a key changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written and what it says; ``answers`` is empty when there is none yet."""

    path: Path
    headline: str
    scope: str
    """What the answers hold for."""
    arms: tuple[str, ...]
    answers: tuple[Answer, ...]
    nets: tuple[Verdict, ...]
    advice: tuple[str, ...]
    """What would decide what is open."""
    copies: str
    """That test images are training images too; empty when none is."""

    @property
    def told(self) -> tuple[str, ...]:
        """For a terminal: never an answer without what it holds for, and the headline last, where it stays in sight."""
        if not self.answers:
            return (self.headline,)
        known = [self.copies] if self.copies else []
        nets = [v.sentence for v in self.nets if v.sentence not in self.headline]
        return (self.scope, *nets, *self.advice, *known, self.headline)


def write(run: Path) -> Report:
    """Build the report of the study in the folder ``run`` and write it there.

    Raises StudyError, with the sentence for the user, when the folder cannot be read or written.
    """
    evidence = read(run)
    found = summary.find(evidence)
    tuned = tuning_curves.curves(evidence)
    levels = marginals.table(evidence)
    drawn = _draw(evidence, found, tuned, levels)
    files: dict[str, bytes] = {}
    for name, figure in drawn.items():
        files[f"{FIGURES}/{name}.svg"] = figures.svg(figure)
        files[f"{FIGURES}/{name}.png"] = figures.png(figure)
    sections = _sections(run, evidence, found, tuned, levels)
    facts = _facts(evidence, found) | {"sections": sections}
    inline = {name: _inline(files[f"{FIGURES}/{name}.svg"], name) for name in drawn}
    files[HTML] = _render("report.html.jinja", facts | {"figures": inline})
    files[MARKDOWN] = _render("report.md.jinja", facts | {"figures": drawn})
    body = json.dumps(_verdict_json(evidence, found, sections), indent=1, sort_keys=True, allow_nan=False)
    files[JSON] = body.encode() + b"\n"
    try:
        (run / FIGURES).mkdir(exist_ok=True)
        for name, content in files.items():
            (run / name).write_bytes(content)
    except OSError as error:
        raise StudyError(f"the report cannot be written to {run}: {error.strerror}") from error
    return Report(
        path=run / HTML,
        headline=found.headline,
        scope=found.scope,
        arms=evidence.plan.arms,
        answers=found.answers,
        nets=found.nets,
        advice=_advice(found),
        copies=health.copies(evidence.plan.data),
    )


def _advice(found: Findings) -> tuple[str, ...]:
    """What would decide the leader's answers that are open; with several arms each with its name."""
    own = [a for a in found.answers if a.first == found.answers[0].first and a.advice]
    if len(found.answers) == 1 or len({a.advice for a in own}) == 1:
        return tuple(dict.fromkeys(a.advice for a in own))
    return tuple(f"{a.first} against {a.second}: {a.advice}" for a in own)


def gate(report: Report, arm: str) -> int:
    """Exit code of ``--expect``: 0 the architecture is better than every other, 1 it is not, 4 that is undecided."""
    return _gate(report.answers, arm)


def gate_nets(report: Report, arm: str) -> int:
    """Exit code of ``--expect-net``: 0 the arm's net in hand is better than every other's, 1 it is not, 4 that is undecided."""
    return _gate(report.nets, arm)


def _gate(said: Sequence[Answer] | Sequence[Verdict], arm: str) -> int:
    own = [v for v in said if arm in (v.first, v.second)]
    if any(v.word == "practical tie" or v.ahead not in (None, arm) for v in own):
        return 1
    return 0 if own and all(v.ahead == arm for v in own) else 4


def _draw(
    evidence: Evidence, found: Findings, tuned: tuning_curves.Curves, levels: pd.DataFrame
) -> dict[str, Figure]:
    palette = figures.colours(evidence.plan.arms)
    drawn = {}
    accuracies, differences = summary.accuracies(evidence), summary.differences(found)
    if not accuracies.empty and not differences.empty:
        drawn["forest"] = figures.forest(accuracies, differences, evidence.plan.rope, palette)
    epochs = frames.epochs(evidence.history)
    if not epochs.empty:
        drawn["curves"] = figures.curves(epochs, palette)
    if tuned.slices or tuned.searches:
        drawn["tuning"] = figures_tuning.tuning(tuned.slices, tuned.searches, palette)
    if not (against := costs.table(evidence)).empty:
        drawn["costs"] = figures_tuning.costs(against, palette)
    shown = levels[levels["own"] & levels["isolated"]]
    if not shown.empty:
        drawn["levels"] = figures_tuning.levels(shown, palette)
    spend = frames.spend(evidence.history, evidence.plan)
    if spend["cost"].sum() > 0:
        drawn["spend"] = figures.spend(spend, palette)
    return drawn


def _sections(
    run: Path, evidence: Evidence, found: Findings, tuned: tuning_curves.Curves, levels: pd.DataFrame
) -> dict[str, Section]:
    """By the key that each has in verdict.json."""
    return {
        "search_against_search": pairwise.searches(evidence, found),
        "selection": pairwise.selection(evidence),
        "tuning_curves": tuning_curves.section(evidence, found, tuned),
        "what_changes_the_answer": robustness.section(evidence),
        "accuracy_against_cost": costs.section(evidence, costs.table(evidence)),
        "what_mattered": hyperparameters.section(evidence, found, levels),
        "whys": generalisation.section(evidence, found),
        "ensembles": ensembles.section(run, evidence, found),
        "appendix": pairwise.appendix(evidence, found),
    }


def _facts(evidence: Evidence, found: Findings) -> dict[str, Any]:
    """What both templates show, numbers still as fractions and seconds."""
    plan, history = evidence.plan, evidence.history
    accuracies, activities = summary.accuracies(evidence), frames.activities(history, plan)
    leader = found.answers[0].first if found.answers else ""
    return {
        "plan": plan,
        "again": again(plan),
        "headline": found.headline,
        "against": [a for a in found.answers if a.first == leader],
        "others": [a for a in found.answers if a.first != leader],
        "nets": found.nets,
        "chances_alone": ""
        if len(found.answers) < 2 and evidence.look == 1
        else ", each by itself: they do not share the intervals' error",
        "failure_rates": _failure_rates(evidence),
        "scope": found.scope,
        "palette": figures.colours(plan.arms),
        "accuracies": accuracies.to_dict("records") if not accuracies.empty else [],
        "gains": [(c.arm, c.estimate) for c in found.gains],
        "unchanged": found.unchanged,
        "defaults": [
            (c.label.replace("\n", " ").removeprefix("default: "), c.estimate) for c in found.defaults
        ],
        "searches": _searches(evidence),
        "settings": _settings(evidence),
        "spend": _spend(frames.spend(history, plan), "phase"),
        "activities": _spend(activities, "activity"),
        "work": _spend(activities, "phase", "activity"),
        "total": sum(history.spent(arm) for arm in plan.arms),
        "warnings": health.warnings(evidence),
        "promise": _promise(evidence, found),
        "manifest": ", ".join(m.sha256 for m in history.manifests),
        "opened": len(history.opened),
    }


def _failure_rates(evidence: Evidence) -> str:
    """One line, empty when no confirmation run failed."""
    rates = [
        f"{arm} {round(rate.value * _confirmed(evidence, arm))} of {_confirmed(evidence, arm)} "
        f"({100 * rate.low:.0f} to {words.percent(rate.high, 0)})"
        for arm, rate in summary.failure_rates(evidence).items()
    ]
    if not rates:
        return ""
    return (
        f"Failure rate of the confirmation runs, with its exact binomial 95 % interval: {words.listed(rates)}. A failed "
        "run counts as guessing, so accuracies fall into two groups: no probabilities are given; see the medians too."
    )


def _confirmed(evidence: Evidence, arm: str) -> int:
    return sum(len(runs.correct) for runs in evidence.finds[arm].values())


def _searches(evidence: Evidence) -> list[dict[str, Any]]:
    table = frames.trials(evidence.history)
    rows = []
    for arm in evidence.plan.arms:
        ends = table.loc[(table["arm"] == arm) & (table["phase"] == "search"), "end"].value_counts()
        rows.append(
            {"arm": arm, "trials": int(ends.sum())} | {end: int(ends.get(end, 0)) for end in frames.ENDS}
        )
    return rows


def _settings(evidence: Evidence) -> list[tuple[str, list[str]]]:
    """One row per parameter: its value in hand per arm, a dash where the arm has no such parameter."""
    chosen: list[Config] = [
        choice.config if (choice := in_hand(evidence.history, arm, evidence.look)) else {}
        for arm in evidence.plan.arms
    ]
    if not any(chosen):
        return []
    names = dict.fromkeys(name for config in chosen for name in config)
    spaces = [evidence.plan.spaces.get(arm, {}) for arm in evidence.plan.arms]
    return [
        (
            name,
            [
                _value(config.get(name), space.get(name, {}))
                for config, space in zip(chosen, spaces, strict=True)
            ],
        )
        for name in names
    ]


def _value(value: object, axis: Mapping[str, Any]) -> str:
    """The value, and for a number where in its range it lies."""
    told = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    where = health.position(axis, value)
    return told if where is None else f"{told} ({100 * where:.0f} % of its range)"


def _spend(table: pd.DataFrame, *kinds: str) -> list[tuple[str, list[tuple[float, float]], float]]:
    """One row per phase or activity that cost anything: (cost, share of the arm's spend) per arm, cost of all."""
    rows = []
    for names, group in table.groupby([*kinds], sort=False):
        of_arm = group.groupby("arm", sort=False)[["cost", "share"]].sum()
        cells = list(zip(of_arm["cost"], of_arm["share"], strict=True))
        if sum(cost for cost, _ in cells) > 0:
            rows.append((": ".join(map(str, names)), cells, sum(cost for cost, _ in cells)))
    return rows


def _promise(evidence: Evidence, found: Findings) -> str:
    """What the planner says of this study, from the luck of its own pairs once there are any: the largest, of several."""
    plan = evidence.plan
    luck = max(found.lucks, key=lambda luck: luck.sd, default=None)
    pairs_had = len(luck.differences) if luck else None
    shown = promise(plan, measured=luck, pairs=pairs_had)
    cost = [
        "What a new study that decides would take, by estimate.",
        *price(plan, measured=luck, pairs=pairs_had),
    ]
    return " ".join([shown, *cost])


def _verdict_json(evidence: Evidence, found: Findings, sections: Mapping[str, Section]) -> dict[str, Any]:
    plan, history = evidence.plan, evidence.history
    nets = [
        asdict(v) | ({} if v.has_chances else dict.fromkeys(("p_first", "p_tie", "p_second")))
        for v in found.nets
    ]
    hands = {arm: in_hand(history, arm, evidence.look) for arm in plan.arms}
    return {
        "format": FORMAT,
        "headline": found.headline,
        "verdict": found.answers[0].word if len(found.answers) == 1 else None,
        "answer": [plain(asdict(a)) for a in found.answers],
        "nets": plain(nets),
        "look": evidence.look,
        "scope": found.scope,
        "rope": plan.rope,
        "arms": list(plan.arms),
        "accuracies": [_without_nan(row) for row in summary.accuracies(evidence).to_dict("records")],
        "failure_rates": {arm: asdict(rate) for arm, rate in summary.failure_rates(evidence).items()},
        "gains": {c.arm: asdict(c.estimate) for c in found.gains},
        "defaults": [
            asdict(c.estimate) | {"label": c.label.replace("\n", " ").removeprefix("default: ")}
            for c in found.defaults
        ],
        "default_confirmed": list(found.unchanged),
        "settings": {arm: choice.config for arm, choice in hands.items() if choice},
        "spend_seconds": {
            arm: {str(phase): history.spent(arm, phase) for phase in PHASES if history.spent(arm, phase) > 0}
            for arm in plan.arms
        },
        "budget_seconds": plan.budget.seconds,
        "manifests": [m.sha256 for m in history.manifests],
        "test_opened": len(history.opened),
        "warnings": health.warnings(evidence),
        "command": plan.command,
        "versions": plan.versions,
        "code": plan.code,
        **{name: plain(section.facts) for name, section in sections.items()},
    }


def _without_nan(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _inline(svg: bytes, name: str) -> Markup:
    """The SVG for use inside HTML: without prolog and fixed size, its ids apart from other figures'."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1))


def _render(template: str, facts: dict[str, Any]) -> bytes:
    html = template.startswith("report.html")
    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=html,
        finalize=None if html else _plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "points": words.points,
        "percent": words.percent,
        "chance": words.chance,
        "duration": words.duration,
        "level": words.level,
    }
    environment.globals["smallest_p"] = _smallest_p
    return environment.get_template(template).render(facts).encode()


def _plain(value: object) -> object:
    """Markdown may carry raw HTML and its tables split at bars: neither comes from a value."""
    return value.replace("<", "&lt;").replace("|", "\\|") if isinstance(value, str) else value


def _smallest_p(verdict: Verdict) -> float:
    splits = math.comb(verdict.k_first + verdict.k_second, verdict.k_first)
    return (2 if verdict.k_first == verdict.k_second else 1) / splits
