"""``python -m study WORD``: what can be done with a run beside making one (that is study/run.py).

Reads plan and ledger only, so every word works while the study runs, and from any machine that sees
its folder, or its URI. Exit codes: 0 done, 1 the trial's numbers differ, 2 bad input.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # search_spaces, from whatever directory

from rich.console import Console

from search_spaces import ArmError
from study.protocol.budget import PlanError

WORDS = """\
words:
  python -m study list                    the runs in runs/, what each is at and found
  python -m study status runs/ID          how far a study is, from the outside
  python -m study rerun runs/ID TRIAL     train one trial again: the same numbers, or exit code 1
  python -m study export runs/ID ARM      an arm's best confirmed net: weights, config, how to load it
  python -m study log runs/ID --to NAME   write the run for optuna, tensorboard, mlflow or wandb
  python -m study copy URI                bring to the URI what a storage that failed has not got
a URI, s3://BUCKET/FOLDER, stands for a run too: it is fetched into runs/ first
"""


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    console = Console(
        width=None if sys.stdout.isatty() else 120,
        soft_wrap=not sys.stdout.isatty(),
        highlight=False,
        markup=False,
    )
    word: Callable[[argparse.Namespace, Console], int] = given.word
    from analysis.results import EvidenceError
    from study.data.images import DataError
    from study.protocol.history import LedgerError
    from study.storage import sync

    try:
        if "run" in given:
            given.name, given.run = given.run, sync.local(given.run, nets=word is _export)
        return word(given, console)
    except (PlanError, LedgerError, DataError, EvidenceError, ArmError) as error:
        said = str(error)
    except OSError as error:  # a folder that may not be read, or a name that no file can have
        said = f"{str(error.filename)[:200]}: {error.strerror}"
    Console(stderr=True, soft_wrap=True).print(f"error: {said}", markup=False, highlight=False)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study", description="What can be done with a run. A new one: python study/run.py --help",
        epilog=WORDS, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    words = parser.add_subparsers(required=True, metavar="WORD")

    def word(name: str, does: Callable[[argparse.Namespace, Console], int]) -> argparse.ArgumentParser:
        sub = words.add_parser(name)
        sub.set_defaults(word=does)
        return sub

    word("list", _list).add_argument("folder", nargs="?", type=Path, default=Path("runs"))
    word("status", _status).add_argument("run")
    rerun = word("rerun", _rerun)
    rerun.add_argument("run")
    rerun.add_argument("trial", help="its id, as in resnet50-search-0003")
    export = word("export", _export)
    export.add_argument("run")
    export.add_argument("arm")
    export.add_argument("--out", type=Path, help="default: RUN/export/ARM")
    log = word("log", _log)
    log.add_argument("run")
    log.add_argument("--to", required=True, choices=("optuna", "tensorboard", "mlflow", "wandb"))
    log.add_argument("--follow", action="store_true", help="go on while the study runs")
    word("copy", _copy).add_argument("uri", metavar="URI")
    return parser


def _list(given: argparse.Namespace, console: Console) -> int:
    from study.commands import status

    console.print(status.listing(given.folder))
    return 0


def _status(given: argparse.Namespace, console: Console) -> int:
    from study.commands import status

    console.print(status.overview(given.run, given.name))
    return 0


def _rerun(given: argparse.Namespace, console: Console) -> int:
    from study.commands import rerun

    table, same = rerun.rerun(given.run, given.trial)
    console.print(table)
    console.print("the same numbers" if same else "the numbers differ")
    return 0 if same else 1


def _export(given: argparse.Namespace, console: Console) -> int:
    from study.commands import export

    out: Path = given.out or given.run / "export" / given.arm
    for line in export.export(given.run, given.arm, out):
        console.print(line, markup=False)
    return 0


def _log(given: argparse.Namespace, console: Console) -> int:
    from study.loggers import base
    from study.storage import sync

    try:
        where = base.write(given.run, given.to, follow=given.follow, refresh=sync.refresher(given.name))
    except KeyboardInterrupt:
        return 130
    console.print(where, markup=False)
    return 0


def _copy(given: argparse.Namespace, console: Console) -> int:
    from study.storage import sync

    sync.copy(given.uri, lambda text: console.print(text, markup=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
