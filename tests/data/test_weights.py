"""Weights that arms begin from: what is read, what of it fits, which input they know, and whose test images they have seen."""

import io
import os
import re
import shutil
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.folders import folder, read_as
from support.pictures import make_images
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

import search_spaces
from search_spaces import ArmError, ImageSpec
from study.data import weights
from study.data.opened import Asked
from study.data.weights import Start, chosen, tensors
from study.protocol.errors import InputError
from study.training.beginning import fitted

SMALL = ImageSpec(channels=3, size=32, classes=5)


def a_net(arm: str = "tiny_resnet", images: ImageSpec = SMALL, seed: int = 7, **config: int) -> nn.Module:
    it = search_spaces.load(arm)
    torch.manual_seed(seed)
    return it.build({**it.default(), **config}, images)


def exported(
    home: Path, net: nn.Module, seen: np.ndarray | None = None, classes: tuple[str, ...] = ()
) -> Path:
    home.mkdir(exist_ok=True)
    listed = home / "list.npy"
    if seen is not None:
        np.save(listed, seen)
    about = {"trial": "t", "data": "cifar10"}
    weights.write(home, net.state_dict(), **about, size=32, seen=listed, classes=classes)
    return home / "weights.safetensors"


def begun(
    arm: str, images: ImageSpec = SMALL, classes: tuple[str, ...] | None = None
) -> tuple[Start, nn.Module]:
    """The arm's start, checked, and its net with another seed than its weights had."""
    it = chosen(arm, "sgd")
    assert it.start is not None
    start = fitted(it.name, "sgd", it.start, images, classes)
    given, new_head = tensors(start.content), start.record.head == "new"
    arm_of_it = search_spaces.load(it.name, "sgd", given, new_head=new_head)
    torch.manual_seed(1)
    return start, arm_of_it.build(arm_of_it.default(), images)


def same(net: nn.Module, expected: Mapping[str, Tensor], *, but: tuple[str, ...] = ()) -> None:
    found = net.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) == (name not in but), name


def test_an_export_of_this_project_begins_an_arm_and_only_the_head_is_new(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", a_net())
    start, net = begun(f"tiny_resnet@{path}")
    assert start.record.new == ()
    assert (start.record.trained_on, start.record.size, start.record.images) == ("cifar10", 32, 0)
    same(net, load_file(path))
    start, net = begun(f"tiny_resnet@{path}", ImageSpec(channels=3, size=96, classes=3))
    assert start.record.new == ("fc.weight", "fc.bias")
    own = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("fc.")}
    same(net, own)


@pytest.mark.parametrize("arm", ["tiny_resnet", "timm/test_vit"])
def test_the_head_of_other_classes_is_new_also_where_they_are_as_many(tmp_path: Path, arm: str) -> None:
    net, classes = a_net(arm), tuple("abcde")
    path = exported(tmp_path / "out", net, classes=classes)
    body = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(("fc.", "head"))}
    start, again = begun(f"{arm}@{path}", classes=classes[::-1])
    assert start.record.head == "new"
    drawn = [name for name in start.record.new if net.get_parameter(name).ndim > 1]
    assert drawn
    assert not any(torch.equal(again.get_parameter(name), net.get_parameter(name)) for name in drawn)
    assert not {*start.record.new} & {*body}
    same(again, body)
    start, again = begun(f"{arm}@{path}", classes=classes)
    assert (start.record.head, start.record.new) == ("", ())
    same(again, net.state_dict())
    start, _ = begun(f"{arm}@{exported(tmp_path / 'unknown', net)}", classes=classes)
    assert (start.record.head, start.record.new) == ("kept", ())


@pytest.mark.parametrize("arm", ["tiny_resnet", "timm/test_resnet"])
def test_colours_are_summed_for_grey_images(tmp_path: Path, arm: str) -> None:
    path, grey = exported(tmp_path / "out", a_net(arm)), ImageSpec(channels=1, size=32, classes=5)
    start, net = begun(f"{arm}@{path}", grey)
    (first,) = start.record.adapted
    assert start.record.new == ()
    torch.testing.assert_close(net.get_parameter(first), load_file(path)[first].sum(1, keepdim=True))


