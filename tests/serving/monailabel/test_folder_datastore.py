"""A folder as a datastore: what is listed, what is written, and what others may have done to it meanwhile."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from medsam2.errors import InputError, MedSAM2Error
from medsam2.serving.http_errors import NotFound, NotOffered
from medsam2.serving.monailabel.folder import FolderDatastore

INDEX = "datastore_v2.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.nii.gz", "a.1.nii", "c.nrrd", "c.nii", "notes.txt", ".hidden.nii", "d.PNG"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "labels" / "final").mkdir(parents=True)
    (tmp_path / "labels" / "final" / "b.seg.nrrd").write_bytes(b"label")
    return tmp_path


def test_ids_are_names_without_their_suffixes(folder: Path) -> None:
    datastore = FolderDatastore(folder)
    found = {entry.image_id: (entry.name, entry.suffix) for entry in datastore.entries().values()}
    assert found == {
        "a.1": ("a.1.nii", ".nii"),
        "b": ("b.nii.gz", ".nii.gz"),
        "c": ("c.nii", ".nii"),
        "c.nrrd": ("c.nrrd", ".nrrd"),
        "d": ("d.PNG", ".png"),
    }
    assert datastore.find("b.nii.gz").image_id == "b"
    assert datastore.find("b").labels.keys() == {"final"}
    assert datastore.image_path(datastore.find("c.nrrd")).read_bytes() == b"c.nrrd"
    assert not (folder / INDEX).exists()


def test_what_is_known_is_kept_in_the_index(folder: Path, tmp_path: Path) -> None:
    datastore = FolderDatastore(folder)
    new = tmp_path / "x"
    new.write_bytes(b"new")
    assert datastore.add_image("e.nii.gz", new, ".nii.gz", {"params": {}}) == "e"
    datastore.store_label(datastore.find("b"), "final", new, ".nii.gz", {"label_info": [1]})
    assert not (folder / "labels" / "final" / "b.seg.nrrd").exists()
    assert (folder / "labels" / "final" / "b.nii.gz").read_bytes() == b"new"
    datastore.note(datastore.find("b"), {"strategy": {"first": {"ts": 1}}})
    again = FolderDatastore(folder)
    assert again.find("b").info["strategy"] == {"first": {"ts": 1}}
    assert again.find("b").labels["final"].info["label_info"] == [1]
    index = json.loads((folder / INDEX).read_bytes())
    assert index["objects"]["b"]["image"]["ext"] == ".nii.gz"
    assert set(index["objects"]) == {"b", "e"}
    assert again.document()["objects"].keys() == again.entries().keys()


def test_an_image_takes_the_place_of_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    datastore = FolderDatastore(folder)
    new = tmp_path / "x"
    new.write_bytes(b"new")
    datastore.add_image("b", new, ".nrrd", {})
    assert not (folder / "b.nii.gz").exists()
    assert datastore.find("b").suffix == ".nrrd"


def test_an_index_of_others_is_kept_as_it_is(folder: Path) -> None:
    theirs = {
        "name": "theirs",
        "images_dir": ".",
        "labels_dir": "labels",
        "mine": 1,
        "objects": {"gone": {"x": 1}},
    }
    (folder / INDEX).write_text(json.dumps(theirs))
    datastore = FolderDatastore(folder)
    assert datastore.document()["name"] == "theirs"
    assert "gone" not in datastore.entries()
    datastore.note(datastore.find("b"), {"seen": True})
    index = json.loads((folder / INDEX).read_bytes())
    assert index["mine"] == 1
    assert index["objects"]["gone"] == {"x": 1}
    index["objects"]["b"]["image"]["info"]["seen"] = "by others"
    (folder / INDEX).write_text(json.dumps(index))
    assert datastore.find("b").info["seen"] == "by others"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "cannot be read"),
        ("[]", "not an index"),
        ('{"objects": []}', "objects"),
        ('{"labels_dir": "../x"}', "outside"),
    ],
    ids=["half", "a list", "no objects", "outside"],
)
def test_an_index_that_cannot_be_used_is_named(folder: Path, content: str, word: str) -> None:
    (folder / INDEX).write_text(content)
    with pytest.raises(InputError, match=INDEX) as refused:
        FolderDatastore(folder)
    assert word in str(refused.value)
    (folder / INDEX).unlink()
    datastore = FolderDatastore(folder)
    (folder / INDEX).write_text(content)
    with pytest.raises(MedSAM2Error) as failed:
        datastore.entries()
    assert not isinstance(failed.value, InputError)
    assert str(folder) not in str(failed.value)
    assert (folder / INDEX).read_text() == content


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        FolderDatastore(tmp_path / "nowhere")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said_so(folder: Path, tmp_path: Path) -> None:
    datastore = FolderDatastore(folder)
    folder.chmod(0o500)
    try:
        with pytest.raises(MedSAM2Error, match="cannot be written"):
            datastore.note(datastore.find("b"), {})
    finally:
        folder.chmod(0o700)


def test_many_at_once_lose_nothing(folder: Path) -> None:
    datastore = FolderDatastore(folder)

    def note(number: int) -> None:
        datastore.note(datastore.find("b"), {f"n{number}": number})

    threads = [threading.Thread(target=note, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = FolderDatastore(folder).find("b").info
    assert {f"n{number}": number for number in range(16)}.items() <= info.items()


def test_what_is_not_there_is_a_404(folder: Path) -> None:
    datastore = FolderDatastore(folder)
    for image_id in ("nobody", "", "../b", "labels", "b.nrrd/x", INDEX):
        with pytest.raises(NotFound):
            datastore.find(image_id)
    with pytest.raises(NotFound):
        datastore.label_path(datastore.find("b"), "original")
    with pytest.raises(NotFound):
        datastore.remove_label(datastore.find("b"), "original")


DICOM = bytes(128) + b"DICM" + bytes(20)


def test_folders_with_a_series_are_images(folder: Path, tmp_path: Path) -> None:
    for place in ("ct 1/0001", "ct 1/0002.dcm", "b/0001.dcm", ".hidden/0001.dcm", "labels/0001.dcm"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(DICOM)
    (folder / "ct 1" / "README.txt").write_text("whose this is")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("nothing")
    (folder / "nothing").mkdir()
    datastore = FolderDatastore(folder)
    series = [entry for entry in datastore.entries().values() if not entry.suffix]
    assert [(entry.image_id, entry.name) for entry in series] == [("b.dcm", "b"), ("ct 1", "ct 1")]
    assert datastore.find("b").suffix == ".nii.gz"
    assert datastore.image_path(datastore.find("ct 1")) == folder / "ct 1"
    label = tmp_path / "x"
    label.write_bytes(b"label")
    for image_id in ("ct 1", "b.dcm"):
        datastore.store_label(datastore.find(image_id), "final", label, ".nii.gz", {})
        assert (folder / "labels" / "final" / f"{image_id}.nii.gz").read_bytes() == b"label"
        assert datastore.find(image_id).labels.keys() == {"final"}
    with pytest.raises(NotOffered, match="series"):
        datastore.remove_image(datastore.find("ct 1"))
    with pytest.raises(InputError, match="another name"):
        datastore.add_image("ct 1", label, ".nii.gz", {})
    assert (folder / "ct 1" / "0001").read_bytes() == DICOM
