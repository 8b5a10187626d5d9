"""torchvision's classifiers: ``--arms torchvision/resnet18,torchvision/mobilenet_v3_small``, from scratch.

Command:   python study/run.py --budget 8gpu-hours --arms torchvision/resnet18,torchvision/convnext_tiny
Known:     torchvision publishes its weights as pickles, which are not read; ``timm/NAME.tag`` has most of them as safetensors.
"""

from typing import Any

from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth

from search_spaces import Arm, ArmError, Config, ImageSpec
from search_spaces._names import nearest

DEEP = ("convnext", "efficientnet", "maxvit", "swin")
"""Its nets with stochastic depth."""
SIZED = "image_size"
"""What its transformers call the size that they are built for."""


def names() -> list[str]:
    return [str(name) for name in models.list_models(module=models)]


def arm(name: str) -> Arm:
    if name not in names():
        raise ArmError(f"torchvision has no {name!r}. The nearest are {', '.join(nearest(name, names()))}")

    def build(config: Config, images: ImageSpec) -> nn.Module:
        sized = {SIZED: images.size} if name.startswith("vit_") else {}
        extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        net: nn.Module = models.get_model(name, weights=None, num_classes=images.classes, **sized, **extra)
        if images.channels != 3:
            _of_channels(net, images.channels)
        _regularise(net, float(config.get("drop_path", 0.0)))
        return net

    return Arm(build, takes=("drop_path",) if name.startswith(DEEP) else ())


def _regularise(net: nn.Module, drop_path: float) -> None:
    """Stochastic depth as the recipe says, rising to ``drop_path`` as torchvision has it; no dropout, which no recipe searches."""
    deep = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    most = max((module.p for module in deep), default=0.0) or 1.0
    for module in deep:
        module.p *= drop_path / most
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _of_channels(net: nn.Module, channels: int) -> None:
    """Its first convolution takes this many; torchvision's constructors know colour images only."""
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            parent, _, own = path.rpartition(".")
            how: Any = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding")}
            first = nn.Conv2d(channels, module.out_channels, **how, bias=module.bias is not None)
            setattr(net.get_submodule(parent), own, first)
            return
    raise ArmError("it has no convolution of three channels to begin with")
