"""Measurements in files, read back by json and csv."""

import csv
import json

import numpy as np
import pytest

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import measure_objects, write_statistics


@pytest.fixture
def statistics():
    array = np.zeros((4, 10, 12), np.uint8)
    array[1:3, 2:6, 3:10] = 1
    labels = Volume.from_array(array, (0.5, 0.5, 2.0))
    scan = labels.with_array(np.arange(array.size, dtype=np.int16).reshape(array.shape))
    return measure_objects(labels, scan, names={1: "Größe, links", 2: "lost"})


def test_json(statistics, tmp_path):
    write_statistics(statistics, tmp_path / "statistics.json")
    first, lost = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))["objects"]
    assert first["name"] == "Größe, links"
    assert first["volume_ml"] == statistics[0].volume_ml
    assert first["min_xyz"] == [3, 2, 1]
    assert first["diameters"]["long"]["length_mm"] == pytest.approx(np.hypot(3.5, 2))
    assert first["intensities"]["median"] == statistics[0].intensities.median
    assert lost["volume_ml"] == 0
    assert lost["diameters"] is None


def test_csv(statistics, tmp_path):
    write_statistics(statistics, tmp_path / "statistics.csv")
    with (tmp_path / "statistics.csv").open(encoding="utf-8", newline="") as file:
        first, lost = csv.DictReader(file)
    assert first["name"] == "Größe, links"
    assert float(first["volume_ml"]) == statistics[0].volume_ml
    assert [int(first[f"{axis}_{end}"]) for end in ("min", "max") for axis in "xyz"] == [3, 2, 1, 9, 5, 2]
    assert float(first["long_axis_mm"]) == pytest.approx(np.hypot(3.5, 2))
    assert float(first["short_axis_x0"]) == statistics[0].diameters.short.start_xy[0]
    assert int(first["diameter_slice"]) == 1
    assert float(first["intensity_std"]) == statistics[0].intensities.std
    assert lost["volume_ml"] == "0.0"
    assert lost["long_axis_mm"] == lost["intensity_mean"] == lost["x_min"] == ""


def test_no_objects_and_other_suffixes(statistics, tmp_path):
    write_statistics([], tmp_path / "statistics.json")
    assert json.loads((tmp_path / "statistics.json").read_text()) == {"objects": []}
    write_statistics([], tmp_path / "statistics.csv")
    with pytest.raises(
        UnsupportedFormat, match=r"statistics\.txt: statistics are written as \.json or \.csv"
    ):
        write_statistics(statistics, tmp_path / "statistics.txt")
    assert not (tmp_path / "statistics.txt").exists()
