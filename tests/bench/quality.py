"""Quality: the core reaches the accuracy of the seed post's loop with the same recipe, within seed noise.

Two loops train the same arm on the same real images with the same seeds, batches of the same size, the
same SGD, the same learning-rate schedule and the post's augmentation, and are scored on the same held-out
images after the last epoch. ``plain`` is the post's loop (PIL per image, NCHW, SGD kernel by kernel,
fp32); ``core`` is ``study.training.loop.fit``. Their initial weights are equal, their batches and augmentations are
not, so the difference of the means is judged by Welch's interval over the seeds.

Command:   python -m tests.bench.quality --data folder:PATH --json quality.json
           (10,000 images, 3 seeds, 3 epochs: 8 minutes on two busy cores)
Measured:  small_resnet, 3 epochs, --seeds 23: post's 48.52 % (sd 1.82), core 49.19 % (sd 1.28), difference
           +0.67 points [-0.27, +1.61].
"""
# ruff: noqa: T201 - a command speaks to its user

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from bench import post_loop
from bench.timing import parser, processes, save, table
from search_spaces import Config, ImageSpec, load
from study.data.images import Images
from study.data.prepare import prepare
from study.data.split import split
from study.protocol.records import Trial
from study.training.evaluation import Split, predict
from study.training.loop import build, fit
from study.training.optimizers import learning_rate

VAL_IMAGES = 0.2
"""Held-out part of the images; each seed holds out other ones."""


def config(arm: str, batch: int, lr: float) -> Config:
    return {**load(arm).default(), "batch_size": batch, "lr": lr}


def core(arm: str, images: Images, seed: int, epochs: int, given: Config, device: torch.device) -> float:
    """Accuracy on the held-out images after the core's last epoch."""
    torch.set_num_threads(1)
    data = whole(images, seed, device)
    trial = Trial(
        id="core", arm=arm, phase="search", index=0, pair=0, config=given, seed=seed, fold=0, epochs=epochs
    )  # fmt: skip
    net = build(load(arm), given, spec(images), seed=seed, device=device)
    *_, last = fit(net, trial, data, classes=spec(images).classes)
    return last.val_accuracy


def plain(arm: str, images: Images, seed: int, epochs: int, given: Config, device: torch.device) -> float:
    """The same for the post's loop, with the core's learning-rate schedule."""
    torch.set_num_threads(1)
    data = whole(images, seed, device)
    model = build(load(arm), given, spec(images), seed=seed, device=device, channels_last=False)
    model.train()
    lr, batch = float(given["lr"]), int(given["batch_size"])
    optimizer = post_loop.sgd(model, lr=lr, weight_decay=float(given["weight_decay"]))
    torch.manual_seed(seed)
    loader = post_loop.train_loader(images.take(data.train.cpu().numpy()), seed=seed, batch_size=batch)
    steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(str(given["schedule"]), min(1.0, (step + 0.5) / steps), 0.1)
    )
    loss = nn.CrossEntropyLoss(label_smoothing=float(given["label_smoothing"]))
    for _ in post_loop.train_model(
        model, loss, optimizer, loader, device, epochs=epochs, scheduler=scheduler
    ):
        pass
    hits = predict(model, data.images, data.val).argmax(1) == data.labels[data.val]
    return float(hits.float().mean())


def whole(images: Images, seed: int, device: torch.device) -> Split:
    train, val = split(images.labels, val=round(VAL_IMAGES * len(images)), seed=seed)
    return Split(
        images=torch.from_numpy(images.pixels).to(device),
        labels=torch.from_numpy(images.labels).to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
    )


def spec(images: Images) -> ImageSpec:
    return ImageSpec(
        channels=images.pixels.shape[1], size=images.pixels.shape[-1], classes=int(images.labels.max()) + 1
    )


def welch(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Difference of the means, a minus b, with its 95 % interval."""
    result = stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(0.95)
    return float(np.mean(a) - np.mean(b)), float(interval.low), float(interval.high)


def main(arguments: list[str] | None = None) -> None:
    options = parser("quality", __doc__)
    options.add_argument("--data", required=True, help="as for a study: folder:PATH, cifar10")
    options.add_argument("--arms", default="small_resnet", help="default %(default)s")
    options.add_argument("--seeds", type=int, default=3, help="default 3")
    options.add_argument("--epochs", type=int, default=3, help="default 3")
    options.add_argument("--batch", type=int, default=64, help="default 64")
    options.add_argument("--lr", type=float, default=0.1, help="default 0.1")
    options.add_argument("--device", default="cpu", help="default cpu")
    given = options.parse_args(arguments)
    images = prepare(given.data, seed=0, root=Path("data")).train
    began = time.perf_counter()
    found: dict[str, Any] = {}
    rows = []
    with processes(2) as (one, other):  # one core each
        for arm in given.arms.split(","):
            asked = (given.epochs, config(arm, given.batch, given.lr), torch.device(given.device))
            runs = [
                (one.submit(core, arm, images, s, *asked), other.submit(plain, arm, images, s, *asked))
                for s in range(given.seeds)
            ]
            ours, posts = [], []
            for seed, (mine, theirs) in enumerate(runs):
                ours.append(mine.result())
                posts.append(theirs.result())
                print(f"{arm}, seed {seed}: post's {posts[-1]:.4f}, core {ours[-1]:.4f}", flush=True)
            gap, low, high = welch(ours, posts)
            found[arm] = {"core": ours, "plain": posts, "gap": gap, "low": low, "high": high}
            rows.append(
                (arm, shown(posts), shown(ours), f"{100 * gap:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]")
            )
    header = ["validation accuracy, %", "post's loop", "core", "core minus post's, 95 %"]
    print(table(header, rows))
    print(
        f"{len(images)} images, {given.seeds} seeds, {given.epochs} epochs, in {time.perf_counter() - began:.0f} s"
    )
    save(given.json, found)


def shown(accuracies: list[float]) -> str:
    sd = np.std(accuracies, ddof=1) if len(accuracies) > 1 else math.nan
    return f"{100 * np.mean(accuracies):.2f} (sd {100 * sd:.2f})"


if __name__ == "__main__":
    main()
