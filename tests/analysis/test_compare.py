"""``python -m analysis compare``: real .npz files in, the verdict and its scope out."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.synthetic import right_wrong

from analysis.__main__ import main
from analysis.compare import compare
from analysis.statistics.intervals import crossed
from analysis.statistics.mcnemar import paired
from study.protocol.metrics import log_probabilities

IMAGES = 4000
CLASSES = 10
KEYS = [
    "accuracy_a",
    "accuracy_b",
    "delta",
    "n10",
    "n01",
    "mcnemar_exact_p",
    "mcnemar_mid_p",
    "tango_low",
    "tango_high",
    "crossed_low",
    "crossed_high",
    "verdict",
    "scope",
    "warning",
]
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
Ints = NDArray[np.int64]


def predictions(right: NDArray[np.bool_]) -> Ints:
    """Predictions that are right where ``correct`` says so and shifted by a fixed class elsewhere."""
    return np.where(right, LABELS, (LABELS + 1) % CLASSES)


def two(gap: float = 0.02, runs: int = 5, seed: int = 1) -> tuple[Ints, Ints]:
    a, b = right_wrong(
        np.random.default_rng(seed),
        runs=(runs, runs),
        accuracies=(0.93, 0.93 - gap),
        images=IMAGES,
        run_sd=0.001,
    )
    return predictions(a), predictions(b)


def side(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def pair(tmp_path: Path, a: Ints, b: Ints) -> tuple[Path, Path]:
    return (
        side(tmp_path / "alpha.npz", labels=LABELS, predictions=a),
        side(tmp_path / "beta.npz", labels=LABELS, predictions=b),
    )


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    assert list(found) == KEYS
    return found


def stdout_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_several_runs_get_the_verdict_of_the_crossed_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two()
    found = facts(capsys, *pair(tmp_path, a, b))
    right = a == LABELS, b == LABELS
    interval, nets = crossed(*right), paired(right[0][0], right[1][0])
    assert (found["accuracy_a"], found["accuracy_b"]) == (right[0].mean(), right[1].mean())
    assert found["delta"] == pytest.approx(interval.delta)
    assert (found["crossed_low"], found["crossed_high"]) == (interval.low, interval.high)
    assert (found["n10"], found["n01"]) == (nets.n10, nets.n01)
    assert (found["mcnemar_exact_p"], found["mcnemar_mid_p"]) == (nets.exact_p, nets.mid_p)
    assert (found["tango_low"], found["tango_high"]) == (nets.low, nets.high)
    assert found["verdict"] == "better"


def test_the_margin_is_in_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = pair(tmp_path, *two())
    assert facts(capsys, *sides, "--rope", "5")["verdict"] == "practical tie"
    assert facts(capsys, *sides, "--rope", "2")["verdict"] == "better, size unclear"
    assert facts(capsys, *pair(tmp_path, *two(gap=0.0)), "--rope", "0.1")["verdict"] == "inconclusive"


def test_every_way_to_store_the_same_runs_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two(runs=3)
    asked = facts(capsys, *pair(tmp_path, a, b))
    sharp = 0.01 + np.eye(CLASSES, dtype=np.float16)[a]
    for i, run in enumerate(a):
        side(tmp_path / "files" / f"{i}.npz", labels=LABELS.astype(np.uint8), predictions=run)
        side(tmp_path / "soft" / f"{i}.npz", labels=LABELS, probabilities=sharp[i])
    side(tmp_path / "mixed" / "0.npz", labels=LABELS, predictions=a[:2])
    side(tmp_path / "mixed" / "1.npz", labels=LABELS, probabilities=sharp[2:])
    (tmp_path / "mixed" / "notes.txt").write_text("not a run")
    stacked = side(tmp_path / "stacked.npz", labels=LABELS, probabilities=sharp)
    both = side(tmp_path / "both.npz", labels=LABELS, predictions=a, probabilities=1 - sharp)
    logs = side(tmp_path / "logs.npz", labels=LABELS, log_probabilities=log_probabilities(sharp))
    for path in (tmp_path / "files", tmp_path / "soft", tmp_path / "mixed", stacked, both, logs):
        assert facts(capsys, path, tmp_path / "beta.npz") == asked


def test_inv_1_swapping_the_sides_negates_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pair(tmp_path, *two())
    one, other = facts(capsys, first, second), facts(capsys, second, first)
    assert (other["accuracy_a"], other["accuracy_b"]) == (one["accuracy_b"], one["accuracy_a"])
    assert (other["n10"], other["n01"], other["delta"]) == (one["n01"], one["n10"], -one["delta"])
    for name in ("tango", "crossed"):
        assert (other[f"{name}_low"], other[f"{name}_high"]) == pytest.approx(
            (-one[f"{name}_high"], -one[f"{name}_low"])
        )
    for name in ("mcnemar_exact_p", "mcnemar_mid_p", "verdict", "scope"):
        assert other[name] == one[name]


def test_inv_2_the_order_of_images_does_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two()
    order = np.random.default_rng(0).permutation(IMAGES)
    asked = facts(capsys, *pair(tmp_path, a, b))
    shuffled = [
        side(tmp_path / f"{name}.npz", labels=LABELS[order], predictions=x[:, order])
        for name, x in (("c", a), ("d", b))
    ]
    found = facts(capsys, *shuffled)
    assert found.pop("scope") == asked.pop("scope")
    assert found.pop("verdict") == asked.pop("verdict")
    assert found == pytest.approx(asked)


def test_inv_3_identical_predictions_are_no_difference_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = two()
    sides = pair(tmp_path, a, a)
    found = facts(capsys, *sides)
    assert (found["delta"], found["n10"], found["n01"]) == (0, 0, 0)
    assert (found["mcnemar_exact_p"], found["mcnemar_mid_p"]) == (1, 1)
    assert found["crossed_low"] == -found["crossed_high"] < 0
    assert not found["verdict"].startswith("better")
    assert facts(capsys, sides[0], sides[0])["delta"] == 0


@pytest.mark.parametrize("runs", [(1, 1), (1, 5), (5, 1)])
def test_inv_4_one_run_answers_for_two_nets_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: tuple[int, int]
) -> None:
    a, b = two()
    sides = pair(tmp_path, a[: runs[0]], b[: runs[1]])
    found = facts(capsys, *sides)
    nets = paired(a[0] == LABELS, b[0] == LABELS)
    assert (found["crossed_low"], found["crossed_high"], found["verdict"]) == (None, None, "refused")
    assert (found["tango_low"], found["mcnemar_mid_p"]) == (nets.low, nets.mid_p)
    assert "these two trained nets only" in found["scope"]
    assert "(Q2) is refused: one run cannot show how runs vary" in found["scope"]
    shown = stdout_of(capsys, *sides)
    assert shown.startswith("Refused: these runs cannot tell whether alpha or beta is better")
    assert "NaN" not in shown
    assert "nan" not in shown


def test_one_image_is_refused_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = side(tmp_path / "one.npz", labels=LABELS[:1], predictions=LABELS[None, :1].repeat(3, 0))
    found = facts(capsys, one, one)
    assert found["verdict"] == "refused"
    assert "image" in found["scope"].split("refused:")[1]


def test_hon_1_wording_claims_no_more_than_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for runs in (1, 3, 5):
        for gap in (0.0, 0.004, 0.03):
            sides = pair(tmp_path, *two(gap=gap, runs=runs))
            shown, found = stdout_of(capsys, *sides), facts(capsys, *sides)
            assert "signific" not in shown.lower()
            assert "no difference" not in shown.lower()
            assert shown.rstrip().endswith(found["scope"])
            assert found["scope"].startswith("Holds for ")
            assert "no evidence on other runs" in shown
            if runs > 1:
                assert "Nothing is known here about how the settings were tuned" in found["scope"]
                assert "95 % interval" in shown.splitlines()[0]
            else:
                assert "is better than" not in shown
                assert "trained again (Q2) is refused" in found["scope"]


def test_copies_of_one_net_are_one_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = two()
    for k, sides in enumerate(((a[[0] * 3], b[[0] * 3]), (a[[0] * 3], b), (a, b[[0] * 2]))):
        found = facts(capsys, *pair(tmp_path / str(k), *sides))
        assert (found["verdict"], found["crossed_low"]) == ("refused", None)
        assert "name the same class for every image, and one net stored" in found["scope"]
    single = facts(capsys, *pair(tmp_path / "3", a[:1], b[[0] * 3]))
    assert "the 3 runs of beta name the same class for every image" in single["scope"]
    assert "alpha" not in single["scope"]


def test_a_net_stored_twice_counts_once_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two()
    asked = facts(capsys, *pair(tmp_path / "asked", a, b))
    found = facts(capsys, *pair(tmp_path / "twice", a[[0, 1, 1, 2, 0, 3, 4]], b))
    assert "Of the 7 runs of alpha only 5 nets can be distinguished" in found.pop("warning")
    assert asked.pop("warning") is None
    assert found == asked
    assert stdout_of(capsys, *pair(tmp_path / "twice", a[[0, 0, 1]], b)).startswith(
        "Warning: Of the 3 runs of alpha"
    )


def test_perfect_nets_are_distinguished_by_their_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = np.eye(CLASSES)[LABELS] + np.array([0.01, 0.02, 0.02])[:, None, None]
    perfect = side(tmp_path / "perfect.npz", labels=LABELS, probabilities=sure)
    other = side(tmp_path / "other.npz", labels=LABELS, predictions=two()[1])
    found = facts(capsys, perfect, other)
    assert found["verdict"] == "better"
    assert "Of the 3 runs of perfect only 2 nets can be distinguished" in found["warning"]


def test_near_copies_of_a_run_cause_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five runs that differ by one image each cause a warning; separate seeds cause none at any accuracy."""
    a, b = two()
    near = np.repeat(a[:1], 5, axis=0)
    for run, image in enumerate(np.flatnonzero(a[0] == LABELS)[:5]):
        near[run, image] += 1
    warning = facts(capsys, *pair(tmp_path / "near", near % CLASSES, b))["warning"]
    assert warning.startswith(
        "Two runs of alpha differ in being right on 0.05 % of the images, where separate"
    )
    for level in (0.6, 0.93, 0.995):
        tables = right_wrong(
            np.random.default_rng(3), runs=(5, 5), accuracies=(level, level), images=IMAGES, run_sd=0.001
        )
        sides = pair(tmp_path / str(level), *map(predictions, tables))
        assert facts(capsys, *sides)["warning"] is None
    few = np.repeat(LABELS[None, :100], 2, axis=0)
    few[:, 0] = (few[:, 0] + [1, 2]) % CLASSES  # one error each, on the same image: this may be chance
    small = side(tmp_path / "small.npz", labels=LABELS[:100], predictions=few)
    assert "differ in being right" not in facts(capsys, small, small)["warning"]


