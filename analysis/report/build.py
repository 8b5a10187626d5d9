"""The report: a pure function of plan, ledger, predictions and kept pictures; the same inputs give the same bytes.

Writes into the run's own folder: ``report.html`` (one self-contained file), ``report.md``,
``verdict.json`` and ``figures/*.svg|png``. Its parts are the files of ``sections/``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import summary
from analysis.answer import Answer
from analysis.report import figures, pages, verdict_json
from analysis.report.section import Context, Part, Section
from analysis.report.sections import health
from analysis.results import read
from analysis.summary import Findings
from analysis.verdict import Verdict
from study.protocol import plugins, rundir
from study.protocol.errors import StudyError
from study.protocol.rundir import FIGURES, HTML, MARKDOWN, VERDICT


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where the report is and what it says; ``answers`` is empty when there is none yet."""

    path: Path
    headline: str
    scope: str
    """What the answers hold for."""
    arms: tuple[str, ...]
    answers: tuple[Answer, ...]
    nets: tuple[Verdict, ...]
    advice: tuple[str, ...]
    """What would decide the open questions."""
    copies: str
    """Sentence on test images among the training images; empty when there are none."""

    @property
    def lines(self) -> tuple[str, ...]:
        """For a terminal: never an answer without its scope, and the headline last, where it stays in sight."""
        if not self.answers:
            return (self.headline,)
        known = [self.copies] if self.copies else []
        nets = [v.sentence for v in self.nets if v.sentence not in self.headline]
        return (self.scope, *nets, *self.advice, *known, self.headline)


def parts() -> list[Part]:
    """The report's parts in their order: every file of ``sections/`` declares one."""
    found = plugins.modules("analysis.report.sections").values()
    return sorted((module.PART for module in found), key=lambda part: part.order)


def compose(run: Path, *, pictures: bool = True) -> tuple[Context, list[Section], dict[str, bytes]]:
    """What the report says of the study in ``run``: the sections shown, and the files without drawings, report.md and verdict.json.

    Raises StudyError when the folder cannot be read.
    """
    evidence = read(run)
    context = Context(run=run, evidence=evidence, found=summary.find(evidence), pictures=pictures)
    every = parts()
    built = [(part, section) for part in every if (section := part.build(context))]
    shown = [section for _, section in built if section.shown]
    facts = dict.fromkeys(part.key for part in every if part.key)
    facts |= {part.key: section.facts for part, section in built if part.key}
    files = {MARKDOWN: pages.markdown(context, shown), VERDICT: verdict_json.encoded(context, facts)}
    return context, shown, files


def write(run: Path, *, pictures: bool = True) -> Report:
    """Build the report of the study in the folder ``run`` and write it there; ``pictures``: with its test images, if any were kept.

    Raises StudyError, with the sentence for the user, when the folder cannot be read or written.
    """
    context, shown, files = compose(run, pictures=pictures)
    drawings = {section.drawing.name: section.drawing.draw() for section in shown if section.drawing}
    svg = {name: figures.svg(figure) for name, figure in drawings.items()}
    files |= {f"{FIGURES}/{name}.svg": content for name, content in svg.items()}
    files |= {f"{FIGURES}/{name}.png": figures.png(figure) for name, figure in drawings.items()}
    files[HTML] = pages.html(context, shown, svg)
    try:
        (run / FIGURES).mkdir(exist_ok=True)
        for name, content in files.items():
            rundir.write(run / name, content)
    except OSError as error:
        raise StudyError(f"the report cannot be written to {run}: {error.strerror}") from error
    return Report(
        path=run / HTML,
        headline=context.found.headline,
        scope=context.found.scope,
        arms=context.evidence.plan.arms,
        answers=context.found.answers,
        nets=context.found.nets,
        advice=_advice(context.found),
        copies=health.copies(context.evidence.plan.data),
    )


def _advice(found: Findings) -> tuple[str, ...]:
    """What would decide the leader's answers that are open; with several arms each with its name."""
    own = [a for a in found.answers if a.first == found.answers[0].first and a.advice]
    if len(found.answers) == 1 or len({a.advice for a in own}) == 1:
        return tuple(dict.fromkeys(a.advice for a in own))
    return tuple(f"{a.first} against {a.second}: {a.advice}" for a in own)


def gate(said: Sequence[Answer] | Sequence[Verdict], arm: str) -> int:
    """Exit code of ``--expect`` and ``--expect-net``: 0 the arm is better than every other, 1 it is not, 4 undecided."""
    own = [v for v in said if arm in (v.first, v.second)]
    if any(v.word == "practical tie" or v.ahead not in (None, arm) for v in own):
        return 1
    return 0 if own and all(v.ahead == arm for v in own) else 4
