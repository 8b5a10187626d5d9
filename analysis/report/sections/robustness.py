"""What changes the answer: the searches replayed from the ledger with equal time, epochs or trials for all arms.

A study gives its arms equal resource-time, so the cheaper one gets more epochs and more trials. Here each arm's random
settings and searches are cut, in the order in which trials were decided, at the largest amount that every arm reached. The
study's own rule (``study.protocol.selection.find``) then says what each search would have found. Nothing is trained, so
how selection would judge a new find stays unknown.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from analysis.report.section import Context, Part, Section, Table
from analysis.results import Evidence, choices, had_none, in_hand
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Config, Outcome, Trial
from study.protocol.selection import best_first, find
from study.protocol.text import counted, duration, listed

Currency = Literal["resource-time", "epochs", "trials"]
CURRENCIES: tuple[Currency, ...] = ("resource-time", "epochs", "trials")
Standing = Literal["same finds", "still found", "not found"]
"""Of an arm's finds and of the setting in hand, when its searches are cut."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an arm's random settings and searches come to when they are cut."""

    arm: str
    used: float
    """In the currency; below the common amount by at most one epoch, and by nothing in trials."""
    of: float
    """What the study spent."""
    standing: Standing
    setting: Config | None
    """The setting in hand while a search still finds it, else the best by validation."""
    test: float | None
    """Its mean test score; None when no net of it was scored."""
    nets: int


@dataclass(frozen=True, kw_only=True)
class Equal:
    """The arms' searches at an equal amount of one currency."""

    currency: Currency
    found: tuple[Found, ...]


def replay(evidence: Evidence) -> list[Equal]:
    """One entry per currency; none before the settings are frozen, when the searches may go on."""
    if not evidence.history.manifests:
        return []
    return [_equal(evidence, currency) for currency in CURRENCIES]


def section(context: Context) -> Section:
    """The currencies in words and numbers."""
    replayed, metric = replay(context.evidence), context.metric
    if not replayed:
        return _without(
            "The searches cannot be cut to equal amounts yet: no setting has been frozen for confirmation."
        )
    if all(had_none(context.evidence, f.arm) for equal in replayed for f in equal.found):
        return _without("No search could be paid for, so there is none to cut.")
    answered = any(not answer.guard for answer in context.found.answers)
    said = _standings(replayed, answered=answered)
    rows = tuple(
        (
            f"{equal.currency}: {f.arm}",
            f"{_amount(equal.currency, f.used)} of {_amount(equal.currency, f.of)}",
            f.standing,
            "not scored" if f.test is None else f"{metric.shown(f.test)} ({counted(f.nets, 'net')})",
        )
        for equal in replayed
        for f in equal.found
    )
    head = (metric.axis, "search used", "setting in hand", "test of the setting found")
    return Section(
        title=TITLE,
        text=tuple(said),
        tables=(Table(head=head, rows=rows),),
        note="Replayed from the ledger, without training: every arm's random settings and searches are cut, in the order of "
        "their trials, at the amount that the arm with the least got. Validation scores are not shown: the best of many is "
        "the luckiest and compares no arms. A find would have been trained again in selection and held against the default; with "
        "the same finds the answer would have been the same. Where the setting in hand is not found, the test score is that "
        "of the best by validation, if a net of it was scored.",
        facts={"currencies": [asdict(equal) for equal in replayed], "sentences": said},
    )


TITLE = "What changes the answer"


def _without(why: str) -> Section:
    return Section(title=TITLE, text=(why,), facts={"currencies": [], "sentences": [why]})


def _equal(evidence: Evidence, currency: Currency) -> Equal:
    history = evidence.history
    arms = [arm for arm in evidence.plan.arms if in_hand(history, arm, evidence.look)]  # one may be coming
    spent = {arm: sum(_total(history, t, currency) for t in _tuning(history, arm)) for arm in arms}
    found = tuple(
        _found(evidence, arm, currency, amount=min(spent.values()), spent=spent[arm]) for arm in arms
    )
    return Equal(currency=currency, found=found)


