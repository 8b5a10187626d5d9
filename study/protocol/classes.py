"""What was read of each class and what was left out, and what guessing gives: for the terminal and for the report."""

from study.protocol.question import DataCard
from study.protocol.text import percent

ROWS = 20
"""Classes that a table shows."""
COLUMNS = ("class", "images", "train", "test", "left out")
LINES = 10


def guessing(card: DataCard) -> tuple[str, float] | None:
    """The most frequent class of the test, and its share; None for plans of earlier versions, which have no counts."""
    if not sum(card.test_counts):
        return None
    most = max(range(len(card.classes)), key=lambda i: card.test_counts[i])
    return card.classes[most], card.test_counts[most] / sum(card.test_counts)


def rows(card: DataCard) -> list[tuple[str, str, str, str, str]]:
    """A row of ``COLUMNS`` for each class; of many, those that lost most and the smallest and largest of the rest."""
    lost = [0] * len(card.classes)
    for left in card.left_out:
        lost[left.label] += left.count
    counts = list(zip(card.train_counts, card.test_counts, strict=True))
    order = sorted(range(len(counts)), key=lambda i: (-lost[i], sum(counts[i])))
    if len(order) > ROWS:
        order = [*order[: ROWS // 2], *order[-(ROWS // 2) :]]
    return [
        (card.classes[i], str(sum(counts[i])), str(counts[i][0]), str(counts[i][1]), str(lost[i] or "-"))
        for i in sorted(order)
    ]


def sentences(card: DataCard) -> list[str]:
    """What the table does not say."""
    said = []
    if len(card.train_counts) > ROWS:
        said.append(f"{len(card.train_counts) - ROWS} more classes lie between these.")
    left = sorted(card.left_out, key=lambda each: -each.count)
    if left:
        named = [f"{each.count} {each.kind} in {each.folder}" for each in left[:LINES]]
        more = f"; and {len(left) - LINES} more kinds or folders" if len(left) > LINES else ""
        said.append(f"Left out: {'; '.join(named)}{more}.")
    if guess := guessing(card):
        said.append(
            f"Guessing the most frequent class, {guess[0]}, is right for {percent(guess[1])} of the test images."
        )
    return said
