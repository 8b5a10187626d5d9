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
from study.data import listing, reading, weights
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

ABOUT = """# {arm}

`python load.py IMAGE_OR_FOLDER...` says the class of images; it needs what `requirements.txt` lists. `config.json` has the classes in the
order of the output, the scores and their intervals. `net.onnx`, if it is here, takes `pixels` and gives `probabilities`.

## From a file to the net's input, without load.py

{steps}
The output for `weights.safetensors` is one logit per class; softmax makes probabilities of them.
"""


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
    steps = "".join(f"{i}. {step}\n" for i, step in enumerate(card["preprocessing"], 1))
    (out / "README.md").write_text(ABOUT.format(arm=arm, steps=steps), encoding="utf-8")
    return [
        f"{out}: {trial.id}, README.md, weights.safetensors, config.json, load.py with listing.py, reading.py, search_spaces/ and requirements.txt",
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
    own, size = reading_of(card), card.size
    need = {"pad": f"(max(1, {2 * size} * width // longer), max(1, {2 * size} * height // longer))"}
    deep = (
        f"value * 255 / {own.white:g}, rounded, clipped to 0..255"
        if own.white
        else "refused: no training image had them"
    )
    fits = {
        "squash": f"scale its width and its height to {size} each",
        "crop": f"scale its middle to {size} x {size}: the box of the shorter side, whose edges may lie at half a pixel (resize's box)",
        "pad": f"scale its longer side to {size} and its shorter side in proportion (round, at least 1); paste it on grey ({BACKGROUND}) at "
        f"(({size} - its width) // 2, ({size} - its height) // 2)",
    }
    return {
        "reading": asdict(own),
        "preprocessing": [
            (f"Decode the first frame with Pillow; of a JPEG after image.draft(None, {need.get(own.fit, (2 * size, 2 * size))}), which decodes a "
            "large one at 1/2, 1/4 or 1/8. Decoded whole, it differs slightly."),
            "Turn it upright by its EXIF orientation (ImageOps.exif_transpose).",
            f"Pixels of more than 8 bits (Pillow's modes I and F): {deep}. Colours of 16 bits each: their upper 8 bits, as Pillow reads them.",
            f"Lay transparency over grey: convert to RGBA and composite over ({BACKGROUND}, {BACKGROUND}, {BACKGROUND}).",
            "Convert to RGB." if card.channels == 3 else "Convert to grey (Pillow's L: 0.299 R + 0.587 G + 0.114 B; LAB by way of RGB).",
            (f"If it is not {size} x {size}, {fits[own.fit]}; bilinear with antialiasing (Image.Resampling.BILINEAR, not the 2 x 2 bilinear of "
            "OpenCV or of torch without antialias)."),
            (f"As float32 (n, {card.channels}, {size}, {size}): images, channels, rows from the top, columns; "
            f"{'channels in the order R, G, B' if card.channels == 3 else 'one channel'}, values 0..255. This is what net.onnx takes."),
            "For weights.safetensors, x / 127.5 - 1, which net.onnx does itself: of x / 255, mean 0.5 and standard deviation 0.5 per channel.",
        ],
        "channel_order": "RGB" if card.channels == 3 else "L",
        "layout": "NCHW",
        "interpolation": "bilinear, antialiased",
        "mean": [0.5] * card.channels,
        "std": [0.5] * card.channels,
        "normalisation": NORMALISATION,
    }  # fmt: skip


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
    return copies + write_reading(out)


def write_reading(out: Path) -> list[Path]:
    """Write what ``load.py`` reads images by beside it, without a package; the files."""
    copies = []
    for module in (listing, reading):
        source = Path(str(module.__file__))
        copies.append(out / source.name)
        copies[-1].write_text(source.read_text().replace("from study.data.", "from "))
    return copies


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
    foreign = packages - sys.stdlib_module_names - {"search_spaces", "listing", "reading"}
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
