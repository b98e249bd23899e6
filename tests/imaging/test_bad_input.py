"""What is no scan, or too much of one: a sentence that names the file, at once, and nothing left behind."""

import gzip
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.volume import LARGEST_VOLUME_BYTES, Volume

ARRAY = np.random.default_rng(5).integers(0, 500, (4, 5, 6)).astype(np.int16)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh", ".npz", ".png", ".jpg", ".tif")
METAIMAGE = "NDims = 3\nDimSize = {size}\nElementType = MET_DOUBLE\nElementDataFile = LOCAL\n"
MOST_BYTES = 20 * 2**20
MOST_SECONDS = 5


def refused(path, error=UnsupportedFormat):
    """Read, and return the sentence; it must come soon, without much memory."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(error) as caught:
            io.read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < MOST_SECONDS
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".zip", ".dcm"])
@pytest.mark.parametrize("content", [b"", b"This is no scan.", bytes(1000), b"\x1f\x8b\x08\x00"])
def test_empty_and_meaningless_files(suffix, content, tmp_path):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    refused(path)


def nifti1_header(shape_xyz, dtype=np.float64):
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header["dim"][: len(shape_xyz) + 1] = (len(shape_xyz), *shape_xyz)
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def nifti2_header(shape_xyz, dtype=np.float64):
    header = nib.Nifti2Header()
    header.set_data_dtype(dtype)
    header["dim"][: len(shape_xyz) + 1] = (len(shape_xyz), *shape_xyz)
    header["vox_offset"] = 544
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scan.nii", nifti1_header((32000, 32000, 32000))),
        ("scan.nii", nifti2_header((2**40, 2**40, 2**40))),
        ("scan.nii", nifti1_header((32000, 32000, 32000, 32000, 32000))),
        ("scan.nii.gz", gzip.compress(nifti1_header((32000, 32000, 32000)))),
        ("scan.nii.gz", gzip.compress(nifti2_header((2**30, 2**30, 4)))),
        ("scan.mha", METAIMAGE.format(size="90000 90000 90000").encode()),
        ("scan.mha", b"CompressedData = True\n" + METAIMAGE.format(size="9000 9000 9000").encode()),
        ("scan.nrrd", b"NRRD0004\ntype: double\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw\n"
                      b"endian: little\n\n"),
        ("scan.nrrd", b"NRRD0004\ntype: double\ndimension: 3\nsizes: 9000 9000 9000\nencoding: gzip\n"
                      b"endian: little\n\n"),
    ],
    ids=["nifti1", "nifti2", "five dimensions", "gz", "gz of nifti2", "mha", "packed mha", "nrrd",
         "packed nrrd"],
)  # fmt: skip
def test_headers_that_claim_terabytes(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content + bytes(1000))
    assert "truncated" in refused(path)


def sparse(path, head, num_bytes):
    """Write a file that is as large as it says, in blocks that the disk does not have to keep."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + num_bytes)


