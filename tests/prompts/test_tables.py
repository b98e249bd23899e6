"""Tables as spreadsheets save them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from medsam2.errors import PromptError, UnsupportedFormat
from medsam2.prompts.files import read_prompts
from medsam2.prompts.statements import Statement
from medsam2.prompts.tables import delimited, named_file, number_in, numbers_in, table_rows, table_text

ROW = "liver;6;26;18;54;42"
HEADER = "name;slice;x_min;y_min;x_max;y_max"


def first(tmp_path: Path, content: bytes) -> Statement:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    (one,) = read_prompts(path, image=Path("scan.nii"), num_slices=12).objects
    assert one.name is not None
    return one.statements[0]


@pytest.mark.parametrize("line", ["sep=;\r\n", "SEP=;\n", '"sep=;"\r\n', "sep=\n", ""])
def test_the_line_that_names_the_delimiter(tmp_path: Path, line: str) -> None:
    said = first(tmp_path, f"{line}{HEADER}\r\n{ROW}\r\n".encode())
    assert said.box is not None
    assert said.box.xyxy == (26, 18, 54, 42)
    assert said.where.endswith("row 2"), "as Excel counts, which does not show the line"


def test_a_delimiter_of_ones_own() -> None:
    assert delimited("sep=|\na|b,c\n") == ("a|b,c\n", "|")
    assert [cells for _, cells in table_rows("sep=|\na|b\n1|2,5\n", Path("t"))] == [{"a": "1", "b": "2,5"}]
    with pytest.raises(PromptError, match="3 cells for 2 columns, separated by ','"):
        list(table_rows("a,b\n1,2,3\n", Path("t")))


def test_decimal_commas_in_columns_and_lists(tmp_path: Path) -> None:
    said = first(tmp_path, f"{HEADER}\nliver;6;26,5;18,25;54;42,0\n".encode())
    assert said.box is not None
    assert said.box.xyxy == (26.5, 18.25, 54, 42)
    said = first(tmp_path, b'name;slice;box\nliver;6,0;"26,5 18,25 54 42"\n')
    assert said.box is not None
    assert said.box.xyxy == (26.5, 18.25, 54, 42)
    said = first(tmp_path, b'name;slice;points\nliver;6;"31,5 27,5 1; 5 5 0"\n')
    assert [(p.x, p.y, p.is_positive) for p in said.points] == [(31.5, 27.5, True), (5, 5, False)]


@pytest.mark.parametrize("cell", ["1,234", "26,5,1", "x,5"])
def test_a_comma_that_may_mean_two_things_is_named(tmp_path: Path, cell: str) -> None:
    with pytest.raises(PromptError) as caught:
        first(tmp_path, f"{HEADER}\nliver;6;{cell};18;54;42\n".encode())
    assert "x_min" in str(caught.value)
    assert ("write decimals with a point" in str(caught.value)) == (cell[0] != "x")
    with pytest.raises(PromptError, match="write decimals with a point"):
        first(tmp_path, b'name;slice;points\nliver;6;"26,5 1"\n')


def test_numbers() -> None:
    known = {"26,5": 26.5, " -0,75 ": -0.75, ",5": 0.5, "12.5": 12.5, "0,500": 0.5, "1,2345": 1.2345, 7: 7.0}
    for given, expected in known.items():
        assert number_in(given) == expected
    for none in ("1,234", "1,234,567", "1,2,3", "1,5e3", "", "nan", "inf", True, None, "a"):
        assert number_in(none) is None
    assert numbers_in("[26,18,54,42]", (4,)) == [26, 18, 54, 42]
    assert numbers_in("26,18 54,42", (4,)) == [26, 18, 54, 42]
    assert numbers_in("-160,5 240,5", (2,)) == [-160.5, 240.5]
    assert numbers_in("-160,240", (2,)) == [-160, 240]
    assert numbers_in("1,5 2,5 3,5 4,5", (4, 8)) is None, "four or eight"
    assert numbers_in("1 2 3", (4,)) is None


def test_code_pages(tmp_path: Path) -> None:
    path, text = tmp_path / "t.csv", "name,slice\nL\u00e4sion \u2013 \u00df,6\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert table_text(path) == text
    path.write_text(text, encoding="cp1252")
    with pytest.warns(UserWarning, match="read as Windows-1252.*CSV UTF-8"):
        assert table_text(path) == text
    for content in (b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n\x00\x00\xff", b"a,b\n\x81\xe4\n", b"PK\x03\x04\x00"):
        path.write_bytes(content)
        with pytest.raises(UnsupportedFormat, match="is not text in UTF-8"):
            table_text(path)


def test_backslashes_of_windows(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    assert named_file("scans\\a.nii", tmp_path) == tmp_path / "scans" / "a.nii"
    assert named_file(".\\a.nii", tmp_path) == tmp_path / "a.nii"
    (tmp_path / "b\\c.nii").touch()
    assert named_file("b\\c.nii", tmp_path) == tmp_path / "b\\c.nii", "a file that is really called so"
    said = first(tmp_path, b"name;slice;mask\nliver;6;masks\\m.nii\n")
    assert said.mask is not None
    assert said.mask.path == tmp_path / "masks" / "m.nii"
