"""Recipes and families of nets together: each net builds, trains two steps and resumes to the same bits, small and at 96 pixels."""

import dataclasses
from typing import Any

import pytest
import torch
from support.training import CPU

import search_spaces
from search_spaces import Config, ImageSpec
from study.protocol.records import Trial
from study.training.checkpoint import pack, unpack
from study.training.evaluation import Split
from study.training.loop import Training, build

NETS = (
    *("resnet10t", "resnext26ts", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002"),
    *("mixer_s32_224", "ghostnet_050", "mobilevit_xxs", "edgenext_xx_small", "densenet121"),
)
RECIPES = search_spaces.recipe_names()
BUSY: dict[str, dict[str, Any]] = {
    "sgd": {},
    "modern": {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25, "averaging": 0.99, "drop_path": 0.1},
    "finetune": {"layer_decay": 0.75, "frozen": 0.5, "mixup": 0.2, "drop_path": 0.1},
}
BATCH = 4
KEPT = {"sgd": 1, "modern": 3, "finetune": 2}
"""Copies of the trained weights that a run keeps beside them: momentum; two moments and an average; two moments."""


def kept(run: Training) -> int:
    """Numbers that the run keeps beside its weights."""
    state = run.state()
    moments = [t for of in state["optimizer"]["state"].values() for t in of.values() if t is not None]
    return sum(t.numel() for t in [*moments, *state.get("average", {}).get("kept", {}).values()])


def two_steps(name: str, recipe: str, size: int) -> None:
    arm = search_spaces.load(f"timm/{name}", recipe)
    images = ImageSpec(channels=3, size=size, classes=5)
    known = {key: value for key, value in BUSY[recipe].items() if key in arm.space}
    config: Config = {**arm.default(), "batch_size": BATCH, **known}
    draw = torch.Generator().manual_seed(1)
    rows = torch.arange(2 * BATCH)
    data = Split(
        images=torch.randint(256, (len(rows), 3, size, size), dtype=torch.uint8, generator=draw),
        labels=rows % 5,
        train=rows,
        val=rows[:BATCH],
    )
    asked = Trial(id="t", arm=name, phase="search", index=0, pair=0, config=config, seed=3, fold=0, epochs=1)

    def a_run() -> Training:
        net = build(arm, config, images, seed=asked.seed, device=CPU)
        return Training(net, asked, data, classes=5, warmup=arm.warmup)

    whole, part = a_run(), a_run()
    before = [p.detach().clone() for p in whole.net.parameters()]
    (expected,) = whole.epochs()
    assert any(not torch.equal(a, b) for a, b in zip(before, whole.net.parameters(), strict=True))
    assert part.advance(0.0) is None
    state = unpack(pack(part.state()), CPU)
    trained = sum(p.numel() for p in part.net.parameters() if p.requires_grad)
    assert kept(part) < KEPT[recipe] * trained * 1.02 + 10_000
    again = a_run()
    again.load(state or {})
    (found,) = again.epochs()
    assert dataclasses.replace(found, train_seconds=0, eval_seconds=0) == dataclasses.replace(
        expected, train_seconds=0, eval_seconds=0
    )
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[key]), key


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_nets_train_and_resume_to_the_same_bits(name: str, recipe: str) -> None:
    torch.set_num_threads(1)
    two_steps(name, recipe, 32)


@pytest.mark.nets
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_net_trains_by_every_recipe_and_resumes_to_the_same_bits(
    name: str, recipe: str, size: int
) -> None:
    torch.set_num_threads(1)
    two_steps(name, recipe, size)
