"""The benchmarks of speed measure what they say: at a small size, both loops learn and count their images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import quality, stream, timing, train

from search_spaces import Config
from study.data import Images

CPU = torch.device("cpu")
LOOPS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the post's loading workers


def stripes(n: int = 300, side: int = 16) -> Images:
    """Three classes, told apart by the direction of their stripes."""
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
def test_images_per_second_are_those_of_the_steps_alone() -> None:
    """Starting workers and warming up take seconds here, and are not in the rate."""
    rates = (train.post_speed("tiny_resnet", "cpu", 0.3, 1), train.core_speed("tiny_resnet", "cpu", 32, 0.3))
    assert all(50 < rate < 1e5 for rate in rates)  # 1 to 3 thousand where it is quiet


@LOOPS
def test_streaming_is_measured_on_the_same_images_as_torchvisions(tmp_path: Path) -> None:
    """The same pixels where a file is of the size that is asked for, and nearly the same where it is resized."""
    for size, gap in zip(stream.SIZES, (0, 3), strict=True):
        folder = tmp_path / str(size)
        stream.photographs(folder, size, 8)
        theirs = torch.stack([pixels for pixels, _ in stream.files(folder)]).numpy().astype(int)
        assert np.abs(stream.streamed(folder).pixels - theirs).mean() <= gap
        found = stream.decoding(folder, 2, 1)
        assert all(100 < found[name] < 1e5 for name in ("cpu_us", "torchvision_cpu_us"))
        assert set(stream.training(folder, "tiny_resnet", 0.0, 1)) == {"memory", "streamed"}


def test_turns_are_taken_and_the_median_is_told() -> None:
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
