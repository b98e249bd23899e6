"""NRRD and MetaImage, with SimpleITK itself as the second reader."""

import re
import time

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats import itk
from medsam2.imaging.volume import Volume

ARRAY = np.random.default_rng(5).integers(-500, 500, (4, 5, 6)).astype(np.int16)
ROTATION = (0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6)
MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = {packed}\nDimSize = {size}\n"
    "ElementSpacing = 1 1 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: {size}\nencoding: {encoding}\nendian: little\n\n"


def image_of(array=ARRAY, **options):
    image = SimpleITK.GetImageFromArray(array, **options)
    if image.GetDimension() == 3:
        image.SetSpacing((0.7812499999999999, 0.8, 6.499999999999998))
        image.SetOrigin((-101.3, 20.7, -30.1))
        image.SetDirection(ROTATION)
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_grid_and_voxels_are_what_simpleitk_reads(suffix, dtype, tmp_path):
    path = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(image_of(ARRAY.astype(dtype)), path)
    image = SimpleITK.ReadImage(path)

    volume = itk.read(path)

    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array, ARRAY.astype(dtype))
    assert (volume.spacing, volume.origin, volume.direction) == (
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
    )
    lps = image.TransformIndexToPhysicalPoint((5, 1, 2))
    np.testing.assert_allclose((volume.affine @ (5, 1, 2, 1))[:3] * (-1, -1, 1), lps, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_mask_has_the_grid_of_its_scan_to_the_bit(suffix, tmp_path):
    SimpleITK.WriteImage(image_of(), tmp_path / f"scan{suffix}")
    volume = itk.read(tmp_path / f"scan{suffix}")
    itk.write(volume.with_array(volume.array > 0), tmp_path / f"mask{suffix}")
    scan, mask = (SimpleITK.ReadImage(tmp_path / f"{name}{suffix}") for name in ("scan", "mask"))
    assert mask.GetPixelID() == SimpleITK.sitkUInt8
    for question in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, question)() == getattr(scan, question)(), question
    assert np.array_equal(SimpleITK.GetArrayFromImage(mask), ARRAY > 0)


def test_a_sheared_grid_reaches_a_metaimage(tmp_path):
    affine = np.array([[-0.5, 0, 0.1, 90], [0, -0.5, 0.4, 120], [0, 0.1, 2.3, 30], [0, 0, 0, 1]])
    itk.write(Volume(ARRAY, affine), tmp_path / "mask.mha")
    np.testing.assert_allclose(itk.read(tmp_path / "mask.mha").affine, affine, atol=1e-9)


def test_a_2d_image_is_a_volume_of_one_slice(tmp_path):
    image = SimpleITK.GetImageFromArray(ARRAY[0])
    image.SetSpacing((0.5, 0.25))
    image.SetOrigin((3, 4))
    SimpleITK.WriteImage(image, tmp_path / "scan.nrrd")
    volume = itk.read(tmp_path / "scan.nrrd")
    assert (volume.shape, volume.spacing, volume.origin) == ((1, 5, 6), (0.5, 0.25, 1.0), (3.0, 4.0, 0.0))
    assert np.array_equal(volume.array[0], ARRAY[0])


def test_one_frame_of_4d_is_a_volume_and_several_are_not(tmp_path):
    for num_frames in (1, 3):
        stack = SimpleITK.JoinSeries([image_of()] * num_frames)
        SimpleITK.WriteImage(stack, tmp_path / f"{num_frames}.nrrd")
    assert np.array_equal(itk.read(tmp_path / "1.nrrd").array, ARRAY)
    with pytest.raises(InputError, match="holds 3 frames"):
        itk.read(tmp_path / "3.nrrd")


def test_vectors_are_refused(tmp_path):
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True), tmp_path / "field.nrrd"
    )
    with pytest.raises(UnsupportedFormat, match="3 numbers per voxel"):
        itk.read(tmp_path / "field.nrrd")


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormat) as caught:
        itk.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_what_is_in_no_such_format(suffix, tmp_path):
    refused(tmp_path / f"scan{suffix}", b"This is no image.")
    refused(tmp_path / f"scan{suffix}", b"")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated(suffix, packed, tmp_path):
    path = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(image_of(np.tile(ARRAY, (9, 9, 9))), path, useCompression=packed)
    data = path.read_bytes()
    refused(path, data[: len(data) // 2])


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".mha", MHA.format(packed=False, size="3000 3000 300")),
        (".mha", MHA.format(packed=True, size="3000 3000 300")),
        (".nrrd", NRRD.format(encoding="raw", size="3000 3000 300")),
        (".nrrd", NRRD.format(encoding="gzip", size="3000 3000 300")),
        (".nrrd", NRRD.format(encoding="raw", size="30000000 30000000 30000000")),
    ],
)
def test_a_header_that_claims_gigabytes_costs_no_time(suffix, header, tmp_path):
    start = time.monotonic()
    assert re.search("truncated|too large", refused(tmp_path / f"scan{suffix}", header.encode() + b"0" * 100))
    assert time.monotonic() - start < 1


def test_an_impossible_grid_is_refused(tmp_path):
    path = tmp_path / "scan.mha"
    header = "TransformMatrix = 1 0 0 1 0 0 0 0 1\n" + MHA.format(packed=False, size="2 2 2")
    path.write_bytes(header.encode() + b"0" * 16)
    with pytest.raises((GeometryError, UnsupportedFormat)):
        itk.read(path)


def test_an_unwritable_place_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing" / "mask.nrrd", tmp_path / "file" / "mask.mha"):
        with pytest.raises(InputError, match="cannot be written") as caught:
            itk.write(Volume.from_array(ARRAY), path)
        assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_warnings_of_itk_are_as_before_afterwards():
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    with itk.quiet_itk():
        assert not SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    assert SimpleITK.ProcessObject.GetGlobalWarningDisplay() == before


def test_a_detached_header_and_a_sequence_of_3d_slicer(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 2.0))
    for is_compressed in (False, True):
        SimpleITK.WriteImage(image, tmp_path / "vol.nhdr", useCompression=is_compressed)
        volume = io.read(tmp_path / "vol.nhdr")
        assert np.array_equal(volume.array, array)
        assert volume.spacing == (0.5, 0.6, 2.0)
    sequence = SimpleITK.GetImageFromArray(np.stack([array, array + 50], axis=-1), isVector=True)
    SimpleITK.WriteImage(sequence, tmp_path / "cine.seq.nrrd")
    for frame in range(2):
        assert np.array_equal(io.read(tmp_path / "cine.seq.nrrd", frame=frame).array, array + 50 * frame)
    with pytest.raises(InputError, match="holds 2 frames"):
        io.read(tmp_path / "cine.seq.nrrd")
