"""`medsam2 segment` in the forms that others read: DICOM, 3D Slicer, meshes, sizes, the report of a run."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
import trimesh

from medsam2.checkpoints import resolve
from medsam2.cli.main import run

BOX = ("--box", "22", "18", "41", "37")
SPACING = (0.8, 0.8, 2.5)  # x, y, z


def _ball() -> np.ndarray:
    """A bright ball in noise, 12 slices of 56 x 64 pixels."""
    z, y, x = np.mgrid[:12, :56, :64]
    ball = ((x - 31.5) / 10) ** 2 + ((y - 27.5) / 10) ** 2 + ((z - 5.5) / 4) ** 2 < 1
    return (np.random.default_rng(0).normal(60, 8, ball.shape) + 120 * ball).astype(np.int16)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """The ball as a DICOM series of MR, written by SimpleITK, its files in disorder."""
    folder = tmp_path / "series"
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    study, identity, frame = (pydicom.uid.generate_uid() for _ in range(3))
    for z, plane in enumerate(_ball()):
        image = SimpleITK.GetImageFromArray(plane)
        image.SetSpacing(SPACING[:2])
        position = f"-20\\-10\\{30 + z * SPACING[2]:g}"
        for tag, value in {
            "0008|0060": "MR", "0008|0018": pydicom.uid.generate_uid(), "0020|000d": study,
            "0020|000e": identity, "0020|0052": frame, "0020|0032": position,
            "0020|0037": "1\\0\\0\\0\\1\\0", "0018|0050": "2.5", "0020|0013": str(z + 1),
            "0010|0010": "Nobody", "0010|0020": "7",
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(z * 5) % 12:02d}.dcm"))
        writer.Execute(image)
    return folder


def _segment(image: Path, output: Path, *more: object) -> None:
    arguments = [image, "--slice", "5", *BOX, "--window", "0", "255", "-o", output, *more]
    assert run(["segment", *(str(argument) for argument in arguments)]) == 0


def test_a_dicom_series_gives_a_dicom_segmentation_of_the_same_voxels(series: Path, tmp_path: Path) -> None:
    _segment(series, tmp_path / "mask.nii.gz")
    _segment(series, tmp_path / "mask.dcm", "--output-type", "dicom-seg")
    expected = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    found = SimpleITK.ReadImage(str(tmp_path / "mask.dcm"))
    assert SimpleITK.GetArrayFromImage(expected).sum() > 500
    # Empty slices are left out of a segmentation: what is there must lie in the same place.
    moved = SimpleITK.Resample(found, expected, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(moved) > 0, SimpleITK.GetArrayFromImage(expected) > 0
    )
    segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert segmentation.number_of_segments == 1
    sources = {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}
    assert {uid for _, _, uid in segmentation.get_source_image_uids()} <= sources


def test_a_structure_set_a_mesh_and_a_slicer_segmentation(series: Path, tmp_path: Path) -> None:
    _segment(series, tmp_path / "mask.nii.gz")
    _segment(series, tmp_path / "plan.dcm", "--output-type", "rtstruct")
    _segment(series, tmp_path / "mask.stl")
    _segment(series, tmp_path / "mask.seg.nrrd")
    labels = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    volume = SimpleITK.GetArrayFromImage(labels).sum() * np.prod(SPACING)
    assert pydicom.dcmread(tmp_path / "plan.dcm").Modality == "RTSTRUCT"
    assert trimesh.load_mesh(tmp_path / "mask.stl").volume == pytest.approx(volume, rel=0.06)
    slicer = SimpleITK.ReadImage(str(tmp_path / "mask.seg.nrrd"))
    assert slicer.GetMetaData("Segment0_LabelValue") == "1"


def test_dicom_forms_of_another_format_need_their_series(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmp_path / "scan.nrrd"
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    SimpleITK.WriteImage(reader.Execute(), str(volume))
    output = tmp_path / "mask.dcm"
    _segment(volume, output, "--source", series)
    assert highdicom.seg.segread(output).number_of_segments == 1
    capsys.readouterr()
    arguments = [str(volume), "--slice", "5", *BOX, "-o", str(tmp_path / "other.dcm")]
    assert run(["segment", *arguments]) == 2
    assert "scan.nrrd" in capsys.readouterr().err
    assert not (tmp_path / "other.dcm").exists()


def test_measurements_and_the_report_of_a_run(series: Path, tmp_path: Path) -> None:
    mask, table, report = tmp_path / "mask.nii.gz", tmp_path / "sizes.csv", tmp_path / "run.json"
    _segment(series, mask, "--statistics", table, "--report", report)
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(mask))) > 0
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["volume_ml"]) == pytest.approx(labels.sum() * np.prod(SPACING) / 1000)
    assert float(row["intensity_mean"]) == pytest.approx(_ball()[labels].mean(), rel=1e-6)
    told = json.loads(report.read_text())
    assert told["weights"] == {
        "name": "compact",
        "sha256": hashlib.sha256(resolve("compact").read_bytes()).hexdigest(),
    }
    assert told["prompts"][0]["box_xyxy"] == [22, 18, 41, 37]
    assert (told["window"]["lower"], told["window"]["upper"]) == (0, 255)
    assert told["device"] == "cpu"
    assert [item["path"] for item in told["output_files"]] == [str(mask), str(table)]
    assert told["input_files"][0]["num_files"] == 12
    assert "Nobody" not in report.read_text()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--statistics", "sizes.txt"), "sizes.txt: must end in .json or .csv"),
        (("--report", "run.csv"), "run.csv: must end in .json"),
        (("--preview", "look.jpg"), "look.jpg: must end in .png"),
        (
            ("-o", "m.nii.gz", "--statistics", "s.json", "--report", "./s.json"),
            "s.json: is named for --statistics and for --report; give each a file of its own",
        ),
        (("-o", "s.nii.gz", "--per-object", "--statistics", "s.json", "--report", "s.json"), "for --report"),
        (("-o", "mask.nii.gz", "--output-type", "stl"), "mask.nii.gz: a stl file ends in .stl"),
        (("-o", "mask.stl", "--per-object"), "an STL file holds one object anyway"),
    ],
)
def test_refusals(
    series: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["segment", str(series), "--slice", "5", *BOX, *more]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series"]