def test_what_is_there_may_still_be_too_large(tmp_path):
    num_slices = LARGEST_VOLUME_BYTES // (32000 * 32000) + 1
    num_bytes = 32000 * 32000 * num_slices
    sparse(tmp_path / "a.nii", nifti1_header((32000, 32000, num_slices), np.uint8), num_bytes)
    header = (
        f"NDims = 3\nDimSize = 32000 32000 {num_slices}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    sparse(tmp_path / "a.mha", header.encode(), num_bytes)
    for name in ("a.nii", "a.mha"):
        text = refused(tmp_path / name)
        assert f"claims {num_slices} x 32000 x 32000 voxels (z, y, x), 16 GiB; a volume of at most 16" in text


def test_scaled_voxels_count_as_what_they_become(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header["dim"][:4] = (3, 32000, 32000, 5)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 0.5, 1
    sparse(tmp_path / "a.nii", header.binaryblock + bytes(4), 32000 * 32000 * 5)
    assert "19 GiB" in refused(tmp_path / "a.nii")


def test_a_gzip_that_grows_a_thousandfold_is_read_no_further_than_its_header_says(tmp_path):
    """40 MB of zeros behind the header of a small scan: they are left packed."""
    path = tmp_path / "scan.nii.gz"
    content = nifti1_header((6, 5, 4), np.int16) + ARRAY.tobytes() + bytes(40 * 2**20)
    path.write_bytes(gzip.compress(content))
    assert path.stat().st_size * 900 < len(content)
    tracemalloc.start()
    volume = io.read(path)
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(volume.array, ARRAY)
    assert most_bytes < MOST_BYTES


def test_a_gzip_that_cannot_grow_as_far_as_its_header_says(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(nifti1_header((32000, 32000, 100), np.uint8) + bytes(10 * 2**20)))
    assert "claims 102400000352 bytes, the file holds less" in refused(path)


def saved(folder):
    """Write one small file of each format that has a suffix of its own."""
    io.write(Volume.from_array(ARRAY), folder / "a.nii")
    io.write(Volume.from_array(ARRAY), folder / "a.nrrd")
    io.write(Volume.from_array(ARRAY), folder / "a.mha")
    Image.fromarray(ARRAY[0].astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(ARRAY[0].astype(np.uint8)).save(folder / "a.jpg")
    Image.fromarray(ARRAY[0].astype(np.uint8)).save(folder / "a.tif")
    np.savez(folder / "a.npz", imgs=ARRAY)
    return {path.suffix: path.read_bytes() for path in folder.glob("a.*")}


KINDS = {
    ".nii": "NIfTI (.nii, .nii.gz)",
    ".nrrd": "NRRD (.nrrd)",
    ".mha": "MetaImage (.mha, .mhd)",
    ".png": "a PNG picture (.png)",
    ".jpg": "a JPEG picture (.jpg, .jpeg)",
    ".tif": "a TIFF picture (.tif, .tiff)",
    ".npz": "a zip archive (.zip, .npz)",
}


@pytest.mark.parametrize("actual", KINDS)
def test_a_wrong_suffix_is_told_from_the_content(actual, tmp_path):
    content = saved(tmp_path)[actual]
    for suffix in (".nii.gz", ".nrrd", ".mha", ".mgz", ".npz", ".png"):
        if suffix in KINDS[actual] or (suffix == ".png" and "picture" in KINDS[actual]):
            continue  # pictures are told from their content in any case
        path = tmp_path / f"wrong{suffix}"
        path.write_bytes(content)
        assert refused(path) == f"{path}: is named {suffix}, but its content is {KINDS[actual]}; rename it"


def test_dicom_under_another_name(dicom_slice, tmp_path):
    dicom_slice(ARRAY[0], (0, 0, 0)).save_as(tmp_path / "a.nii")
    assert "its content is DICOM" in refused(tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "IM0001.17")
    assert np.array_equal(io.read(tmp_path / "IM0001.17").array[0], ARRAY[0])


def test_compressed_content_is_looked_into(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(saved(tmp_path)[".nii"]))
    assert kind_of_content(tmp_path / "a.gz") == KINDS[".nii"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system knows no such permissions")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mgz", ".npz", ".png", ".zip", ".dcm", ""])
def test_files_that_may_not_be_read(suffix):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / f"scan{suffix}"
        path.write_bytes(b"secret")
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)  # the superuser may read everything, so for a moment be nobody
        try:
            with pytest.raises(InputError, match="Permission denied") as caught:
                io.read(path)
        finally:
            os.seteuid(user)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(sys.platform != "linux", reason="such a file is there on Linux")
def test_a_disk_that_fails(tmp_path):
    """The system refuses to read this file, which is there and may be opened, as a broken disk does."""
    for suffix in (".nii", ".mgz", ".zip", ".dcm"):
        (tmp_path / f"scan{suffix}").symlink_to("/proc/self/mem")
        with pytest.raises(InputError):
            io.read(tmp_path / f"scan{suffix}")


def test_voxels_of_another_folder_are_not_shown(tmp_path):
    """A header from someone else must not turn any file of this machine into an image."""
    (tmp_path / "secret").write_bytes(b"0" * 120)
    folder = tmp_path / "given"
    folder.mkdir()
    for place in ("../secret", str(tmp_path / "secret")):
        for name, header in (
            ("a.mhd", "NDims = 3\nDimSize = 6 5 4\nElementType = MET_UCHAR\nElementDataFile = {}\n"),
            ("a.nrrd", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 4\nencoding: raw\ndata file: {}\n"),
        ):
            (folder / name).write_text(header.format(place))
            assert "which is not in its own folder" in refused(folder / name)
    (folder / "a.mhd").write_text(
        METAIMAGE.format(size="6 5 4").replace("Elem", "\n  Elem").replace("LOCAL", "../secret")
    )
    assert "which is not in its own folder" in refused(folder / "a.mhd")
    (folder / "a.mhd").write_text(METAIMAGE.format(size="6 5 4") + "ElementDataFile = ../secret\n")
    assert "names 2 places" in refused(folder / "a.mhd")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "a.mhd").write_text(
        "NDims = 3\nDimSize = 6 5 4\nElementType = MET_UCHAR\nElementDataFile = link\n"
    )
    assert "which is not in its own folder" in refused(folder / "a.mhd")


def test_voxels_in_a_file_beside_the_header(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), tmp_path / "a.mhd")
    assert np.array_equal(io.read(tmp_path / "a.mhd").array, ARRAY)
    data = (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(data[:100])
    assert "truncated" in refused(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    assert "there is no such file beside it" in refused(tmp_path / "a.mhd", InputError)
    (tmp_path / "a.mhd").write_text(METAIMAGE.format(size="6 5 4").replace("LOCAL", "LIST"))
    assert "in several files" in refused(tmp_path / "a.mhd")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_frame_of_4d(suffix, tmp_path):
    frames = [SimpleITK.GetImageFromArray(ARRAY + frame) for frame in range(3)]
    SimpleITK.WriteImage(SimpleITK.JoinSeries(frames), tmp_path / f"a{suffix}")
    assert "holds 3 frames; a volume is one of them" in refused(tmp_path / f"a{suffix}", InputError)
    for frame in range(3):
        assert np.array_equal(io.read(tmp_path / f"a{suffix}", frame=frame).array, ARRAY + frame)
    with pytest.raises(InputError, match="has no frame 3; it holds 3"):
        io.read(tmp_path / f"a{suffix}", frame=3)


def test_without_pydicom_the_extra_is_named(dicom_slice, tmp_path, monkeypatch):
    dicom_slice(ARRAY[0], (0, 0, 0)).save_as(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(InputError, match=r"needs pydicom: pip install 'medsam2\[dicom\]'"):
            io.read(path)
