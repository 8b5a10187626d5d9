"""All that only a GPU can tell, in one call of under ten minutes: a short real study, a trial of it again, tests, speed, packing.

Each part runs in a process of its own, in a share of the time that is left, and has its files in ``--out`` as soon
as it ends: a part that fails or is too slow, or a machine that is taken away, loses nothing of the others. By default
the study is of a fifth of the digits, which come with scikit-learn: so few images that no budget of minutes is
refused (a step of 50 layers is reckoned with 30 ms of launches), and nothing has to be carried. A folder of images
in the repository's root, untracked and not ignored, travels with the tree: ``--data folder:NAME``. Of a study the few
files that say how it went come back, not its nets; what all parts say is in ``said.log``: eight files, as many as a
lender brings back.

On a machine without a network that has Python 3.12, torch, torchvision, numpy, scipy, matplotlib, scikit-learn,
pyarrow and pytest, the rest is packed here as wheels (61 MiB; ``.gpu`` is ignored by git, so it has to be carried by
name). ``pack.sh`` lies beside this repository where such a machine is lent; it does ``pip download --no-deps`` of Ray,
Optuna, what they need, and what it is given:

    ../shared/gpu/pack.sh .gpu opda pandas rich markdown-it-py mdurl safetensors hypothesis sortedcontainers psutil

and there, in the repository's root:

    python3 -m pip install -q --no-index --no-deps .gpu/wheels/*.whl && python3 -m tests.bench.gpu --out $OUT

Command:   python -m tests.bench.gpu --out DIR
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
SECONDS = 560.0
"""Of the ten minutes; the rest is for installing."""
SHARES = {"study": 0.44, "rerun": 0.1, "tests": 0.06, "train": 0.24, "packing": 0.16}
"""Parts of the time, in their order; what one leaves is the next ones'."""
GRACE = 20.0
"""Seconds at the end of a part's time in which it may still end in order."""
SHOWN = 2500
"""Characters of what a part says, from its end; all of it is in ``--out``."""
KEPT = ("plan.json", "ledger.jsonl", "verdict.json", "report.html", "ray.log")
"""Of the study."""


def parts(given: argparse.Namespace, study: Path) -> dict[str, list[str]]:
    """The command of every part, by name; the study's folder is ``study``."""
    arms = ["--arms", given.arms]
    resource = "gpu" if torch.cuda.is_available() else "cpu"
    return {
        "study": [
            *["study/run.py", "--budget", given.budget or f"3{resource}-minutes", "--data", given.data],
            *["--out", str(study), *arms, "--train-fraction", str(given.train_fraction)],
        ],
        "rerun": ["-m", "study", "rerun", str(study), f"{given.arms.split(',')[0]}-baseline-0000"],
        "tests": ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_stream.py"],
        "train": [
            *["-m", "tests.bench.train", *arms, "--turns", "1", "--compile-seconds", "40"],
            *["--json", str(given.out / "train.json")],
        ],
        "packing": [
            *["-m", "tests.bench.packing", *arms, "--turns", "1", "--seconds", "2"],
            *["--budget", f"30{resource}-minutes", "--json", str(given.out / "packing.json")],
        ],
    }


def run(command: list[str], seconds: float, log: Path) -> int:
    """Its exit code; it is asked to end before the seconds are over, and ended then, with all that it has started."""
    with log.open("ab") as told:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, start_new_session=True, stdout=told, stderr=told
        )
    try:
        grace = min(GRACE, seconds / 4)
        for patience, order in ((seconds - grace, signal.SIGINT), (grace, signal.SIGKILL)):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(patience)
            process.send_signal(order)
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where all is written")
    options.add_argument("--data", default="digits", help="of the study, as in study/run.py (%(default)s)")
    options.add_argument("--arms", default="resnet50,resnext50", help="default %(default)s")
    options.add_argument("--budget", help="of the study (default 3gpu-minutes)")
    options.add_argument(
        "--train-fraction", type=float, default=0.2, help="of the study's images (default %(default)s)"
    )
    options.add_argument("--seconds", type=float, default=SECONDS, help="of all parts (%(default)g)")
    given = options.parse_args(arguments)
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + given.seconds
    codes: dict[str, int] = {}
    log = given.out / "said.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        for name, command in parts(given, study).items():
            share = SHARES[name] / sum(SHARES[other] for other in SHARES if other not in codes)
            began = time.monotonic()
            limit = max(2 * GRACE, share * (ends - began))
            print(f"== {name}, at most {limit:.0f} s: python {' '.join(command)}", flush=True)
            with log.open("a") as told:
                told.write(f"== {name}\n")
            codes[name] = run(command, limit, log)
            print(log.read_text(errors="replace").rpartition(f"== {name}\n")[2][-SHOWN:], flush=True)
            print(f"== {name}: exit code {codes[name]} after {time.monotonic() - began:.0f} s", flush=True)
            for file in KEPT if name == "study" else ():
                with suppress(FileNotFoundError):
                    shutil.copy(study / file, given.out)
    print(", ".join(f"{name}: {f'exit code {code}' if code else 'done'}" for name, code in codes.items()))
    sys.exit(max(map(abs, codes.values())))


if __name__ == "__main__":
    main()
