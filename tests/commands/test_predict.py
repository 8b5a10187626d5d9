"""``predict`` and an export's ``load.py`` say of image files what the study stored for the same images."""

import csv
import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.nets import with_nets

from study.__main__ import main
from study.commands.export import how
from study.data.opened import Asked
from study.data.prepare import prepare
from study.data.reading import Fit, Reading, read
from study.protocol.plan import Plan
from study.protocol.rundir import RunDir

ARMS = ("tiny_resnet", "small_resnet")
FAMILIES = (
    ("timm/resnet10t", "timm/vit_tiny_patch16_224"),
    ("timm/convnext_atto", "timm/swin_tiny_patch4_window7_224"),
    ("timm/efficientnet_lite0", "timm/mixer_s32_224"),
    ("torchvision/mobilenet_v3_small", "torchvision/swin_t"),
)
CLASSES = ("dull", "Label, “quoted” & <b>", "label")
ONLY = """
import runpy, sys
sys.modules.update(dict.fromkeys(%r))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ABSENT = [
    "study",
    "analysis",
    "ray",
    "optuna",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "rich",
    "pyarrow",
    "onnx",
]
"""What an export has to do without."""


def odd_images(root: Path) -> None:
    """Files of many sizes, modes, formats and orientations."""
    rng = np.random.default_rng(0)
    tag = Image.Exif()
    for part, count in (("train", 8), ("test", 7)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name.replace("/", "")
            folder.mkdir(parents=True)
            for i in range(count):
                width, height = rng.integers(20, 90, 2)
                pixels = rng.integers(0, 160, (height, width, 4)).astype(np.uint8)
                pixels[..., label] += 90
                image = Image.fromarray(pixels, "RGBA")
                tag[0x112] = 1 + i % 8
                if i % 3 == 0:
                    image.save(folder / f"{i}.png")
                elif i % 3 == 1:
                    image.convert("RGB").save(folder / f"{i}.jpg", exif=tag)
                else:
                    image.convert("L").save(folder / f"{i}.webp", exif=tag)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("predict")
    odd_images(folder / "images")
    return with_nets(folder / "run", prepare(f"folder:{folder / 'images'}", seed=0, root=folder), ARMS)


@pytest.fixture(scope="module")
def net(run: RunDir) -> Path:
    """The export of the first arm's net."""
    where = run.path.parent / "net"
    assert main(["export", str(run), ARMS[0], "--out", str(where)]) == 0
    return where


