"""Does the fused kernel train as well? Validation accuracy with and without it, on real images, with the same seeds."""
# ruff: noqa: T201 - a command speaks to its user

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu import kernels
from bench.gpu.common import a_net, a_trial, config, device, options, write
from study.data.prepare import prepare
from study.data.split import split
from study.training.evaluation import Split
from study.training.loop import Training

EPOCHS, BATCH, RATE = 8, 256, 0.1


def main() -> None:
    parser = options(__doc__, "quality")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tiles", type=Path, help="kernels.json, whose best tiles are used")
    given = parser.parse_args()
    ends, arm = time.monotonic() + given.seconds, given.arms.split(",")[0]
    if given.tiles and torch.cuda.is_available():
        kernels.use(given.tiles)
    pool = prepare(given.data, seed=0, root=Path("data")).train
    train, val = split(pool.labels, val=len(pool) // 5, seed=0)
    pixels = torch.from_numpy(pool.pixels[:]).to(device())
    data = Split(
        images=pixels.expand(-1, 3, -1, -1).contiguous(),
        labels=torch.from_numpy(pool.labels.copy()).to(device()),
        train=torch.from_numpy(train).to(device()),
        val=torch.from_numpy(val).to(device()),
    )
    found: dict[str, Any] = {"arm": arm, "epochs": EPOCHS, "batch": BATCH, "plain": [], "fused": []}
    for seed in range(given.seeds):
        for name, fused in (("plain", False), ("fused", True)):
            if time.monotonic() > ends:
                break
            setting = config(arm, BATCH, lr=RATE, augment="flip+crop")
            trial = dataclasses.replace(a_trial(arm, setting, epochs=EPOCHS), seed=seed)
            began = time.monotonic()
            net = a_net(arm, setting)
            *_, last = Training(net, trial, data, classes=10, graphed=True, fused=fused).epochs()
            found[name].append([last.train_loss, last.val_loss, last.val_accuracy])
            print(
                f"{name} seed {seed}: {last.val_accuracy:.4f} in {time.monotonic() - began:.1f} s", flush=True
            )
            write(given.out, "quality", found)
    pairs = list(zip(found["fused"], found["plain"], strict=False))
    if len(pairs) > 1:
        gaps = [100 * (fused[2] - plain[2]) for fused, plain in pairs]
        found["points gained"] = statistics.mean(gaps)
        found["standard error"] = statistics.stdev(gaps) / len(gaps) ** 0.5
        print(
            f"fused - plain: {found['points gained']:+.2f} pt, standard error {found['standard error']:.2f}"
        )
    write(given.out, "quality", found)


if __name__ == "__main__":
    main()