def test_its_name_is_short_and_the_same_wherever_the_file_lies(tmp_path: Path) -> None:
    path = exported(tmp_path / "a", a_net())
    shutil.copytree(path.parent, tmp_path / "b")
    names = {chosen(f"tiny_resnet@{tmp_path}/{n}/{path.name}:lr=0.10", "sgd").name for n in ("a", "b")}
    assert len(names) == 1
    (name,) = names
    assert re.fullmatch(r"tiny_resnet@[0-9a-f]{8}:lr=0\.1", name)
    assert chosen(name, "sgd").start is None  # as a report shows it


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "lcnet_050"])
@pytest.mark.parametrize("channels", [3, 1])
def test_published_weights_see_the_input_that_they_know(tmp_path: Path, name: str, channels: int) -> None:
    theirs = timm.create_model(name).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    cfg = get_pretrained_cfg(name) or PretrainedCfg()
    side = 64 if name == "lcnet_050" else cfg.input_size[-1]  # it alone has ImageNet's mean and deviation
    start, net = begun(
        f"timm/{name}@{tmp_path}/model.safetensors", ImageSpec(channels=channels, size=side, classes=5)
    )
    assert "unknown" in start.record.trained_on
    assert start.record.size == 0
    net.get_submodule(str(cfg.classifier)).load_state_dict(
        {n: t[:5] for n, t in theirs.get_submodule(str(cfg.classifier)).state_dict().items()}
    )
    pixels = torch.randint(256, (2, channels, side, side)).float()
    colour = pixels.expand(2, 3, side, side)
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.mean, cfg.std))
    with torch.no_grad():
        expected = theirs((colour / 255 - mean) / std)[:, :5]
        found = net.eval()(pixels / 127.5 - 1)
    if channels == 3 or len(set(cfg.mean)) == 1:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_only_a_tag_says_what_a_file_was_trained_on(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    start = chosen(f"timm/test_vit.r160_in1k@{tmp_path}/model.safetensors", "sgd").start
    assert start is not None
    assert (start.record.trained_on, start.record.size) == ("ImageNet-1k if the file is the tag's", 160)


def test_a_transformers_positions_are_scaled_to_other_images(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    start, _ = begun(f"timm/test_vit@{tmp_path}/model.safetensors")
    assert start.record.new == ("head.weight", "head.bias")


def test_a_tag_is_fetched_from_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, as a second study on this machine would."""
    snapshot = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(timm.create_model("test_vit").state_dict(), snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    it = chosen("timm/test_vit.r160_in1k", "sgd")
    assert it.start is not None
    assert it.name == "timm/test_vit.r160_in1k"
    assert it.start.record.source == "hub:timm/test_vit.r160_in1k/model.safetensors"
    assert (it.start.record.trained_on, it.start.record.size) == ("ImageNet-1k", 160)
    assert weights.again(it.name, it.start.record).record == it.start.record
    with pytest.raises(InputError, match=r"hf download timm/test_resnet.r160_in1k model.safetensors"):
        chosen("timm/test_resnet.r160_in1k", "sgd")


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(503)

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(InputError, match=r"hf download timm/test_vit.r160_in1k"):
            chosen("timm/test_vit.r160_in1k", "sgd")
        server.shutdown()
    assert len(asked) == 1


def test_weights_that_have_seen_test_images_are_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "images", train=20, test=10)
    prepared = folder(tmp_path / "images")
    clean = chosen(f"tiny_resnet@{exported(tmp_path / 'clean', a_net(), prepared.seen)}", "sgd")
    assert clean.start is not None
    assert clean.start.record.images == len(prepared.seen)
    weights.check_unseen({clean.name: clean.start}, prepared)
    seen = np.unique(np.concatenate([prepared.seen, np.asarray(prepared._tested)[:3]]))
    leaked = chosen(f"tiny_resnet@{exported(tmp_path / 'leaked', a_net(), seen)}", "sgd")
    assert leaked.start is not None
    with pytest.raises(InputError, match=r"3 of the \d+ sealed test images .* tiny_resnet@"):
        weights.check_unseen({leaked.name: leaked.start}, prepared)


@pytest.mark.parametrize("asked", [Asked(size=12), Asked(size=12, fit="crop"), Asked(size=12, fit="pad")])
def test_seen_images_are_known_at_any_size(tmp_path: Path, asked: Asked) -> None:
    make_images(tmp_path / "a", train=12, test=6)
    (tmp_path / "b").mkdir()
    for part, other in (("train", "test"), ("test", "train")):
        shutil.copytree(tmp_path / "a" / part, tmp_path / "b" / other)
    prepared = folder(tmp_path / "a")
    assert read_as(tmp_path / "b", asked).tested_among(prepared.seen) == prepared.card.train
    assert read_as(tmp_path / "a", asked).tested_among(prepared.seen) == 0


def test_what_a_study_hands_on_includes_what_its_weights_had_seen(tmp_path: Path) -> None:
    make_images(tmp_path / "images", train=20, test=10)
    prepared = folder(tmp_path / "images")
    path = exported(tmp_path / "out", a_net(), np.array([1, 2], dtype=np.uint64))
    start = chosen(f"tiny_resnet@{path}", "sgd").start
    assert start is not None
    weights.write_seen(tmp_path / "images.npy", prepared, [start])
    weights.write_seen(tmp_path / "images.npy", prepared, [])
    listed = np.load(tmp_path / "images.npy")
    assert set(listed) == {1, 2, *prepared.seen}
    (tmp_path / "images.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match="is damaged"):
        weights.write_seen(tmp_path / "images.npy", prepared, [])


def test_a_list_of_images_that_is_missing_or_another_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", a_net(), np.array([1, 2], dtype=np.uint64))
    np.save(path.with_name("images.npy"), np.array([1], dtype=np.uint64))
    with pytest.raises(InputError, match="is not the list"):
        chosen(f"tiny_resnet@{path}", "sgd")
    path.with_name("images.npy").unlink()
    with pytest.raises(InputError, match="copy the whole folder"):
        chosen(f"tiny_resnet@{path}", "sgd")


def test_an_exports_file_that_says_odd_things_of_itself_is_refused(tmp_path: Path) -> None:
    """Each has the hash that its weights name."""
    path, listed = tmp_path / "weights.safetensors", tmp_path / "images.npy"
    archive = io.BytesIO()
    np.savez(archive, seen=np.arange(3))
    for content in (b"", archive.getvalue(), b"\x93NUMPY\x01\x00", b"x"):
        listed.write_bytes(content)
        weights.write(tmp_path, a_net().state_dict(), trial="t", data="cifar10", size=32, seen=listed)
        with pytest.raises(InputError, match="copy the whole folder"):
            chosen(f"tiny_resnet@{path}", "sgd")
    for about in ({"data": "x"}, {"data": "x", "size": "-1"}, {"data": "x", "size": "9" * 9}):
        save_file(a_net().state_dict(), path, metadata=about)
        with pytest.raises(InputError, match="does not say the size"):
            chosen(f"tiny_resnet@{path}", "sgd")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is not a file"):
        chosen(f"tiny_resnet@{path}", "sgd")


def test_a_file_that_changed_stops_a_study_that_goes_on(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", a_net())
    it = chosen(f"tiny_resnet@{path}", "sgd")
    assert it.start is not None
    assert weights.again(it.name, it.start.record).record == it.start.record
    exported(tmp_path / "out", a_net(seed=8))
    with pytest.raises(InputError, match="not those that the study began with"):
        weights.again(it.name, it.start.record)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    with pytest.raises(ArmError, match="pickles"):
        chosen(f"tiny_resnet@{tmp_path}/net.pt", "sgd")
    with pytest.raises(InputError, match="No such file"):
        chosen(f"tiny_resnet@{tmp_path}/net.safetensors", "sgd")
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="no file of safetensors"):
        chosen(f"tiny_resnet@{tmp_path}/net.safetensors", "sgd")


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", a_net("small_resnet"))
    with pytest.raises(ArmError, match="do not fit"):
        begun(f"tiny_resnet@{path}")
    with pytest.raises(ArmError, match="do not fit"):
        begun(f"timm/test_vit@{path}")


def test_weights_of_one_choice_need_it_pinned(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", a_net("tiny_resnext", cardinality=4))
    with pytest.raises(ArmError, match=r"pin it .*:cardinality=4"):
        begun(f"tiny_resnext@{path}")
    start, net = begun(f"tiny_resnext@{path}:cardinality=4")
    assert start.record.new == ()
    same(net, load_file(path))
