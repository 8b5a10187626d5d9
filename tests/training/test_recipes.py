"""Every recipe through the one loop: it repeats itself, stops anywhere, waits for nothing, and learns."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

import search_spaces
from search_spaces import Config, ImageSpec, load, load_recipe
from search_spaces._weights import head_of
from study.protocol.records import Epoch, Trial
from study.scheduling.spaces import known, restrict
from study.training import beginning, evaluation, loop
from study.training.averaging import Average
from study.training.checkpoint import pack, unpack
from study.training.evaluation import Split
from study.training.loop import Training, build
from study.training.mixing import AREA, ASPECT, Mixing, erase
from study.training.optimizers import learning_rates
from study.training.parameters import Group, freeze, groups, layers

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SPEC = ImageSpec(channels=3, size=16, classes=4)
BATCH, IMAGES, HELD_OUT = 8, 30, 10
RECIPES = search_spaces.recipe_names()
MIXED: dict[str, Any] = {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25, "averaging": 0.99}
BUSY: dict[str, tuple[str, dict[str, Any]]] = {
    "modern adamw": ("modern", MIXED),
    "modern sgd": ("modern", {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "augment": "trivial", **MIXED}),
    "modern averaged": ("modern", {"averaging": 0.999}),
    "finetune adamw": ("finetune", {"layer_decay": 0.75, "frozen": 0.5, "mixup": 0.2}),
    "finetune sgd": ("finetune", {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-4, "layer_decay": 0.65}),
    "linear probe": ("finetune", {"frozen": 1.0}),
}  # fmt: skip
"""Settings that use all that a recipe has."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(spec: ImageSpec = SPEC) -> Split:
    draw = torch.Generator().manual_seed(5)
    count = IMAGES + HELD_OUT
    return Split(
        images=torch.randint(
            256, (count, spec.channels, spec.size, spec.size), dtype=torch.uint8, generator=draw
        ),
        labels=torch.randint(spec.classes, (count,), generator=draw),
        train=torch.arange(IMAGES),
        val=torch.arange(IMAGES, count),
    )


def trial(recipe: str, *, epochs: int = 2, **changes: Any) -> Trial:
    config: Config = {**load("tiny_resnet", recipe).default(), "batch_size": BATCH, **changes}
    return Trial(
        id="t", arm="a", phase="search", index=0, pair=0, config=config, seed=3, fold=0, epochs=epochs
    )


def a_run(asked: Trial) -> Training:
    net = build(load("tiny_resnet"), asked.config, SPEC, seed=asked.seed, device=CPU)
    return Training(net, asked, data(), classes=SPEC.classes)


def timeless(epoch: Epoch) -> Epoch:
    return dataclasses.replace(epoch, train_seconds=0.0, eval_seconds=0.0, data_seconds=0.0)


def weights(run: Training) -> list[Tensor]:
    return [value.clone() for value in run.net.state_dict().values()]


