"""Images streamed from their files: the same numbers as from memory, in bounded memory."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.ground import a_plan
from PIL import Image
from support.folders import MANIFEST, folder
from support.pictures import make_images
from support.plans import one_core
from support.training import CPU, a_trial, measures

from search_spaces import load
from study.data.images import AHEAD, Streamed, fetched, from_arrays, memory_for_images
from study.data.prepare import prepare
from study.data.sealed import Prepared, unseal
from study.execution import meter, rehearsal
from study.execution.messages import Alive, Assignment, Blocked, Message
from study.execution.trainable import StudyTrial
from study.protocol.errors import InputError
from study.protocol.ledger import read
from study.protocol.plan import Plan
from study.protocol.records import asdict
from study.protocol.settings import VARIABLE
from study.training.evaluation import predict
from study.training.loop import Training
from study.training.trial import image_spec, training

ROOT = Path(__file__).parents[2]
SIDE = 224


def photographs(path: Path, *, train: int, test: int) -> None:
    """JPEGs of 224 pixels, as smooth as photographs: two classes, the second brighter on the right."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(("even", "right")):
            (path / part / name).mkdir(parents=True)
            for number in range(count):
                coarse = rng.integers(0, 160, (14, 14, 3))
                coarse[:, 7:] += 90 * label
                image = Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE))
                image.save(path / part / name / f"{number:04}.jpg", quality=90)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    photographs(path, train=48, test=8)
    return path


def streamed(path: Path) -> Prepared:
    return prepare(f"folder:{path}", seed=0, root=path / "unused", memory=0)


@pytest.fixture(scope="module")
def plan(images: Path) -> Plan:
    torch.set_num_threads(1)
    return one_core(folder(images).card)


def run_of(plan: Plan, prepared: Prepared) -> Training:
    trial = a_trial(epochs=2, batch_size=16, lr=0.02, augment="flip+crop+cutout")
    return training(plan, trial, prepared.train, CPU)


def weights(run: Training) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in run.net.state_dict().values()])


def test_a_folder_streams_when_memory_is_too_small_for_it(images: Path) -> None:
    needed = 112 * 3 * SIDE**2
    for memory, kind in ((needed, "kept there"), (needed - 1, "stay in their files")):
        prepared = prepare(f"folder:{images}", seed=0, root=images, memory=memory)
        assert isinstance(prepared.train, Streamed) == (memory < needed)
        assert kind in prepared.kept
        assert "take 0.02 GiB" in prepared.kept
    assert 2**20 < memory_for_images() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_streamed_images_are_those_in_memory(images: Path, tmp_path: Path) -> None:
    there, here = streamed(images), folder(images)
    assert there.card == here.card  # same fingerprint: a study may resume on a machine with more memory
    np.testing.assert_array_equal(there.train.labels, here.train.labels)
    np.testing.assert_array_equal(there.train.pixels, here.train.pixels)
    some = np.array([90, 3, 3, 77])
    np.testing.assert_array_equal(there.train.take(some).pixels, here.train.pixels[some])
    there.seal(tmp_path / "there.npz")
    here.seal(tmp_path / "here.npz")
    assert (tmp_path / "there.npz").stat().st_size < 10_000 < (tmp_path / "here.npz").stat().st_size
    tests = [unseal(tmp_path / name, MANIFEST) for name in ("there.npz", "here.npz")]
    assert isinstance(tests[0], Streamed)
    np.testing.assert_array_equal(tests[0].pixels, tests[1].pixels)
    np.testing.assert_array_equal(tests[0].labels, tests[1].labels)
    assert tests[0].names == tests[1].names
    assert there.train.names == here.train.names


def test_a_part_set_apart_and_odd_sizes_are_the_same_too(tmp_path: Path) -> None:
    photographs(tmp_path, train=12, test=0)
    shutil.rmtree(tmp_path / "test")
    for side, name in ((300, "0000.jpg"), (99, "0001.jpg")):
        Image.new("L", (side + 7, side), 90).save(tmp_path / "train" / "even" / name)
    there, here = streamed(tmp_path), folder(tmp_path)
    assert there.card == here.card
    assert there.card.test == 7
    assert there.test_source == here.test_source
    np.testing.assert_array_equal(there.train.pixels, here.train.pixels)


