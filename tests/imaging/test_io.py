"""Reading and writing by name: the right reader, and clear words where there is none."""

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.volume import Volume

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.nrrd", "a.mha", "a.b.mha"])
def test_what_is_written_is_read(name, tmp_path):
    volume = Volume.from_array(ARRAY, (0.5, 0.75, 3.0), (10.0, -20.0, 30.0))
    io.write(volume, tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    again = io.read(str(tmp_path / name))
    assert np.array_equal(again.array, ARRAY)
    np.testing.assert_allclose(again.affine, volume.affine)


@pytest.mark.parametrize(("source", "target"), [("nii.gz", "nrrd"), ("mha", "nii.gz"), ("nrrd", "mha")])
def test_a_mask_may_have_another_format_than_its_scan(source, target, tmp_path):
    direction = (0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6)
    io.write(
        Volume.from_array(ARRAY, (0.5, 0.75, 3.0), (10.0, -20.0, 30.0), direction),
        tmp_path / f"scan.{source}",
    )
    scan = io.read(tmp_path / f"scan.{source}")
    io.write(scan.with_array(np.ones(scan.shape, np.uint8)), tmp_path / f"mask.{target}")
    first, second = (SimpleITK.ReadImage(tmp_path / name) for name in (f"scan.{source}", f"mask.{target}"))
    assert first.GetSize() == second.GetSize()
    np.testing.assert_allclose(first.GetSpacing(), second.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(first.GetOrigin(), second.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(first.GetDirection(), second.GetDirection(), atol=1e-6)


def test_stills_are_read(tmp_path):
    Image.fromarray(ARRAY[0].astype(np.uint8)).save(tmp_path / "still.PNG")
    assert io.read(tmp_path / "still.PNG").shape == (1, 4, 5)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.nii\.gz: no such file"):
        io.read(tmp_path / "missing.nii.gz")


@pytest.mark.parametrize("name", ["scan", "scan.vtk", "scan.gz", "scan.minc"])
def test_unknown_suffixes_list_the_known_ones(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        UnsupportedFormat, match=r"\.nii, \.nii\.gz, .*\.nrrd.*\.mgz.*or DICOM: a file, a folder or a \.zip"
    ):
        io.read(tmp_path / name)
    with pytest.raises(UnsupportedFormat, match=r"\.nii, \.nii\.gz, \.nrrd, \.mha are$"):
        io.write(Volume.from_array(ARRAY), tmp_path / "out" / name)


def test_pictures_and_split_metaimages_are_read_only(tmp_path):
    for name in ("mask.png", "mask.mhd"):
        with pytest.raises(UnsupportedFormat):
            io.write(Volume.from_array(ARRAY), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_a_dicom_series(tmp_path):
    with pytest.raises(UnsupportedFormat, match="no DICOM image"):
        io.read(tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_volume_is_frame_0_of_its_file(suffix, tmp_path):
    io.write(Volume.from_array(ARRAY), tmp_path / f"a{suffix}")
    assert np.array_equal(io.read(tmp_path / f"a{suffix}", frame=0).array, ARRAY)
    with pytest.raises(InputError, match="has no frame 1; it holds 1"):
        io.read(tmp_path / f"a{suffix}", frame=1)


def test_what_has_no_frames_or_series_says_so(tmp_path):
    Image.fromarray(ARRAY[0].astype(np.uint8)).save(tmp_path / "still.png")
    with pytest.raises(InputError, match="no frames"):
        io.read(tmp_path / "still.png", frame=0)
    with pytest.raises(InputError, match="only DICOM has series"):
        io.read(tmp_path / "still.png", series=3)


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.nrrd", "mask.mha"])
def test_unwritable_places_leave_nothing(name, tmp_path):
    # Not a folder without permission: tests may run as root, who may write everywhere.
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InputError, match="cannot be written"):
            io.write(Volume.from_array(ARRAY), folder / name)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