@pytest.mark.parametrize("name", BUSY)
def test_a_run_stopped_at_any_step_and_moved_gives_the_same_digits(name: str) -> None:
    recipe, changes = BUSY[name]
    asked = trial(recipe, **changes)
    whole = a_run(asked)
    expected = [timeless(e) for e in whole.epochs()]
    for stop in range(1, 2 * (IMAGES // BATCH)):
        run, found = a_run(asked), []
        for _ in range(stop):
            found += [epoch for epoch in [run.advance(0.0)] if epoch]
        state = unpack(pack(run.state()), CPU)
        assert state is not None
        again = a_run(asked)
        again.load(state)
        found += again.epochs()
        assert [timeless(e) for e in found] == expected
        assert all(map(torch.equal, weights(whole), weights(again)))


@pytest.mark.parametrize("arm", ["tiny_resnext", "resnet50"])
@pytest.mark.parametrize("name", BUSY)
def test_nothing_in_a_step_waits_for_the_device(name: str, arm: str) -> None:
    """Under FakeTensorMode tensors have no values: reading one, as ``.item()`` does, fails."""
    recipe, changes = BUSY[name]
    spec = ImageSpec(channels=3, size=32, classes=10)
    own: dict[str, Any] = load(arm, recipe).default()
    asked = trial(recipe, **{**own, "batch_size": BATCH, **changes})
    with FakeTensorMode():
        net = load(arm).build(asked.config, spec)
        images = torch.zeros((IMAGES, 3, 32, 32), dtype=torch.uint8)
        rows, labels = torch.arange(IMAGES), torch.zeros(IMAGES, dtype=torch.int64)
        run = Training(net, asked, Split(images=images, labels=labels, train=rows, val=rows), classes=10)
        run._generator = run._step._generator = None  # type: ignore[assignment]  # has no fake twin
        run._method.train()
        run._step.run()
        run._step.run()


@pytest.mark.parametrize("name", BUSY)
def test_bfloat16_copies_of_the_weights_give_autocasts_digits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "mixed_precision", lambda _: torch.autocast("cpu", dtype=torch.bfloat16))
    recipe, changes = BUSY[name]
    asked = trial(recipe, **changes)
    runs = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(loop, "HALVED", devices)
        runs.append(a_run(asked))
    plain, half = runs
    assert {p.dtype for p in half.net.parameters()} == {torch.bfloat16, torch.float32}
    assert half.advance(0.0) is None
    state = unpack(pack(half.state()), CPU)
    half = a_run(asked)
    half.load(state or {})
    assert [timeless(e) for e in plain.epochs()] == [timeless(e) for e in half.epochs()]
    assert all(map(torch.equal, weights(plain), weights(half)))
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}


