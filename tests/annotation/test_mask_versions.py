"""Versions of masks: never overwritten, on the scan's grid, whole or not there however the program ends."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.annotation.cases import find_case, find_draft, keep_draft, open_case, release
from medsam2.annotation.project import Project, open_project
from medsam2.annotation.proposals import masks_in, propose
from medsam2.annotation.versions import (
    Weights,
    add_proposal,
    check_files,
    find_version,
    list_versions,
    read_version,
    save_version,
)
from medsam2.errors import Conflict, GeometryError, InputError, UnknownCase
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume

Boxes = Callable[..., Volume]

# Saves in one process after the other; the k-th one is killed when it looks at the clock for the k-th time.
DIE = """
import os, signal, sys
from pathlib import Path
from medsam2.annotation.project import open_project
from medsam2.annotation.versions import save_version
from medsam2.imaging.io import read

def save(folder, mask, last, start):
    calls = 0
    def clock():
        nonlocal calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return start + calls
    project = open_project(Path(folder), now_ms=clock)
    save_version(project, 1, "anna", read(Path(mask)), objects={"1": {"name": "liver"}})

mask, start, *folders = sys.argv[1:]
for number, folder in enumerate(folders, start=1):
    child = os.fork()
    if not child:
        save(folder, mask, number, int(start))
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
NUM_KILLS = 8


@pytest.fixture
def opened(project: Project) -> Project:
    open_case(project, 1, "anna")
    return project


def test_a_version_is_on_the_scan_s_grid_to_the_bit(opened: Project, box_mask: Boxes) -> None:
    scan = opened.folder / "belly.nii.gz"
    prompts = [{"object": 1, "box": [8, 6, 17, 13]}]
    weights = Weights(name="compact", sha256="0" * 64)
    version, _ = save_version(opened, 1, "anna", box_mask(scan), prompts=prompts, weights=weights)
    path = opened.folder / version.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == version.sha256
    assert version.num_bytes == path.stat().st_size
    assert (version.prompts, version.weights) == (prompts, "compact")
    saved, original = nibabel.load(path), nibabel.load(scan)
    for name in ("dim", "pixdim", "srow_x", "srow_y", "srow_z", "qform_code", "sform_code"):
        assert np.array_equal(saved.header[name], original.header[name]), name
    assert saved.get_data_dtype() == np.uint8
    assert (opened.folder / "labels" / "final" / "belly.nii.gz").read_bytes() == path.read_bytes()
    assert np.array_equal(read_version(opened, version).array, box_mask(scan).array)


def test_a_mask_in_another_order_of_voxels_is_turned(
    opened: Project, box_mask: Boxes, tmp_path: Path
) -> None:
    mask = box_mask(opened.folder / "belly.nii.gz")
    image = nibabel.Nifti1Image(mask.array.T, mask.affine)
    turned = nibabel.as_closest_canonical(image)
    assert not np.array_equal(turned.affine, image.affine)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    version, _ = save_version(opened, 1, "anna", read(tmp_path / "turned.nii.gz"))
    assert np.array_equal(read_version(opened, version).array, mask.array)


def test_versions_are_never_overwritten(opened: Project, box_mask: Boxes) -> None:
    scan = opened.folder / "belly.nii.gz"
    contents = {}
    for shift in (0, 1, 1, 2):  # at one and the same moment, and one mask twice
        version, _ = save_version(opened, 1, "anna", box_mask(scan, shift=shift))
        contents[version.number] = (opened.folder / version.path).read_bytes()
    versions = list_versions(opened, 1)
    assert [version.number for version in versions] == [1, 2, 3, 4]
    for version in versions:
        assert (opened.folder / version.path).read_bytes() == contents[version.number]
    final = opened.folder / "labels" / "final" / "belly.nii.gz"
    assert final.read_bytes() == contents[4]
    assert find_version(opened, 1, 2).sha256 == find_version(opened, 1, 3).sha256
    with pytest.raises(UnknownCase, match="no version 5"):
        find_version(opened, 1, 5)
    assert check_files(opened) == []


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda a: a.astype(np.float32) * 0.5, InputError, "fractions"),
        (lambda a: a.astype(np.int16) * 256, InputError, "labels 0 to 255"),
        (lambda a: a.astype(np.int16) * -1, InputError, "labels 0 to 255"),
        (lambda a: a[:-1], GeometryError, "voxels"),
        (lambda a: np.where(a, np.nan, 0.0), InputError, "fractions"),
    ],
    ids=["fractions", "too large", "negative", "another shape", "not a number"],
)
def test_an_invalid_mask_is_refused(
    opened: Project, box_mask: Boxes, change: Callable[[np.ndarray], np.ndarray], error: type, word: str
) -> None:
    mask = box_mask(opened.folder / "belly.nii.gz")
    with pytest.raises(error, match=word):
        save_version(opened, 1, "anna", Volume(change(mask.array), mask.affine))
    assert list_versions(opened) == []
    assert not (opened.folder / "labels").exists()


def test_a_user_who_has_lost_the_lock_cannot_save(opened: Project, box_mask: Boxes, clock) -> None:
    mask = box_mask(opened.folder / "belly.nii.gz")
    clock.turn(opened.lock_s)
    open_case(opened, 1, "bob")
    with pytest.raises(Conflict, match="bob has this case open"):
        save_version(opened, 1, "anna", mask)
    save_version(opened, 1, "bob", mask)
    assert [version.author for version in list_versions(opened)] == ["bob"]


