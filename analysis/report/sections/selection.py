"""What selection decided: for every search, the default or what it found (METHOD.md 3)."""

from analysis.report.section import Context, Part, Section, Table
from analysis.results import choices, had_none, in_hand
from analysis.summary import default_setting
from study.protocol.metrics import Metric
from study.protocol.records import Choice, Config
from study.protocol.text import listed


def section(context: Context) -> Section:
    """The default as a candidate of every search: lead, standard error and decision."""
    evidence, metric = context.evidence, context.metric
    rows, facts, text, settings = [], [], [], []
    variance: set[float] = set()
    for arm in evidence.plan.arms:
        held = in_hand(evidence.history, arm, evidence.look)
        for choice in choices(evidence.history, arm, evidence.look):
            variance.add(choice.run_variance)
            rows.append(_selected(arm, choice, held is not None and held.pair == choice.pair, metric))
            facts.append({"arm": arm, "in_hand": bool(held and held.pair == choice.pair)} | _plain(choice))
            if not choice.default:
                differs = _setting(choice.config, default_setting(evidence, arm) or {})
                settings.append(f"{arm}, pair {choice.pair + 1}: {differs}")
            if choice.ties:
                text.append(f"{arm}, pair {choice.pair + 1}: {choice.ties}")
    if not rows:
        return Section(
            title="What selection decided",
            text=("No setting has been selected yet.",),
            facts={"choices": [], "sentences": []},
        )
    name = "validation, %" if metric.name == "accuracy" else f"validation {metric.axis}"
    head = (name, "chosen", "its mean", "lead over the default", "standard error")
    kept = [f["arm"] for f in facts if f["default"]]
    none = all(
        had_none(evidence, arm) for arm in evidence.plan.arms if choices(evidence.history, arm, evidence.look)
    )
    text.insert(
        0,
        "No search could be paid for: the default was confirmed in each."
        if none
        else f"The search found nothing better than the default in {len(kept)} of {len(rows)} searches."
        if kept
        else "In every search a setting led the default by half a standard error or more.",
    )
    text.append(
        "Luck of one run on validation (sd, beyond what the images of a fold make it differ by): "
        f"{listed([metric.gap(v**0.5) for v in sorted(variance)])}."
    )
    return Section(
        title="What selection decided",
        text=tuple(text),
        tables=(Table(head=head, rows=tuple(rows)),),
        items=tuple(settings),
        note="Each find was trained again on the two folds that follow its own, where the default had run too; the lead is the "
        "mean difference there. A find with a lead of half a standard error or more is taken, otherwise the default. In hand: "
        "the find with the best mean. The list shows where a chosen setting differs from the default.",
        facts={"choices": facts, "sentences": text},
    )


def _selected(arm: str, choice: Choice, held: bool, metric: Metric) -> tuple[str, ...]:
    lead = "–" if choice.lead is None else metric.gap(choice.lead, sign=True)
    se = "–" if choice.lead_se is None else metric.gap(choice.lead_se)
    return (
        f"{arm}, pair {choice.pair + 1}{', in hand' if held else ''}",
        "the default" if choice.default else "what it found",
        metric.shown(choice.val_score),
        lead,
        se,
    )


def _plain(choice: Choice) -> dict[str, object]:
    return {
        k: v for k, v in vars(choice).items() if k not in ("trials", "ties") and (k, v) != ("score", None)
    } | {"pair": choice.pair + 1}


def _setting(config: Config, default: Config) -> str:
    """The parameters in which a setting differs from the default."""
    differs = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in config.items()
        if value != default.get(name)
    ]
    return ", ".join(differs) or "the default itself"


PART = Part(order=40, build=section, key="selection")