@pytest.fixture(scope="module")
def card(net: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((net / "config.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def wanted(run: RunDir, card: dict[str, Any]) -> dict[str, Any]:
    """What the study stored of the net that is exported."""
    with np.load(run.prediction(card["trial"])) as file:
        return dict(file)


def test_predictions_are_those_of_the_study(
    run: RunDir,
    wanted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, test = Plan.load(run.plan), run.path.parent / "images" / "test"
    monkeypatch.chdir(tmp_path)  # any folder
    assert main(["predict", str(run), ARMS[0], str(test), "--to", "said.csv"]) == 0
    with (tmp_path / "said.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "image",
        "prediction",
        *(f"class {c}" if c == "label" else c for c in plan.data.classes),
    ]
    said = {str(Path(row["image"]).relative_to(test.parent)): list(row.values())[2:] for row in rows}
    assert said.keys() == {*wanted["names"].tolist()}
    soft = np.array([said[name] for name in wanted["names"]], dtype=np.float64)
    np.testing.assert_allclose(soft, np.exp(wanted["log_probabilities"]), atol=2e-6)
    assert len(np.unique(wanted["predictions"])) > 1
    named = {str(Path(row["image"]).relative_to(test.parent)): row["prediction"] for row in rows}
    assert [named[n] for n in wanted["names"]] == [plan.data.classes[p] for p in wanted["predictions"]]
    capsys.readouterr()
    assert main(["predict", str(run), ARMS[0], *map(str, sorted(test.rglob("*.*"))), "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in again] == sorted(row["image"] for row in rows)
    assert {row["prediction"] for row in again} == {*named.values()}
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in again)


def test_bad_images_are_a_sentence_each(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)).save(
        tmp_path / "good.png"
    )
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "hollow").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = ("text.png", "good.png", "empty.jpg", "torn.png", "hollow", "pipe", "nowhere.png")
    assert main(["predict", str(run), ARMS[1], *(str(tmp_path / name) for name in names)]) == 2
    shown = capsys.readouterr()
    assert (
        main(["predict", str(run), ARMS[1], str(tmp_path / "good.png"), "--to", str(tmp_path / "pipe")]) == 2
    )
    assert (tmp_path / "pipe").is_fifo()
    assert [Path(line.split(",")[0]).name for line in shown.out.splitlines()[1:]] == ["good.png"]
    lines = shown.err.splitlines()
    assert len(lines) == 6
    for name in names:
        assert sum(name in line for line in lines) == (name != "good.png")


def test_the_export_says_the_same_from_any_folder(
    run: RunDir, net: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    says_the_same(run, net, wanted, tmp_path)


@pytest.mark.nets
@pytest.mark.parametrize("arms", FAMILIES, ids="-".join)
def test_the_exports_of_families_say_the_same(tmp_path: Path, arms: tuple[str, str]) -> None:
    odd_images(tmp_path / "images")
    prepared = prepare(f"folder:{tmp_path / 'images'}", seed=0, root=tmp_path, asked=Asked(size=64))
    run = with_nets(tmp_path / "run", prepared, arms)
    for place, arm in enumerate(arms):
        net = tmp_path / f"net{place}"
        assert main(["export", str(run), arm, "--out", str(net)]) == 0
        card = json.loads((net / "config.json").read_text(encoding="utf-8"))
        assert card["onnx"]["differs_from_torch_by"] < 1e-4
        with np.load(run.prediction(card["trial"])) as wanted:
            says_the_same(run, net, dict(wanted), tmp_path / f"of{place}")


def says_the_same(run: RunDir, net: Path, wanted: dict[str, Any], tmp_path: Path) -> None:
    """Moved, without this project, and beside a file that is no image."""
    moved = Path(shutil.copytree(net, tmp_path / "else where"))
    test = run.path.parent / "images" / "test"
    (tmp_path / "bad.png").write_text("no image")
    done = subprocess.run(
        [sys.executable, "-c", ONLY % ABSENT, str(moved / "load.py"), str(test), str(tmp_path / "bad.png")],
        cwd="/", capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path / 'bad.png'}: its content is no ")
    assert done.stderr.count("\n") == 1
    said = {
        str(Path(name).relative_to(test.parent)): (c, p)
        for name, c, p in (r.split("\t") for r in done.stdout.splitlines())
    }
    classes = Plan.load(run.plan).data.classes
    assert [said[n][0] for n in wanted["names"]] == [classes[p] for p in wanted["predictions"]]
    sure = np.exp(wanted["log_probabilities"].max(axis=1))
    np.testing.assert_allclose([float(said[n][1]) for n in wanted["names"]], sure, atol=6e-5)


CONFIGS: dict[str, object] = {
    "[": 0, "{}": 0, "[1]": 0, "built_by": ["no arm"], "classes": ["x"], "reading": {"size": 10**9, "channels": 3},
    "images": {},
}  # fmt: skip


@pytest.mark.parametrize("key", CONFIGS)
def test_an_export_whose_config_was_damaged_says_so(
    net: Path,
    card: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    for file in net.iterdir():
        if file.suffix != ".json":
            (tmp_path / file.name).symlink_to(file)
    body = key if key[0] in "[{" else json.dumps(card | {key: CONFIGS[key]})
    (tmp_path / "config.json").write_text(body)
    (tmp_path / "load.py").unlink()
    shutil.copy(net / "load.py", tmp_path)
    monkeypatch.setattr(sys, "argv", ["load.py", "x.png"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tmp_path / "load.py"), run_name="__main__")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "is no whole export" in error
    assert error.count("\n") == 1


def test_the_export_describes_itself(
    run: RunDir, net: Path, card: dict[str, Any], wanted: dict[str, Any]
) -> None:
    plan = Plan.load(run.plan)
    assert card["classes"] == list(plan.data.classes)
    assert card["reading"] == {"size": plan.data.size, "channels": 3, "fit": "squash", "white": 0.0}
    right = (wanted["predictions"] == wanted["labels"]).mean()
    assert card["test_accuracy"] == pytest.approx(right)
    low, high = card["test_accuracy_interval"]
    assert low < right < high
    assert card["test_score_of_setting"]["runs"] == 2
    pins = (net / "requirements.txt").read_text().splitlines()
    assert pins == card["requires"]
    assert {pin.partition("==")[0] for pin in pins} == {
        "numpy",
        "pillow",
        "safetensors",
        "torch",
        "torchvision",
    }


def by_hand(file: Path, size: int, fit: Fit) -> Image.Image:
    """What the steps of an export say, with Pillow alone."""
    image: Image.Image = Image.open(file)
    (width, height), need = image.size, 2 * size
    longer = max(width, height)
    image.draft(
        None,
        (max(1, need * width // longer), max(1, need * height // longer)) if fit == "pad" else (need, need),
    )
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, (128, 128, 128, 255)), image.convert("RGBA")
        )
    image = image.convert("RGB")
    width, height = image.size
    shorter, longer = min(image.size), max(image.size)
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if fit == "crop":
        x, y = (width - shorter) / 2, (height - shorter) / 2
        return image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + shorter, y + shorter))
    small = (max(1, round(size * width / longer)), max(1, round(size * height / longer)))
    square = Image.new("RGB", (size, size), (128, 128, 128))
    square.paste(
        image.resize(small, Image.Resampling.BILINEAR), ((size - small[0]) // 2, (size - small[1]) // 2)
    )
    return square


def test_the_steps_of_an_export_lead_to_what_the_net_was_trained_on(
    run: RunDir, net: Path, card: dict[str, Any]
) -> None:
    assert all(step in (net / "README.md").read_text() for step in card["preprocessing"])
    data = Plan.load(run.plan).data
    fits: tuple[tuple[Fit, str], ...] = (
        ("squash", "its width and its height"),
        ("crop", "its middle"),
        ("pad", "on grey (128)"),
    )
    for fit, word in fits:
        said = how(dataclasses.replace(data, fit=fit))
        assert word in " ".join(said["preprocessing"])
        for file in sorted(run.path.parent.glob("images/*/*/*.*")):
            got = read(file, Reading(**said["reading"]))
            assert (got == np.asarray(by_hand(file, data.size, fit)).transpose(2, 0, 1)).all()


def test_a_folder_is_listed_alike_by_the_export_and_predict(
    run: RunDir, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "photos"
    for name in ("b.png", ".hidden.png", "sub/a.db", ".dots/c.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(place / name, format="PNG")
    for name in ("._b.png", "notes.txt", "lost.jpg", "sub/Thumbs.db"):
        (place / name).write_text("no image")
    (place / "sub" / "up").symlink_to(place)
    (tmp_path / "hollow").mkdir()
    given = [str(place), str(tmp_path / "hollow")]
    assert main(["predict", str(run), ARMS[0], *given]) == 2
    ours = capsys.readouterr()
    done = subprocess.run(
        [sys.executable, str(net / "load.py"), *given],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert names == [row["image"] for row in csv.DictReader(ours.out.splitlines())]
    assert names == [str(place / name) for name in (".hidden.png", "b.png", "sub/a.db")]
    assert sorted(done.stderr.splitlines()) == sorted(ours.err.splitlines())


def test_onnx_says_what_torch_says_and_how_to_feed_it(
    run: RunDir, net: Path, card: dict[str, Any], wanted: dict[str, Any]
) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    assert card["onnx"]["differs_from_torch_by"] < 1e-5
    told = {prop.key: prop.value for prop in onnx.load(net / "net.onnx").metadata_props}
    assert json.loads(told["classes"]) == card["classes"]
    assert json.loads(told["reading"]) == card["reading"]
    assert json.loads(told["preprocessing"]) == card["preprocessing"]
    with np.load(run.sealed) as sealed:
        pixels = sealed["pixels"].astype(np.float32)
    session = onnxruntime.InferenceSession(str(net / "net.onnx"), providers=["CPUExecutionProvider"])
    (soft,) = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(soft, np.exp(wanted["log_probabilities"]), atol=1e-5)
