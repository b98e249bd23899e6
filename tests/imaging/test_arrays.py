"""Images of other libraries become the volume that their file is; SimpleITK and nibabel say what is where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.arrays import as_volume
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume

SHAPE = (4, 5, 6)
SPACING = (0.7, 0.9, 2.5)


def affine_of(order: tuple[int, int, int], signs: tuple[int, int, int], degrees: float) -> np.ndarray:
    """Voxel (x, y, z) to RAS mm: axes in an order, flipped by signs, turned obliquely."""
    turn = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        turn[world, axis] = sign * SPACING[axis]
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    oblique = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = oblique @ turn
    affine[:3, 3] = (-12.5, 30.25, 7.0)
    return affine


AFFINES = [affine_of((0, 1, 2), signs, 0) for signs in product((1, -1), repeat=3)]
AFFINES += [affine_of((2, 0, 1), (-1, 1, -1), 0), affine_of((1, 2, 0), (1, -1, -1), 17)]
AFFINES += [affine_of((0, 1, 2), (-1, -1, 1), 31)]
IDS = [nibabel.aff2axcodes(affine)[0] + "".join(nibabel.aff2axcodes(affine)[1:]) for affine in AFFINES]
# MONAI says so whenever a reader is chosen.
NO_CODEC = pytest.mark.filterwarnings("ignore:NvImgCodec")


@pytest.fixture(scope="session")
def monai() -> ModuleType:
    """MONAI, whose import takes long."""
    return pytest.importorskip("monai.transforms", reason="needs the extra evaluate")


@pytest.fixture(params=AFFINES, ids=IDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scan whose voxels all differ."""
    voxels = np.random.default_rng(5).permutation(np.prod(SHAPE)).astype(np.int16).reshape(SHAPE)
    write(Volume(voxels, request.param), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def check_same(volume: Volume, path: Path) -> None:
    expected = read(path)
    assert volume.array.dtype == expected.array.dtype
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)


def test_nibabel(path: Path) -> None:
    image = nibabel.load(path)
    volume = as_volume(image)
    check_same(volume, path)
    np.testing.assert_array_equal(volume.affine, read(path).affine)
    values = image.get_fdata()
    for x, y, z in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (2, 3, 1)):
        assert volume.array[z, y, x] == values[x, y, z]
        here = volume.affine @ (x, y, z, 1)
        np.testing.assert_allclose(here[:3], apply_affine(image.affine, (x, y, z)), atol=1e-4)
    mask = volume.with_array((volume.array > 50).astype(np.uint8)).like(image)
    assert isinstance(mask, nibabel.Nifti1Image)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), values > 50)
    np.testing.assert_array_equal(mask.affine, image.affine)
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[field], image.header[field])


def test_simpleitk(path: Path) -> None:
    image = SimpleITK.ReadImage(str(path))
    volume = as_volume(image)
    check_same(volume, path)
    for x, y, z in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (2, 3, 1)):
        assert volume.array[z, y, x] == image.GetPixel(x, y, z)
        left, back, up = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose((volume.affine @ (x, y, z, 1))[:3], (-left, -back, up), atol=1e-9)
    mask = volume.with_array(volume.array > 50).like(image)
    assert isinstance(mask, SimpleITK.Image)
    assert mask.GetPixelID() == SimpleITK.sitkUInt8
    assert mask.GetOrigin() == image.GetOrigin()
    assert mask.GetSpacing() == image.GetSpacing()
    assert mask.GetDirection() == image.GetDirection()
    assert SimpleITK.GetArrayFromImage(mask & (image > 50)).sum() == (volume.array > 50).sum()


@NO_CODEC
@pytest.mark.parametrize("has_channel", [False, True])
def test_metatensor(path: Path, monai: ModuleType, has_channel: bool) -> None:
    image = monai.LoadImage(image_only=True, dtype=np.int16, ensure_channel_first=has_channel)(path)
    volume = as_volume(image)
    check_same(volume, path)
    mask = volume.with_array((volume.array > 50).astype(np.uint8)).like(image)
    assert type(mask) is type(image)
    assert mask.shape == image.shape
    assert ((mask == 1) == (image > 50)).all()
    assert (mask.affine == image.affine).all()
    assert mask.meta["filename_or_obj"] == image.meta["filename_or_obj"]


@NO_CODEC
def test_a_metatensor_in_lps_and_one_whose_transforms_are_inverted(path: Path, monai: ModuleType) -> None:
    image = monai.LoadImage(image_only=True, dtype=np.int16)(path)
    image.affine = np.diag((-1, -1, 1, 1)) @ image.affine.numpy()  # as the ITK reader has it
    image.meta["space"] = "LPS"
    check_same(as_volume(image), path)
    orientation = monai.Orientation("RAS", labels=None)
    turned = orientation(monai.LoadImage(image_only=True, dtype=np.int16, ensure_channel_first=True)(path))
    volume = as_volume(turned)
    assert "".join(nibabel.aff2axcodes(volume.affine)) == "RAS"
    mask = volume.with_array((volume.array > 50).astype(np.uint8)).like(turned)
    back = orientation.inverse(mask)
    np.testing.assert_array_equal(back.numpy()[0].T, read(path).array > 50)
    with pytest.raises(InputError, match=r"shape \(2, .*; .* give one channel"):
        as_volume(monai.RepeatChannel(2)(turned))