def _found(evidence: Evidence, arm: str, currency: Currency, *, amount: float, spent: float) -> Found:
    plan, history = evidence.plan, evidence.history
    cut, used = _cut(history, arm, currency, amount)
    best = next(iter(best_first(cut, _tuning(cut, arm))), None)
    held = in_hand(history, arm, evidence.look)
    assert held is not None
    confirmed = held.config
    pairs = [choice.pair for choice in choices(history, arm, evidence.look)]
    entered, studied = _finds(plan, cut, arm, pairs), _finds(plan, history, arm, pairs)
    standing: Standing = "not found"
    if entered == studied:
        standing = "same finds"
    elif held.default or confirmed in entered.values():
        standing = "still found"
    config = best.config if standing == "not found" and best else confirmed
    own = evidence.tuned.get(arm)
    test: float | None
    if config == confirmed and own is not None:  # a failed run counts there
        test, nets = own.mean, len(own.correct)
    else:
        scores = [
            history.scores[t.id].test_score
            for t in history.trials.values()
            if t.arm == arm and t.config == config and t.id in history.scores
        ]
        test, nets = (sum(scores) / len(scores) if scores else None), len(scores)
    return Found(arm=arm, used=used, of=spent, standing=standing, setting=config, test=test, nets=nets)


def _cut(history: History, arm: str, currency: Currency, amount: float) -> tuple[History, float]:
    """The arm's baseline, random settings and searches until ``amount`` is used up, and the amount used."""
    cut, used = History(), 0.0
    for trial in history.of(arm, "baseline"):  # candidates may fall back on it
        _copy(history, cut, trial, len(history.epochs[trial.id]))
    for trial in _tuning(history, arm):
        left = amount * (1 + 1e-9) - used
        total = _total(history, trial, currency)
        steps = _steps(history, trial, currency)
        if total > left:
            fit = sum(step <= left for step in steps)
            if fit:
                _copy(history, cut, trial, fit)
                used += steps[fit - 1]
            break
        _copy(history, cut, trial, len(steps))
        used += total
    return cut, used


def _copy(history: History, cut: History, trial: Trial, epochs: int) -> None:
    """Copy the trial with its own end, or with a budget stop where it is cut earlier."""
    seen, outcome = history.epochs[trial.id], history.outcomes.get(trial.id)
    cut.add(trial)
    for epoch in seen[:epochs]:
        cut.add(epoch)
    if epochs < len(seen):
        cost = seen[epochs - 1].cost
        outcome = Outcome(trial=trial.id, state="stopped", reason="budget: cut", epochs=epochs, cost=cost)
    if outcome is not None:
        cut.add(outcome)


def _tuning(history: History, arm: str) -> list[Trial]:
    """The arm's random settings and searches in the order in which they were decided."""
    return [t for t in history.trials.values() if t.arm == arm and t.phase in ("slice", "search")]


def _steps(history: History, trial: Trial, currency: Currency) -> list[float]:
    """The amount used after each of the trial's epochs."""
    epochs = history.epochs[trial.id]
    match currency:
        case "resource-time":
            return [e.cost for e in epochs]
        case "epochs":
            return [float(e.epoch) for e in epochs]
        case "trials":
            return [1.0] * len(epochs)


def _total(history: History, trial: Trial, currency: Currency) -> float:
    """The amount that the whole trial used; its time exceeds that of its epochs, and a failed one counts too."""
    if currency == "trials":
        return 1.0
    outcome = history.outcomes.get(trial.id)
    if currency == "resource-time" and outcome is not None:
        return outcome.cost
    return max(_steps(history, trial, currency), default=0.0)


def _amount(currency: Currency, used: float) -> str:
    return duration(used) if currency == "resource-time" else f"{used:.0f}"


def _standings(replayed: list[Equal], *, answered: bool) -> list[str]:
    """What it means for the answer, if there is one."""
    standings = [f.standing for e in replayed for f in e.found]
    if set(standings) == {"same finds"}:
        same = "Under all three every search would have found the same"
        return [f"{same}: the answer stands." if answered else f"{same}."]
    if "not found" not in standings:
        return [f"{_IN_PART}: the answer stands only in part." if answered else f"{_IN_PART}."]
    lost: dict[str, list[str]] = {}
    for e in replayed:
        if missing := listed([f.arm for f in e.found if f.standing == "not found"]):
            lost.setdefault(missing, []).append(f"equal {e.currency}")
    return [
        f"At {listed(currencies)} no search would have come to the setting in hand of {missing}: the answer is not about what "
        "would have been found then."
        for missing, currencies in lost.items()
    ]


_IN_PART = "Under all three a search of every arm would still have come to its setting in hand, but other searches to other settings"


def _finds(plan: Plan, history: History, arm: str, pairs: Sequence[int]) -> dict[int, Config | None]:
    """The finds of the arm's searches, by pair."""
    return {pair: find(plan, history, arm, pair) for pair in pairs}


PART = Part(order=80, build=section, key="what_changes_the_answer")
