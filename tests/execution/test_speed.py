"""The speed benchmarks are valid: both loops learn and count their images, slots are accounted for."""

import dataclasses
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bench import again, core, packing, quality, search, stream, timing, train
from bench.gpu import __main__ as campaign
from ray.tune.search import sample
from support.plans import PLAN

from search_spaces import Config, Float, load
from study.data.images import Images

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LOOPS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the post's loading workers


def stripes(n: int = 300, side: int = 16) -> Images:
    """Three classes that differ in the direction of their stripes."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    waves = np.stack([rows % 4, columns % 4, (rows + columns) % 4])
    labels = np.arange(n) % 3
    pixels = 40 * waves[labels][:, None] + rng.normal(80, 30, (n, 3, side, side))
    return Images(pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64))


@LOOPS
def test_both_loops_learn_by_the_same_recipe() -> None:
    given: Config = quality.config("tiny_resnet", 16, 0.1)
    for loop in (quality.core, quality.plain):
        accuracy = loop("tiny_resnet", stripes(), 1, 4, given, CPU)
        assert accuracy > 0.8, loop.__name__
        assert loop("tiny_resnet", stripes(), 1, 4, {**given, "lr": 1e-9}, CPU) < 0.6, loop.__name__


@LOOPS
def test_images_per_second_are_those_of_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate excludes starting workers and warming up. The clock counts its readings: 3 steps end at its fourth."""
    assert train.core_speed("tiny_resnet", 32, 0.0) > 0
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    assert train.post_speed("tiny_resnet", "cpu", 4.0, 1) == 3 * train.POST_BATCH / 4


def test_both_cores_are_measured_with_the_same_net() -> None:
    found = core.side_by_side("tiny_resnet", 8, 0.0, 1)
    assert set(found) == {"old", "today"}
    assert min(found.values()) > 0


@LOOPS
def test_streaming_is_measured_on_the_same_images_as_torchvisions(tmp_path: Path) -> None:
    """The same pixels where a file has the target size, nearly the same where it is resized."""
    for size, gap in zip(stream.SIZES, (0, 3), strict=True):
        folder = tmp_path / str(size)
        stream.photographs(folder, size, 8)
        theirs = torch.stack([pixels for pixels, _ in stream.files(folder)]).numpy().astype(int)
        assert np.abs(stream.streamed(folder).pixels - theirs).mean() <= gap
        found = stream.decoding(folder, 2, 1)
        assert all(found[name] > 0 for name in ("cpu_us", "torchvision_cpu_us"))
        assert set(stream.training(folder, "tiny_resnet", 0.0, 1)) == {"memory", "streamed"}


def test_turns_alternate_and_give_the_median() -> None:
    called: list[str] = []
    values = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 5.0, 5.0])}

    def measure(name: str) -> float:
        called.append(name)
        return next(values[name])

    found = timing.in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert found == {"a": 2.0, "b": 5.0}
    assert called == ["a", "b"] * 3


def test_the_gap_of_two_loops_is_welchs() -> None:
    gap, low, high = quality.welch([0.62, 0.60, 0.61], [0.60, 0.60, 0.63])
    assert gap == pytest.approx(0.0)
    assert low == pytest.approx(-high)
    assert 0.02 < high < 0.05
    assert math.isfinite(low)


def test_a_searchs_slots_are_accounted_for() -> None:
    """Two slots for 10 s: 16 s held by the search, 2 by another trial, 2 idle."""
    trials = [
        search.Held("a", 0.0, 6.0, trained=5.0, full=True, accuracy=0.9),
        search.Held("b", 0.0, 4.0, trained=1.0, accuracy=0.95),
        search.Held("b", 4.0, 10.0, trained=4.0, full=True, accuracy=0.8),
        search.Held("a", 8.0, 12.0, counts=False),
    ]
    found = search.summary(trials, ("a", "b"), 2)
    assert (found["trials"], found["full runs"], found["full runs of b"]) == (3, 2, 1)
    assert found["share of a, %"] == pytest.approx(37.5)
    assert found["best full run of b, %"] == pytest.approx(80.0)
    assert found["slots idle, % of their time"] == pytest.approx(10.0)
    assert found["training + evaluation, % of held"] == pytest.approx(62.5)
    assert found["overhead per trial, s"] == 2.0


