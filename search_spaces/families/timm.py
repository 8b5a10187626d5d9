"""timm's classifiers: ``--arms timm/resnet50,timm/convnext_nano`` from scratch, ``timm/resnet50.a1_in1k`` from those weights.

Command:   python study/run.py --budget 8gpu-hours --arms timm/resnet50,timm/convnext_nano
Known:     results on ImageNet of every model and tag: github.com/huggingface/pytorch-image-models/tree/main/results.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, adapt_input_conv, get_pretrained_cfg, resolve_model_input_args
from torch import Tensor, nn

from search_spaces import Arm, ArmError, Config, ImageSpec, Published
from search_spaces._names import nearest

logging.getLogger("timm").setLevel(logging.ERROR)  # what did not fit is reported by the study
DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "openai": "OpenAI's CLIP images",
    "webli": "WebLI",
    "dfn5b": "DFN-5B",
    "dfn2b": "DFN-2B",
    "datacompxl": "DataComp-XL",
    "jft": "JFT",
    "ig1b": "Instagram-1B",
    "ssld": "ImageNet-1k and more",
    "cc12m": "CC12M",
}
"""What the parts of timm's tags say of the images."""


def names() -> list[str]:
    return [str(name) for name in timm.list_models()]


def arm(name: str) -> Arm:
    model, dot, tag = name.partition(".")
    if model not in names():
        raise ArmError(f"timm has no {model!r}. The nearest are {', '.join(nearest(model, names()))}")
    tags = [full for full in timm.list_models(f"{model}.*", pretrained=True) if "." in full]
    if dot and name not in tags:
        there = f"There are {', '.join(nearest(name, tags))}" if tags else "There are none"
        raise ArmError(
            f"timm has no weights {tag!r} of {model}. {there}; without a tag it trains from scratch"
        )
    takes = ("drop_path",) if _takes(model, "drop_path_rate") else ()
    return Arm(
        functools.partial(_build, name),
        takes=takes,
        weights=bool(tag),
        begin=functools.partial(_build, name),
        published=_published(name),
    )


def _build(
    name: str, config: Config, images: ImageSpec, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    asked = {"img_size": images.size, "in_chans": images.channels}
    how: dict[str, Any] = dict(resolve_model_input_args(name, asked))
    if "drop_path" in config:
        how["drop_path_rate"] = float(config["drop_path"])
    if weights is not None:
        how |= {"pretrained": True, "pretrained_cfg": how["pretrained_cfg"] | _as_they_are(name, weights)}
    net: nn.Module = timm.create_model(**how, num_classes=images.classes)
    if weights is not None:
        own = {name: value for name, value in how["pretrained_cfg"].items() if name != "state_dict"}
        vars(net).update(pretrained_cfg=own, default_cfg=own)  # else the net keeps the weights twice
    return net


def of_channels(channels: int, weight: Tensor) -> Tensor:
    """A first convolution's weights, ``(out, in, height, width)``, for this many channels: summed for one, else repeated."""
    adapted: Tensor = adapt_input_conv(channels, weight, weight.shape[1])
    return adapted


def _as_they_are(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What timm has to know to adapt these weights: their classes and channels, as they may be of another study's net."""
    cfg = get_pretrained_cfg(name) or PretrainedCfg()
    heads = (cfg.classifier,) if isinstance(cfg.classifier, str) else cfg.classifier or ()
    found = [len(weights[f"{head}.weight"]) for head in heads if f"{head}.weight" in weights]
    first = weights.get(f"{cfg.first_conv}.weight")
    channels = first.shape[1] if first is not None and first.ndim == 4 else cfg.input_size[0]
    return {
        "state_dict": dict(weights),
        "num_classes": found[0] if found else -1,
        "label_offset": 0,
        "input_size": (channels, *cfg.input_size[1:]),
    }


@functools.cache
def _takes(model: str, argument: str) -> bool:
    """Whether the model is built with this argument."""
    how: dict[str, Any] = {argument: 0.1}
    try:
        with torch.device("meta"):
            timm.create_model(model, **how)
    except (TypeError, AttributeError):
        return False
    return True


def _published(name: str) -> Published | None:
    cfg = get_pretrained_cfg(name)
    if cfg is None:
        return None
    safe = cfg.hf_hub_filename or "model.safetensors"
    return Published(
        repository=cfg.hf_hub_id or "",
        file=safe,
        images=_images(cfg.tag or ""),
        size=int(cfg.input_size[-1]),
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
    )


def _images(tag: str) -> str:
    parts = [DATA[part] for part in tag.split("_") if part in DATA]
    return ", then ".join(dict.fromkeys(parts)) or f"timm's tag {tag!r} does not say which"
