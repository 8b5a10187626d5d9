"""Every source ends in the images and labels of the folder that it was made from, to the fingerprint."""

import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.folders import data, refused, the_same
from support.pictures import fill

from study.data.parts import chosen_test
from study.data.prepare import prepare

Rows = list[tuple[str, str, str]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two parts, and two classes whose order by number is not that by name."""
    root = tmp_path / "images"
    fill(root / "train", {"10": 12, "9": 9})
    fill(root / "test", {"10": 4, "9": 5})
    return root


def rows_of(images: Path) -> Rows:
    """Path, label and part of every image, in no order."""
    found = [
        (f"{p.relative_to(images)}", p.parent.name, p.parent.parent.name) for p in images.glob("*/*/*.png")
    ]
    random.Random(0).shuffle(found)
    return found


# -- a folder, by its path


def test_a_path_alone_is_a_folder(images: Path, tmp_path: Path) -> None:
    the_same(data(images, tmp_path), images)


# -- csv


@pytest.mark.parametrize(
    ("separator", "header"),
    [
        (",", "path,label,split"),
        (";", "File Name;Class;Subset"),
        ("\t", "image\tcategory\tset"),
        ("|", "img_path|target|partition"),
        (",", ""),
        (" ", ""),
        (",", "Bild,Klasse,split"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_text(images: Path, tmp_path: Path, separator: str, header: str, encoding: str) -> None:
    lines = [header] * bool(header) + [separator.join(row) for row in rows_of(images)]
    (images / "labels.csv").write_text("\r\n".join(["", *lines, "", ""]), encoding=encoding)
    the_same(data(f"csv:{images / 'labels.csv'}", tmp_path), images)
    the_same(data(images / "labels.csv", tmp_path), images)


def test_a_table_names_files_in_many_ways(images: Path, tmp_path: Path) -> None:
    ways: Sequence[Callable[[str], str]] = (
        lambda path: str(images / path),
        lambda path: path.replace("/", "\\"),
        lambda path: path.removesuffix(".png"),
        lambda path: f"./{path}",
        lambda path: f'"{path}"',
    )
    for way in ways:
        lines = ["id,label,split", *(f"{way(path)},{label},{part}" for path, label, part in rows_of(images))]
        (images / "labels.csv").write_text("\n".join(lines))
        found = data(images / "labels.csv", tmp_path)
        assert sorted(map(bytes, found.train.pixels)) == sorted(
            map(bytes, data(images, tmp_path).train.pixels)
        )


@pytest.mark.parametrize("on_disk", ["Ka\u0308fer", "K\u00e4fer", "K\udce4fer"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_accents_are_matched_however_they_are_written(
    images: Path, tmp_path: Path, encoding: str, on_disk: str
) -> None:
    expected, rows = data(images, tmp_path), rows_of(images)
    (images / "train").rename(images / on_disk)
    lines = ["path;label;split"]
    for i, (path, label, part) in enumerate(rows):
        accent = "\u00e4" if encoding == "cp1252" or i % 2 else "a\u0308"
        lines.append(f"{path.replace('train', f'K{accent}fer')};{accent}{label};{part}")
    (images / "labels.csv").write_text("\n".join(lines), encoding=encoding)
    found = data(images / "labels.csv", tmp_path)
    assert found.card.classes == tuple(f"\u00e4{name}" for name in expected.card.classes)
    assert found.card.train_counts == expected.card.train_counts
    assert ("read as cp1252" in found.card.note) == (encoding == "cp1252")


@pytest.mark.parametrize("folds", [("fold0", "fold1", "fold2"), ("0", "1", "2")])
def test_any_part_of_a_table_can_be_the_test(images: Path, tmp_path: Path, folds: tuple[str, ...]) -> None:
    rows = [f"{path},{label},{folds[i % 3]}" for i, (path, label, _) in enumerate(sorted(rows_of(images)))]
    (images / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    card = data(images / "labels.csv", tmp_path, test=chosen_test(folds[1])).card
    assert (card.train, card.test) == (20, 10)


def test_a_table_without_a_split_sets_a_share_apart(images: Path, tmp_path: Path) -> None:
    lines = ["path,label", *(f"{path},{label}" for path, label, _ in rows_of(images))]
    (images / "labels.csv").write_text("\n".join(lines))
    assert data(images / "labels.csv", tmp_path).card.test == 9  # 30 % of 30
    assert data(images / "labels.csv", tmp_path, test="50%").card.test == 15


def test_a_part_of_a_table_without_labels_is_left_unused(images: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    lines += [f"{path},{label if part == 'train' else ''},{part}" for path, label, part in rows_of(images)]
    (images / "labels.csv").write_text("\n".join(lines))
    refused(images / "labels.csv", tmp_path, "test holds no class folders or labels")
    found = data(images / "labels.csv", tmp_path, test="20%")
    assert found.card.train + found.card.test == 21
    assert "test left unused, without labels" in found.card.note


BAD_TABLES = [
    ("", "is empty: write a header"),
    (
        "path,label\nhttps://a.b/c.jpg,x\nhttps://a.b/d.jpg,y\n",
        "line 2: https://a.b/c.jpg is an address. Fetch",
    ),
    (
        "path,label\nno/1.png,x\nno/2.png,y\n",
        "2 of 2 files are not there, as line 2: no/1.png: paths are taken relative",
    ),
    ("path,label\ntrain/9/000.png,x\ntrain/9/001.png\n", "line 3 has 1 column, and the first has 2"),
    ("path,label\ntrain/9/000.png,x\ntrain/9/000.png,y\n", "in lines 2 and 3 with different labels"),
    ("path,label\ntrain/9/000.png,x\ntrain/9/001.png,\n", "1 image of 2 without a label, as train/9/001.png"),
    (
        "path,cat,dog,cow\ntrain/9/000.png,0,1,0\n",
        "no column that is clearly the label .its columns are path, cat, dog and cow",
    ),
    ("a,b\n1,2\n3,4\n", "no column of image files"),
    ("train/9/000.png\ntrain/9/001.png\n", "no column that is clearly the label"),
    ("path,label\n,x\n", "line 2 names no file"),
    ("path,label\ntrain/9/000.png,x\n", "has one class, 'x'"),
    ("path\0label", "bytes of 0"),
]


@pytest.mark.parametrize(("text", "words"), BAD_TABLES, ids=[str(i) for i in range(len(BAD_TABLES))])
def test_a_table_that_says_too_little(images: Path, tmp_path: Path, text: str, words: str) -> None:
    (images / "labels.csv").write_text(text)
    refused(f"csv:{images / 'labels.csv'}", tmp_path, words)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    refused(f"csv:{tmp_path / 'no.csv'}", tmp_path, "cannot be read: No such file")
    refused(f"csv:{tmp_path}", tmp_path, "cannot be read: Is a directory")
    refused(tmp_path / "no.csv", tmp_path, "no data set")
    os.mkfifo(tmp_path / "pipe.csv")
    for kind in ("csv", "parquet"):
        refused(f"{kind}:{tmp_path / 'pipe.csv'}", tmp_path, "it is not a file")
        refused(f"{kind}:~nobody-here/x", tmp_path, "home directory")


# -- parquet and Hugging Face


@pytest.mark.parametrize("streamed", [False, True])
def test_images_in_a_table_go_by_their_own_names(images: Path, tmp_path: Path, streamed: bool) -> None:
    rows = [row for row in rows_of(images) if row[2] == "train"]
    file, memory = tmp_path / "x.parquet", 0 if streamed else 2**30

    def names() -> set[str]:
        prepared = prepare(f"parquet:{file}", seed=0, root=tmp_path / "downloads", test="20%", memory=memory)
        assert len(set(prepared.train.names)) == len(prepared.train)
        return set(prepared.train.names)

    whole = table_of(images, rows, "bytes")
    parquet.write_table(whole.drop(["filename"]), file)
    assert names() < {f"row {i} of x.parquet" for i in range(1, len(rows) + 1)}
    parquet.write_table(whole.set_column(2, "filename", [[row[0] for row in rows]]), file)
    assert names() < {row[0] for row in rows}
    parquet.write_table(whole.set_column(2, "filename", [["same.png"] * len(rows)]), file)
    assert names() < {f"same.png (row {i} of x.parquet)" for i in range(1, len(rows) + 1)}
    paths = pa.array([str(images / row[0]) for row in rows]).dictionary_encode()
    parquet.write_table(
        pa.table({"path": paths, "label": whole["label"].combine_chunks().dictionary_encode()}), file
    )
    assert names() < {str(images / row[0]) for row in rows}


def test_a_row_without_an_image_is_named(images: Path, tmp_path: Path) -> None:
    rows = rows_of(images)
    whole = table_of(images, rows, "bytes")
    junk = pa.array([b"junk", *whole["image"].to_pylist()[1:]])
    for table, name in (
        (whole, f"{Path(rows[0][0]).name} (row 1 of x.parquet)"),
        (whole.drop(["filename"]), "row 1 of x.parquet"),
    ):
        parquet.write_table(table.set_column(0, "image", junk), tmp_path / "x.parquet")
        refused(tmp_path / "x.parquet", tmp_path, f": {re.escape(name)}: its content is no")
    parquet.write_table(table_of(images, rows, "paths"), images / "x.parquet")
    (images / rows[0][0]).unlink()
    refused(
        images / "x.parquet",
        tmp_path,
        re.escape(f": {images / rows[0][0]} (row 1 of x.parquet): No such file"),
    )


def table_of(images: Path, rows: Rows, how: str) -> pa.Table:
    contents = [(images / path).read_bytes() for path, _, _ in rows]
    names = [Path(path).name for path, _, _ in rows]
    labels = [label for _, label, _ in rows]
    if how == "bytes":
        return pa.table({"image": contents, "label": labels, "filename": names})
    if how == "paths":
        return pa.table({"image": [path for path, _, _ in rows], "label": labels})
    pictures = [{"bytes": b, "path": p} for b, p in zip(contents, names, strict=True)]
    if how == "numbers":
        return pa.table({"img": pictures, "target": [float(label) for label in labels]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["10", "9"], "_type": "ClassLabel"}}
    table = pa.table({"image": pictures, "label": [["10", "9"].index(label) for label in labels]})
    about = f'{{"info": {{"features": {features!s}}}}}'.replace("'", '"')
    return table.replace_schema_metadata({"huggingface": about})


@pytest.mark.parametrize("how", ["bytes", "numbers", "hugging face", "paths"])
def test_parquet_in_one_file_and_in_shards(images: Path, tmp_path: Path, how: str) -> None:
    rows = rows_of(images)
    whole = table_of(images, rows, how).append_column("split", [[part for _, _, part in rows]])
    parquet.write_table(whole, images / "all.parquet", row_group_size=5)
    the_same(data(f"parquet:{images / 'all.parquet'}", tmp_path), images)
    the_same(data(images / "all.parquet", tmp_path), images)
    (images / "all.parquet").unlink()
    folder = images if how == "paths" else tmp_path / "shards" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        own = [row for row in rows if row[2] == part]
        for i in range(2):
            shard = table_of(images, own[i::2], how)
            parquet.write_table(shard, folder / f"{part}-{i:05d}-of-00002.parquet")
    the_same(data(f"parquet:{folder}", tmp_path), images)
    if how != "paths":
        the_same(data(folder.parent, tmp_path), images)


def test_parquet_that_says_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.parquet"

    def bad(words: str, **columns: list[Any]) -> None:
        parquet.write_table(pa.table(columns), file)
        refused(f"parquet:{file}", tmp_path, words)

    bad("no column that is clearly the image", a=[1, 2], label=[1, 2])
    bad("has one class, '1'", **{"": [b"x", b"y"]}, label=[1, 1])
    bad(
        r"its columns are image .list<element: double>. and label .string..: call it image.*or their paths",
        image=[[0.5]],
        label=["x"],
    )
    bad("row 1 of x.parquet has no image that can be read in column img", img=[{"bytes": [1, 2]}], label=[1])
    bad(
        r"clearly the label .its columns are image .binary., a .int64. and b .int64..",
        image=[b"x"],
        a=[1],
        b=[2],
    )
    bad("the label of row 1 of x.parquet is of type list", image=[b"x"], label=[[1, 2]])
    bad("row 1 of x.parquet has no image in column path", path=[""], label=[1])
    bad("row 2 of x.parquet has no image", image=[b"x", None], label=[1, 2])
    bad("2 images of 3 without a label", image=[b"x"] * 3, label=[1, None, None])
    refused(f"parquet:{tmp_path / 'no.parquet'}", tmp_path, "cannot be read as parquet")
    (tmp_path / "empty").mkdir()
    refused(f"parquet:{tmp_path / 'empty'}", tmp_path, "holds no .parquet files")
    monkeypatch.setattr("study.data.sources.parquet.free_memory", lambda: 1000)
    bad("too large for this machine's memory", image=[bytes(2000)] * 2, label=[1, 2])
    file.write_bytes(b"PAR1 and no more")
    refused(f"parquet:{file}", tmp_path, "cannot be read as parquet")


def test_names_in_a_table_lead_to_no_other_folder(images: Path, tmp_path: Path) -> None:
    rows = rows_of(images)
    table = table_of(images, rows, "bytes").set_column(
        2, "filename", [[f"../../../{i}/.x" for i in range(len(rows))]]
    )
    parquet.write_table(
        table.set_column(1, "label", [[f"../{label}" for _, label, _ in rows]]), tmp_path / "x.parquet"
    )
    before = {p for p in tmp_path.rglob("*") if "downloads" not in p.parts}
    assert data(tmp_path / "x.parquet", tmp_path).card.classes == ("../10", "../9")
    assert {p for p in tmp_path.rglob("*") if "downloads" not in p.parts} == before
    assert not [p for p in (tmp_path / "downloads").rglob("*") if p.name.startswith(".")]


def test_a_second_reading_writes_nothing(images: Path, tmp_path: Path) -> None:
    parquet.write_table(table_of(images, rows_of(images), "bytes"), tmp_path / "x.parquet")
    data(tmp_path / "x.parquet", tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "downloads").rglob("*.png")}
    data(tmp_path / "x.parquet", tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "downloads").rglob("*.png")} == before


@pytest.mark.parametrize("kind", ["folder", "saved", "shards"])
def test_hugging_face_folders(
    images: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf = pytest.importorskip("datasets")
    place = images
    if kind != "folder":
        place = tmp_path / "their"
        loaded = hf.load_dataset("imagefolder", data_dir=str(images), cache_dir=str(tmp_path / "cache"))
        if kind == "saved":
            loaded.save_to_disk(str(place))
        for part, own in loaded.items() if kind == "shards" else ():
            (place / "data").mkdir(parents=True, exist_ok=True)
            own.to_parquet(str(place / "data" / f"{part}-00000-of-00001.parquet"))
    the_same(data(f"hf:{place}", tmp_path), images)
    if kind != "folder":
        the_same(data(place, tmp_path), images)


def test_a_hub_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    pytest.importorskip("datasets")
    for spec in ("hf:nobody/nothing", "hf:nobody/nothing:plain", f"hf:{tmp_path}"):
        refused(spec, tmp_path, "could not be had")