def test_a_kill_while_saving_leaves_all_or_nothing(opened: Project, box_mask: Boxes, tmp_path: Path) -> None:
    keep_draft(opened, 1, "anna", {"unsaved": True})
    mask = tmp_path / "mask.nii.gz"
    write(box_mask(opened.folder / "belly.nii.gz"), mask)
    folders = [tmp_path / f"killed {number}" for number in range(NUM_KILLS)]
    for folder in folders:
        shutil.copytree(opened.folder, folder)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", DIE, str(mask), str(opened.now_ms()), *map(str, folders)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    codes = [int(line) for line in result.stdout.split()]
    found = [
        look_after(open_project(folder, now_ms=opened.now_ms), mask, code == signal.SIGKILL)
        for folder, code in zip(folders, codes, strict=True)
    ]
    # Kills before the file, between file and row, and none at all: each was tried.
    assert {"nothing", "a file", "a version"} == set(found)
    assert set(codes) == {0, signal.SIGKILL}


def look_after(project: Project, mask: Path, was_killed: bool) -> str:
    """Check what is left of a save, and that the next one works."""
    versions, case = list_versions(project, 1), find_case(project, 1)
    files = sorted((project.folder / "versions" / "belly").glob("2*.nii.gz"))
    assert len(versions) <= len(files) <= 1
    if versions:
        assert case.state == "done"
        assert find_draft(project, 1, "anna") is None
        assert check_files(project) == []
        final = project.folder / "labels" / "final" / "belly.nii.gz"
        assert hashlib.sha256(final.read_bytes()).hexdigest() == versions[0].sha256
    else:
        assert was_killed
        assert case.state == "in work"
        assert find_draft(project, 1, "anna") == {"unsaved": True}
        assert ["belongs to no version" in line for line in check_files(project)] == [True] * len(files)
    version, _ = save_version(project, 1, "anna", read(mask))
    assert version.number == len(versions) + 1
    assert len(check_files(project)) == len(files) - len(versions)
    project.close()
    return "a version" if versions else "a file" if files else "nothing"


def test_files_that_were_changed_outside_are_reported(opened: Project, box_mask: Boxes) -> None:
    scan = opened.folder / "belly.nii.gz"
    first, _ = save_version(opened, 1, "anna", box_mask(scan))
    second, _ = save_version(opened, 1, "anna", box_mask(scan, shift=2))
    final = opened.folder / "labels" / "final" / "belly.nii.gz"
    final.unlink()
    assert check_files(opened) == []
    assert final.read_bytes() == (opened.folder / second.path).read_bytes()
    final.write_bytes((opened.folder / first.path).read_bytes())  # as after a kill before the copy
    assert check_files(opened) == []
    assert final.read_bytes() == (opened.folder / second.path).read_bytes()
    final.write_bytes(b"drawn elsewhere")
    assert check_files(opened) == [
        "labels/final/belly.nii.gz: was changed by another program; it was left unchanged"
    ]
    assert final.read_bytes() == b"drawn elsewhere"
    os.truncate(opened.folder / first.path, 10)
    (opened.folder / second.path).unlink()
    assert [line.partition(":")[0] for line in check_files(opened)[:2]] == [first.path, second.path]
    with pytest.raises(InputError, match="missing or was changed"):
        read_version(opened, first)


def test_a_model_proposes_only_for_untouched_cases(opened: Project, box_mask: Boxes, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("belly", "chest"):
        write(box_mask(opened.folder / f"{name}.nii.gz"), masks / f"{name}.nii.gz")
    (masks / "head.nii.gz").write_bytes(b"damaged")
    found = list(propose(opened, masks_in(masks), model="net 2"))
    assert [(one.case, one.left_out) for one in found] == [
        ("belly", "is open"),
        ("chest", None),
        ("head", None),
    ]
    assert found[1].error is None
    assert "head.nii.gz" in str(found[2].error)
    assert find_case(opened, 2).state == "proposed"
    assert (opened.folder / "labels" / "original" / "chest.nii.gz").is_file()
    (version,) = list_versions(opened, 2)
    assert (version.is_proposal, version.is_done, version.author) == (True, False, "net 2")

    open_case(opened, 2, "anna")
    with pytest.raises(Conflict, match="nobody has worked on"):
        add_proposal(opened, 2, read_version(opened, version), model="net 3")
    assert release(opened, 2, "anna").state == "proposed"
    add_proposal(opened, 2, read_version(opened, version), model="net 3")
    assert [one.author for one in list_versions(opened, 2)] == ["net 2", "net 3"]
    with pytest.raises(InputError, match="no such folder"):
        masks_in(tmp_path / "nowhere")


def test_a_user_comes_before_a_proposal(project: Project, box_mask: Boxes) -> None:
    calls = 0

    def clock() -> int:
        nonlocal calls
        calls += 1
        if list((project.folder / "versions").glob("*/.medsam2-*")):  # the file is there, its row is not
            open_case(project, 1, "anna")
        return project.now_ms()

    proposing = open_project(project.folder, now_ms=clock)
    with pytest.raises(Conflict, match="anna has it open"):
        add_proposal(proposing, 1, box_mask(project.folder / "belly.nii.gz"), model="net")
    proposing.close()
    assert calls > 1
    assert find_case(project, 1).state == "in work"
    assert list_versions(project) == []
    assert not (project.folder / "labels").exists()


def test_prompts_are_json_of_limited_size(opened: Project, box_mask: Boxes) -> None:
    mask = box_mask(opened.folder / "belly.nii.gz")
    for prompts, word in (([{1, 2}], "must be JSON"), ([float("nan")], "JSON"), (["x" * 2**22], "at most")):
        with pytest.raises(InputError, match=word):
            save_version(opened, 1, "anna", mask, prompts=prompts)
    assert list_versions(opened) == []
