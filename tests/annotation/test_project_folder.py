"""Which scans of a folder become cases; hostile names; a project that is made twice, moved, damaged."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.annotation.cases import list_cases
from medsam2.annotation.layout import thumbnail
from medsam2.annotation.names import check_case_name
from medsam2.annotation.project import Project, add_scans, create_project, open_project
from medsam2.errors import InputError

DICOM = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def test_every_format_that_is_read_is_a_case(tmp_path: Path, write_scan) -> None:
    write_scan(tmp_path / "a.nii.gz")
    write_scan(tmp_path / "b.v2.nii")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 5, 6), np.int16)), str(tmp_path / "c.nrrd"))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "d.PNG")
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "inside.nii.gz")
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "labels" / "final").mkdir(parents=True)
    write_scan(tmp_path / "labels" / "final" / "a.nii.gz")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan at all")
    project = create_project(tmp_path)
    try:
        added, left = add_scans(project)
        assert added == ["a", "b.v2", "c", "d", "e"]
        assert [one.path for one in left] == ["broken.nii.gz"]
        assert str(tmp_path) not in left[0].reason
        assert [(case.name, case.num_slices, case.state) for case in list_cases(project)] == [
            ("a", 6, "new"),
            ("b.v2", 6, "new"),
            ("c", 4, "new"),
            ("d", 1, "new"),
            ("e", 6, "new"),
        ]
        write_scan(tmp_path / "f.nii.gz")
        assert add_scans(project)[0] == ["f"]
    finally:
        project.close()


def test_a_scan_of_several_frames_is_left_out_with_what_to_do(tmp_path: Path) -> None:
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.ones((2, 4, 5, 6), np.int16), isVector=False),
        str(tmp_path / "beats.nii.gz"),
    )
    project = create_project(tmp_path)
    try:
        added, (left,) = add_scans(project)
        assert added == []
        assert left.reason == (
            "holds 2 frames; a volume is one of them, "
            "save the one to segment as a file of its own and leave this one out"
        )
    finally:
        project.close()


def test_a_folder_of_dicom_is_one_case(tmp_path: Path) -> None:
    pydicom_files = sorted(path.parent for path in DICOM.rglob("*.dcm"))
    if not pydicom_files:
        pytest.skip("the development scans (../shared/data) are not here")
    shutil.copytree(pydicom_files[0], tmp_path / "series 1")
    project = create_project(tmp_path)
    try:
        assert add_scans(project)[0] == ["series 1"]
        (case,) = list_cases(project)
        assert case.path == "series 1"
        assert thumbnail(tmp_path, case.path).startswith(b"\x89PNG")
    finally:
        project.close()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("line\nbreak", "printable"),
        ("bell\a", "printable"),
        ("turned\u202egnp", "printable"),
        ("x" * 201, "at most 200 bytes"),
        ("..", "printable"),
        ("a/b", "printable"),
        ("a\\b", "printable"),
        (" ", "printable"),
    ],
    ids=range(8),
)
def test_unsafe_names_of_cases_are_refused(name: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        check_case_name(name)


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>", "a'; DROP TABLE cases;--", "50 % & more", "M\u00fcller", "-rf", "=1+1"],
)
def test_unusual_names_are_accepted(tmp_path: Path, write_scan, name: str) -> None:
    write_scan(tmp_path / f"{name}.nii.gz")
    project = create_project(tmp_path)
    try:
        assert add_scans(project) == ([name], [])
    finally:
        project.close()


def test_a_scan_with_a_bad_name_is_left_out_with_a_reason(tmp_path: Path, write_scan) -> None:
    write_scan(tmp_path / "good.nii.gz")
    for name in (b"line\nbreak.nii.gz", b"\xff\xfe.nii.gz"):
        shutil.copy(tmp_path / "good.nii.gz", tmp_path / name.decode("utf-8", "surrogateescape"))
    shutil.copy(tmp_path / "good.nii.gz", tmp_path / "GOOD.nii.gz")
    project = create_project(tmp_path)
    try:
        added, left = add_scans(project)
        assert len(added) == 1
        assert len(left) == 3
        for one in left:
            assert f"{one.path}: {one.reason}".isprintable()
        assert sum("has the same name as" in one.reason for one in left) == 1
    finally:
        project.close()


def test_a_project_is_made_once(folder: Path) -> None:
    first = create_project(folder, name="study 7")
    again = create_project(folder)
    assert (again.key, again.name) == (first.key, "study 7")
    with pytest.raises(InputError, match="is a project already"):
        create_project(folder, database="postgresql://elsewhere/x")
    first.close()
    again.close()


def test_a_project_may_be_moved(project: Project, tmp_path: Path) -> None:
    project.close()
    moved = open_project(project.folder.rename(tmp_path / "moved"))
    assert [case.name for case in list_cases(moved)] == ["belly", "chest", "head"]
    moved.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://anna:secret@host/x", "leave the password out"),
        ("mysql://host/x", "not mysql"),
        ("nonsense", "not the URL"),
        ("postgresql://127.0.0.1:1/x", "does not answer"),
        ("sqlite:///no/such/folder/x.db", "does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(folder: Path, url: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as refused:
        create_project(folder, database=url)
    assert "secret" not in str(refused.value)
    assert not (folder / "medsam2.json").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"name": 1, "project": 2, "database": 3}', '{"name": "x"}', "[" * 100_000],
    ids=range(6),
)  # fmt: skip
def test_a_damaged_marker_is_refused(project: Project, content: str) -> None:
    (project.folder / "medsam2.json").write_text(content)
    with pytest.raises(InputError, match="is damaged"):
        open_project(project.folder)


def test_another_database_is_noticed(project: Project) -> None:
    marker = project.folder / "medsam2.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "project": "0" * 32}))
    with pytest.raises(InputError, match="does not contain this project"):
        open_project(project.folder)
    (project.folder / "medsam2.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(InputError):
        open_project(project.folder)


def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        create_project(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a project"):
        open_project(tmp_path)


def test_a_thumbnail_is_drawn_again_when_the_scan_changes(project: Project, write_scan) -> None:
    first = thumbnail(project.folder, "belly.nii.gz")
    assert thumbnail(project.folder, "belly.nii.gz") == first
    write_scan(project.folder / "belly.nii.gz", 99)
    assert thumbnail(project.folder, "belly.nii.gz") != first
    shutil.rmtree(project.folder / ".medsam2")
    (project.folder / ".medsam2").write_text("nothing can be kept")
    assert thumbnail(project.folder, "belly.nii.gz").startswith(b"\x89PNG")
