"""Test images to look at: those on which the arms differ most, and those that every net gets wrong."""

from base64 import b64encode
from collections.abc import Mapping

import numpy as np

from analysis import npz
from analysis.report.section import Context, Gallery, Part, Picture, Section
from study.protocol import examples
from study.protocol.rundir import RunDir
from study.protocol.text import counted, printable

LARGEST = 2**15
"""Bytes of a picture; a larger one is no picture of ours."""
KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
"""First bytes of the files that are shown, and what they are."""


def section(context: Context) -> Section | None:
    """None before a net is scored."""
    evidence = context.evidence
    if not evidence.named:
        return None
    chosen = examples.choose(evidence.labels, evidence.named)
    sources = _sources(context) if context.pictures and evidence.plan.pictures else {}

    def gallery(title: str, positions: tuple[int, ...]) -> Gallery:
        pictures = tuple(Picture(source=sources.get(i, ""), caption=_caption(context, i)) for i in positions)
        return Gallery(title=title, pictures=pictures)

    total = len(evidence.labels)
    shown = [
        gallery("The arms differ most on these", chosen.differ),
        gallery(
            f"Every net gets these wrong ({chosen.all_missed} of {counted(total, 'image')} in all)",
            chosen.missed,
        ),
    ]
    shown = [each for each in shown if each.pictures]
    return Section(
        title="Images to look at",
        text=() if shown else ("No test image sets the arms apart, and none is wrong for every net.",),
        galleries=tuple(shown),
        note="The confirmation runs of the nets in hand. Arms differ on an image by the share of their runs that are right. Of the images "
        f"that all get wrong, those come first for which most runs agree: look whether their label is right. At most {examples.MOST} of "
        "either kind, ties by lot. A choice of hard images: they say nothing of how good an arm is."
        if shown
        else "",
    )


def _caption(context: Context, position: int) -> tuple[str, ...]:
    """Class, name, then what each arm's runs call it, the most frequent first."""
    evidence = context.evidence
    classes = evidence.plan.data.classes
    name = printable(evidence.names[position]) if evidence.names else f"test image {position}"
    lines = [classes[evidence.labels[position]], name]
    for arm, named in evidence.named.items():
        called, runs = np.unique(named[:, position], return_counts=True)
        order = np.argsort(-runs, kind="stable")[:3]
        said = ", ".join(f"{classes[called[i]]} ({runs[i]} of {len(named)})" for i in order)
        lines.append(f"{arm}: {said}")
    return tuple(lines)


def _sources(context: Context) -> Mapping[int, str]:
    """Position -> data URI, for the pictures that were kept."""
    try:
        found, _ = npz.read(RunDir(context.run).pictures, ("positions",), ("ends",), ("files",))
        positions, ends, files = (found[name] for name in ("positions", "ends", "files"))
        content = files.astype(np.uint8).tobytes()
        starts = [0, *ends[:-1].tolist()]
        each = zip(positions.tolist(), starts, ends.tolist(), strict=True)
        kept = {int(i): content[int(start) : int(end)] for i, start, end in each}
    except (
        npz.ArraysError,
        LookupError,
        ValueError,
        TypeError,
        OverflowError,
    ):  # none were kept, or not by us
        return {}
    sources = {}
    for i, file in kept.items():
        kind = next((kind for first, kind in KINDS.items() if file.startswith(first)), None)
        if kind and len(file) <= LARGEST:
            sources[i] = f"data:image/{kind};base64,{b64encode(file).decode()}"
    return sources


PART = Part(order=46, build=section)
