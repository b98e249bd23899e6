"""Slices as they are shown: all 48 voxel orders against nibabel's reordering, and the way back."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.imaging.geometry import Cut, cut_of_plane

# Axes of shown slices, rows and columns, in nibabel's letters: the ends that they run to.
SHOWN = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
ORDERS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
SHAPE = (4, 5, 6)  # z, y, x


def grid(axes, signs, tilt_deg=0.0):
    """An affine whose file axes run along the given world axes, turned about the left-right axis."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, step) in enumerate(zip(axes, signs, (0.7, 1.3, 2.5), strict=True)):
        affine[world, axis] = sign * step
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    return turn @ affine


@pytest.mark.parametrize("plane", SHOWN)
@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_every_voxel_order_is_shown_alike(axes, signs, plane):
    array = np.arange(120).reshape(SHAPE)
    affine = grid(axes, signs)
    cut = cut_of_plane(affine, plane)
    # nibabel's arrays are (x, y, z); asked for the shown axes, it gives (slice, row, column).
    wanted = nib.orientations.axcodes2ornt(SHOWN[plane])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    shown = nib.orientations.apply_orientation(array.T, turn)
    np.testing.assert_array_equal(cut.slices(array), shown)
    np.testing.assert_array_equal(cut.volume(cut.slices(array)), array)
    assert cut_of_plane(grid(axes, signs, tilt_deg=25), plane) == cut


@pytest.mark.parametrize("plane", SHOWN)
@pytest.mark.parametrize(("axes", "signs"), ORDERS[::5])
def test_points_go_where_their_pixels_go(axes, signs, plane):
    cut = cut_of_plane(grid(axes, signs), plane)
    filed = np.moveaxis(np.zeros(SHAPE), 2 - cut.axis, 0)
    filed[1, 2, 3] = 1
    z, y, x = (int(place) for place in np.argwhere(cut.show(filed))[0])
    assert cut.turn_index(1, len(filed)) == z
    assert cut.turn_index(z, len(filed)) == 1
    assert cut.show_point(3, 2, filed.shape[1:]) == (x, y)
    assert cut.file_point(x, y, filed.shape[1:]) == (3, 2)
    np.testing.assert_array_equal(cut.file(cut.show(filed[1])), filed[1])


def test_without_a_plane_nothing_is_turned():
    array = np.arange(120).reshape(SHAPE)
    cut = Cut(axis=2)
    assert np.shares_memory(cut.slices(array), array)
    np.testing.assert_array_equal(cut.slices(array), array)
    assert cut.show_point(3.5, 2, (5, 6)) == (3.5, 2)


def test_other_planes_are_refused():
    with pytest.raises(InputError, match="axial, coronal and sagittal"):
        cut_of_plane(np.eye(4), "oblique")