def test_a_sealed_image_that_changed_is_noticed(tmp_path: Path) -> None:
    photographs(tmp_path, train=4, test=3)
    streamed(tmp_path).seal(tmp_path / "test.npz")
    small, large = sorted((tmp_path / "test" / "even").iterdir(), key=lambda p: p.stat().st_size)[:2]
    large.write_bytes(small.read_bytes().ljust(large.stat().st_size, b"\0"))  # the length stays the same
    with pytest.raises(InputError, match="not what was sealed"):
        unseal(tmp_path / "test.npz", MANIFEST)


def test_the_same_seed_trains_the_same_weights(plan: Plan, images: Path) -> None:
    there, here = (run_of(plan, prepared) for prepared in (streamed(images), folder(images)))
    assert measures(list(there.epochs())) == measures(list(here.epochs()))
    assert torch.equal(weights(there), weights(here))


def test_resuming_within_an_epoch_changes_nothing(plan: Plan, images: Path) -> None:
    prepared = streamed(images)
    whole, first = run_of(plan, prepared), run_of(plan, prepared)
    undisturbed = measures(list(whole.epochs()))
    assert first.advance(0) is None
    assert first.advance(0) is None  # two of the epoch's steps
    second = run_of(plan, prepared)
    second.load(first.state())
    assert measures(list(second.epochs())) == undisturbed
    assert torch.equal(weights(whole), weights(second))


def test_batches_come_ahead_in_their_order_and_leave_nothing_behind(images: Path) -> None:
    prepared = streamed(images)
    order = np.random.default_rng(1).permutation(96)
    before, asked = threading.active_count(), []

    def batches() -> Any:
        for part in np.array_split(order, 9):
            asked.append(len(part))
            yield part

    stream = fetched(prepared.train, batches(), threads=3)
    pixels = prepared.train.pixels
    for part, (batch, taken) in zip(
        np.array_split(order, 9), zip(stream, range(4), strict=False), strict=False
    ):
        np.testing.assert_array_equal(batch, pixels[part])
        assert len(asked) == taken + 1 + AHEAD
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_another_image_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """As on a node whose folder differs from the driver's: a file must match the one seen at the start."""
    photographs(tmp_path, train=4, test=2)
    train, other = streamed(tmp_path).train, tmp_path / "train" / "right" / "0002.jpg"
    before = other.stat().st_size
    Image.new("RGB", (SIDE, SIDE)).save(other, quality=90)  # decodable, with the same size in pixels
    said = (
        rf"right/0002\.jpg has {other.stat().st_size} bytes on .+, and {before} where the study was started"
    )
    for images in (train, from_arrays(train.arrays()), train.take(np.arange(len(train)))):
        with pytest.raises(InputError, match=said):
            _ = images.pixels


def test_a_broken_image_is_named_before_and_while_it_is_trained_on(plan: Plan, tmp_path: Path) -> None:
    photographs(tmp_path, train=40, test=2)
    prepared, bad = streamed(tmp_path), tmp_path / "train" / "right" / "0007.jpg"
    card = dataclasses.replace(plan.data, train=80)
    a_plan = dataclasses.replace(plan, data=card)
    bad.write_bytes(bad.read_bytes()[:900])
    with pytest.raises(
        InputError, match=r"class 'right' cannot be used.*right/0007\.jpg: .*Repair or remove it"
    ):
        streamed(tmp_path)
    with pytest.raises(InputError, match=r"right/0007\.jpg"):
        list(run_of(a_plan, prepared).epochs())
    worker = StudyTrial.__new__(StudyTrial)  # training needs no part of Ray
    trial = a_trial(epochs=2, batch_size=24)  # 72 images: an epoch reads each of them
    given = Assignment(trial=trial, epochs=0, again=False, fraction=1.0)
    worker.setup(given.config(), plan=asdict(a_plan), pool=prepared.train, home=str(tmp_path))
    worker._began = True
    messages = (Message.of(result) for result in iter(worker.step, None))
    ends = next(m.event for m in messages if m and not isinstance(m.event, Alive))
    assert isinstance(
        ends, Blocked
    )  # not the arm's fault: the study stops, and resumes once the file is repaired
    assert "right/0007.jpg has 900 bytes" in ends.reason


