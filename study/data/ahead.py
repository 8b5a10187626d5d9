"""What would be refused of several data sets, known before the first of them costs anything: nothing is fetched or decoded."""

import stat
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from study.data.images import Files, path_of
from study.data.parts import divide
from study.data.sources import Outline, chosen_source
from study.protocol.errors import InputError

SAME = 0.5
"""Two data sets that share more of their files than this are one, as in ``analysis.across``."""
SAMPLE, START = 32, 2**20
"""Pairs of files of one size that are compared, and their bytes that are."""


def check(specs: Sequence[str], test: str) -> None:
    """Raises InputError for what is no data set or lacks what ``--test`` names, and for two that are one."""
    known: dict[str, tuple[str, Sequence[Path]]] = {}
    for spec in specs:
        source, argument = chosen_source(spec)
        outline = source.outline(argument)
        if outline.content:
            divide(spec, outline.content, test)
        name, files = outline.name or f"{source.spelling} {argument}", _files(outline)
        for other, (its_name, its_files) in known.items():
            if name == its_name or shared(files, its_files) > SAME:
                raise InputError(
                    f"--data: {other} and {spec} hold the same images, and a data set counts once: leave one out"
                )
        known[spec] = name, files


def _files(outline: Outline) -> Sequence[Path]:
    if not outline.content:
        return outline.files
    parts = [part.images for part in outline.content.parts.values() if isinstance(part.images, Files)]
    return [path_of(files.root, name) for files in parts for name in files.names]


def shared(one: Sequence[Path], other: Sequence[Path]) -> float:
    """Share of the smaller set's files that are in both, by their sizes and the starts of ``SAMPLE`` of them.

    Files of one size are paired in their order: copies that were renamed or moved to other parts are found where sizes differ, as
    those of photos do.
    """
    ours, theirs = _by_size(one), _by_size(other)
    pairs = [
        pair for size in ours.keys() & theirs.keys() for pair in zip(ours[size], theirs[size], strict=False)
    ]
    if len(pairs) <= SAME * min(len(one), len(other)):
        return 0.0
    sample = pairs[:: -(-len(pairs) // SAMPLE)]
    equal = sum(_start(a) == _start(b) for a, b in sample) / len(sample)
    return equal * len(pairs) / min(len(one), len(other))


def _by_size(files: Sequence[Path]) -> dict[int, list[Path]]:
    found = defaultdict[int, list[Path]](list)
    for file in files:
        with suppress(OSError):  # reading says what it is
            status = file.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size:
                found[status.st_size].append(file)
    return found


def _start(file: Path) -> bytes:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(START)
    return b""
