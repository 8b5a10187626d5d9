"""An arm's best confirmed net as files that outlive this project: weights, config, how to load it, ONNX.

Safetensors holds tensors and nothing that could run when it is opened, and every framework reads it; a
``.pt`` file is a pickle.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

import search_spaces
from study.protocol import consistency
from study.protocol.errors import DONE, InputError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Trial
from study.protocol.rundir import RunDir
from study.storage.fetch import local
from study.training import checkpoint
from study.training.augment import normalise
from study.training.loop import build
from study.training.trial import image_spec

LOAD = '''\
"""Classify images with this net. Run it where `search_spaces/` of the study can be imported."""
import json
import torch
from safetensors.torch import load_file
from search_spaces import ImageSpec, load
card = json.load(open("config.json"))
net = load(card["arm"]).build(card["config"], ImageSpec(**card["images"]))
net.load_state_dict(load_file("weights.safetensors"))
images = torch.randint(256, (1, card["images"]["channels"], card["images"]["size"], card["images"]["size"]))
print(card["classes"][int(net.eval()(images / 127.5 - 1).argmax(1))])  # pixels 0..255 become -1..1
'''


def command(given: argparse.Namespace, console: Console) -> int:
    run = RunDir(local(given.run, nets=True))
    for line in export(run, given.arm, given.out or run.path / "export" / given.arm):
        console.print(line)
    return DONE


def export(run: RunDir, arm: str, out: Path) -> list[str]:
    """Write the arm's net into ``out``; a line for each thing written.

    The net is the confirmation run with the best validation score of the find in hand: the test set has no say. Raises
    InputError when the arm has no confirmed net yet, or its weights are gone.
    """
    plan, history = consistency.load(run)
    trial = _best(plan, history, run, arm)
    path = run.checkpoint(trial.id)
    state = checkpoint.load(path, torch.device("cpu"))
    if state is None:
        raise InputError(f"the weights of {trial.id} are gone: there is no whole {path}")
    images = image_spec(plan.data)
    net = build(
        search_spaces.load(arm, plan.recipe), trial.config, images, seed=0, device=torch.device("cpu")
    )
    try:
        net.load_state_dict(state["net"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} holds no weights of {trial.id} as {arm} is built now") from error
    score = history.scores.get(trial.id)
    card = {
        "arm": arm,
        "config": trial.config,
        "images": {"channels": images.channels, "size": images.size, "classes": images.classes},
        "classes": list(plan.data.classes),
        "pixels": "uint8 0..255, then x / 127.5 - 1",
        "trial": trial.id,
        "epochs": trial.epochs,
        "seed": trial.seed,
        "data": plan.data.spec,
        "data_fingerprint": plan.data.fingerprint,
        "val_accuracy": history.val_accuracy(trial.id),
        "test_accuracy": score.test_accuracy if score else None,
        "metric": plan.metric,
        "val_score": history.val_score(trial.id),
        "test_score": score.test_score if score else None,
        "versions": plan.versions,
    }
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(weights, out / "weights.safetensors", metadata={"trial": trial.id})
    (out / "config.json").write_text(json.dumps(card, indent=1) + "\n")
    (out / "load.py").write_text(LOAD)
    return [f"{out}: {trial.id}, weights.safetensors, config.json, load.py", _onnx(net, images, out)]


def _best(plan: Plan, history: History, run: RunDir, arm: str) -> Trial:
    if arm not in plan.arms:
        raise InputError(f"{run} has no arm {arm!r}: it compares {', '.join(plan.arms)}")
    chosen = any(arm in manifest.in_hand for manifest in history.manifests)
    runs = history.confirmed(arm, history.in_hand(arm)) if chosen else []
    runs = [trial for trial in runs if history.finished(trial.id)]
    if not runs:
        raise InputError(
            f"{run} has no confirmed net of {arm} yet: `python -m study status {run}` shows how far it is"
        )
    return max(runs, key=lambda trial: history.epochs[trial.id][-1].val_score)


class _FromPixels(nn.Module):
    """Pixels 0..255 in, class probabilities out: nothing to get wrong around the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(pixels.float()))
        return logits.softmax(1)


def _onnx(net: nn.Module, images: search_spaces.ImageSpec, out: Path) -> str:
    """Write net.onnx (pixels (n, channels, size, size) -> probabilities), or say why not."""
    pixels = torch.zeros(2, images.channels, images.size, images.size)
    file = out / "net.onnx"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            torch.onnx.export(
                _FromPixels(net).eval(), (pixels,), str(file), input_names=["pixels"], output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("images")},), external_data=False, verbose=False,
            )  # fmt: skip
    except ImportError as error:
        return f"no ONNX: {error.name} is not installed (pip install onnx onnxscript)"
    except Exception as error:  # noqa: BLE001  # an arm may do what ONNX has no word for
        return f"no ONNX: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return f"{file}: pixels 0..255, float32 (n, {images.channels}, {images.size}, {images.size}) -> probabilities"
