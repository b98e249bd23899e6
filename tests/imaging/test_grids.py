"""Masks in another voxel order: every one of the 48, against nibabel."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import GeometryError
from medsam2.imaging.geometry import orientation_code
from medsam2.imaging.volume import Volume, match_order

ORDERS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def scan():
    """An oblique, anisotropic scan with a different number in every voxel."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 1.3, 5.0)
    affine[:3, 3] = (-40, 12.5, 300)
    return Volume(np.arange(4 * 5 * 6).reshape(4, 5, 6), affine)


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_every_order(axes, signs):
    image = scan()
    orientation = np.array([axes, signs]).T
    turned = nib.orientations.apply_orientation(image.array.T, orientation)
    mask = Volume(
        np.ascontiguousarray(turned.T),
        image.affine @ nib.orientations.inv_ornt_aff(orientation, image.array.T.shape),
    )
    if orientation_code(mask.affine) == orientation_code(image.affine):
        assert (axes, signs) == ((0, 1, 2), (1, 1, 1))
    np.testing.assert_array_equal(match_order(mask, image), image.array)


def test_rounded_headers_are_the_same_grid():
    image = scan()
    rounded = Volume(image.array, np.round(image.affine, 3))
    assert match_order(rounded, image) is not None


@pytest.mark.parametrize("shift", [0.1, 1.0, 25.0])
def test_a_mask_that_lies_elsewhere(shift):
    image = scan()
    affine = np.array(image.affine)
    affine[:3, 3] += affine[:3, 0] * shift
    with pytest.raises(GeometryError, match=rf"up to {shift:g} voxels away"):
        match_order(Volume(image.array, affine), image)


def test_a_mask_with_other_voxels():
    image = scan()
    with pytest.raises(
        GeometryError, match=r"the mask has 6 x 5 x 3 voxels \(x, y, z\), the image 6 x 5 x 4"
    ):
        match_order(Volume(image.array[:3], image.affine), image)
    coarser = np.array(image.affine)
    coarser[:3, 2] *= 1.1
    with pytest.raises(GeometryError, match="voxels away"):
        match_order(Volume(image.array, coarser), image)


@pytest.mark.parametrize("factor", [0.4, 2.0])
def test_axes_that_are_stretched_or_do_not_run_along_each_other(factor):
    image = scan()
    stretched = np.array(image.affine)
    stretched[:3, 0] *= factor
    with pytest.raises(GeometryError, match="do not run along"):
        match_order(Volume(image.array, stretched), image)


def test_an_oblique_mask():
    image = scan()
    turned = np.eye(4)
    turned[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    with pytest.raises(GeometryError, match="mask"):
        match_order(Volume(image.array, turned @ image.affine), image)
