"""``python -m analysis runs/ID``: build a study's report again from what it wrote down.

Reads plan.json, ledger.jsonl and predictions/, writes the same bytes as the study did, and prints what the
answer holds for, what would decide, the answer, and as the last line the report's path. A
URI, s3://BUCKET/FOLDER, is fetched into runs/ first. ``python -m analysis compare A B`` judges predictions
that came from elsewhere, ``python -m analysis tables RUN --to DIR`` writes a study's tables, and ``python -m analysis across RUN
RUN ...`` joins studies of several data sets; a study in a folder of such a name is ./compare. Exit codes: 0 done, 2 bad input;
with ``--expect ARM`` 0 the architecture is better than every other when each is tuned, by whatever size, 1 it is not, 4
that is open; with ``--expect-net ARM`` the same of the nets in hand.
"""
# ruff: noqa: T201 - a command speaks to its user

import io
import json
import os
import sys
from pathlib import Path

from study.protocol.errors import StudyError
from study.protocol.rundir import SERIES, unnamed
from study.protocol.text import Parser, escaped


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    words = {"compare": _compare, "tables": _tables, "across": _across}
    try:
        if arguments and arguments[0] in words:
            return words[arguments[0]](arguments[1:])
        return _report(arguments)
    except StudyError as error:
        return _refuse(error)
    except OSError as error:  # a name that no file can have, or a folder that may not be read
        return _refuse(f"{str(error.filename)[:200]}: {error.strerror}")
    except MemoryError:
        return _refuse(
            "what was given does not fit into this machine's memory: give smaller files, or parquet in place of CSV"
        )


def _report(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m analysis",
        description="Build the report of a study again from its records. Writes report.html, report.md, "
        "verdict.json and figures/ into the study's folder.",
        epilog="example: python -m analysis runs/2026-11-22 --expect resnext50. Exit codes: 0 done, 2 bad input. For predictions that came from elsewhere: "
        "python -m analysis compare --help",
    )
    parser.add_argument("run", help="the folder of a study, with plan.json and ledger.jsonl, or its URI")
    parser.add_argument(
        "--expect", metavar="ARM",
        help="for gates: exit 0 if this architecture is better than every other when each is tuned (\"better, size unclear\" "
        "too: ahead, but maybe by less than the margin), 1 if it is not (worse than one, or a practical tie), 4 if that is "
        "open, or nothing is claimed",
    )  # fmt: skip
    parser.add_argument(
        "--expect-net", metavar="ARM",
        help="the same of the net in hand: the setting that was found, not the architecture. With both, both must hold",
    )  # fmt: skip
    parser.add_argument("--no-pictures", action="store_true", help="show no test images in the report")
    given = parser.parse_args(arguments)

    from analysis.report.build import gate, write
    from study.storage.fetch import local

    home = local(given.run)
    if (home / SERIES).is_file():
        return _refuse(
            f"{home} holds the studies of several data sets: python -m analysis across {home}/*/ joins them"
        )
    report = write(home, pictures=not given.no_pictures)
    codes = []
    for flag, arm, answers in (
        ("--expect", given.expect, report.answers),
        ("--expect-net", given.expect_net, report.nets),
    ):
        if arm is None:
            continue
        if arm not in report.arms:
            arms = ", ".join(report.arms)
            return _refuse(f"{flag} {arm}: this study has no such arm; it compares {arms}")
        codes.append(gate(answers, arm))
    _say(*report.lines, str(report.path))
    return 1 if 1 in codes else max(codes, default=0)


def _tables(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m analysis tables",
        description="Write a study's trials, epochs, spend and predictions (one row per net and test image) as files for pandas, R or "
        "a spreadsheet. In Python: analysis.frames.load(RUN).",
        epilog="example: python -m analysis tables runs/2026-11-22 --to tables --format parquet",
    )
    parser.add_argument("run", help="the folder of a study, or its URI")
    parser.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="the folder for the files, made if need be"
    )
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="default csv")
    given = parser.parse_args(arguments)

    from analysis import frames
    from study.storage.fetch import local

    written = frames.write(local(given.run), given.to, given.format)
    _say(*(str(path) for path in written))
    return 0


def _refuse(error: object) -> int:
    print(f"error: {escaped(str(error))}", file=sys.stderr)
    return 2


def _compare(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m analysis compare",
        description="Which of two sets of predictions is better, and how sure are we? A side is a file or a folder "
        "of files, each with one or more runs. CSV and parquet: columns image, label, run where there are several, and prediction, "
        "or one column per class with its probability; joined by image. .npz: arrays labels (images,) and "
        "predictions (runs, images) or (images,), or probabilities (runs, images, classes) or (images, classes), and names "
        "(images,) if there are any. With one run per side only these two nets are compared.",
        epilog="example: python -m analysis compare predictions/resnet50 predictions/resnext50 --rope 0.3",
    )
    parser.add_argument("first", metavar="A", type=Path, help="one side: a file, or a folder of files")
    parser.add_argument("second", metavar="B", type=Path, help="the other side, on the same images")
    parser.add_argument(
        "--rope", type=float, default=0.5, metavar="POINTS",
        help="accuracy difference that would not matter to you, in points (default 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; accuracies and differences as fractions"
    )
    given = parser.parse_args(arguments)
    if not 0 < given.rope <= 20:
        parser.error(f"--rope {given.rope:g} is out of range: above 0 and at most 20 accuracy points")

    from analysis.compare import compare  # scipy only once the arguments are valid

    found = compare(given.first, given.second, rope=given.rope / 100)
    _say(json.dumps(found.facts(), allow_nan=False) if given.json else found.text())
    return 0


def _across(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m analysis across",
        description="Join finished studies of the same arms on different data sets: each study's answer, the mean difference over "
        "data sets with its interval, how much data sets differ, and what to expect on the next one. Writes across.html and across.json.",
        epilog="example: python -m analysis across runs/flowers runs/birds runs/digits",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="the folder of a finished study, or its URI; two or more"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="where the page is written (default: runs/<time>-<process>-across)",
    )
    given = parser.parse_args(arguments)

    from analysis.across import join
    from analysis.report import across_page
    from study.storage.fetch import local

    joined = join([local(run) for run in given.runs])
    page = across_page.write(joined, given.to or unnamed("across"))
    _say(*joined.lines, str(page))
    return 0


def _say(*lines: str) -> None:
    """Print; a reader that has gone (``| head``) has read enough, and the exit code stands."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no such letter
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own flush at exit fails


if __name__ == "__main__":
    sys.exit(main())
