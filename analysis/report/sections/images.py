"""The images: what each class has, what was left out, and how files became squares."""

from analysis.report.section import Context, Part, Section, Table
from study.protocol import classes


def section(context: Context) -> Section | None:
    """None for plans of earlier versions, which counted no classes."""
    card = context.evidence.plan.data
    if not card.train_counts:
        return None
    return Section(
        title="The images",
        text=tuple(classes.sentences(card)),
        tables=(Table(head=classes.COLUMNS, rows=tuple(classes.rows(card))),),
        note=card.noted,
    )


PART = Part(order=155, build=section)
"""Shortly before how the answer was made."""
