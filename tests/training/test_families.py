"""Arms of families: each builds for the study's images, learns, stops and resumes to the same bits, and says what it cannot do."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.plans import AUDIT, PLAN, one_core
from support.training import CPU, measures

import search_spaces
from search_spaces import ArmError, ImageSpec
from study.data import weights
from study.data.images import Images
from study.execution.final_test import probabilities_of
from study.protocol.plan import Plan
from study.protocol.records import Trial
from study.training import beginning
from study.training.checkpoint import pack, unpack
from study.training.evaluation import predict
from study.training.loop import build
from study.training.trial import training

SMALL = (
    ("timm/test_resnet", "sgd"),
    ("timm/test_vit", "modern"),
    ("timm/test_convnext", "finetune"),
    ("torchvision/mobilenet_v3_small", "sgd"),
)
TIMM = (
    "convnext_atto",
    "deit_tiny_patch16_224",
    "edgenext_xx_small",
    "efficientnet_b0",
    "ghostnet_050",
    "gmixer_12_224",
    "levit_128s",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "regnetx_002",
    "resnet10t",
    "resnext26ts",
    "swin_tiny_patch4_window7_224",
    "test_mambaout",
    "vit_tiny_patch16_224",
)
RECIPES = search_spaces.recipe_names()
LONG = tuple(
    pytest.param(
        f"timm/{name}", recipe, marks=pytest.mark.long if place % len(RECIPES) == turn else pytest.mark.nets
    )
    for place, name in enumerate(TIMM)
    for turn, recipe in enumerate(RECIPES)
)
"""Each net by one recipe in the long tests, by every recipe with ``pytest -m nets``."""


def shades(size: int, channels: int = 3, each: int = 24) -> Images:
    """Two classes that differ in which half of the image is bright."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (2 * each, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(2 * each) % 2
    pixels[labels == 0, :, : size // 2] += 120
    pixels[labels == 1, :, size // 2 :] += 120
    return Images(pixels.numpy(), labels.numpy())


def plan_of(arm: str, images: Images, recipe: str = "sgd") -> Plan:
    card = dataclasses.replace(
        PLAN.data, train=len(images), size=images.shape[-1], channels=images.shape[1], test=len(images)
    )
    return dataclasses.replace(
        one_core(card),
        arms=(arm,),
        audits={arm: AUDIT},
        probe_cost={arm: 1.0},
        batch_sizes=(8,),
        recipe=recipe,
    )


def trial_of(arm: str, epochs: int = 1, recipe: str = "sgd", **changes: float | str) -> Trial:
    config = {
        **search_spaces.load(arm, recipe).default(),
        "batch_size": 8,
        "augment": "none",
        **({"adamw_lr": 0.0003} if recipe == "modern" else {"lr": 0.001}),
        **changes,
    }
    return Trial(
        id="t", arm=arm, phase="search", index=0, pair=0, config=config, seed=1, fold=0, epochs=epochs
    )


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize(("arm", "recipe"), [*SMALL, *LONG])
def test_it_trains_resumes_to_the_same_bits_and_predicts_the_same(
    arm: str, recipe: str, size: int, tmp_path: Path
) -> None:
    images = shades(size)
    plan, trial = plan_of(arm, images, recipe), trial_of(arm, recipe=recipe)
    beginning.check(arm, search_spaces.load(arm), ImageSpec(channels=3, size=size, classes=2))
    whole, stopped = (training(plan, trial, images, CPU) for _ in range(2))
    assert stopped.advance(0.0) is None
    resumed = training(plan, trial, images, CPU)
    state = unpack(pack(stopped.state()), CPU)
    assert state is not None
    resumed.load(state)
    assert measures([*whole.epochs()]) == measures([*resumed.epochs()])
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name
    said = predict(whole.net, torch.from_numpy(images.pixels), torch.arange(len(images)))
    again = probabilities_of(plan, arm, trial.config, pack(whole.state(final=True)), images)
    assert said.numpy().tobytes() == again.tobytes()
    state = whole.net.state_dict()
    weights.write(tmp_path, state, trial="t", data="shades", size=size, seen=tmp_path / "none")
    it = ImageSpec(channels=3, size=size, classes=2)
    exported = build(search_spaces.load(arm, recipe), trial.config, it, seed=2, device=CPU)
    exported.load_state_dict(load_file(tmp_path / weights.FILE))
    there = predict(exported, torch.from_numpy(images.pixels), torch.arange(len(images)))
    assert said.numpy().tobytes() == there.numpy().tobytes()


@pytest.mark.parametrize("arm", ["timm/test_resnet", "timm/test_convnext", "torchvision/resnet18"])
def test_each_family_learns_what_can_be_learnt(arm: str) -> None:
    images = shades(32, each=48)
    run = training(plan_of(arm, images), trial_of(arm, epochs=6, lr=0.02), images, CPU)
    assert [*run.epochs()][-1].val_accuracy > 0.9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize(
    "arm", ["timm/test_vit", "timm/test_efficientnet", "torchvision/resnet18", "torchvision/vit_b_16"]
)
def test_it_is_built_for_the_studys_images(arm: str, size: int, channels: int) -> None:
    beginning.check(arm, search_spaces.load(arm), ImageSpec(channels=channels, size=size, classes=7))


@pytest.mark.parametrize(
    ("arm", "size", "channels", "says"),
    [
        ("torchvision/inception_v3", 32, 3, r"images of 32 x 32 pixels .*--size \d+"),
        ("torchvision/vit_b_16", 24, 3, "It takes images of 16 or 32 pixels: --size 16"),
        ("timm/inception_v3", 32, 1, "with 1 channels: .*: --size"),
        ("timm/crossvit_9_240", 224, 3, "It takes images of 240 or 120 pixels"),
    ],
)
def test_sizes_and_channels_that_it_cannot_take_are_refused(
    arm: str, size: int, channels: int, says: str
) -> None:
    images = ImageSpec(channels=channels, size=size, classes=7)
    with pytest.raises(ArmError, match=f"{arm}.*{says}"):
        beginning.check(arm, search_spaces.load(arm), images)
