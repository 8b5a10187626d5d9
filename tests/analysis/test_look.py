"""What a report shows to look at: classes, confusions, calibration, and test images as small pictures."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.records import unpacked
from support.synthetic import write_run

from analysis.__main__ import main
from analysis.report.build import write
from analysis.report.section import Context
from analysis.report.sections import calibration, classes, confusions, pictures
from analysis.results import read
from analysis.summary import find
from study.data.images import Images
from study.data.pictures import save
from study.protocol import examples
from study.protocol.rundir import RunDir

NASTY = '"><script>alert(1)</script>|.png'
SIDE = 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made study with images, whose files have hostile names."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", images=300, runs=3)
    evidence = read(run)
    for path in (run / "predictions").iterdir():
        with np.load(path) as stored:
            arrays = dict(stored)
        np.savez(path, **arrays, names=np.array([f"{i} {NASTY}" for i in range(300)]))
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (300, 3, SIDE, SIDE)).astype(np.uint8), evidence.labels)
    chosen = examples.choose(evidence.labels, evidence.named)
    save(RunDir(run).pictures, images, sorted({*chosen.differ, *chosen.missed}))
    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def context(run: Path) -> Context:
    evidence = read(run)
    return Context(run=run, evidence=evidence, found=find(evidence))


def shown(run: Path) -> list[str]:
    """The pictures in the page."""
    return re.findall(r'src="(data:[^"]+)"', (run / "report.html").read_text())


def test_the_pictures_are_the_images_on_which_arms_differ_or_all_fail(copied: Path, tmp_path: Path) -> None:
    write(copied)
    evidence = read(copied)
    right = {arm: (named == evidence.labels).mean(axis=0) for arm, named in evidence.named.items()}
    a, b = right.values()
    chosen = examples.choose(evidence.labels, evidence.named)
    assert len(chosen.differ) == examples.MOST
    assert np.abs(a - b)[list(chosen.differ)].min() == np.sort(np.abs(a - b))[-examples.MOST]
    assert chosen.all_missed == ((a == 0) & (b == 0)).sum()
    assert all(a[i] == b[i] == 0 for i in chosen.missed)
    found = shown(copied)
    assert len(found) == len(chosen.differ) + len(chosen.missed)
    content = base64.b64decode(found[0].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (SIDE, SIDE)
    page = (copied / "report.html").read_text()
    assert "<script" not in page
    assert f"{chosen.differ[0]} &#34;&gt;&lt;script" in page
    assert "<script" not in (copied / "report.md").read_text()
    other = Path(shutil.copytree(copied, tmp_path / "elsewhere"))
    assert main([str(other)]) == 0
    assert (other / "report.html").read_bytes() == (copied / "report.html").read_bytes()


def test_no_pictures_leaves_the_names(copied: Path) -> None:
    assert main([str(copied), "--no-pictures"]) == 0
    assert shown(copied) == []
    assert "Images to look at" in (copied / "report.html").read_text()


@pytest.mark.parametrize("fault", ["torn", "svg", "huge", "order", "floats", "pickle"])
def test_hostile_pictures_are_left_out(copied: Path, fault: str) -> None:
    path = RunDir(copied).pictures
    with np.load(path) as stored:
        arrays: dict[str, Any] = dict(stored)
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "pickle":
        np.savez(path, **(arrays | {"files": np.array([{}], dtype=object)}))
    else:
        new = {
            "svg": {"files": np.frombuffer(b"<svg onload=alert(1)>" * 9999, dtype=np.uint8)},
            "huge": {"positions": arrays["positions"][:1], "ends": np.array([10**18])},
            "order": {"ends": arrays["ends"][::-1], "positions": arrays["positions"] + 10**12},
            "floats": {"ends": arrays["ends"] * np.nan},
        }[fault]
        np.savez(path, **(arrays | new))
    section = pictures.section(context(copied))
    assert section is not None
    sources = [picture.source for each in section.galleries for picture in each.pictures]
    assert all(s == "" or re.match("data:image/(png|jpeg);base64,(iVBORw0KG|/9j/)", s) for s in sources)
    assert len("".join(sources)) < 2 * examples.MOST * 2**15 * 4 / 3


@pytest.mark.parametrize("number", [2, 10, 150])
def test_any_number_of_classes_is_readable(tmp_path: Path, number: int) -> None:
    told = context(write_run(tmp_path / "run", classes=number, images=600, runs=3, tuned=(0.7, 0.8)))
    evidence = told.evidence
    by_class, mixed = classes.section(told), confusions.section(told)
    assert by_class is not None
    assert mixed is not None
    assert (mixed.drawing is not None) == (number <= 12)
    assert 2 <= len(mixed.tables[0].rows) <= 12
    assert all(len(table.rows) == min(number, 20) for table in by_class.tables)
    for arm, rows in by_class.facts.items():
        named, c = evidence.named[arm], int(rows[-1]["class"].split()[1])
        assert rows[-1]["images"] == (evidence.labels == c).sum()
        assert rows[-1]["recall"] == pytest.approx((named[:, evidence.labels == c] == c).mean())


def test_a_real_studys_calibration_is_told(tmp_path: Path) -> None:
    told = context(unpacked("one_look", tmp_path))
    section = calibration.section(told)
    assert section is not None
    for arm, own in section.facts.items():
        assert own["accuracy"] == pytest.approx(told.evidence.tuned[arm].mean)
        assert 0 < own["ece_by_chance"] < np.mean(own["ece"]) < 0.2


def test_without_scores_nothing_is_shown(tmp_path: Path) -> None:
    told = context(write_run(tmp_path / "run", confirmed=False))
    for part in (classes, confusions, pictures, calibration):
        assert part.section(told) is None
