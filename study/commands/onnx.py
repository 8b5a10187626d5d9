"""A net as ONNX: pixels in, class probabilities out, and how the pixels come about in the file's own metadata."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import ImageSpec
from study.training.augment import normalise


class _FromPixels(nn.Module):
    """Pixels 0..255 in, class probabilities out: nothing to get wrong around the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(pixels.float()))
        return logits.softmax(1)


def write_onnx(
    net: nn.Module, images: ImageSpec, classes: Sequence[str], how: Mapping[str, Any], file: Path
) -> tuple[str, dict[str, Any] | None]:
    """Write ``file``: a line on it, and what ``config.json`` says of it; or why there is none, and None."""
    whole = _FromPixels(net).eval()
    pixels = torch.randint(256, (2, images.channels, images.size, images.size)).float()
    shape = f"float32 (n, {images.channels}, {images.size}, {images.size}), 0..255"
    about = {
        "file": file.name,
        "input": f"pixels: {shape}, prepared as `preprocessing` says; the net normalises them itself",
        "output": "probabilities: float32 (n, classes), in the order of `classes`",
    }
    try:
        import onnx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            torch.onnx.export(
                whole, (pixels,), str(file), input_names=["pixels"], output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("images")},), external_data=False, verbose=False,
            )  # fmt: skip
        model = onnx.load(str(file))
        told = {"classes": classes, "input": about["input"], **how}
        onnx.helper.set_model_props(
            model,
            {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in told.items()},
        )
        onnx.save(model, str(file))
    except ImportError as error:
        return f"no ONNX: {error.name} is not installed (pip install onnx onnxscript)", None
    except Exception as error:  # noqa: BLE001  # an arm may do what ONNX has no word for
        file.unlink(missing_ok=True)
        return f"no ONNX: {type(error).__name__}: {str(error).splitlines()[0][:200]}", None
    apart = _apart(whole, pixels, file)
    checked = f"; onnxruntime and torch differ by at most {apart:.1g}" if apart is not None else ""
    return f"{file}: pixels {shape} -> probabilities{checked}", about | {"differs_from_torch_by": apart}


def _apart(net: nn.Module, pixels: Tensor, file: Path) -> float | None:
    """The largest difference of a probability between onnxruntime and torch; None without onnxruntime."""
    os.environ.setdefault(
        "ORT_DISABLE_TELEMETRY", "1"
    )  # else 1.32 keeps a database for Microsoft in the home
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (said,) = session.run(None, {"pixels": pixels.numpy()})
    with torch.inference_mode():
        return float(np.abs(said - net(pixels).numpy()).max())
