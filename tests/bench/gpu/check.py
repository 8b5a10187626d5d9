"""Is it right on this card? The same bits from eager steps, from the graph, from a rerun, and after a stop in mid-epoch."""
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
from study import train as core
from study.checkpoint import pack, unpack
from study.memory import out_of_memory

STEPS, EPOCHS = 6, 2
PAUSE_AFTER = 4
"""Steps of the first epoch before the stop: past the capture."""


def digest(run: Any, epochs: list[Any]) -> str:
    """Of every weight and every measure."""
    sha = hashlib.sha256(json.dumps(measures(epochs)).encode())
    for value in run.net.state_dict().values():
        sha.update(value.float().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def trained(arm: str, batch: int, policy: str, **how: Any) -> tuple[str, float]:
    """Digest, and seconds to the end of the first step."""
    setting = config(arm, batch, lr=0.05, augment=policy)
    began = synchronised()
    run = a_run(a_net(arm, setting), arm, setting, steps=STEPS, epochs=EPOCHS, held_out=1000, **how)
    assert run.advance(0.0) is None
    first = synchronised() - began
    return digest(run, list(run.epochs())), first


def paused(arm: str, batch: int, policy: str, path: Path) -> str:
    """Stop in mid-epoch and go on in a fresh process: its digest."""
    setting = config(arm, batch, lr=0.05, augment=policy)
    how = {"steps": STEPS, "epochs": EPOCHS, "held_out": 1000, "graphed": True}
    run = a_run(a_net(arm, setting), arm, setting, **how)  # type: ignore[arg-type]
    for _ in range(PAUSE_AFTER):
        assert run.advance(0.0) is None
    path.write_bytes(pack(run.state()))
    command = [sys.executable, "-m", "tests.bench.gpu.check", "--out", str(path.parent)]
    done = subprocess.run(
        [*command, "--resume", f"{arm},{batch},{policy},{path}"], capture_output=True, text=True, check=False
    )
    path.unlink()
    return done.stdout.split()[-1] if done.returncode == 0 else f"failed: {done.stderr[-300:]}"


def resume(said: str) -> None:
    arm, batch, policy, path = said.split(",")
    setting = config(arm, int(batch), lr=0.05, augment=policy)
    how = {"steps": STEPS, "epochs": EPOCHS, "held_out": 1000, "graphed": True}
    run = a_run(a_net(arm, setting), arm, setting, **how)  # type: ignore[arg-type]
    state = unpack(Path(path).read_bytes(), device())
    assert state is not None
    run.load(state)
    print(digest(run, list(run.epochs())))


def silent(arm: str) -> str:
    """Whether a step ever waits for the device."""
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
    """What torch and its libraries say when a wall of 1 GB is too small, and whether that is told from a fault."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e9 / whole)
    setting = config(arm, 512)
    try:
        a_run(a_net(arm, setting), arm, setting, steps=2, epochs=1).advance()
    except Exception as error:  # noqa: BLE001  # whatever is said is the finding
        return {"said": f"{type(error).__name__}: {error}"[:300], "recognised": out_of_memory(error)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    return {"said": "", "recognised": False}


def main() -> None:
    parser = options(__doc__, "check")
    parser.add_argument("--resume", help="of the part itself")
    given = parser.parse_args()
    if given.resume:
        resume(given.resume)
        return
    ends = time.monotonic() + given.seconds
    found: dict[str, Any] = {"runs": []}
    batches = [int(b) for b in given.batches.split(",")]
    ways = {
        "today": {"module": old_core},
        "eager": {"module": core},
        "eager again": {"module": core},
        "graph": {"module": core, "graphed": True},
        "fused": {"module": core, "fused": True},
        "fused graph": {"module": core, "fused": True, "graphed": True},
    }
    cases = list(itertools.product(given.arms.split(","), (batches[0], batches[-1]), ("flip+rotate",)))
    cases += [(given.arms.split(",")[0], batches[0], policy) for policy in ("trivial", "flip+crop+cutout")]
    if torch.cuda.is_available():
        found["waits for the device"] = {arm: silent(arm) for arm in given.arms.split(",")}
    for arm, batch, policy in cases:
        if time.monotonic() > ends:
            found["left out"] = "the time was over"
            break
        row: dict[str, Any] = {"arm": arm, "batch": batch, "policy": policy}
        for name, how in ways.items():
            if name == "today" and policy != "flip+rotate":
                continue
            try:
                row[name], row[f"{name}, first step"] = trained(arm, batch, policy, **how)
            except Exception as error:  # noqa: BLE001  # the other cases still tell
                row[name] = f"{type(error).__name__}: {error}"[:300]
        if policy == "flip+rotate" and batch == batches[0]:
            row["resumed"] = paused(arm, batch, policy, given.out / "paused.pt")
        same, fused = ("today", "eager", "eager again", "graph", "resumed"), ("fused", "fused graph")
        row["same bits"] = len({row[name] for name in same if name in row}) == 1
        row["same bits fused"] = len({row[name] for name in fused}) == 1
        found["runs"].append(row)
        print({key: value for key, value in row.items() if "first" not in key}, flush=True)
        write(given.out, "check", found)
    if torch.cuda.is_available():
        found["out of memory"] = behind_a_wall(given.arms.split(",")[0])
    write(given.out, "check", found)
    print({key: value for key, value in found.items() if key != "runs"})


if __name__ == "__main__":
    main()
