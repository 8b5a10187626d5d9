"""The two pages, ``report.html`` and ``report.md``: the answer on top, then every section, from one template each."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import summary
from analysis.across import Joined
from analysis.report.section import Context, Section
from analysis.results import Evidence
from analysis.verdict import Verdict
from study.protocol import text
from study.protocol.accounting import budget
from study.protocol.metrics import ACCURACY


def html(context: Context, sections: Sequence[Section], figures: Mapping[str, bytes]) -> bytes:
    """One self-contained page; ``figures``: name -> SVG."""
    inline = {name: _inline(svg, name) for name, svg in figures.items()}
    return _render("report.html.jinja", _answer(context) | {"sections": sections, "figures": inline})


def markdown(context: Context, sections: Sequence[Section]) -> bytes:
    """The page for terminals and code reviews; its figures are the files beside it."""
    return _render("report.md.jinja", _answer(context) | {"sections": sections})


def across(joined: Joined, sections: Sequence[Section], figures: Mapping[str, bytes]) -> bytes:
    """The page over several studies; ``figures``: name -> SVG."""
    inline = {name: _inline(svg, name) for name, svg in figures.items()}
    facts = {"joined": joined, "sections": sections, "figures": inline}
    return _render("across.html.jinja", facts)


def _answer(context: Context) -> dict[str, Any]:
    """What stands above the sections."""
    evidence, found = context.evidence, context.found
    leader = found.answers[0].first if found.answers else ""
    alone = len(found.answers) > 1 or evidence.look > 1
    return {
        "plan": evidence.plan,
        "budget": budget(evidence.plan, evidence.history),
        "palette": context.palette,
        "headline": found.headline,
        "against": [a for a in found.answers if a.first == leader],
        "others": [a for a in found.answers if a.first != leader],
        "nets": found.nets,
        "chances_alone": ", each by itself: they do not share the intervals' error" if alone else "",
        "failure_rates": _failure_rates(evidence),
        "scope": found.scope,
    }


def _failure_rates(evidence: Evidence) -> str:
    """One line, empty when no confirmation run failed."""
    rates = []
    for arm, rate in summary.failure_rates(evidence).items():
        runs = sum(len(r.correct) for r in evidence.finds[arm].values())
        rates.append(
            f"{arm} {round(rate.value * runs)} of {runs} ({100 * rate.low:.0f} to {text.percent(rate.high, 0)})"
        )
    if not rates:
        return ""
    return (
        f"Failure rate of the confirmation runs, with its exact binomial 95 % interval: {text.listed(rates)}. A failed "
        "run counts as guessing, so the scores fall into two groups: no probabilities are given; see the medians too."
    )


def _render(template: str, facts: dict[str, Any]) -> bytes:
    is_html = template.endswith(".html.jinja")
    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=is_html,
        finalize=None if is_html else _plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(text, name) for name in ("chance", "level")}
    environment.filters["code"] = _code
    metric = facts["plan"].judged if "plan" in facts else ACCURACY
    environment.filters |= {"number": metric.number, "gap": metric.gap, "value": metric.value}
    environment.globals |= {"minus": metric.minus, "metric": metric}
    environment.globals["smallest_p"] = _smallest_p
    return environment.get_template(template).render(facts).encode()


def _plain(value: object) -> object:
    """Markdown may carry raw HTML, and bars split its tables: no value brings either."""
    return value.replace("<", "&lt;").replace("|", "\\|") if isinstance(value, str) else value


def _code(paragraph: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(paragraph))))


def _inline(svg: bytes, name: str) -> Markup:
    """The SVG for use inside HTML: no prolog, no fixed size, its ids distinct from other figures'."""
    source = svg.decode()
    source = source[source.index("<svg") :]
    source = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", source, count=2)
    source = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", source)
    return Markup(source.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1))


def _smallest_p(verdict: Verdict) -> float:
    splits = math.comb(verdict.k_first + verdict.k_second, verdict.k_first)
    return (2 if verdict.k_first == verdict.k_second else 1) / splits
