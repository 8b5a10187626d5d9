"""An arm's best confirmed net as files that outlive this project: weights, config, source, how to load it, ONNX.

Safetensors holds tensors and nothing that could run when it is opened, and every framework reads it; a
``.pt`` file is a pickle.
"""

import argparse
import ast
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import search_spaces
from analysis.results import read
from analysis.statistics.intervals import Refused
from analysis.statistics.tunability import binomial
from search_spaces._names import in_files
from study import provenance
from study.commands.loader import LOAD
from study.commands.onnx import write_onnx
from study.data import reading, weights
from study.data.opened import reading_of
from study.data.reading import BACKGROUND
from study.protocol import consistency
from study.protocol.errors import DONE, InputError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.question import DataCard
from study.protocol.records import Trial
from study.protocol.rundir import IMAGES, RunDir, discard_partial
from study.storage.fetch import local
from study.training import checkpoint
from study.training.loop import build
from study.training.trial import image_spec

NORMALISATION = "pixels 0..255, then x / 127.5 - 1: mean and standard deviation 0.5 of the range"


def command(given: argparse.Namespace, console: Console) -> int:
    run = RunDir(local(given.run, nets=True))
    for line in export(run, given.arm, given.out or run.path / "export" / in_files(given.arm)):
        console.print(line)
    return DONE


def export(run: RunDir, arm: str, out: Path) -> list[str]:
    """Write the arm's net into ``out``; a line for each thing written.

    The net is the first confirmation run of the find in hand: neither the test set nor a fold has a say. Raises
    InputError when the arm has no confirmed net yet, or its weights are gone.
    """
    plan, history = consistency.load(run)
    trial, net = restored(plan, history, run, arm)
    images = image_spec(plan.data)
    out.mkdir(parents=True, exist_ok=True)
    for name in (weights.FILE, IMAGES):
        discard_partial(out, name)
    weights.write(
        out,
        net.state_dict(),
        trial=trial.id,
        data=plan.data.spec,
        size=images.size,
        seen=run.images,
        classes=plan.data.classes,
    )
    sources = _sources(plan, arm, out)
    (out / "load.py").write_text(LOAD)
    pins = _pins([*sources, out / "load.py"])
    (out / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
    card = _card(plan, history, run, trial) | {"requires": pins}
    said, card["onnx"] = write_onnx(net, images, plan.data.classes, how(plan.data), out / "net.onnx")
    (out / "config.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [
        f"{out}: {trial.id}, weights.safetensors, config.json, load.py with reading.py, search_spaces/ and requirements.txt",
        f"classify images from any folder: python {out}/load.py IMAGE...",
        said,
    ]


def restored(plan: Plan, history: History, run: RunDir, arm: str) -> tuple[Trial, nn.Module]:
    """The arm's net that is exported and predicts, on the CPU, and its trial. Raises InputError when there is none."""
    trial = _net(plan, history, run, arm)
    path = run.checkpoint(trial.id)
    state = checkpoint.load(path, torch.device("cpu"))
    if state is None:
        raise InputError(f"the weights of {trial.id} are gone: there is no whole {path}")
    layout = plan.audits[arm].layout(trial.config)
    net = build(
        search_spaces.load(arm, plan.recipe), trial.config, image_spec(plan.data), seed=0, device=torch.device("cpu"), channels_last=layout
    )  # fmt: skip
    try:
        net.load_state_dict(state["net"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} holds no weights of {trial.id} as {arm} is built now") from error
    return trial, net


def how(card: DataCard) -> dict[str, Any]:
    """The way from a file to the net's input, for people and programs."""
    colour = "grey" if card.channels == 1 else "RGB"
    return {
        "reading": asdict(reading_of(card)),
        "colour": f"{colour}, turned upright by the EXIF orientation; the first frame of several",
        "background": f"{BACKGROUND}, under transparency and beside padded images",
        "normalisation": NORMALISATION,
    }


def _card(plan: Plan, history: History, run: RunDir, trial: Trial) -> dict[str, Any]:
    """What is known of the net, for ``config.json``."""
    return {
        "arm": trial.arm,
        "recipe": plan.recipe,
        "built_by": [trial.arm, plan.recipe],
        "config": trial.config,
        "images": asdict(image_spec(plan.data)),
        "classes": list(plan.data.classes),
        **how(plan.data),
        "trial": trial.id,
        "epochs": trial.epochs,
        "seed": trial.seed,
        "data": plan.data.spec,
        "data_fingerprint": plan.data.fingerprint,
        "metric": plan.metric,
        "val_accuracy": history.val_accuracy(trial.id),
        "val_score": history.val_score(trial.id),
        **_scores(history, run, trial),
        "versions": plan.versions,
    }


def _scores(history: History, run: RunDir, trial: Trial) -> dict[str, Any]:
    """Test accuracy of this net, for new images, and the score of its setting, for new runs too, with 95 % intervals."""
    if (score := history.scores.get(trial.id)) is None:
        return {"test_accuracy": None, "test_score": None, "test_score_of_setting": None}
    evidence = read(run.path)
    images, runs = len(evidence.labels), evidence.tuned[trial.arm]
    own = binomial(round(score.test_accuracy * images), images)
    setting: dict[str, Any] = {"mean": runs.mean, "runs": len(runs.correct)}
    with suppress(Refused):
        interval = runs.interval()
        setting |= {"low": interval.low, "high": interval.high}
    return {
        "test_accuracy": score.test_accuracy,
        "test_accuracy_interval": [own.low, own.high],
        "test_score": score.test_score,
        "test_score_of_setting": setting,
    }


def _sources(plan: Plan, arm: str, out: Path) -> list[Path]:
    """Copy what the net is built by and images are read by; the copies."""
    copies = []
    for name in provenance.code([arm], plan.recipe):
        if name.startswith(provenance.ARMS):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            copies.append(Path(shutil.copyfile(provenance.ROOT / name, out / name)))
    return [*copies, Path(shutil.copyfile(str(reading.__file__), out / "reading.py"))]


def _pins(sources: Iterable[Path]) -> list[str]:
    """``NAME==VERSION`` of every package that the files import, as it is installed here."""
    known = importlib.metadata.packages_distributions()
    packages: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                packages.add(node.module.partition(".")[0])
    foreign = packages - sys.stdlib_module_names - {"search_spaces"}
    names = {known[package][0] for package in foreign if package in known}
    return [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
        for name in sorted(names, key=str.lower)
    ]


def _net(plan: Plan, history: History, run: RunDir, arm: str) -> Trial:
    if arm not in plan.arms:
        raise InputError(f"{run} has no arm {arm!r}: it compares {', '.join(plan.arms)}")
    chosen = any(arm in manifest.in_hand for manifest in history.manifests)
    runs = history.confirmed(arm, history.in_hand(arm)) if chosen else []
    runs = [trial for trial in runs if history.finished(trial.id)]
    if not runs:
        raise InputError(
            f"{run} has no confirmed net of {arm} yet: `python -m study status {run}` shows how far it is"
        )
    return runs[0]  # each held out another fold: their validation scores do not compare
