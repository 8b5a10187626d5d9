"""Names of folders that were given none."""

import pytest

from study.protocol.rundir import file_name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("digits", "digits"),
        ("folder:some where/my images", "my-images"),
        ("/data/birds/", "birds"),
        ("hf:someone/birds:small", "birds-small"),
        ("folder:../..", "--"),
        ("Äpfel", "Äpfel"),
        ("x" * 300, "x" * 40),
        ("folder:/", "images"),
        ("a\udcffb", "a-b"),  # a byte that is no UTF-8
    ],
)
def test_a_data_source_gives_a_short_name_without_separators(data: str, name: str) -> None:
    assert file_name(data, otherwise="images") == name
