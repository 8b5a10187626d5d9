"""One suite for every arm file: a new arm is tested without a new test."""

import json
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import search_spaces
from search_spaces import Arm, Choice, Config, ImageSpec, resnext50, small_resnext, tiny_resnext
from search_spaces._shared import (
    BLOCKS_50,
    PLANES_50,
    BottleneckNet,
    Stem,
    body_macs,
    large_stem,
    mac_deviation,
    matched_base_width,
    small_stem,
)
from study.scheduling.spaces import RESIZED_CROPS
from study.training.augment import POLICIES

ARMS = search_spaces.names()
IMAGES = ImageSpec(channels=3, size=32, classes=10)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def on_meta(arm: Arm, images: ImageSpec = IMAGES, config: Config | None = None) -> nn.Module:
    with torch.device("meta"):
        return arm.build({**arm.default(), **(config or {})}, images)


def macs(net: nn.Module, images: ImageSpec = IMAGES) -> int:
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.empty(1, images.channels, images.size, images.size, device="meta"))
    return int(counter.get_total_flops()) // 2


def extremes(arm: Arm) -> list[Config]:
    found = []
    for name, axis in arm.space.items():
        ends = axis.options if isinstance(axis, Choice) else (axis.low, axis.high)
        found += [{name: end} for end in ends]
    return found


@pytest.mark.parametrize("name", ARMS)
def test_shares_the_recipe(name: str) -> None:
    for recipe in search_spaces.recipe_names():
        space, shared = search_spaces.load(name, recipe).space, search_spaces.load_recipe(recipe).space
        assert list(space)[: len(shared)] == list(shared)
        assert {key: space[key] for key in shared} == dict(shared)


@pytest.mark.parametrize("name", ARMS)
def test_default_survives_json(name: str) -> None:
    default = search_spaces.load(name).default()
    assert json.loads(json.dumps(default)) == default


@pytest.mark.parametrize("name", ARMS)
def test_the_docstring_states_command_and_expected_result(name: str) -> None:
    doc = __import__(f"search_spaces.{name}", fromlist=["ARM"]).__doc__ or ""
    assert "python study/run.py --budget" in doc
    assert name in doc.partition("Cost:")[0]
    assert "Cost:" in doc
    assert "Expected:" in doc or "Known:" in doc


@pytest.mark.parametrize("size", [8, 28, 96])
@pytest.mark.parametrize("name", ARMS)
def test_returns_logits_at_any_size(name: str, size: int) -> None:
    for channels in (1, 3):
        images = ImageSpec(channels=channels, size=size, classes=7)
        net = on_meta(search_spaces.load(name), images)
        assert net(torch.empty(2, channels, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (96, 3)])
@pytest.mark.parametrize("name", ARMS)
def test_learns_from_a_batch(name: str, size: int, channels: int) -> None:
    torch.manual_seed(0)
    arm = search_spaces.load(name)
    net = arm.build(arm.default(), ImageSpec(channels=channels, size=size, classes=5))
    logits = net(torch.randn(2, channels, size, size))
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()  # type: ignore[no-untyped-call]
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ARMS)
def test_every_end_of_every_axis_builds(name: str) -> None:
    arm = search_spaces.load(name)
    for config in extremes(arm):
        on_meta(arm, config=config)


