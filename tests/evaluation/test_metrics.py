"""Metrics: known answers in mm, and a second implementation by distance transforms."""

import math
import sys

import numpy as np
import pytest
from scipy import ndimage

from medsam2.errors import GeometryError, InputError
from medsam2.evaluation.metrics import measure
from medsam2.measure.overlap import dice

SPACING = (1.0, 2.0, 4.0)  # x, y, z


def cube(shape=(30, 30, 30), start=(10, 10, 10), size=(10, 10, 10)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))] = True
    return mask


def ball(radius_mm, spacing, shape=(31, 41, 51)):
    z, y, x = np.ogrid[tuple(slice(-(count // 2), count // 2 + 1) for count in shape)]
    return (x * spacing[0]) ** 2 + (y * spacing[1]) ** 2 + (z * spacing[2]) ** 2 <= radius_mm**2


def by_distance_transform(predicted, truth, steps, tolerance):
    """The definitions, on the whole arrays; steps in the arrays' order."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    distances = [
        ndimage.distance_transform_edt(~surfaces[1 - i], sampling=steps)[surfaces[i]] for i in (0, 1)
    ]
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    both = np.concatenate(distances)
    strict, loose = np.mean(both <= tolerance / 2), np.mean(both <= tolerance)
    return dice, loose, strict, max(np.percentile(one, 95) for one in distances), both.mean()


def numbers(found):
    return found.dice, found.surface_dice, found.strict_surface_dice, found.hd95, found.assd


@pytest.mark.parametrize(("axis", "step"), [(0, 4.0), (1, 2.0), (2, 1.0)])
def test_a_cube_moved_by_one_voxel_is_off_by_the_spacing_of_that_axis(axis, step):
    found = measure(np.roll(cube(), 1, axis), cube(), SPACING, tolerance=step)
    assert found.dice == pytest.approx(0.9)
    assert found.hd95 == pytest.approx(step)
    assert found.surface_dice == 1.0
    assert measure(np.roll(cube(), 1, axis), cube(), SPACING, tolerance=step / 2).surface_dice < 1


def test_equal_masks_agree():
    found = measure(cube(), cube(), SPACING)
    assert numbers(found) == (1.0, 1.0, 1.0, 0.0, 0.0)


def test_two_voxels_are_as_far_apart_as_they_are():
    found = measure(cube(size=(1, 1, 1)), cube(start=(13, 14, 12), size=(1, 1, 1)), SPACING)
    assert found.dice == found.surface_dice == 0.0
    assert found.hd95 == pytest.approx(math.hypot(3 * 4, 4 * 2, 2 * 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 1.6)])
def test_balls_in_one_another_are_their_radii_apart(spacing):
    found = measure(ball(12, spacing), ball(8, spacing), spacing)
    assert found.hd95 == pytest.approx(4, abs=max(spacing))
    assert found.dice == pytest.approx(2 * 8**3 / (12**3 + 8**3), abs=0.02)
    assert found.surface_dice == 0.0
    assert measure(ball(12, spacing), ball(8, spacing), spacing, tolerance=6).surface_dice == 1.0


@pytest.mark.parametrize("seed", range(8))
def test_a_second_implementation_agrees(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(6, 40, 3))
    spacing = tuple(rng.uniform(0.4, 6, 3))
    noise = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 2, 2, 2))
    predicted, truth = noise[0] + noise[1] > 0.02, noise[0] > 0.02  # blobs that reach the ends of the scan
    found = measure(predicted, truth, spacing, tolerance=1.5)
    expected = by_distance_transform(predicted, truth, spacing[::-1], 1.5)
    assert numbers(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 1.6), (0.5, 0.5, 7.5)])
@pytest.mark.parametrize(
    ("predicted", "truth"),
    [
        (ball(12, (1, 1, 1)), np.roll(ball(9, (1, 1, 1)), (1, 2, 3), (0, 1, 2))),
        (cube(), np.roll(cube(size=(9, 12, 10)), 2, 1)),
        (cube(start=(0, 0, 0)), cube(start=(20, 20, 20))),  # both at the ends of the scan
    ],
)
def test_simpleitk_agrees_to_a_millionth(predicted, truth, spacing, by_simpleitk):
    found = numbers(measure(predicted, truth, spacing, tolerance=2.0))
    assert found == pytest.approx(by_simpleitk(predicted, truth, spacing, 2.0001), rel=1e-6, abs=1e-6)


def test_the_mean_distance_of_two_plates():
    """Of two plates one voxel thick, all surface, 3 slices of 4 mm apart, every way is 12 mm."""
    plate = cube((20, 30, 30), (5, 5, 5), (1, 20, 20))
    found = measure(np.roll(plate, 3, 0), plate, SPACING, tolerance=12.0)
    assert numbers(found) == (0.0, 1.0, 0.0, 12.0, 12.0)


def test_the_strict_tolerance_is_half_the_other():
    moved = np.roll(cube(size=(1, 1, 1)), 1, 1)  # 2 mm along y
    found = measure(moved, cube(size=(1, 1, 1)), SPACING)
    assert (found.surface_dice, found.strict_surface_dice) == (1.0, 0.0)


@pytest.mark.parametrize("corner", [(0, 0, 0), (7, 3, 0), (60, 70, 80)])
def test_what_lies_around_changes_nothing(corner):
    small, other = cube((20, 22, 24), (4, 5, 6)), cube((20, 22, 24), (6, 4, 9), (8, 12, 10))
    part = tuple(slice(first, first + count) for first, count in zip(corner, small.shape, strict=True))
    large = np.zeros((2, 80, 92, 104), bool)
    large[0][part], large[1][part] = small, other
    assert measure(large[0], large[1], SPACING) == measure(small, other, SPACING)


@pytest.mark.parametrize("shape", [(1, 30, 40), (30, 1, 40), (30, 40, 1)])
def test_a_single_slice_has_outlines(shape):
    rng = np.random.default_rng(1)
    blobs = ndimage.gaussian_filter(rng.normal(size=(2, 30, 40)), (0, 3, 3)) > 0.02
    predicted, truth = blobs.reshape(2, *shape)
    steps = [step for step, count in zip(SPACING[::-1], shape, strict=True) if count > 1]
    found = measure(predicted, truth, SPACING)
    assert numbers(found) == pytest.approx(by_distance_transform(*blobs, steps, 2.0), rel=1e-5)


def test_a_square_in_pixels():
    truth = cube((1, 40, 40), (0, 10, 10), (1, 12, 12))
    found = measure(np.roll(truth, 3, 2), truth, (1.0, 1.0, 1.0))
    assert found.dice == pytest.approx(0.75)
    assert found.hd95 == 3.0
    assert 0 < found.surface_dice < 1


def test_masks_of_which_one_or_both_are_empty():
    nothing = np.zeros_like(cube())
    both = measure(nothing, nothing, SPACING)
    assert numbers(both) == (1.0, 1.0, 1.0, 0.0, 0.0)
    for one in (measure(nothing, cube(), SPACING), measure(cube(), nothing, SPACING)):
        assert numbers(one) == (0.0, 0.0, 0.0, math.inf, math.inf)


def test_the_rounding_of_a_header_does_not_make_a_surface_wrong():
    far = np.roll(cube(size=(1, 1, 1)), 4, 2)
    assert measure(far, cube(size=(1, 1, 1)), (0.5000001, 0.5, 7.5), tolerance=2.0).surface_dice == 1.0
    assert measure(far, cube(size=(1, 1, 1)), (0.501, 0.5, 7.5), tolerance=2.0).surface_dice == 0.0


def test_dice_of_slices():
    plane = cube()[12]
    assert dice(plane, plane) == 1.0
    assert dice(plane, np.roll(plane, 5, 0)) == pytest.approx(0.5)
    assert dice(plane, np.zeros_like(plane)) == 0.0
    assert dice(np.zeros_like(plane), plane) == 0.0
    assert dice(np.zeros_like(plane), np.zeros_like(plane)) == 1.0


@pytest.mark.parametrize("other", [cube((30, 30, 31)), cube()[0]])
def test_shapes_must_agree(other):
    with pytest.raises(GeometryError, match="cannot be compared"):
        measure(other, cube(), SPACING)
    with pytest.raises(GeometryError, match="cannot be compared"):
        measure(cube()[0], cube()[0], SPACING)


def test_without_monai_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(InputError, match=r"pip install 'medsam2\[evaluate\]'"):
        measure(cube(), cube(), SPACING)
