"""Tables of scans as spreadsheets save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2.training.datasets.layouts import read_data_set


def test_a_table_of_excel(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a.nii", "a_mask.nii"):
        (tmp_path / "scans" / name).touch()
    path = tmp_path / "t.csv"
    path.write_bytes(
        "sep=;\r\nimage;mask;patient\r\nscans\\a.nii;.\\scans\\a_mask.nii;J\u00f6rg\r\n".encode("cp1252")
    )
    with pytest.warns(UserWarning, match="read as Windows-1252"):
        (scan,) = read_data_set(path).scans
    assert scan.image == tmp_path / "scans" / "a.nii"
    assert scan.mask == tmp_path / "scans" / "a_mask.nii"
    assert scan.patient == "J\u00f6rg"
    path.write_text("sep=;\nimage;mask;kind;window\nscans\\a.nii;scans\\a_mask.nii;volume;-160,5 240,5\n")
    (scan,) = read_data_set(path).scans
    assert scan.row is not None
    assert scan.row.window == (-160.5, 240.5)
