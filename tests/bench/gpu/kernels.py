"""The fused kernels' tiles: every alternative timed over all of ResNet-50's normalisations; the best go into ``--tiles``."""
# ruff: noqa: T201 - a command speaks to its user

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.gpu.common import device, options, seconds_of, write

SHAPES = (
    (64, 32, 6), (256, 32, 4), (128, 32, 1), (128, 16, 7), (512, 16, 5), (256, 16, 1), (256, 8, 11), (1024, 8, 7),
    (512, 8, 1), (512, 4, 5), (2048, 4, 4),
)  # fmt: skip
"""Channels, pixels of a side, and how many normalisations of ResNet-50 at 32 pixels have them."""


def use(path: Path) -> None:
    """Use the best tiles of an earlier run of this part."""
    from study.training import fused

    for name, tile in json.loads(path.read_text())["best"].items():
        fused.TILES[name] = fused.Tile(**tile)


def alternatives(name: str) -> list[Any]:
    from study.training.fused import TILES, Tile

    if name == "finish":
        return [
            TILES[name],
            *(
                Tile(rows=r, channels=c, warps=w)
                for r, c, w in ((64, 64, 4), (256, 8, 4), (256, 16, 8), (64, 16, 4))
            ),
        ]
    sums = (512, 1536) if "sums" in name else (0,)
    sizes = ((64, 64, 4), (64, 64, 8), (128, 64, 8), (32, 128, 4), (32, 64, 4))
    return [Tile(rows=r, channels=c, warps=w, programs=p) for p in sums for r, c, w in sizes]


def works(batch: int) -> list[dict[str, Callable[[], Any]]]:
    """Every kernel's call for every shape."""
    from study.training import fused

    found: list[dict[str, Callable[[], Any]]] = []
    for channels, side, _ in SHAPES:
        x, g = (
            torch.randn(batch, channels, side, side, device=device(), dtype=torch.bfloat16).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        )
        y, norm = torch.empty_like(x), nn.BatchNorm2d(channels).to(device())
        statistics = torch.ones(4, channels, device=device())
        parts, sums = fused.forward_sums(x), torch.ones(2, channels, device=device())
        found.append(
            {
                "forward sums": partial(fused.forward_sums, x),
                "forward apply": partial(fused.forward_apply, x, None, statistics, y, relu=True),
                "backward sums": partial(fused.backward_sums, g, x, x, statistics, None, relu=True),
                "backward apply": partial(fused.backward_apply, g, x, statistics, sums, y, mask=True),
                "finish": partial(fused.forward_finish, x, parts, norm.weight, norm.bias, norm, statistics),
            }
        )
    return found


def main() -> None:
    given = options(__doc__, "kernels").parse_args()
    if not torch.cuda.is_available():
        write(given.out, "kernels", {"left out": "there is no GPU"})
        return
    from study.training import fused

    ends, rows, best = time.monotonic() + given.seconds, [], {}
    calls = works(256)
    for name in ("backward sums", "forward sums", "finish", "backward apply", "forward apply"):
        timed = []
        for tile in alternatives(name):
            if time.monotonic() > ends:
                break
            fused.TILES[name] = tile
            if name == "forward sums":  # "finish" reads its partial sums
                calls = calls or works(256)
            each = [
                count * graphed_seconds(call[name]) for call, (_, _, count) in zip(calls, SHAPES, strict=True)
            ]
            timed.append((sum(each), tile))
            rows.append({"kernel": name, **dataclasses.asdict(tile), "ms": 1e3 * sum(each)})
        if timed:
            seconds, fused.TILES[name] = min(timed, key=lambda pair: pair[0])
            first = timed[0][0]
            print(
                f"{name}: {1e3 * seconds:.2f} ms with {fused.TILES[name]}, the first {1e3 * first:.2f} ms",
                flush=True,
            )
        best[name] = dataclasses.asdict(fused.TILES[name])
        if name == "forward sums":
            calls = works(256)
    write(given.out, "kernels", {"rows": rows, "best": best})


def graphed_seconds(call: Callable[[], Any]) -> float:
    """Seconds of the kernel alone: ten calls in one CUDA graph, without launch delays."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return seconds_of(graph.replay, repeats=3, warm=1) / 10


if __name__ == "__main__":
    main()
