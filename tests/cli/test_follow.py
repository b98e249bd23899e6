"""`medsam2 follow` on real files: labels and changes in a second scan, and one sentence for a bad input."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsam2.cli.main import run

SHAPE = (20, 72, 72)  # z, y, x of the first scan
STEP = np.array([2.5, 1.2, 1.2])
BALLS = {3: ((25.0, 30.0, 28.0), 7.0), 7: ((25.0, 58.0, 56.0), 8.0)}
"""Centre (z, y, x) in mm and radius of two lesions."""
SHIFT = np.array([2.0, -5.0, 4.0])
TURN_DEG = 5.0
WINDOW = ("--window", "0", "255")
FIELDS = {"object", "status", "volume_then_ml", "volume_now_ml", "long_now_mm", "note"}


def source_of(points: np.ndarray) -> np.ndarray:
    """Where points (z, y, x) of the second scan lie in the first one, in mm."""
    middle = (np.array(SHAPE) - 1) * STEP / 2
    c, s = np.cos(np.deg2rad(TURN_DEG)), np.sin(np.deg2rad(TURN_DEG))
    matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return np.asarray((points - middle) @ matrix.T + middle + SHIFT)


def body(points: np.ndarray, radii: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth body with an uneven pattern and bright balls; returns greys and labels."""
    z, y, x = np.moveaxis(points, -1, 0)
    _, middle_y, middle_x = (np.array(SHAPE) - 1) * STEP / 2
    reach = np.sqrt(((y - middle_y) / 38) ** 2 + ((x - middle_x) / 32) ** 2)
    grey = np.where(reach < 1, 70 + 14 * np.sin(x / 7) * np.cos(y / 9) + 10 * np.sin(z / 8 + x / 12), 5.0)
    labels = np.zeros(z.shape, np.uint8)
    for number, radius in radii.items():
        distance = np.linalg.norm(points - np.array(BALLS[number][0]), axis=-1)
        labels[distance < radius] = number
        grey = grey + 110 * np.clip((radius + 0.6 - distance) / 1.2, 0, 1)
    return grey, labels


def save(path: Path, array: np.ndarray, step: np.ndarray, origin_x: float = 0.0) -> Path:
    affine = np.diag([-step[2], -step[1], step[0], 1.0])
    affine[0, 3] = origin_x
    nibabel.save(nibabel.Nifti1Image(array.T, affine), path)
    return path


