"""Measurements against boxes and balls whose size is known."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.imaging.measure import longest_diameter_mm, volume_ml


def test_the_volume_of_a_box_in_sheared_space() -> None:
    array = np.zeros((10, 20, 30), np.uint8)
    array[2:6, 5:10, 10:20] = 1  # 200 voxels
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[0, 1] = 0.3  # shear moves voxels and keeps their size
    assert volume_ml(np.count_nonzero(array), affine) == pytest.approx(200 * 0.5 * 0.5 * 2.0 / 1000)


@pytest.mark.parametrize(
    ("shape", "spacing", "diameter"),
    [
        ((3, 4), (1.0, 1.0), 5.0),  # a 3 x 4 rectangle's diagonal
        ((1, 1), (3.0, 4.0), 5.0),  # a single pixel's
        ((1, 10), (0.5, 2.0), np.hypot(5.0, 2.0)),
    ],
)
def test_the_diameter_of_a_rectangle(
    shape: tuple[int, int], spacing: tuple[float, float], diameter: float
) -> None:
    slices = np.zeros((3, 40, 40), bool)
    slices[1, 7 : 7 + shape[0], 9 : 9 + shape[1]] = True
    assert longest_diameter_mm(slices, spacing) == pytest.approx(diameter)


def test_the_diameter_is_that_of_one_slice_and_reaches_across_gaps() -> None:
    slices = np.zeros((4, 50, 50), bool)
    slices[0, 10, 10] = True
    slices[3, 10, 49] = True  # another slice does not count
    slices[1, 20, 5] = slices[1, 20, 14] = True
    assert longest_diameter_mm(slices, (1.0, 1.0)) == pytest.approx(np.hypot(10, 1))


def test_nothing_has_no_size() -> None:
    empty = np.zeros((2, 5, 5), np.uint8)
    assert volume_ml(np.count_nonzero(empty), np.eye(4)) == 0
    assert longest_diameter_mm(empty > 0, (1.0, 1.0)) == 0
