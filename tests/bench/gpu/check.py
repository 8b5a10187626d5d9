"""Correctness on this card: the same bits from eager steps, the graph, a rerun, and after a stop in mid-epoch."""
# ruff: noqa: T201 - a command speaks to its user

import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from support import old_core

from bench.gpu.common import a_net, a_run, config, device, measures, options, synchronised, write
from search_spaces import load
from study.memory import out_of_memory
from study.training.checkpoint import pack, unpack

STEPS, EPOCHS = 6, 2
PAUSE_AFTER = 4
"""Steps of the first epoch before the stop: past the capture."""


WAYS: dict[str, dict[str, Any]] = {
    "today": {"module": old_core},
    "eager": {},
    "graph": {"graphed": True},
    "fused": {"fused": True},
    "fused graph": {"fused": True, "graphed": True},
}
SAME = ("today", "eager", "graph", "resumed in a fresh process", "rerun in a fresh process")


def digest(run: Any, epochs: list[Any]) -> str:
    """Digest of every weight and every measure."""
    sha = hashlib.sha256(json.dumps(measures(epochs)).encode())
    for value in run.net.state_dict().values():
        sha.update(value.float().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


RATE = 1e-3
"""Learning rate at which the first steps on random labels do not diverge."""


def a_case(arm: str, batch: int, policy: str, **how: Any) -> Any:
    setting = config(arm, batch, lr=RATE, augment=policy)
    return a_run(a_net(arm, setting), arm, setting, steps=STEPS, epochs=EPOCHS, held_out=1000, **how)


def trained(arm: str, batch: int, policy: str, **how: Any) -> tuple[str, float]:
    """Digest, and seconds to the end of the first step."""
    began = synchronised()
    run = a_case(arm, batch, policy, **how)
    assert run.advance(0.0) is None
    first = synchronised() - began
    return digest(run, list(run.epochs())), first


def elsewhere(arm: str, batch: int, policy: str, path: Path) -> "subprocess.Popen[str]":
    """Stop in mid-epoch; a fresh process resumes, and also repeats the whole run."""
    run = a_case(arm, batch, policy, graphed=True)
    for _ in range(PAUSE_AFTER):
        assert run.advance(0.0) is None
    path.write_bytes(pack(run.state()))
    command = [sys.executable, "-m", "tests.bench.gpu.check", "--out", str(path.parent)]
    command += ["--resume", f"{arm},{batch},{policy},{path}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def resume(said: str) -> None:
    arm, batch, policy, path = said.split(",")
    run = a_case(arm, int(batch), policy, graphed=True)
    state = unpack(Path(path).read_bytes(), device())
    assert state is not None
    run.load(state)
    resumed = digest(run, list(run.epochs()))
    print(resumed, trained(arm, int(batch), policy, graphed=True)[0])


def silent(arm: str) -> str:
    """Whether no step waits for the device."""
    setting = config(arm, 32)
    run = a_run(a_net(arm, setting), arm, setting, steps=STEPS, epochs=1)
    run.advance(0.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run._step.run()
    except RuntimeError as error:
        return str(error)[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


def behind_a_wall(arm: str) -> dict[str, Any]:
    """Errors of torch and its libraries under a limit of 1 GB, and whether they count as out of memory."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e9 / whole)
    try:
        a_case(arm, 512, "none").advance()
    except Exception as error:  # noqa: BLE001  # any message is a finding
        return {"said": f"{type(error).__name__}: {error}"[:300], "recognised": out_of_memory(error)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    return {"said": "", "recognised": False}


def compared(arm: str, batch: int, policy: str) -> dict[str, Any]:
    """Digests of all variants, and the seconds to their first step."""
    row: dict[str, Any] = {"arm": arm, "batch": batch, "policy": policy}
    for name, how in WAYS.items():
        try:
            row[name], row[f"{name}, first step"] = trained(arm, batch, policy, **how)
        except Exception as error:  # noqa: BLE001  # the other cases still count
            row[name] = f"{type(error).__name__}: {error}"[:300]
    return row


def check(out: Path, arms: list[str], batches: list[int], seconds: float) -> dict[str, Any]:
    ends, found = time.monotonic() + seconds, dict[str, Any](runs=[])
    cases = list(itertools.product(arms, dict.fromkeys((batches[0], batches[-1])), ("flip+rotate",)))
    cases += [
        (arms[0], batches[0], policy) for policy in ("trivial", "flip+crop+cutout", "flip+resizedcrop.08")
    ]
    apart = []
    for arm, batch, policy in cases:
        if time.monotonic() > ends:
            found["left out"] = "the time was over"
            break
        found["runs"].append(compared(arm, batch, policy))
        if policy == "flip+rotate":
            apart.append((found["runs"][-1], elsewhere(arm, batch, policy, out / f"{arm}-{batch}.pt")))
        write(out, "check", found)
    for row, process in apart:
        said, complaint = process.communicate(timeout=120)
        there = said.split()[-2:] if process.returncode == 0 else [complaint[-300:]] * 2
        row["resumed in a fresh process"], row["rerun in a fresh process"] = there
        (out / f"{row['arm']}-{row['batch']}.pt").unlink()
    for row in found["runs"]:
        row["same bits"] = len({row[name] for name in SAME if name in row}) == 1
        row["same bits fused"] = row["fused"] == row["fused graph"]
        print({key: value for key, value in row.items() if "first" not in key}, flush=True)
    return found


RECIPES: dict[str, dict[str, Any]] = {
    "modern": {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25, "averaging": 0.99},
    "finetune": {"layer_decay": 0.75, "frozen": 0.5, "mixup": 0.2},
}


def by_recipe(arm: str, recipe: str) -> dict[str, Any]:
    """Digests of eager steps, the graph, and a graph that stopped in mid-epoch and went on in another run."""
    setting = {**load(arm, recipe).default(), "batch_size": 32, **RECIPES[recipe]}

    def a_new(*, graphed: bool) -> Any:
        return a_run(a_net(arm, setting), arm, setting, steps=STEPS, epochs=EPOCHS, graphed=graphed)

    runs = {"eager": a_new(graphed=False), "graph": a_new(graphed=True), "resumed": a_new(graphed=True)}
    stopped = a_new(graphed=True)
    for _ in range(PAUSE_AFTER):
        assert stopped.advance(0.0) is None
    runs["resumed"].load(unpack(pack(stopped.state()), device()))
    found = {name: digest(run, list(run.epochs())) for name, run in runs.items()}
    return {"arm": arm, "recipe": recipe, **found, "same bits": len(set(found.values())) == 1}


def main() -> None:
    parser = options(__doc__, "check")
    parser.add_argument("--resume", help="of the part itself")
    given = parser.parse_args()
    if given.resume:
        resume(given.resume)
        return
    arms = given.arms.split(",")
    found = check(given.out, arms, [int(b) for b in given.batches.split(",")], given.seconds)
    found["recipes"] = [by_recipe(arms[0], recipe) for recipe in RECIPES]
    if torch.cuda.is_available():
        found["waits for the device"] = {arm: silent(arm) for arm in arms}
        found["out of memory"] = behind_a_wall(arms[0])
    write(given.out, "check", found)
    print({key: value for key, value in found.items() if key != "runs"})


if __name__ == "__main__":
    main()
