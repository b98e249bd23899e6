"""Painted stacks: tables in, files and a list out that training reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.training.datasets.scan import LabelledScan
from medsam2.training.datasets.splits import is_validation_patient, split_by_fixed_eighth
from medsam2.training.painting import (
    MapFile,
    check_maps,
    draw_stack,
    list_maps,
    paint_stacks,
)
from medsam2.training.stack_files import entry_of, load_stack

LABELS = '{"1": "liver", "2": "vein"}'


def write_map(path: Path, *, is_empty: bool = False) -> None:
    values = np.zeros((30, 40, 48), np.uint8)
    if not is_empty:
        values[5:25, 8:30, 8:30] = 1
        values[:, 12:20, 12:20] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([1.5, 1.5, 2.0, 1.0])), path)


def write_table(path: Path, columns: str, *rows: tuple[str, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns.split(","), *rows])
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_map(tmp_path / "maps" / "a.nii.gz")
    write_map(tmp_path / "maps" / "b.nii.gz")
    rows = [("torso a", "a.nii.gz", LABELS), ("head b", "b.nii.gz", LABELS)]
    return write_table(tmp_path / "maps.csv", "name,file,labels", *rows)


def usable(table: Path) -> list[MapFile]:
    maps, faults = list_maps(table, {})
    good, unreadable = check_maps(maps)
    assert faults == unreadable == []
    return good


def test_training_reads_what_is_painted(table: Path, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    done = list(paint_stacks(usable(table), stacks, range(4, 7), 1))
    content = json.loads((stacks / "bank.json").read_text())
    assert content["validation"] == []
    assert [entry["file"] for entry in content["train"]] == [f"painted-{seed:06d}.npz" for seed in (4, 5, 6)]
    first = content["train"][0]
    assert first.keys() == {"file", "case", "objects", "dataset", "patient", "axis", "window"}
    assert (first["dataset"], first["patient"], first["axis"]) == ("painted", "", 0)
    assert first["window"] == [0, 255]
    for number, painted in enumerate(done):
        stack, entry = load_stack(stacks, number), entry_of(stacks, number)
        assert entry is not None
        assert entry.objects == painted.objects
        assert int(stack.labels.max()) == len(painted.objects)
        assert stack.image.dtype == np.uint8
        assert 32 <= len(stack.image) <= 40
        assert stack.modality is None
    assert not list(stacks.glob(".*"))


def test_processes_change_nothing(table: Path, tmp_path: Path) -> None:
    maps = usable(table)
    one = list(paint_stacks(maps, tmp_path / "one", range(3), 1))
    two = list(paint_stacks(maps, tmp_path / "two", range(3), 2))
    assert one == two
    for painted in one:
        assert (tmp_path / "one" / painted.file).read_bytes() == (
            tmp_path / "two" / painted.file
        ).read_bytes()


def test_other_stacks_stay_and_the_same_file_is_listed_once(table: Path, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    scan = {"file": "0.npz", "case": "scan", "objects": ["liver"]}
    listed = {"options": {"plane": None}, "train": [scan], "validation": [scan]}
    (stacks / "bank.json").write_text(json.dumps(listed))
    for _ in range(2):
        list(paint_stacks(usable(table), stacks, range(2), 1))
    content = json.loads((stacks / "bank.json").read_text())
    assert content["options"] == {"plane": None}
    assert content["validation"] == [scan]
    assert [entry["file"] for entry in content["train"]] == [
        "0.npz",
        "painted-000000.npz",
        "painted-000001.npz",
    ]


def test_a_broken_list_is_said_before_the_work(table: Path, tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text("[]")
    with pytest.raises(InputError, match=r"bank\.json: is no list of prepared stacks"):
        next(paint_stacks(usable(table), tmp_path, range(2), 1))
    assert not list(tmp_path.glob("*.npz"))


def test_weights_choose_maps(table: Path) -> None:
    maps, _ = list_maps(table, {"torso": 3, "b": 0})
    assert [(one.name, one.weight) for one in maps] == [("torso a", 3)]
    maps, _ = list_maps(table, {"torso": 3, "o a": 2})
    assert [one.weight for one in maps] == [6, 1]
    drawn = [draw_stack(maps, seed) for seed in range(12)]
    names = [one[0] for one in drawn if one is not None]
    assert names.count("torso a") > names.count("head b")


def test_only_masks_of_training_patients_are_used(tmp_path: Path) -> None:
    write_map(tmp_path / "mask.nii.gz")
    patients = [f"patient {number}" for number in range(40)]
    rows = [(name, "mask.nii.gz", name, "volume", "", LABELS) for name in patients]
    rows += [
        ("one label", "mask.nii.gz", "patient 0", "volume", "", '{"1": "liver"}'),
        ("a still", "mask.nii.gz", "patient 0", "still", "", LABELS),
        ("said", "mask.nii.gz", "patient 0", "volume", "test", LABELS),
    ]
    table = write_table(tmp_path / "data.csv", "name,mask,patient,kind,split,labels", *rows)
    maps, faults = list_maps(table, {})
    assert faults == []
    names = [one.name for one in maps]
    assert names == [name for name in patients if not is_validation_patient(name)]
    scans = [
        LabelledScan(name=name, image=tmp_path, mask=tmp_path, patient=name, labels={}) for name in patients
    ]
    # The rule by which `data prepare` divides the same table.
    assert names == [scan.name for scan in split_by_fixed_eighth(scans)["train"]]


def test_each_bad_row_is_named_and_the_others_are_used(table: Path, tmp_path: Path) -> None:
    write_map(tmp_path / "maps" / "empty.nii.gz", is_empty=True)
    (tmp_path / "maps" / "broken.nii.gz").write_bytes(b"no scan")
    rows = [
        ("good", "a.nii.gz", LABELS),
        ("gone", "gone.nii.gz", LABELS),
        ("empty", "empty.nii.gz", LABELS),
        ("broken", "broken.nii.gz", LABELS),
        ("", "a.nii.gz", LABELS),
        ("odd labels", "a.nii.gz", "liver"),
    ]
    write_table(table, "name,file,labels", *rows)
    maps, faults = list_maps(table, {})
    good, unreadable = check_maps(maps)
    assert [one.name for one in good] == ["good"]
    assert [fault.split(": ")[1] for fault in faults] == ["line 3", "line 6", "line 7"]
    assert [fault.split(": ")[1] for fault in unreadable] == ["line 4", "line 5"]
    assert "gone.nii.gz" in faults[0]
    assert "no labels" in unreadable[0]
    assert "broken.nii.gz" in unreadable[1]


@pytest.mark.parametrize(
    ("columns", "missing"), [("name,labels", "file"), ("name,mask,labels", "patient"), ("", "file")]
)
def test_a_table_without_a_column_is_refused(tmp_path: Path, columns: str, missing: str) -> None:
    table = write_table(tmp_path / "maps.csv", columns)
    with pytest.raises(InputError, match=f"line 1: the column {missing} is missing"):
        list_maps(table, {})


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        list_maps(tmp_path / "gone.csv", {})


def test_without_maps_there_is_nothing_to_paint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label map"):
        next(paint_stacks([], tmp_path, range(1), 1))


def test_maps_that_show_nothing_are_given_up(tmp_path: Path) -> None:
    values = np.zeros((12, 200, 200), np.uint8)
    values[6, 100, 100] = 1
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), tmp_path / "dot.nii.gz")
    table = write_table(tmp_path / "maps.csv", "name,file", ("dot", "dot.nii.gz"))
    done = list(paint_stacks(usable(table), tmp_path / "stacks", range(1), 1))
    assert [one.error for one in done] == ["seed 0: no map shows an object"]
    assert json.loads((tmp_path / "stacks" / "bank.json").read_text())["train"] == []
