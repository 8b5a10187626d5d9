"""``analysis compare`` on CSV and parquet: the same answer as on arrays, joined by image, and one sentence per fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import parquet

from analysis.__main__ import main
from analysis.sheets import read
from study.protocol.errors import InputError

IMAGES, RUNS = 60, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, IMAGES)
NAMES = np.array([f"class {i % 3}/{i:03d}, of 60.png" for i in range(IMAGES)])
CLASSES = np.array(["cat", "dog", "élan"])
Ints = NDArray[np.int64]


def predicted(share: float, seed: int) -> Ints:
    right = np.random.default_rng(seed).random((RUNS, IMAGES)) < share
    return np.where(right, LABELS, (LABELS + 1) % 3)


def rows(named: Ints, order: Ints | None = None) -> list[dict[str, Any]]:
    return [
        {
            "image": NAMES[i],
            "label": CLASSES[LABELS[i]],
            "run": f"r{run}",
            "prediction": CLASSES[named[run, i]],
        }
        for run in range(RUNS)
        for i in (np.arange(IMAGES) if order is None else order)
    ]


def as_csv(path: Path, table: list[dict[str, Any]], separator: str = ",", encoding: str = "utf-8") -> Path:
    def cell(value: object) -> str:
        return f'"{value}"' if separator in str(value) else str(value)

    lines = [list(table[0]), *([cell(v) for v in row.values()] for row in table)]
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n", encoding=encoding)
    return path


def as_parquet(path: Path, table: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(table), path)
    return path


def as_arrays(path: Path, named: Ints) -> Path:
    np.savez(path, labels=LABELS, predictions=named)
    return path


def facts(capsys: pytest.CaptureFixture[str], *sides: Path) -> dict[str, Any]:
    assert main(["compare", *map(str, sides), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *sides: Path) -> str:
    assert main(["compare", *map(str, sides)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_every_form_gives_the_answer_of_the_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = predicted(0.9, 1), predicted(0.6, 2)
    wanted = facts(capsys, as_arrays(tmp_path / "a.npz", a), as_arrays(tmp_path / "b.npz", b))
    order = RNG.permutation(IMAGES)
    capitals = [{k.title(): v for k, v in row.items()} for row in rows(a)]
    soft = [
        {k: v for k, v in row.items() if k != "prediction"}
        | {str(c): 0.8 if c == row["prediction"] else 0.1 for c in CLASSES}
        for row in rows(a)
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    for run in range(RUNS):
        own = [r | {"run": ""} for r in rows(a, RNG.permutation(IMAGES)) if r["run"] == f"r{run}"]
        as_csv(folder / f"{run}.csv", [{k: v for k, v in r.items() if k != "run"} for r in own])
    named = tmp_path / "named.npz"
    np.savez(named, labels=CLASSES.argsort()[LABELS], predictions=a, names=NAMES)
    other = as_csv(tmp_path / "b.csv", rows(b, order))
    for first in (
        as_csv(tmp_path / "comma.csv", rows(a)),
        as_csv(tmp_path / "semicolon.csv", capitals, ";", "utf-8-sig"),
        as_csv(tmp_path / "tab.tsv", rows(a, order), "\t"),
        as_parquet(tmp_path / "a.parquet", rows(a, order)),
        as_parquet(tmp_path / "soft.parquet", soft),
        as_csv(tmp_path / "soft.csv", soft),
        folder,
    ):
        assert facts(capsys, first, other) == wanted, first
    numbers = [
        r | {k: int(np.flatnonzero(CLASSES == r[k])[0]) for k in ("label", "prediction")} for r in rows(b)
    ]
    assert facts(capsys, named, as_parquet(tmp_path / "numbers.parquet", numbers)) == wanted


def test_images_of_one_side_only_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = predicted(0.9, 1), predicted(0.6, 2)
    first = as_csv(tmp_path / "a.csv", rows(a, np.arange(IMAGES - 5)))
    second = as_parquet(tmp_path / "b.parquet", rows(b, np.arange(10, IMAGES)))
    found = facts(capsys, first, second)
    assert found["accuracy_a"] == pytest.approx((a == LABELS)[:, 10:-5].mean())
    assert "a.csv holds 10 images that" in found["warning"]
    assert "b.parquet holds 5 images that" in found["warning"]
    assert "the 45 images that both hold" in found["warning"]
    apart = [r | {"image": f"elsewhere/{r['image']}"} for r in rows(b)]
    assert "share no image" in refusal(capsys, first, as_csv(tmp_path / "apart.csv", apart))


def test_the_same_net_on_both_sides_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = predicted(0.9, 1)
    sides = as_csv(tmp_path / "a.csv", rows(a)), as_parquet(tmp_path / "b.parquet", rows(a))
    assert "3 runs of a and of b name the same class" in facts(capsys, *sides)["warning"]


def without(name: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda table: [{k: v for k, v in row.items() if k != name} for row in table]


BROKEN: dict[str, tuple[Callable[[list[dict[str, Any]]], list[dict[str, Any]]], str]] = {
    "no label": (without("label"), "must have the columns image, label and prediction"),
    "no prediction": (without("prediction"), "must have the columns"),
    "no run": (without("run"), "has 3 rows of the image class 0/000, of 60.png"),
    "a row less": (lambda t: t[:-1], "run r2 lacks the image"),
    "a row twice": (lambda t: [*t, t[0]], "run r0 has 2 rows of the image"),
    "two labels": (lambda t: [t[0] | {"label": "dog"}, *t[1:]], "two labels"),
    "an empty cell": (lambda t: [*t[:-1], t[-1] | {"prediction": ""}], "has no prediction in row 180"),
    "words": (lambda t: [{**r, "cat": "much", "dog": 0} for r in without("prediction")(t)], "has 'much'"),
    "nan": (lambda t: [{**r, "cat": "nan", "dog": 0} for r in without("prediction")(t)], "not finite"),
    "a class less": (lambda t: [{**r, "cat": 1, "dog": 0} for r in without("prediction")(t)], "class élan"),
    "other labels": (lambda t: [r | {"label": "élan"} for r in t], "another label than"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_bad_tables_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    change, sentence = BROKEN[fault]
    good = as_csv(tmp_path / "good.csv", rows(predicted(0.9, 1)))
    table = [{k: str(v) for k, v in row.items()} for row in change(rows(predicted(0.8, 2)))]
    for bad in (as_csv(tmp_path / "bad.csv", table), as_parquet(tmp_path / "bad.parquet", table)):
        said = refusal(capsys, good, bad)
        assert sentence in said
        assert str(bad) in said


def test_bad_files_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = as_parquet(tmp_path / "good.parquet", rows(predicted(0.9, 1)))
    whole = good.read_bytes()
    header = b"image,label,prediction\n"
    for name, content, sentence in (
        ("empty.csv", b"", "it has none"),
        ("bare.csv", header, "about no image"),
        ("latin.csv", header + "é,1,1\n".encode("latin-1"), "UTF-8"),
        ("quote.csv", header + b'a,"1,1\n', "no CSV file that can be read"),
        ("wide.csv", header + b"a,1,1,1\n", "row 1 has 4 cells"),
        ("twice.csv", b"image,label,Label,prediction\na,1,1,1\n", "two columns called label"),
        ("long.csv", header + b"a,1," + b"1" * 200_000 + b"\n", "no CSV file that can be read"),
        ("tall.csv", header + b"a,1,1\n" * 9 + b"b,1," + b"1" * 5000 + b"\n", "a cell of 5000 characters"),
        ("empty.parquet", b"", "no parquet file that can be read"),
        ("torn.parquet", whole[: len(whole) // 2], "no parquet file that can be read"),
        ("rotten.parquet", whole[:20] + b"\xff" * 64 + whole[84:], ""),
        ("nowhere.csv", None, "is missing"),
    ):
        bad = tmp_path / name
        if content is not None:
            bad.write_bytes(content)
        assert sentence in refusal(capsys, good, bad), name
    nested = pa.table({"image": [["a"]], "label": [{"x": 1}], "prediction": ["b"]})
    parquet.write_table(nested, tmp_path / "nested.parquet")
    assert "share no image" in refusal(capsys, good, tmp_path / "nested.parquet")
    bare = as_arrays(tmp_path / "bare.npz", predicted(0.9, 1))
    assert "bare.npz does not name its images" in refusal(capsys, bare, good)


def test_a_table_of_as_many_runs_as_images_takes_no_room_for_all_pairs(tmp_path: Path) -> None:
    """7 GB for 30,000 of them."""
    lines = "".join(f"i{k},1,r{k},1\n" for k in range(30_000))
    (tmp_path / "a.csv").write_text("image,label,run,prediction\n" + lines)
    with pytest.raises(InputError, match="run r0 lacks the image i1,"):
        read(tmp_path / "a.csv")


@given(content=st.binary(max_size=400), kind=st.sampled_from([".csv", ".parquet", ".tsv"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{kind}"
    path.write_bytes((b"image,label,prediction\n" if len(content) % 2 else b"") + content)
    try:
        sheet = read(path)
    except InputError:
        return
    assert sheet.predicted.shape == (len(sheet.digests), len(sheet.images))
