"""How the answer was made: searches, seal, data, and the commands that do it again."""

from shlex import quote

from analysis.power import price, promise
from analysis.report.section import Context, Part, Section, again
from analysis.results import choices
from study.protocol.accounting import repriced, searches
from study.protocol.plan import Plan
from study.protocol.records import Extension


def section(context: Context) -> Section:
    plan, history = context.evidence.plan, context.evidence.history
    pairs = max(len(choices(history, arm, context.evidence.look)) for arm in plan.arms) or plan.pairs
    searches = "One search" if pairs == 1 else f"{pairs} searches, in pairs,"
    opened = len(history.opened)
    manifests = ", ".join(m.sha256 for m in history.manifests)
    # the section on the images has it
    note = f" ({plan.data.noted})" if plan.data.note and not plan.data.train_counts else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(plan.versions.items()))
    shown, takes = _forecast(context)
    return Section(
        title="How the answer was made",
        text=(
            (
                f"{searches} per arm with an equal share of the budget. What each search found was compared with the default "
                "on validation images that the search had not seen; the winner was retrained with fresh seeds. The test images were "
                f"opened {'once' if opened == 1 else f'{opened} times'}{f', under `{manifests}`' if manifests else ''}."
            ),
            (
                f"Data: {plan.data.spec}, {len(plan.data.classes)} classes, {plan.train_images} images to train on, "
                f"{plan.val_images} for validation, {plan.data.test} for the test{note}. "
                f"Fingerprint `{plan.data.fingerprint}`"
            ),
            f"All arms are trained by the recipe {plan.recipe}{f': {plan.recipe_about}' if plan.recipe_about else ''}.",
            *_groups(plan.data.groups),
            f"Judged by {plan.judged.kind} in every step, with a margin of {plan.margin}.",
            *(
                f"Weights of {arm}: {w.source}, SHA-256 `{w.sha256}`, trained on {w.trained_on}"
                for arm, w in plan.weights.items()
            ),
            f"Run it again: {', then '.join(f'`{command}`' for command in _commands(plan, history.extension))}",
            "Build this page again: `python -m analysis FOLDER`, with the folder that holds this file.",
            f"{shown} What a new study {'on fresh test images ' if context.found.lucks else ''}would take to decide, by estimate:",
        ),
        items=takes,
        note=f"{plan.machine.name}, {plan.machine.slots} trials side by side. Seed {plan.seed}. {versions}. Code "
        f"`{plan.code}`",
    )


def _commands(plan: Plan, extension: Extension | None) -> list[str]:
    """All that made the answer; ``RUN`` stands for the folder of the first one's study."""
    if extension is None:
        return [again(plan)]
    flag, _, value = extension.reason.partition(" after ")[0].partition(" ")
    return [again(plan), f"python study/run.py --resume RUN {flag} {quote(value)}"]


def _forecast(context: Context) -> tuple[str, tuple[str, ...]]:
    """What the plan can show, and what a new study that decides would take: by the largest measured luck, if any."""
    history = context.evidence.history
    plan = repriced(context.evidence.plan, history)
    over = [a for a in context.found.answers if a.differences]  # as many as there are lucks
    answer, luck = max(
        zip(over, context.found.lucks, strict=True), key=lambda both: both[1].sd, default=(None, None)
    )
    if answer is None or luck is None:
        return promise(plan, pairs=searches(context.evidence.plan, history)), price(plan)
    return (
        promise(plan, measured=luck, pairs=answer.pairs, alpha=1 - answer.level),
        price(plan, measured=luck, pairs=answer.pairs),
    )


def _groups(count: int) -> list[str]:
    """That images come in groups, where they do."""
    told = (
        f"Images come in groups. Each group is on one side of the test and of every fold. The intervals of the verdicts and of "
        f"mean scores are computed over the {count} groups of the test: they hold for new groups. Recall, precision, F1, AUC, "
        "ensembles and McNemar's test treat images as independent: with groups, those intervals are too narrow."
    )
    return [told] if count else []


PART = Part(order=160, build=section)