def test_numpy() -> None:
    array = np.arange(120, dtype=np.float32).reshape(SHAPE)
    volume = as_volume(array, spacing=SPACING)
    assert volume.spacing == SPACING
    np.testing.assert_array_equal(volume.array, array)
    assert as_volume(array).spacing == (1, 1, 1)
    mask = volume.with_array(array > 3)
    assert mask.like(array) is mask.array
    assert np.asarray(volume) is array
    assert np.asarray(volume, dtype=np.int16).dtype == np.int16
    copy = np.array(volume)
    assert copy is not array
    np.testing.assert_array_equal(copy, array)
    assert mask.like(volume) is mask.like("scan.nii.gz") is mask
    assert as_volume(volume) is volume


def of_scaled(header: nibabel.Nifti1Header) -> None:
    header.set_slope_inter(0.3, -7)


def of_micrometres(header: nibabel.Nifti1Header) -> None:
    header.set_xyzt_units("micron")


def of_no_transform(header: nibabel.Nifti1Header) -> None:
    header["sform_code"] = header["qform_code"] = 0


@pytest.mark.parametrize("change", [of_scaled, of_micrometres, of_no_transform])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.img"])
def test_nibabel_reads_what_the_header_says(
    tmp_path: Path, name: str, change: Callable[[nibabel.Nifti1Header], None]
) -> None:
    kind = nibabel.Nifti1Pair if name.endswith("img") else nibabel.Nifti1Image
    made = kind(np.arange(120, dtype=np.int16).reshape(SHAPE), AFFINES[-1])
    made.header["descrip"] = b"Smith, John"
    change(made.header)
    made.to_filename(tmp_path / name)
    image, expected = nibabel.load(tmp_path / name), read(tmp_path / name)
    volume = as_volume(image)
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.array.dtype == expected.array.dtype
    np.testing.assert_array_equal(volume.affine, expected.affine)
    mask = volume.with_array(np.ones(volume.shape, np.uint8)).like(image)
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert b"Smith" not in mask.to_bytes()
    mask.to_filename(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "mask.nii.gz").affine, expected.affine)


def test_an_affine_that_was_changed_in_memory_counts() -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINES[0])
    image.affine[:3, 3] = (1, 2, 3)
    np.testing.assert_array_equal(as_volume(image).affine[:3, 3], (1, 2, 3))


def test_other_formats_and_numbers_of_dimensions() -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(SHAPE)
    mgh = nibabel.MGHImage(voxels, AFFINES[-1])
    volume = as_volume(mgh)
    np.testing.assert_array_equal(volume.array, voxels.T)
    np.testing.assert_allclose(volume.affine, mgh.affine)
    np.testing.assert_allclose(volume.like(mgh).affine, mgh.affine, atol=1e-5)
    flat = nibabel.Nifti1Image(voxels[0], AFFINES[0])
    assert as_volume(flat).shape == (1, 6, 5)
    assert as_volume(flat).like(flat).shape == flat.shape == (5, 6)
    single = nibabel.Nifti1Image(voxels[..., None], AFFINES[0])
    assert as_volume(single).like(single).shape == (4, 5, 6, 1)
    series = nibabel.Nifti1Image(np.stack([voxels, voxels], axis=-1), AFFINES[0])
    with pytest.raises(InputError, match=r"give one frame, image.slicer\[..., 0\]"):
        as_volume(series)
    np.testing.assert_array_equal(as_volume(series.slicer[..., 1]).array, voxels.T)
    picture = SimpleITK.GetImageFromArray(voxels[0])
    assert as_volume(picture).shape == (1, 5, 6)
    assert as_volume(picture).like(picture).GetSize() == (6, 5)
    with pytest.raises(InputError, match="3 dimensions and 2 numbers per voxel"):
        as_volume(SimpleITK.Image((3, 3, 3), SimpleITK.sitkVectorUInt8, 2))


def test_what_is_no_image_is_refused_in_a_sentence() -> None:
    import torch

    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINES[0])
    with pytest.raises(InputError, match="spacing is for a numpy array; a Nifti1Image has its own"):
        as_volume(image, spacing=SPACING)
    with pytest.raises(InputError, match=r"spacing is three numbers \(x, y, z\) in mm, not \(1, 2\)"):
        as_volume(np.zeros(SHAPE), spacing=(1, 2))
    with pytest.raises(GeometryError, match=r"3 dimensions \(z, y, x\), this array has shape \(4, 5\)"):
        as_volume(np.zeros((4, 5)))
    with pytest.raises(InputError, match=r"an image is a Volume, a path, a numpy array .*, not list$"):
        as_volume([[[1]]])
    with pytest.raises(InputError, match=r"not Tensor; a tensor does not say .*tensor.numpy\(\)"):
        as_volume(torch.zeros(SHAPE))
    with pytest.raises(InputError, match="not list"):
        Volume.from_array(np.zeros(SHAPE)).like([1])
    for other in (np.zeros((4, 5, 7)), image, SimpleITK.GetImageFromArray(np.zeros((4, 6, 6)))):
        with pytest.raises(
            GeometryError, match=r"a mask of shape \(4, 5, 6\) does not fit an image of shape"
        ):
            Volume.from_array(np.zeros(SHAPE)).like(other)


def test_no_library_is_imported_for_a_question() -> None:
    script = (
        "import sys, numpy, medsam2\n"
        "volume = medsam2.as_volume(numpy.zeros((2, 3, 4)))\n"
        "assert volume.like(numpy.zeros((2, 3, 4))).shape == (2, 3, 4)\n"
        "print({'monai', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
