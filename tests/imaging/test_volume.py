"""Volume: what it accepts, and the grid it reports."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.geometry import ItkGrid
from medsam2.imaging.volume import LARGEST_VOLUME_BYTES, Volume, check_claim

ARRAY = np.zeros((3, 4, 5), np.int16)
ROTATION = (0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6)


def test_a_numpy_array_gets_the_grid_that_simpleitk_gives_it():
    image = SimpleITK.GetImageFromArray(ARRAY)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, -30.5))
    image.SetDirection(ROTATION)

    volume = Volume.from_array(ARRAY, (0.7, 0.8, 2.5), (-10.0, 20.0, -30.5), ROTATION, modality="CT")

    assert volume.shape == (3, 4, 5)
    assert (volume.spacing, volume.origin, volume.direction) == (
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
    )
    for voxel in ((0, 0, 0), (4, 3, 2), (1, 0, 2)):
        lps = image.TransformIndexToPhysicalPoint(voxel)
        ras = volume.affine @ (*voxel, 1)
        np.testing.assert_allclose(ras[:3], np.array(lps) * (-1, -1, 1), atol=1e-12)


def test_grid_is_computed_from_the_affine_when_that_is_all_there_is():
    volume = Volume(ARRAY, np.diag((-0.5, -0.5, 3.0, 1.0)))
    assert volume.spacing == (0.5, 0.5, 3.0)
    assert volume.origin == (0.0, 0.0, 0.0)
    assert volume.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_with_array_keeps_the_grid():
    volume = Volume.from_array(ARRAY, (0.7, 0.8, 2.5), modality="MR")
    mask = volume.with_array(np.ones((3, 4, 5), np.uint8))
    assert mask.array.dtype == np.uint8
    assert np.array_equal(mask.affine, volume.affine)
    assert (mask.spacing, mask.modality) == (volume.spacing, "MR")


def test_with_array_refuses_another_shape():
    with pytest.raises(GeometryError, match=r"\(5, 4, 3\).*\(3, 4, 5\)"):
        Volume.from_array(ARRAY).with_array(np.zeros((5, 4, 3)))


def test_a_window_stays_with_the_scan():
    volume = Volume(ARRAY, np.eye(4), "CT", window=(-160.0, 240.0))
    assert volume.with_array(np.ones((3, 4, 5), np.int16)).window == (-160.0, 240.0)
    assert Volume(ARRAY, np.eye(4)).window is None


@pytest.mark.parametrize("window", [(1.0, 1.0), (2.0, 1.0), (0.0, float("nan")), (float("-inf"), 0.0)])
def test_impossible_windows_are_refused(window):
    with pytest.raises(InputError, match="lower < upper"):
        Volume(ARRAY, np.eye(4), window=window)


def test_a_claim_is_measured_against_the_file_and_the_cap():
    check_claim(Path("a"), (2, 3, 4), LARGEST_VOLUME_BYTES, 10, 10)
    with pytest.raises(UnsupportedFormat, match="a: the header claims 11 bytes, the file holds less"):
        check_claim(Path("a"), (2, 3, 4), 1, 11, 10)
    with pytest.raises(UnsupportedFormat, match=r"2 x 3 x 4 voxels \(z, y, x\), 16 GiB; .* 16 GiB is read"):
        check_claim(Path("a"), (2, 3, 4), LARGEST_VOLUME_BYTES + 1, 10, 10)


def test_affine_is_a_copy_and_read_only():
    affine = np.eye(4)
    volume = Volume(ARRAY, affine)
    affine[0, 3] = 7
    assert volume.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 2


def test_an_itk_grid_of_another_affine_is_forgotten():
    volume = Volume(
        ARRAY,
        np.diag((-2.0, -2.0, 2.0, 1.0)),
        itk_grid=ItkGrid((1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel())),
    )
    assert volume.spacing == (2.0, 2.0, 2.0)


def test_repr_describes_the_grid_and_not_the_voxels():
    text = repr(Volume.from_array(ARRAY, (0.5, 0.5, 3.0), modality="CT"))
    assert text == "Volume(int16 (3, 4, 5), spacing 0.5 x 0.5 x 3 mm, LPS, modality CT)"


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((4, 5)), GeometryError),
        (np.zeros((2, 3, 4, 5)), GeometryError),
        (np.zeros((3, 0, 5)), GeometryError),
        (np.zeros((3, 4, 5), complex), InputError),
        (np.zeros((3, 4, 5), object), InputError),
        (np.zeros((3, 4, 5), "U1"), InputError),
    ],
)
def test_impossible_arrays_are_refused(array, error):
    with pytest.raises(error):
        Volume(array, np.eye(4))


def test_a_list_is_refused():
    with pytest.raises(InputError, match="list"):
        Volume([[[1]]], np.eye(4))


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3),
        np.diag((1.0, 0.0, 1.0, 1.0)),
        np.diag((1.0, np.nan, 1.0, 1.0)),
        np.diag((1.0, np.inf, 1.0, 1.0)),
        np.diag((1.0, 1.0, 1.0, 2.0)),
        np.array([[1, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_impossible_affines_are_refused(affine):
    with pytest.raises(GeometryError):
        Volume(ARRAY, affine)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, float("nan"), 1)])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(GeometryError):
        Volume.from_array(ARRAY, spacing)


def test_an_unknown_modality_is_refused():
    with pytest.raises(InputError, match=r"'ct'.*CT, MR, US"):
        Volume.from_array(ARRAY, modality="ct")
