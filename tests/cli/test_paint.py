"""`medsam2 data paint`: stacks, exit codes, one sentence for each map that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.cli.main import run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    values = np.zeros((24, 40, 48), np.uint8)
    values[4:20, 8:30, 8:30] = 1
    values[:, 12:20, 12:20] = 2
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "maps.csv").write_text("name,file\na,a.nii.gz\n")
    return tmp_path / "maps.csv"


def paint(*arguments: object) -> int:
    return run(["data", "paint", *(str(argument) for argument in arguments)])


def test_stacks_are_painted(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stacks = tmp_path / "stacks"
    assert paint(stacks, "--maps", table, "--count", 2, "--first-seed", 5, "--processes", 1) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{stacks}\n"
    assert captured.err.startswith("medsam2: 2 stacks of 1 label maps, ")
    files = [entry["file"] for entry in json.loads((stacks / "bank.json").read_text())["train"]]
    assert files == ["painted-000005.npz", "painted-000006.npz"]
    assert sorted(path.name for path in stacks.glob("*.npz")) == files


def test_the_rest_goes_on(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.csv"
    other.write_text("name,path\nb,b.nii.gz\n")
    with table.open("a") as stream:
        stream.write("c,c.nii.gz\n")
    stacks = tmp_path / "stacks"
    arguments = ["--maps", other, "--maps", table, "--count", 1, "--processes", 1]
    assert paint(stacks, *arguments) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "other.csv: line 1: the column file is missing" in errors[0]
    assert "maps.csv: line 3: there is no file c.nii.gz" in errors[1]
    assert errors[2].startswith("medsam2: 1 stacks of 1 label maps")
    assert (stacks / "painted-000000.npz").is_file()


@pytest.mark.parametrize("weight", ["torso", "=3", "torso=-1", "torso=much"])
def test_a_bad_weight_is_said(
    table: Path, tmp_path: Path, weight: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(tmp_path / "stacks", "--maps", table, "--weight", weight) == 2
    assert "--weight is a part of a name and a factor" in capsys.readouterr().err
    assert not (tmp_path / "stacks").exists()


def test_all_maps_left_out(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert paint(tmp_path / "stacks", "--maps", table, "--weight", "a=0") == 2
    assert "there is no label map to paint from" in capsys.readouterr().err