def test_comparing_a_side_with_itself_causes_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two()
    sides = pair(tmp_path, a, b)
    assert stdout_of(capsys, sides[0], sides[0]).startswith("Warning: 5 runs of ")
    shared = pair(tmp_path / "shared", a, np.vstack([a[:1], b[1:]]))
    assert "1 run of alpha and of beta name the same class" in facts(capsys, *shared)["warning"]
    assert facts(capsys, *sides)["warning"] is None


def test_the_winner_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = two()
    sides = pair(tmp_path, a, b)
    for order in (sides, sides[::-1]):
        assert "a run of alpha beats a run of beta with probability 1.00" in stdout_of(capsys, *order)


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    sides = pair(tmp_path, *two())
    gone = subprocess.Popen(
        [sys.executable, "-m", "analysis", "compare", *map(str, sides)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert gone.stdout is not None
    assert gone.stderr is not None
    gone.stdout.close()
    assert gone.stderr.read() == b""
    gone.stderr.close()
    assert gone.wait(60) == 0


def test_sides_with_the_same_name_get_distinct_labels(tmp_path: Path) -> None:
    a, b = two(runs=2)
    first = side(tmp_path / "x" / "net.npz", labels=LABELS, predictions=a)
    second = side(tmp_path / "y" / "net.npz", labels=LABELS, predictions=b)
    found = compare(first, second, rope=0.005)
    assert (found.first, found.second) == (str(first), str(second))
    same = compare(first, first, rope=0.005)
    assert (same.first, same.second) == ("A", "B")


SOFT = np.random.default_rng(1).random((IMAGES, CLASSES))
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"predictions": LABELS}, "must have arrays labels"),
    "no predictions": ({"labels": LABELS}, "it has labels"),
    "nothing": ({}, "it has none"),
    "empty": ({"labels": LABELS[:0], "predictions": LABELS[:0]}, "about no image"),
    "no run": ({"labels": LABELS, "predictions": LABELS[None][:0]}, "do not fit"),
    "short predictions": ({"labels": LABELS, "predictions": LABELS[:-1]}, "do not fit 4000 labels"),
    "short side": ({"labels": LABELS[:-1], "predictions": LABELS[:-1]}, "about 3999 images"),
    "other labels": ({"labels": (LABELS + 1) % CLASSES, "predictions": LABELS}, "other labels"),
    "turned": ({"labels": LABELS, "predictions": np.stack([LABELS] * 3, axis=1)}, "do not fit"),
    "scalar": ({"labels": np.int64(1), "predictions": LABELS}, "labels must be"),
    "deep predictions": ({"labels": LABELS, "predictions": LABELS[None, None]}, "predictions must be"),
    "fractions": ({"labels": LABELS, "predictions": LABELS / 2}, "predictions must be whole numbers"),
    "words": ({"labels": LABELS.astype(str), "predictions": LABELS}, "labels must be whole numbers"),
    "negative labels": ({"labels": LABELS - 1, "predictions": LABELS}, "from 0 on, not -1"),
    "negative predictions": ({"labels": LABELS, "predictions": LABELS - 1}, "from 0 on, not -1"),
    "few classes": ({"labels": LABELS, "probabilities": SOFT[:, :5]}, "label 9 is outside the 5 classes"),
    "a label beyond": (
        {"labels": LABELS, "predictions": LABELS % 5, "probabilities": SOFT[:, :5]},
        "label 9 is outside the 5 classes",
    ),
    "a prediction beyond": (
        {"labels": LABELS, "predictions": LABELS + 1, "probabilities": SOFT},
        "prediction 10 is outside the 10 classes",
    ),
    "no classes": ({"labels": LABELS, "probabilities": SOFT[:, :0]}, "do not fit"),
    "flat probabilities": ({"labels": LABELS, "probabilities": SOFT[:, 0]}, "probabilities must be"),
    "whole probabilities": ({"labels": LABELS, "probabilities": SOFT > 0.5}, "floating-point"),
    "nan": ({"labels": LABELS, "probabilities": np.where(SOFT > 0.999, np.nan, SOFT)}, "not finite"),
    "objects": ({"labels": LABELS, "predictions": LABELS.astype(object)}, "holds Python objects"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_bad_arrays_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    arrays, sentence = BROKEN[fault]
    good = side(tmp_path / "good.npz", labels=LABELS, predictions=LABELS)
    bad = side(tmp_path / "bad.npz", **arrays)
    for sides in ((good, bad), (bad, good)):
        shown = refusal(capsys, *sides)
        assert str(bad) in shown
    assert sentence in refusal(capsys, good, bad)


def test_bad_files_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = side(tmp_path / "good.npz", labels=LABELS, predictions=LABELS)
    whole = good.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"labels,predictions\n1,1\n",
        "pickle": b"\x80\x04N.",
        "torn": whole[: len(whole) // 2],
        "rotten": whole[:200] + b"\xff" * 64 + whole[264:],
    }.items():
        bad = tmp_path / f"{name}.npz"
        bad.write_bytes(content)
        assert f"{name}.npz is no .npz file that can be read" in refusal(capsys, good, bad)
    np.save(tmp_path / "bare.npy", LABELS)
    assert "bare.npy must have arrays" in refusal(capsys, tmp_path / "bare.npy", good)
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("labels", "1 2 3")
        archive.writestr("predictions", "1 2 3")
    assert "zip.npz must have arrays" in refusal(capsys, tmp_path / "zip.npz", good)


def test_bad_paths_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = side(tmp_path / "good.npz", labels=LABELS, predictions=LABELS)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "nested" / "a.npz").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in {
        "nowhere": "nowhere is missing",
        "hollow": "has no .npz file in it",
        "nested": "a.npz is not a file",
        "pipe": "pipe is not a file",
        "n" * 5000: "cannot be opened",
    }.items():
        assert sentence in refusal(capsys, good, tmp_path / name)


def test_a_folders_files_must_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = side(tmp_path / "good.npz", labels=LABELS, predictions=LABELS)
    side(tmp_path / "many" / "0.npz", labels=LABELS, predictions=LABELS)
    side(tmp_path / "many" / "1.npz", labels=LABELS[::-1], predictions=LABELS)
    shown = refusal(capsys, tmp_path / "many", good)
    assert "1.npz has other labels than" in shown
    assert "0.npz" in shown


@pytest.mark.parametrize(
    "arguments", [["a"], ["a", "b", "--rope", "0"], ["a", "b", "--rope", "nan"], ["a", "b", "c"]]
)
def test_bad_flags_end_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_study_in_a_folder_called_compare_is_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("compare").mkdir()
    assert main(["./compare"]) == 2
    assert "plan.json" in capsys.readouterr().err


def test_the_command_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    sides = pair(tmp_path, *two(runs=2))
    root = Path(__file__).parents[2]
    for arguments, absent in (
        (["--help"], {"numpy", "scipy", "pandas", "torch"}),
        (sides, {"pandas", "torch", "ray"}),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "analysis", "compare", *map(str, arguments)],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert "argparse" in loaded
        assert not absent & loaded
