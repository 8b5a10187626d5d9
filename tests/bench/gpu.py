"""All that only a GPU can tell, in one call of under ten minutes: a short real study, training speed, packing.

Each part runs in a process of its own and writes its files to ``--out`` as soon as it ends, so that a part that
fails, or a machine that is taken away, loses nothing of the others.

Command:   python -m tests.bench.gpu --data folder:PATH --out DIR
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def parts(given: argparse.Namespace) -> dict[str, list[str]]:
    """The command of every part, by name."""
    out: Path = given.out
    arms = ["--arms", given.arms]
    return {
        "study": [
            *["study/run.py", "--budget", given.budget, "--data", given.data, "--out", str(out / "study")],
            *[*arms, "--epochs", str(given.epochs)],
        ],
        "train": ["-m", "tests.bench.train", *arms, "--turns", "2", "--json", str(out / "train.json")],
        "packing": [
            *["-m", "tests.bench.packing", *arms, "--turns", "2", "--seconds", "2"],
            *["--json", str(out / "packing.json")],
        ],
    }


def main(arguments: list[str] | None = None) -> None:
    resource = "gpu" if torch.cuda.is_available() else "cpu"
    options = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument("--data", required=True, help="of the study, as in study/run.py")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="where all is written")
    options.add_argument("--arms", default="resnet50,resnext50", help="default %(default)s")
    options.add_argument("--budget", default=f"4{resource}-minutes", help="of the study (%(default)s)")
    options.add_argument("--epochs", type=int, default=3, help="of the study's full runs (default 3)")
    given = options.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    ended: dict[str, tuple[int, float]] = {}
    for name, command in parts(given).items():
        print(f"== {name}: python {' '.join(command)}", flush=True)
        began = time.perf_counter()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        ended[name] = code, time.perf_counter() - began
    for name, (code, seconds) in ended.items():
        print(f"{name}: {'done' if code == 0 else f'exit code {code}'} in {seconds:.0f} s")
    sys.exit(max(code for code, _ in ended.values()))


if __name__ == "__main__":
    main()