def test_stock_tune_searches_the_same_ranges_with_the_arm_as_one_more_choice() -> None:
    arms = {name: load(name) for name in ("tiny_resnet", "tiny_resnext")}
    plan = dataclasses.replace(PLAN, arms=tuple(arms), batch_sizes=(32, 64))
    space = search.joint_space(plan, arms)
    assert space.keys() == {"arm", *arms["tiny_resnet"].space, *arms["tiny_resnext"].space}
    assert space["arm"].categories == list(arms)
    assert space["batch_size"].categories == [32, 64]
    lr, here = space["lr"], arms["tiny_resnet"].space["lr"]
    assert isinstance(here, Float)
    assert isinstance(lr, sample.Float)
    assert (lr.lower, lr.upper) == (here.low, here.high)
    assert isinstance(lr.sampler, sample.LogUniform) == here.log


def test_a_part_out_of_time_ends_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "GRACE", 1.0)
    deaf = (
        "import os, pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "child = subprocess.Popen(['sleep', '60']); pathlib.Path(sys.argv[1]).write_text(str(child.pid)); "
        "time.sleep(60)"
    )
    assert campaign.run(["-c", deaf, str(tmp_path / "pid")], 4.0, tmp_path / "log") == -signal.SIGKILL
    child = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 60
    while (
        child.exists() and child.read_text().split()[2] != "Z"
    ):  # a killed process takes a moment to disappear
        assert time.monotonic() < deadline
    assert campaign.run(["-c", "raise SystemExit(3)"], 60.0, tmp_path / "log") == 3


def test_running_out_of_memory_is_a_row_of_the_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr("study.execution.meter.Rehearsal", full)
    (way, *_) = packing.on_cores()
    assert not packing.prepared("tiny_resnet", 32, way, False)
    row = {
        "arm": "a",
        "batch": 32,
        "graphed": False,
        "way": "2 x 1",
        "images_per_second": math.nan,
        "peak_bytes": 0,
    }
    assert "out of memory" in packing.as_table([row])


def test_studies_of_one_question_count_the_arms_both_headlines_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished studies are read; none runs again."""
    open_: dict[str, Any] = {"word": "open", "ahead": None}
    better: dict[str, Any] = {"word": "better, size unclear", "ahead": "b"}
    width = {"delta": 0.01, "low": -0.01, "high": 0.03, "first": "tiny_resnet"}
    rows = [(open_, better), (better, better), (open_, open_)]
    for seed, (answer, nets) in enumerate(rows):
        run = tmp_path / f"6cpu-minutes-seed-{seed}" / "run"
        run.mkdir(parents=True)
        headline = {**answer, **width, "pairs": 4, "sentence": "what it says"}
        (run / "verdict.json").write_text(json.dumps({"answer": [headline], "nets": [{**nets, **width}]}))
    again.main(["--out", str(tmp_path), "--studies", "3"])
    shown = capsys.readouterr().out
    assert "New: {'open': 2, 'b': 1}. Old: {'b': 2, 'open': 1}." in shown
    assert shown.count("+1.00 -1.00 +3.00") == 6


@pytest.mark.long
def test_start_up_is_measured_on_fresh_and_on_reused_processes(tmp_path: Path) -> None:
    output = tmp_path / "startup.json"
    command = [sys.executable, "-m", "tests.bench.startup", "--turns", "1", "--json", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["seconds"]
    assert len(found["fresh"]) == 1
    assert len(found["reused"]) == 2
    assert all(0 < one < found["fresh"][0] for one in found["reused"])


@pytest.mark.long
def test_the_gpus_campaign_runs_to_its_end_without_a_gpu(tmp_path: Path) -> None:
    """Its first half with tiny arms: every part writes its file, which names the machine."""
    command = [sys.executable, "-m", "tests.bench.gpu", "first", "--out", str(tmp_path), "--scale", "0.6"]
    command += ["--arms", "tiny_resnet", "--batches", "8", "--only", "facts,check,train"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("facts", "check", "train")
    }
    assert all(part["facts"]["torch"] == torch.__version__ for part in found.values())
    assert found["check"]["runs"][0]["same bits"]
    assert found["train"]["speeds"]["tiny_resnet"]["graph 8"] > 0