@pytest.mark.parametrize("name", ["small_resnext", "tiny_resnext"])
def test_small_pairs_match_in_macs(name: str) -> None:
    arm, other = search_spaces.load(name), search_spaces.load(name.replace("resnext", "resnet"))
    axis = arm.space["cardinality"]
    assert isinstance(axis, Choice)
    for cardinality in axis.options:
        for size in (8, 32, 96):
            images = ImageSpec(channels=3, size=size, classes=10)
            ratio = macs(on_meta(arm, images, {"cardinality": cardinality}), images) / macs(
                on_meta(other, images), images
            )
            assert ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("module", "stated"),
    [
        (resnext50, {2: 0.9, 4: 1.8, 8: 4.5, 16: 1.3, 32: 3.6, 64: 0.6}),
        (small_resnext, {2: -2.0, 4: -2.0, 8: -0.5}),
        (tiny_resnext, {2: 1.5, 4: 3.0}),
    ],
)
def test_deviations_are_those_stated(module: ModuleType, stated: dict[int, float]) -> None:
    planes, blocks = getattr(module, "PLANES", PLANES_50), getattr(module, "BLOCKS", BLOCKS_50)
    for cardinality, percent in stated.items():
        width = module.base_width(cardinality)
        assert round(100 * mac_deviation(cardinality, width, planes, blocks), 1) == percent
        assert f"{cardinality}: {percent:+.1f} %" in (module.__doc__ or "")
    options = module.ARM.space["cardinality"].options
    assert set(options) == set(stated)


def test_cardinalities_left_out_of_the_small_net_cannot_be_matched() -> None:
    for module, cardinality in ((small_resnext, 16), (tiny_resnext, 8)):
        width = matched_base_width(cardinality, module.PLANES, module.BLOCKS)
        assert abs(mac_deviation(cardinality, width, module.PLANES, module.BLOCKS)) > 0.03


def test_cardinality_one_needs_no_solving() -> None:
    assert matched_base_width(1, PLANES_50, BLOCKS_50) == 64


def net_50(images: ImageSpec, cardinality: int, width: float) -> BottleneckNet:
    """ResNet-50's shape with the large stem."""
    return BottleneckNet(
        images,
        stem=large_stem(images),
        planes=PLANES_50,
        blocks=BLOCKS_50,
        cardinality=cardinality,
        base_width=width,
    )


@pytest.mark.parametrize(("cardinality", "width"), [(1, 64.0), (32, 4.0), (16, 7.5)])
def test_closed_form_counts_what_the_net_does(cardinality: int, width: float) -> None:
    images = ImageSpec(channels=3, size=224, classes=10)
    with torch.device("meta"):
        net = net_50(images, cardinality, width)
    stem_and_head = 64 * 3 * 49 * 112**2 + 2048 * 10
    body = body_macs(PLANES_50, BLOCKS_50, cardinality=cardinality, base_width=width, side=56)
    assert macs(net, images) == body + stem_and_head


@pytest.mark.parametrize(
    ("theirs", "cardinality", "width"), [(models.resnet50, 1, 64), (models.resnext50_32x4d, 32, 4)]
)
def test_with_imagenet_stem_it_is_torchvisions_net(
    theirs: Callable[..., nn.Module], cardinality: int, width: int
) -> None:
    images = ImageSpec(channels=3, size=224, classes=1000)
    torch.manual_seed(3)
    expected = theirs(weights=None)
    torch.manual_seed(3)
    net = net_50(images, cardinality, width)
    ours, known = net.state_dict(), expected.state_dict()
    assert list(ours) == list(known)
    assert all(torch.equal(ours[key], known[key]) for key in known)  # the same draw of initial weights
    net.load_state_dict(known)
    batch = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.train()(batch), expected.train()(batch))


def test_stems_follow_the_image_size() -> None:
    def at(size: int) -> ImageSpec:
        return ImageSpec(channels=3, size=size, classes=2)

    assert [large_stem(at(s)).stride for s in (8, 64, 65, 224)] == [1, 1, 2, 2]
    assert [small_stem(at(s)).stride for s in (8, 16, 17, 64)] == [1, 1, 2, 2]
    assert large_stem(at(65)) == Stem(kernel=7, stride=2, pool=True)
    assert [small_stem(at(s)).pool for s in (64, 65)] == [False, True]


def test_the_recipe_knows_every_policy() -> None:
    axis = search_spaces.load_recipe("sgd").space["augment"]
    assert isinstance(axis, Choice)
    assert {*axis.options, *RESIZED_CROPS} == set(POLICIES)
