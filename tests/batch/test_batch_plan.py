"""What is done already, and what makes a mask out of date."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.batch.cases import Case
from medsam2.batch.records import (
    BatchSettings,
    CaseRecord,
    Failure,
    ObjectRecord,
    Task,
    fingerprint,
    keep_record,
    masks_folder,
    read_record,
    working_in,
)
from medsam2.batch.run import check_apart, plan_run
from medsam2.errors import InputError

SETTINGS = BatchSettings()
CaseMaker = Callable[..., Case]


def record_of(case: Case, mark: str) -> CaseRecord:
    return CaseRecord(
        case=case.name,
        image=case.image,
        fingerprint=mark,
        files=(f"{case.name}.nii.gz",),
        objects=(ObjectRecord(number=1, name="ø", volume_ml=1.5, longest_diameter_mm=2.0, num_slices=3),),
        num_slices=8,
        visited=8,
        seconds=0.5,
        peak_mib=None,
        window=(0.0, 9.0),
        device="cpu",
        precision="float32",
        threads=1,
        weights="w",
        versions={"medsam2": "0"},
        notes=("a note",),
    )


def keep(case: Case, folder: Path, mark: str) -> Path:
    path = masks_folder(folder) / f"{case.name}.nii.gz"
    path.write_bytes(b"mask")
    keep_record(record_of(case, mark), folder)
    return path


@pytest.mark.parametrize(
    "change",
    [
        "row",
        "size",
        "time",
        "mask prompt",
        "source",
        "image",
        "frame",
        "weights",
        "memory",
        "output",
        "window",
    ],
)
def test_what_makes_a_mask_out_of_date(case_of: CaseMaker, tmp_path: Path, change: str) -> None:
    rough = tmp_path / "rough.nii.gz"
    rough.write_bytes(b"1")
    case = case_of({"slice": 4, "mask": "rough.nii.gz"}, source=str(tmp_path))
    first = fingerprint(case, SETTINGS, "w")
    assert fingerprint(case, replace(SETTINGS, device="cuda", max_download_mib=1), "w") == first
    settings, digest = SETTINGS, "w"
    if change == "row":
        case = case_of({"slice": 5, "mask": "rough.nii.gz"}, source=str(tmp_path))
    elif change == "size":
        Path(case.place).write_bytes(b"longer or shorter")
    elif change == "time":
        os.utime(case.place, (1, 1))
    elif change == "mask prompt":
        rough.write_bytes(b"22")
    elif change == "source":
        (tmp_path / "more.dcm").write_bytes(b"")
    elif change in ("image", "frame"):
        case = replace(case, **{change: "other.nii" if change == "image" else 2})  # type: ignore[arg-type]
    elif change == "weights":
        digest = "v"
    else:
        changed = {
            "memory": {"memory": "self-sorting"},
            "output": {"output_type": "mha"},
            "window": {"window": "lung"},
        }
        settings = replace(SETTINGS, **changed[change])  # type: ignore[arg-type]
    assert fingerprint(case, settings, digest) != first


def test_done_changed_missing_and_impossible(case_of: CaseMaker, tmp_path: Path) -> None:
    done, changed, fresh = (case_of(name=name) for name in ("done", "changed", "fresh"))
    gone = replace(fresh, name="gone", place=str(tmp_path / "gone.nii"))
    unmatched = replace(fresh, name="unmatched", place="")
    folder = tmp_path / "out"
    with working_in(folder):
        keep(done, folder, fingerprint(done, SETTINGS, "w"))
        keep(changed, folder, "of something else")
        everything = [done, changed, fresh, gone, unmatched]
        plan = plan_run(everything, SETTINGS, folder, "w")
        careful = plan_run(everything, SETTINGS, folder, "w", redo_changed=False)
    assert [task.case.name for task in plan.tasks] == ["changed", "fresh"]
    assert (plan.num_changed, plan.tally.kept) == (1, {"done"})
    assert plan.tally.failures["gone"].error == f"{tmp_path}/gone.nii: no such file"
    assert "no image of --glob" in plan.tally.failures["unmatched"].error
    assert [task.case.name for task in careful.tasks] == ["fresh"]
    assert careful.tally.failures["changed"].is_changed
    assert plan.tasks[1] == Task(case=fresh, fingerprint=fingerprint(fresh, SETTINGS, "w"))
    assert isinstance(plan.tally.failures["gone"], Failure)


@pytest.mark.parametrize(
    "harm", ["mask gone", "mask empty", "record cut", "record of a later version", "no record"]
)
def test_a_case_is_done_when_its_mask_is_there(case_of: CaseMaker, tmp_path: Path, harm: str) -> None:
    case, folder = case_of(), tmp_path / "out"
    with working_in(folder):
        mask = keep(case, folder, "f")
    assert read_record("one", folder) == record_of(case, "f")
    beside = mask.with_name("one.json")
    if harm.startswith("mask"):
        mask.unlink()
        if harm == "mask empty":
            mask.touch()
    elif harm == "record cut":
        beside.write_text(beside.read_text(encoding="utf-8")[:50], encoding="utf-8")
    elif harm == "no record":
        beside.unlink()
    else:
        beside.write_text(
            beside.read_text(encoding="utf-8").replace('"threads"', '"strands"'), encoding="utf-8"
        )
    assert read_record("one", folder) is None


def test_one_run_at_a_time_and_nothing_left_lying(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with working_in(folder), pytest.raises(InputError, match="another run is using"), working_in(folder):
        pass
    left = [masks_folder(folder) / ".medsam2-0123.part", folder / ".medsam2-4567.part"]
    for path in left:
        path.touch()
    with working_in(folder):
        assert not any(path.exists() for path in left)


def test_folders_that_are_no_batch(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    for folder, words in (
        (tmp_path, "has files that are not those of a batch"),
        (tmp_path / "thesis.txt", "is a file"),
    ):
        with pytest.raises(InputError, match=words), working_in(folder):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_inputs_do_not_lie_where_masks_are_written(case_of: CaseMaker, tmp_path: Path) -> None:
    case = case_of()
    check_apart([case], tmp_path / "out")
    inside = replace(case, place=str(tmp_path / "x" / ".." / "out" / "masks" / "one.nii.gz"))
    with pytest.raises(InputError, match=r"row 2: .* lies where masks are written"):
        check_apart([inside], tmp_path / "out")
