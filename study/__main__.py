"""``python -m study WORD``: commands for an existing run (study/run.py makes one).

Reads plan and ledger only, so every word works while the study runs, and from any machine that sees
its folder, or its URI. Exit codes: 0 done, 1 the trial's numbers differ, 2 bad input.
"""

import argparse
import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # search_spaces, from whatever directory

from rich.console import Console

from search_spaces import ArmError
from study.loggers.base import choices
from study.protocol.errors import BAD_INPUT, StudyError
from study.protocol.text import Parser, escaped

WORDS = """\
words:
  python -m study list                    the runs in runs/: state, spending, verdict
  python -m study status runs/ID          how far a study, or a series of several data sets, has come
  python -m study rerun runs/ID TRIAL     train one trial again: the same numbers, or exit code 1
  python -m study export runs/ID ARM      an arm's best confirmed net: weights, config, how to load it
  python -m study predict runs/ID ARM IMAGE...
                                          classify image files, or folders of them, with that net
  python -m study log runs/ID --to NAME   write the run for another tool
  python -m study copy URI                upload to the URI what a failed storage still lacks
a URI, s3://BUCKET/FOLDER, stands for a run too: it is fetched into runs/ first
"""


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    terminal = sys.stdout.isatty()
    console = Console(
        width=None if terminal else 120, soft_wrap=not terminal, highlight=False, markup=False, emoji=False
    )
    try:
        word = importlib.import_module(f"study.commands.{given.word}")  # only now: some import torch
        code: int = word.command(given, console)
        return code
    except (StudyError, ArmError) as error:
        message = str(error)
    except OSError as error:  # a folder that may not be read, or a name that no file can have
        message = f"{str(error.filename)[:200]}: {error.strerror}"
    Console(stderr=True, soft_wrap=True, emoji=False).print(
        f"error: {escaped(message)}", markup=False, highlight=False
    )
    return BAD_INPUT


def _parser() -> Parser:
    parser = Parser(
        prog="python -m study", description="Commands for an existing run. To start one: python study/run.py --help",
        epilog=WORDS, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    words = parser.add_subparsers(required=True, metavar="WORD", dest="word")
    words.add_parser("list").add_argument("folder", nargs="?", type=Path, default=Path("runs"))
    words.add_parser("copy").add_argument("uri", metavar="URI")
    of_run = {name: words.add_parser(name) for name in ("status", "rerun", "export", "predict", "log")}
    for sub in of_run.values():
        sub.add_argument("run")
    of_run["rerun"].add_argument("trial", help="its id, as in resnet50-search-0003")
    of_run["export"].add_argument("arm")
    of_run["export"].add_argument("--out", type=Path, help="default: RUN/export/ARM")
    of_run["predict"].add_argument("arm")
    of_run["predict"].add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a file, or a folder of files"
    )
    of_run["predict"].add_argument("--to", type=Path, metavar="FILE", help="default: the terminal")
    of_run["predict"].add_argument(
        "--format", choices=("csv", "json"), help="default: csv, or json for --to FILE.json"
    )
    log = of_run["log"]
    log.add_argument("--to", required=True, choices=choices())
    log.add_argument("--follow", action="store_true", help="go on while the study runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
