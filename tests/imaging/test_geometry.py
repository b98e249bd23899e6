"""Geometry: every orientation, against nibabel and explicit indexing."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medsam2.errors import InputError
from medsam2.imaging.geometry import (
    affine_from_itk,
    flip_ras_lps,
    itk_from_affine,
    orientation_code,
    plane_axis,
    plane_tilt_deg,
    restore_axes,
    slices_along,
)

CODES = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]
PLANES = ("axial", "coronal", "sagittal")


def affine_of(code, zooms=(0.7, 1.1, 2.5)):
    """Return the affine of an orientation code, made by nibabel."""
    # inv_ornt_aff maps voxels of the reoriented (RAS) array to those of the array as it is.
    to_ras = nib.orientations.axcodes2ornt(code)
    return np.linalg.inv(nib.orientations.inv_ornt_aff(to_ras, (20, 30, 40))) @ np.diag((*zooms, 1.0))


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("code", CODES)
def test_orientation_code_agrees_with_nibabel(code):
    affine = affine_of(code)
    assert "".join(nib.aff2axcodes(affine)) == orientation_code(affine)


@pytest.mark.parametrize("seed", range(50))
def test_orientation_of_oblique_scans_agrees_with_nibabel(seed):
    generator = np.random.default_rng(seed)
    # Up to 40 degrees about any axis: beyond, nearest is a matter of definition.
    vector = generator.normal(size=3)
    rotation = Rotation.from_rotvec(vector / np.linalg.norm(vector) * np.radians(generator.uniform(0, 40)))
    affine = affine_of(CODES[seed % 48])
    affine[:3, :3] = rotation.as_matrix() @ affine[:3, :3]
    assert "".join(nib.aff2axcodes(affine)) == orientation_code(affine)


@pytest.mark.parametrize("code", CODES)
def test_each_plane_has_the_axis_whose_letter_it_crosses(code):
    affine = affine_of(code)
    axes = {plane: plane_axis(affine, plane) for plane in PLANES}
    assert code[axes["axial"]] in "IS"
    assert code[axes["coronal"]] in "PA"
    assert code[axes["sagittal"]] in "LR"
    assert [plane_tilt_deg(affine, plane) for plane in PLANES] == [0, 0, 0]


def test_planes_have_different_axes_even_halfway_between_two():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 45, degrees=True).as_matrix()
    assert sorted(plane_axis(affine, plane) for plane in PLANES) == [0, 1, 2]


def test_tilt_is_the_angle_of_the_rotation():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    assert plane_tilt_deg(affine, "axial") == pytest.approx(20)
    assert plane_tilt_deg(affine, "coronal") == pytest.approx(20)
    assert plane_tilt_deg(affine, "sagittal") == pytest.approx(0)


def test_a_tilted_gantry_leaves_axial_slices_axial():
    affine = np.eye(4)
    affine[1, 2] = 0.4  # slices step to the front, but lie flat
    assert plane_axis(affine, "axial") == 2
    assert plane_tilt_deg(affine, "axial") == 0
    assert plane_tilt_deg(affine, "coronal") == pytest.approx(np.degrees(np.arctan(0.4)))


@pytest.mark.parametrize("function", [plane_axis, plane_tilt_deg])
def test_an_unknown_plane_is_refused(function):
    with pytest.raises(InputError, match=r"'transverse'.*axial, coronal and sagittal"):
        function(np.eye(4), "transverse")


def test_slices_along_agrees_with_explicit_indexing():
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for z, y, x in np.ndindex(array.shape):
        assert slices_along(array, 2)[z, y, x] == array[z, y, x]
        assert slices_along(array, 1)[y, z, x] == array[z, y, x]
        assert slices_along(array, 0)[x, z, y] == array[z, y, x]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restore_axes_undoes_slices_along_without_copying(axis):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    restored = restore_axes(slices_along(array, axis), axis)
    assert np.array_equal(restored, array)
    assert np.shares_memory(restored, array)


@pytest.mark.parametrize("axis", [-1, 3])
def test_an_unknown_axis_is_refused(axis):
    with pytest.raises(InputError):
        slices_along(np.zeros((2, 3, 4)), axis)
    with pytest.raises(InputError):
        restore_axes(np.zeros((2, 3, 4)), axis)


@pytest.mark.parametrize("code", CODES)
def test_itk_grid_and_affine_are_inverse(code):
    affine = affine_of(code)
    grid = itk_from_affine(affine)
    assert grid.spacing == pytest.approx((0.7, 1.1, 2.5))
    np.testing.assert_allclose(affine_from_itk(grid), affine, atol=1e-12)


def test_sheared_affine_survives_the_itk_frame():
    affine = np.array([[1, 0, 0.5, 3], [0, 2, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(affine_from_itk(itk_from_affine(affine)), affine, atol=1e-12)


def test_flipping_twice_changes_nothing():
    affine = affine_of("PSL")
    assert np.array_equal(flip_ras_lps(flip_ras_lps(affine)), affine)
    assert np.array_equal(flip_ras_lps(affine)[2:], affine[2:])


def test_no_negative_zeros_reach_the_user():
    grid = itk_from_affine(np.diag((1.0, 1.0, 1.0, 1.0)))
    assert "-0.0" not in str(grid)