def grid(shape: tuple[int, ...], step: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * step


def voxels(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


NOW_SHAPE, NOW_STEP = (17, 62, 64), np.array([2.8, 1.35, 1.3])


def second_scan(radii: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    grey, labels = body(source_of(grid(NOW_SHAPE, NOW_STEP)), radii)
    return (grey + np.random.default_rng(1).normal(0, 4, grey.shape)).astype(np.int16), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first scan with its mask; a second one where one lesion grew and the other vanished."""
    place = tmp_path_factory.mktemp("visits")
    grey, labels = body(grid(SHAPE, STEP), {number: radius for number, (_, radius) in BALLS.items()})
    grey += np.random.default_rng(0).normal(0, 4, grey.shape)
    save(place / "first.nii.gz", grey.astype(np.int16), STEP)
    save(place / "mask.nii.gz", labels, STEP)
    second, truth = second_scan({3: 9.5})
    save(place / "second.nii.gz", second, NOW_STEP)
    save(place / "truth.nii.gz", truth, NOW_STEP)
    return place


def follow(folder: Path, *arguments: object) -> int:
    words = [folder / "first.nii.gz", folder / "mask.nii.gz", folder / "second.nii.gz", *arguments]
    return run(["follow", *map(str, words)])


@pytest.fixture(scope="module")
def followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    """What a process of the command says and writes; a reader drew one more object on the second scan."""
    out = tmp_path_factory.mktemp("followed")
    drawn = voxels(folder / "truth.nii.gz").copy()
    drawn[7:10, 20:26, 40:46] = 9
    save(out / "drawn.nii.gz", drawn, NOW_STEP)
    words = [folder / "first.nii.gz", folder / "mask.nii.gz", folder / "second.nii.gz", *WINDOW, "--json"]
    files = ["-o", out / "now.nii.gz", "--table", out / "now.csv", "--page", out / "now.html"]
    command = [*words, *files, "--new", out / "drawn.nii.gz"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "medsam2", "follow", *map(str, command)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts: dict[str, object] = json.loads(done.stdout)
    return facts, out


def test_a_lesion_that_grew_is_found_with_its_number(
    folder: Path, followed: tuple[dict[str, object], Path]
) -> None:
    facts, out = followed
    truth, found = voxels(folder / "truth.nii.gz") == 3, voxels(out / "now.nii.gz")
    assert found.dtype == np.uint8
    assert found.shape == NOW_SHAPE
    assert dice(found == 3, truth) > 0.85
    objects = facts["objects"]
    assert isinstance(objects, list)
    grown = objects[0]
    assert (grown["object"], grown["status"]) == (3, "followed")
    assert grown["volume_then_ml"] == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.15)
    assert grown["volume_now_ml"] == pytest.approx(4 / 3 * np.pi * 0.95**3, rel=0.25)
    assert grown["long_now_mm"] == pytest.approx(19, rel=0.2)
    change = 100 * (grown["volume_now_ml"] / grown["volume_then_ml"] - 1)
    assert grown["volume_change_percent"] == pytest.approx(change)
    same = SimpleITK.ReadImage(str(folder / "second.nii.gz"))
    assert SimpleITK.ReadImage(str(out / "now.nii.gz")).GetSpacing() == same.GetSpacing()


def test_a_lesion_that_vanished_is_reported_and_has_no_voxel(
    followed: tuple[dict[str, object], Path],
) -> None:
    facts, out = followed
    gone = facts["objects"][1]  # type: ignore[index]
    assert (gone["object"], gone["status"], gone["volume_now_ml"]) == (7, "vanished", 0)
    assert gone["volume_change_percent"] == -100
    assert "stood out" in gone["note"]
    assert not (voxels(out / "now.nii.gz") == 7).any()
    totals = facts["totals"]
    assert isinstance(totals, dict)
    assert totals["num_objects"] == 2  # the new one does not count


def test_what_a_reader_drew_elsewhere_is_new_and_has_a_free_number(
    followed: tuple[dict[str, object], Path],
) -> None:
    facts, out = followed
    objects = facts["objects"]
    assert isinstance(objects, list)
    assert [(one["object"], one["status"]) for one in objects] == [
        (3, "followed"), (7, "vanished"), (1, "new"),
    ]  # fmt: skip
    assert objects[2]["volume_then_ml"] is None
    np.testing.assert_array_equal(voxels(out / "now.nii.gz") == 1, voxels(out / "drawn.nii.gz") == 9)


def test_the_registration_is_that_of_the_pair(followed: tuple[dict[str, object], Path]) -> None:
    registration = followed[0]["registration"]
    assert isinstance(registration, dict)
    assert registration["turn_deg"] == pytest.approx(TURN_DEG, abs=1)
    assert registration["after"]["correlation"] > 0.9 > registration["before"]["correlation"]


def test_table_and_page_show_the_same(followed: tuple[dict[str, object], Path]) -> None:
    facts, out = followed
    with (out / "now.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    objects = facts["objects"]
    assert isinstance(objects, list)
    assert set(rows[0]) >= FIELDS
    for row, one in zip(rows, objects, strict=True):
        assert row["status"] == one["status"]
        for column in ("volume_then_ml", "volume_now_ml", "long_change_percent"):
            assert row[column] == ("" if one[column] is None else f"{one[column]:.4f}")
    page = (out / "now.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 + 2 + 1 + 2  # each object in its scans, and two chessboards
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "vanished" in page
    assert "new" in page
    assert sorted(path.name for path in out.iterdir()) == [
        "drawn.nii.gz",
        "now.csv",
        "now.html",
        "now.nii.gz",
    ]


def test_the_same_scans_give_the_same_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for path in paths:
        assert follow(folder, *WINDOW, "-o", path) == 0
    first, second = (voxels(path) for path in paths)
    np.testing.assert_array_equal(first, second)
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"  7: vanished, .* to 0.00 ml \(-100 %\)", line) for line in lines)


def test_objects_drawn_as_diameters_are_followed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = np.zeros(SHAPE, np.uint8)
    (z, y, x), radius = BALLS[3]
    row, column = round(y / STEP[1]), round(x / STEP[2])
    half = round(radius / STEP[2])
    lines[round(z / STEP[0]), row, column - half : column + half + 1] = 3
    path = save(tmp_path / "lines.nii.gz", lines, STEP)
    words = [folder / "first.nii.gz", path, folder / "second.nii.gz", "--from-mask-as", "recist"]
    out = ["-o", tmp_path / "now.nii.gz", "--rigid-only", "--json"]
    assert run(["follow", *map(str, [*words, *WINDOW, *out])]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [one["object"] for one in facts["objects"]] == [3]
    assert facts["registration"]["bent"] is False
    assert dice(voxels(tmp_path / "now.nii.gz") == 3, voxels(folder / "truth.nii.gz") == 3) > 0.6


def test_an_object_where_the_second_scan_does_not_reach_is_outside(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = voxels(folder / "second.nii.gz")[:, :, :36]
    cut = save(tmp_path / "cut.nii.gz", second, NOW_STEP)
    words = [folder / "first.nii.gz", folder / "mask.nii.gz", cut, *WINDOW]
    assert run(["follow", *map(str, words), "-o", str(tmp_path / "now.nii.gz"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {one["object"]: one["status"] for one in facts["objects"]}[7] == "outside"
    assert facts["totals"]["num_objects"] == 1


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """Run, expect exit code 2, a last line on standard error and no file; return the line."""
    before = sorted(out.iterdir())
    assert run(["follow", *map(str, arguments), "-o", str(out / "now.nii.gz")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(out.iterdir()) == before
    return captured.err.strip().splitlines()[-1]


def test_bad_inputs_get_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, mask, second = (folder / f"{name}.nii.gz" for name in ("first", "mask", "second"))
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8), STEP)
    large = save(tmp_path / "large.nii.gz", voxels(mask).astype(np.int16) * 100, STEP)
    noise = np.random.default_rng(5).integers(0, 255, NOW_SHAPE).astype(np.int16)
    other = save(tmp_path / "other.nii.gz", noise, NOW_STEP)
    thin = save(tmp_path / "thin.nii.gz", voxels(second)[:3], NOW_STEP)
    assert "the mask is empty" in refused(capsys, tmp_path, first, empty, second, *WINDOW)
    assert "labels are 1 to 255" in refused(capsys, tmp_path, first, large, second, *WINDOW)
    assert "lies on the image's grid" in refused(capsys, tmp_path, second, mask, first, *WINDOW)
    assert "no such file" in refused(capsys, tmp_path, first, mask, tmp_path / "none.nii.gz")
    line = refused(capsys, tmp_path, first, mask, other, *WINDOW)
    assert "the registration failed, since the scans do not look alike (mutual information" in line
    assert "at least 4 along each axis" in refused(capsys, tmp_path, first, mask, thin, *WINDOW)
    assert "there is no label '5'" in refused(capsys, tmp_path, first, mask, second, "--mask-label", "5")
    assert "must end in .csv" in refused(capsys, tmp_path, first, mask, second, "--table", tmp_path / "t.txt")


def test_two_modalities_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"first": "CT", "second": "MR"}
    paths = []
    for name, modality in names.items():
        series = tmp_path / name
        series.mkdir()
        write_series(voxels(folder / f"{name}.nii.gz"), series, modality)
        paths.append(series)
    mask = voxels(folder / "mask.nii.gz")
    labels = SimpleITK.GetImageFromArray(mask)
    labels.SetSpacing((1.0, 1.0, 2.0))
    SimpleITK.WriteImage(labels, str(tmp_path / "mask.nrrd"))
    line = refused(capsys, tmp_path, paths[0], tmp_path / "mask.nrrd", paths[1])
    assert "is CT and" in line
    assert "is MR; give two scans of one modality" in line


def write_series(array: np.ndarray, folder: Path, modality: str) -> None:
    """Write slices of 1 x 1 x 2 mm as a DICOM series."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index, plane in enumerate(array.astype(np.int16)):
        slice_ = pydicom.Dataset()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        slice_.SOPInstanceUID = generate_uid()
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.Modality, slice_.PatientID, slice_.PatientName = modality, "1", "A"
        slice_.Rows, slice_.Columns = plane.shape
        slice_.PixelSpacing, slice_.SliceThickness = [1.0, 1.0], 2.0
        slice_.ImagePositionPatient = [0.0, 0.0, 2.0 * index]
        slice_.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation, slice_.InstanceNumber = 15, 1, index + 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelData = plane.tobytes()
        slice_.save_as(folder / f"{index:03}.dcm", enforce_file_format=True)