def test_the_probe_measures_streamed_images(tmp_path: Path) -> None:
    photographs(tmp_path, train=8, test=2)
    prepared, arm = streamed(tmp_path), load("tiny_resnet")
    config, spec = {**arm.default(), "batch_size": 8}, image_spec(prepared.card)
    speed = rehearsal.speed(arm, config, spec, CPU, seconds=0, pool=prepared.train)
    assert min(speed.images_per_second, speed.eval_images_per_second) > 0
    (tmp_path / "train" / "even" / "0003.jpg").unlink()
    process = meter.Meter()
    process.begin(prepared.train)
    with pytest.raises(InputError, match=r"even/0003\.jpg"):  # not the arm's fault
        process.prepare("tiny_resnet", config, spec, one_core(prepared.card).machine, True)
        process.speed("tiny_resnet", 0.0)


PEAK = """
import sys, numpy as np
from pathlib import Path
from study.data.prepare import prepare
from study.data.images import fetched
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
warm = prepare(f"folder:{sys.argv[1]}", seed=0, root=Path("unused"), memory=0)
before = peak()
pool = prepare(f"folder:{sys.argv[2]}", seed=0, root=Path("unused"), memory=int(sys.argv[3])).train
order = np.random.default_rng(0).permutation(len(pool))
for batch in fetched(pool, np.array_split(order, len(pool) // 32), threads=2):
    pass
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_is_bounded_when_the_images_are_larger(images: Path, tmp_path: Path) -> None:
    """Peak memory of reading, fingerprint and an epoch of batches, for images four times the limit."""
    many = tmp_path / "many"
    for copy in range(6):
        for file in images.glob("train/*/*.jpg"):
            link = many / file.relative_to(images).with_stem(f"{file.stem}-{copy}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(file)
    decoded = 6 * 96 * 3 * SIDE**2
    peaks = {}
    for memory in (decoded // 4, decoded):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(images), str(many), str(memory)],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        peaks[memory] = int(done.stdout)
    assert peaks[decoded] > decoded
    assert peaks[decoded // 4] < decoded / 2


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_prediction_does_not_depend_on_where_images_are_kept(images: Path, kind: str) -> None:
    """On the device, on the host because the device is full, and in their files."""
    there, here = streamed(images).train, folder(images).train
    device = torch.device(kind)
    layers = torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2)
    net, rows = torch.nn.Sequential(*layers).to(device), torch.randperm(96, device=device)
    resident = predict(net, torch.from_numpy(here.pixels).to(device), rows)
    assert len(resident) == 96
    for elsewhere in (here, there):
        assert torch.equal(predict(net, elsewhere, rows), resident)


DRIVER = """
import sys
sys.path.insert(0, "")
import study.run
sys.exit(study.run.main(sys.argv[1:]))
"""


@pytest.mark.long
def test_a_streamed_study_is_the_one_in_memory(tmp_path: Path) -> None:
    """A whole study with Ray, streamed; then one trial again from memory: the same digits."""
    repo = tmp_path / "repo"
    for package in ("study", "search_spaces", "analysis"):
        shutil.copytree(ROOT / package, repo / package, ignore=shutil.ignore_patterns("__pycache__"))
    make_images(repo / "images", train=60, test=30, size=16)
    (repo / "out").mkdir()
    a_plan(repo, slots=2, budget=60.0).save(repo / "out" / "plan.json")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "--resume", "out"],
        env={**os.environ, VARIABLE: '{"memory_share": 0.0}'}, cwd=repo, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they stay in their files" in " ".join(done.stdout.split())
    trial = (
        read(repo / "out" / "ledger.jsonl").of("tiny_resnet", "baseline")[0].id
    )  # there however slow the machine
    again = subprocess.run(
        [sys.executable, "-m", "study", "rerun", "out", trial],
        cwd=repo, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
