"""The card itself: its two ceilings, the memory of a context, and the cost of a launch."""
# ruff: noqa: T201 - a command speaks to its user

import time
from functools import partial
from typing import Any

import torch

from bench.gpu.common import device, facts, options, seconds_of, write


def main() -> None:
    given = options(__doc__, "facts").parse_args()
    began = time.perf_counter()
    torch.zeros(1, device=device())
    found: dict[str, Any] = {"seconds to a context": time.perf_counter() - began}
    cuda = torch.cuda.is_available()
    if cuda:
        free, total = torch.cuda.mem_get_info()
        found["context bytes"] = total - free - torch.cuda.memory_reserved()
    size = 2**31 if cuda else 2**24
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    found["copy bytes per second"] = 2 * size / seconds_of(partial(target.copy_, source))
    del source, target
    side, kind = (8192, torch.bfloat16) if cuda else (512, torch.float32)
    a, b = (torch.randn(side, side, device=device(), dtype=kind) for _ in range(2))
    found["matmul FLOP per second"] = 2 * side**3 / seconds_of(lambda: torch.mm(a, b))
    small = torch.zeros(32, device=device())
    found["seconds per small kernel"] = seconds_of(lambda: small.add_(1), repeats=2000)
    net = torch.nn.Conv2d(3, 64, 3).to(device())
    net(torch.zeros(8, 3, 32, 32, device=device())).sum().backward()
    if cuda:
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        found["context bytes with cuDNN and cuBLAS"] = total - free - torch.cuda.memory_reserved()
    write(given.out, "facts", found)
    print({**facts(), **found})


if __name__ == "__main__":
    main()