class Striped(nn.Module):
    """Enough to tell bright from dark."""

    def __init__(self, images: ImageSpec) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(images.channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, images.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def separable(spec: ImageSpec, *, count: int = 240) -> Split:
    """Images whose brightness is their class."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % spec.classes
    bright = 40 + 170 * labels.float() / (spec.classes - 1)
    noise = 20 * torch.randn((count, spec.channels, spec.size, spec.size), generator=draw)
    images = (bright[:, None, None, None] + noise).clamp(0, 255).to(torch.uint8)
    rows = torch.randperm(count, generator=draw)
    return Split(images=images, labels=labels, train=rows[:160], val=rows[160:])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_default_learns_a_separable_set_and_known_settings_come_near(recipe: str) -> None:
    """In 200 steps, from scratch: some known settings are slow ones."""
    space = load_recipe(recipe)
    for named in ({}, *(one.config for one in space.known)):
        config: Config = {}
        for name, axis in space.space.items():
            if axis.active(config):
                config[name] = named.get(name, axis.default)
        config |= {"batch_size": 16, "augment": "flip"}
        spec = ImageSpec(channels=3, size=8, classes=3)
        asked = dataclasses.replace(trial(recipe, epochs=20), config=config)
        torch.manual_seed(0)
        run = Training(Striped(spec), asked, separable(spec), classes=3, warmup=space.warmup)
        curve = list(run.epochs())
        assert max(e.val_accuracy for e in curve) > (0.6 if named else 0.9), config


def test_the_average_begins_young_and_is_what_counts() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = Average(net, 0.5, None)
    kept = first = float(net.weight.detach())
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0), start=1):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update()
        keep = min(0.5, (1 + step) / (10 + step))
        kept = keep * kept + (1 - keep) * value
    assert first != kept
    with average.shown():
        assert float(net.weight.detach()) == pytest.approx(kept)
    assert float(net.weight.detach()) == 4.0
    average.settle()
    assert float(net.weight.detach()) == pytest.approx(kept)


def test_averaged_weights_are_evaluated_and_kept() -> None:
    run = a_run(trial("modern", averaging=0.999))
    first, last = run.epochs()
    val_loss, val_accuracy, _ = evaluation.validate(run.net, data())
    assert (val_loss, val_accuracy) == (last.val_loss, last.val_accuracy)
    assert run.state(final=True)["net"].keys() == run.net.state_dict().keys()
    assert first.val_loss != last.val_loss


def test_mixed_batches_have_the_published_shares() -> None:
    side, steps = 32, 4000
    mixing = Mixing({"mixup": 0.8, "cutmix": 1.0}, steps=steps, side=side, device=CPU)
    mixing.begin(7, 1)
    boxes = mixing._boxes
    cut = (boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / side**2
    torch.testing.assert_close(mixing._shares[cut], (1 - area)[cut])
    assert float(cut.float().mean()) == pytest.approx(0.5, abs=0.05)
    shares = mixing._shares[mixing._blends < 1]
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.1)  # of Beta(a, a)
    other = Mixing({"mixup": 0.8, "cutmix": 1.0}, steps=steps, side=side, device=CPU)
    other.begin(7, 1)
    assert torch.equal(mixing._shares, other._shares)
    other.begin(7, 2)
    assert not torch.equal(mixing._shares, other._shares)


def test_a_mixed_batch_is_its_images_and_partners_in_the_labels_share() -> None:
    images, labels = torch.randn(6, 3, 12, 12), torch.arange(6) % 4
    for config in ({"mixup": 0.8}, {"cutmix": 1.0}):
        mixing = Mixing(dict(config), steps=20, side=12, device=CPU)
        mixing.begin(1, 1)
        for step in range(20):
            index = torch.tensor([step])
            mixed, share = mixing.mix(images, index), float(mixing._shares[step])
            whole = mixing.mix(
                torch.ones_like(images).where(torch.arange(6)[:, None, None, None] < 3, 0.0), index
            )
            assert float(whole[0].mean()) == pytest.approx(share, abs=1e-5)
            assert mixed.shape == images.shape
            logits = torch.randn(6, 4)
            loss = mixing.weigh(functools.partial(functional.cross_entropy, logits), labels, index)
            soft = share * functional.one_hot(labels, 4) + (1 - share) * functional.one_hot(labels.flip(0), 4)
            torch.testing.assert_close(loss, functional.cross_entropy(logits, soft.float()))


def test_erasing_hits_its_share_of_images_with_rectangles_of_the_published_sizes() -> None:
    images = torch.full((4000, 1, 32, 32), 100.0)
    out = erase(images, 0.25, torch.Generator().manual_seed(0))
    hole = out[:, 0] != 100
    hit = hole.any(2).any(1)
    assert float(hit.float().mean()) == pytest.approx(0.25, abs=0.03)
    area = hole[hit].float().mean((1, 2))
    assert AREA[0] * 0.4 < float(area.min())
    assert float(area.max()) <= AREA[1] * 1.15
    assert float(area.mean()) == pytest.approx(sum(AREA) / 2, rel=0.1)
    tall, wide = hole[hit].any(2).sum(1), hole[hit].any(1).sum(1)
    assert torch.equal(hole[hit].sum((1, 2)), tall * wide)  # rectangles, nowhere cut off
    assert float((tall / wide).log().median().abs()) < 0.15
    assert float((tall / wide).max()) < 2 * ASPECT[1]
    assert float(out[:, 0][hole].mean()) == pytest.approx(0, abs=0.02)
    assert torch.equal(out[~hit], images[~hit])


def test_decay_spares_norms_and_biases_under_adamw_and_nothing_under_sgd() -> None:
    net = load("tiny_resnet").build(load("tiny_resnet").default(), SPEC)
    (all_of_it,) = groups(net, {}, all_decay=True)
    assert list(map(id, all_of_it.parameters)) == list(map(id, net.parameters()))
    assert all_of_it == Group(parameters=all_of_it.parameters, scale=1.0, decays=True)
    parts = {group.decays: group.parameters for group in groups(net, {}, all_decay=False)}
    assert {p.ndim for p in parts[True]} == {2, 4}
    assert {p.ndim for p in parts[False]} == {1}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_layers_decay_as_timms_own_groups(name: str) -> None:
    import timm
    from timm.optim._param_groups import param_groups_layer_decay

    model: Any = timm.create_model(name, num_classes=4)
    theirs = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=model.no_weight_decay()
        if hasattr(model, "no_weight_decay") else (),
    )  # fmt: skip
    expected = {id(p): (g["lr_scale"], g["weight_decay"] > 0) for g in theirs for p in g["params"]}
    for net in (model, nn.Sequential(nn.Identity(), model)):  # an arm may wrap it
        ours = groups(net, {"layer_decay": 0.75}, all_decay=False)
        found = {id(p): (g.scale, g.decays) for g in ours for p in g.parameters}
        assert found.keys() == expected.keys()
        for key, (scale, decays) in expected.items():
            assert found[key][0] == pytest.approx(scale)
            assert found[key][1] == decays
        (classifier,) = head_of(net)
        assert classifier.endswith(str(model.pretrained_cfg["classifier"]))


@pytest.mark.parametrize("name", ["levit_128s", "repvit_m0_9", "crossvit_9_240", "efficientvim_m1"])
def test_all_that_depends_on_the_classes_is_the_head(name: str) -> None:
    import timm

    with torch.device("meta"):
        few, many = (timm.create_model(name, num_classes=classes) for classes in (4, 5))
    other = dict(many.named_parameters())
    (fast,) = {g.scale for g in groups(few, {"head_factor": 10.0}, all_decay=True)} - {1.0}
    head = {
        id(p)
        for g in groups(few, {"head_factor": 10.0}, all_decay=True)
        if g.scale == fast
        for p in g.parameters
    }
    ends = [n for n, p in few.named_parameters() if p.shape != other[n].shape]
    assert len(ends) > 2
    assert {id(few.get_parameter(n)) for n in ends} <= head


def test_other_nets_have_layers_too_and_the_head_comes_last() -> None:
    net = load("tiny_resnet").build(load("tiny_resnet").default(), SPEC)
    found = layers(net)
    assert found.keys() == dict(net.named_parameters()).keys()
    assert head_of(net) == ("fc",)
    assert {name for name, layer in found.items() if layer == max(found.values())} == {"fc.weight", "fc.bias"}
    assert list(found.values()) == sorted(found.values())
    assert max(found.values()) > 3


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_frozen_layers_keep_weights_and_statistics(share: float) -> None:
    run = a_run(trial("finetune", frozen=share))
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    list(run.epochs())
    changed = {name for name, value in run.net.state_dict().items() if not torch.equal(value, before[name])}
    layer_of = layers(run.net)
    first = round(share * max(layer_of.values()))
    trained = {name for name, layer in layer_of.items() if layer >= first}
    assert {name for name in changed if name in layer_of} == trained
    if share == 1:
        assert changed == {"fc.weight", "fc.bias"}


def test_nothing_is_frozen_by_default() -> None:
    net = load("tiny_resnet").build(load("tiny_resnet").default(), SPEC)
    assert freeze(net, 0.0) == []
    assert all(p.requires_grad for p in net.parameters())


def test_each_group_has_its_rate_at_every_step() -> None:
    asked = trial("finetune", epochs=4)
    parts = [Group(parameters=[], scale=scale, decays=True) for scale in (1.0, 10.0, 0.25)]
    steps = [rates for epoch in range(4) for rates in learning_rates(asked, epoch, 10, parts, 0.1)]
    body, head, slow = np.array(steps).T
    np.testing.assert_allclose(head, 10 * body)
    np.testing.assert_allclose(slow, body / 4)
    assert body.argmax() in (3, 4)
    assert body.max() == pytest.approx(float(asked.config["adamw_lr"]), rel=0.02)
    assert body[-1] < 0.01 * body.max()
    assert math.isclose(body[0], float(asked.config["adamw_lr"]) * 0.125)


def test_fine_tuning_is_the_default_only_where_all_arms_have_weights() -> None:
    fresh, trained = load("tiny_resnet"), dataclasses.replace(load("tiny_resnet"), weights=True)
    found = [search_spaces.usual_recipe(arms) for arms in ([fresh], [fresh, trained], [trained, trained])]
    assert found == ["sgd", "sgd", "finetune"]


def test_an_arm_cannot_have_a_recipes_axis() -> None:
    own = dataclasses.replace(load("tiny_resnet"), space={"lr": load("tiny_resnet").space["lr"]})
    with pytest.raises(search_spaces.ArmError, match="axis 'lr', which is the recipe's"):
        load_recipe("sgd").compose("mine", own)


def test_offered_axes_come_between_the_recipes_and_the_arms() -> None:
    arm = dataclasses.replace(load("tiny_resnet"), space={}, takes=("drop_path", "unknown"))
    assert "drop_path" not in load_recipe("sgd").compose("mine", arm).space
    assert list(load_recipe("modern").compose("mine", arm).space)[-1] == "drop_path"


@pytest.mark.parametrize("recipe", RECIPES)
def test_known_settings_lie_in_the_recipe_and_have_sources(recipe: str) -> None:
    made = load_recipe(recipe)
    space = {**made.space, **made.offers}
    found = known(space, made.known)
    assert len(found) == len(made.known)
    for config, one in zip(found, made.known, strict=True):
        assert {name: config.get(name) for name in one.config} == one.config
        assert config.keys() == {name for name, axis in space.items() if axis.active(config)}
        assert "20" in one.source or "1." in one.source
    few = known(restrict(space, (32,)), made.known)
    assert {config["batch_size"] for config in few} == {32}
    for config, before in zip(few, found, strict=False):
        ratio = 32 / float(before["batch_size"])
        if config.get("optimizer") == "adamw":
            assert config["adamw_lr"] == pytest.approx(float(before["adamw_lr"]) * ratio**0.5)


def test_the_readme_shows_a_recipe_that_trains_and_names_every_parameter() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text()
    (shown,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "RECIPE = " in code]
    made: dict[str, Any] = {}
    exec(shown, made)  # noqa: S102 - our own page
    arm = made["RECIPE"].compose("tiny_resnet", dataclasses.replace(load("tiny_resnet"), space={}))
    asked = dataclasses.replace(trial("sgd", epochs=1), config={**arm.default(), "batch_size": BATCH})
    assert len(list(a_run(asked).epochs())) == 1
    for recipe in RECIPES:
        assert f"`{recipe}`" in text
        parts = load_recipe(recipe)
        assert all(f"`{name}`" in text for name in (*parts.space, *parts.offers))


@pytest.mark.parametrize(
    ("arm", "size", "fits"),
    [("timm/vit_tiny_patch16_224", 28, 32), ("timm/swin_tiny_patch4_window7_224", 30, 28)],
)
def test_an_arm_that_would_see_a_part_of_each_image_is_refused(arm: str, size: int, fits: int) -> None:
    with pytest.raises(search_spaces.ArmError, match=f"leave out .*--size {fits}"):
        beginning.check(arm, load(arm), ImageSpec(channels=3, size=size, classes=3))
    beginning.check(arm, load(arm), ImageSpec(channels=3, size=fits, classes=3))


@pytest.mark.parametrize(("rate", "most"), [(None, 0.0), (0.3, 0.3)])
def test_torchvisions_nets_regularise_as_the_recipe_says(rate: float | None, most: float) -> None:
    from torchvision.ops import StochasticDepth

    it = load("torchvision/efficientnet_b0", "modern")
    assert "drop_path" in it.space
    config = {**load("torchvision/efficientnet_b0").default(), **({"drop_path": rate} if rate else {})}
    with torch.device("meta"):
        net = it.build(config, SPEC)
    assert max(m.p for m in net.modules() if isinstance(m, StochasticDepth)) == pytest.approx(most)
    assert not any(m.p for m in net.modules() if isinstance(m, nn.Dropout))


def test_torchvisions_tokens_and_positions_do_not_decay() -> None:
    with torch.device("meta"):
        vit = load("torchvision/vit_b_16").build(
            load("torchvision/vit_b_16").default(), ImageSpec(channels=3, size=32, classes=3)
        )
    decaying = {id(p) for g in groups(vit, {}, all_decay=False) if g.decays for p in g.parameters}
    names = {name for name, p in vit.named_parameters() if id(p) in decaying}
    assert names
    assert not {"class_token", "encoder.pos_embedding"} & names
