"""Results as CSV, JSON and a table."""

import csv
import json
import math
from dataclasses import replace

import pytest

from medsam2.errors import InputError
from medsam2.evaluation.report import TABLE_HEADER, as_json, as_table, write_csv, write_steps_csv
from medsam2.evaluation.runner import CaseResult, Scores, Step
from medsam2.evaluation.summary import summarise

SCORES = {
    "dice": 0.91,
    "surface_dice": 0.5,
    "hd95_mm": 3.25,
    "hd95_px": None,
    "key_slice_dice": 0.95,
    "over_slices": 1,
    "under_slices": 2,
    "seconds": 0.5,
    "num_slices": 30,
}

_KEYS = ("name", "modality", "target", "dimensions", "repeat", "error")


def run(name, repeat=0, **scores):
    return CaseResult(
        name=name, modality="CT", target="a, b", dimensions=3, repeat=repeat, scores=Scores(**SCORES | scores)
    )


@pytest.fixture
def results():
    failed = CaseResult(name="lost", modality="US", target="disc", dimensions=2, error='no "such", file')
    return [run("liver"), run("liver", 1, dice=0.0, hd95_mm=math.inf), failed]


def test_csv(results, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    write_csv(results, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["liver", "liver", "lost"]
    assert rows[0]["target"] == "a, b"
    assert (rows[0]["dice"], rows[0]["hd95_mm"], rows[0]["hd95_px"], rows[0]["error"]) == (
        "0.91",
        "3.25",
        "",
        "",
    )
    assert (rows[1]["repeat"], rows[1]["hd95_mm"]) == ("1", "inf")
    assert (rows[2]["dice"], rows[2]["error"]) == ("", 'no "such", file')
    assert list(tmp_path.iterdir()) == [path]


def test_csv_that_cannot_be_written(results, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(results, tmp_path / "none" / "scores.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(results, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_json(results):
    found = json.loads(json.dumps(as_json(results, summarise(results)), allow_nan=False))
    first = found["cases"][0]
    assert {name: first[name] for name in (*_KEYS, *SCORES)} == {
        "name": "liver", "modality": "CT", "target": "a, b", "dimensions": 3, "repeat": 0, "error": None,
        **SCORES,
    }  # fmt: skip
    assert "steps" not in first
    assert found["cases"][1]["hd95_mm"] is None
    assert found["cases"][2]["dice"] is None
    assert found["means"]["3d"]["dice"] == pytest.approx(0.455)
    assert found["means"]["3d"]["hd95_mm"] == 3.25
    assert found["means"]["2d"]["num_failed"] == 1
    assert found["means"]["2d"]["dice"] is None
    assert list(found["means"]["by_modality"]) == ["CT", "US"]


def test_table(results):
    runs, means = as_table(results, summarise(results))
    assert runs[0] == ["liver", "0.910", "0.500", "3.2 mm", "0.950", "1", "2", "0.50"]
    assert runs[1][0] == "liver #2"
    assert runs[1][3] == "inf mm"
    assert runs[2][:2] == ["lost", "failed"]
    assert [row[0] for row in means] == [
        "mean 3D (2 runs, 1 missed)",
        "mean 2D (1 runs, 1 failed)",
        "mean CT (2 runs, 1 missed)",
        "mean US (1 runs, 1 failed)",
    ]
    assert means[0][1:4] == ["0.455", "0.500", "3.2 mm"]
    assert means[1][1:] == [""] * 7
    assert all(len(row) == len(TABLE_HEADER) for row in runs + means)


def test_steps(results, tmp_path):
    steps = tuple(
        Step(interactions=i, dice=0.5 + i / 10, surface_dice=0.4, seconds=0.25, poor_slices=3 - i)
        for i in (1, 2)
    )
    asked = replace(results[0], steps=steps)
    found = as_json([asked], summarise([asked]))
    assert [step["dice"] for step in found["cases"][0]["steps"]] == [0.6, 0.7]
    write_steps_csv([asked, results[2]], tmp_path / "steps.csv")
    with (tmp_path / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["interactions"], row["poor_slices"]) for row in rows] == [
        ("liver", "1", "2"),
        ("liver", "2", "1"),
    ]
