"""Measurements against boxes, balls and ellipses whose size is known, and against brute force."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import (
    Diameters,
    diameters,
    longest_diameter_mm,
    measure_objects,
    volume_ml,
)

SPACING = (0.7, 0.9, 2.5)


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
        ((1, 20), (1.0, 1e-16), 20.0),  # no wider than a line
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
    assert diameters(empty > 0, (1.0, 1.0)) is None


def found(slices: np.ndarray, spacing: tuple[float, float]) -> Diameters:
    result = diameters(slices, spacing)
    assert result is not None
    return result


def ellipse(long_mm: float, short_mm: float, angle_deg: float, spacing: tuple[float, float]) -> np.ndarray:
    """A filled ellipse around pixel (100, 100), diameters in mm, turned by an angle in millimetre space."""
    y, x = np.mgrid[:201, :201] - 100.0
    x_mm, y_mm = x * spacing[0], y * spacing[1]
    angle = np.radians(angle_deg)
    along, aside = x_mm * np.cos(angle) + y_mm * np.sin(angle), y_mm * np.cos(angle) - x_mm * np.sin(angle)
    return np.asarray((2 * along / long_mm) ** 2 + (2 * aside / short_mm) ** 2 <= 1)


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 137])
@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.5, 0.8)])
def test_both_diameters_of_an_ellipse(angle_deg: float, spacing: tuple[float, float]) -> None:
    result = found(ellipse(60, 30, angle_deg, spacing)[None], spacing)
    pixel = 1.1 * np.hypot(*spacing)  # a mask cannot be more exact
    assert result.long.length_mm == pytest.approx(60, abs=pixel)
    assert result.short.length_mm == pytest.approx(30, abs=pixel)
    lines = [(np.array(line.end_xy) - line.start_xy) * spacing for line in (result.long, result.short)]
    assert lines[0] @ lines[1] == pytest.approx(0, abs=1e-9)
    for line, vector in zip((result.long, result.short), lines, strict=True):
        assert line.length_mm == pytest.approx(np.linalg.norm(vector))
        middle = (np.array(line.start_xy) + line.end_xy) / 2
        assert middle == pytest.approx([100, 100], abs=6)
    turned = np.degrees(np.arctan2(lines[0][1], lines[0][0])) % 180
    assert min(abs(turned - angle_deg), 180 - abs(turned - angle_deg)) < 5


def test_the_ends_of_a_rectangle_are_its_corners() -> None:
    plane = np.zeros((30, 30), bool)
    plane[10:13, 5:9] = True  # 4 x 3 pixels
    result = found(plane[None], (1.0, 1.0))
    assert {result.long.start_xy, result.long.end_xy} in (
        {(4.5, 9.5), (8.5, 12.5)},
        {(4.5, 12.5), (8.5, 9.5)},
    )
    # Across the diagonal of 5, from a corner of the other diagonal to the side opposite: 3 * 5 / 4.
    assert result.short.length_mm == pytest.approx(3.75)


def chord_by_brute_force(points: np.ndarray, direction: np.ndarray) -> float:
    """The longest chord at right angles to a direction, found by cutting the hull at very many places."""
    corners = points[ConvexHull(points).vertices]
    along, aside = corners @ direction, corners @ (-direction[1], direction[0])
    best = 0.0
    for place in np.linspace(along.min(), along.max(), 4001)[1:-1]:
        cuts = [
            aside[i] + (place - along[i]) / (along[i - 1] - along[i]) * (aside[i - 1] - aside[i])
            for i in range(len(along))
            if min(along[i], along[i - 1]) < place < max(along[i], along[i - 1])
        ]
        best = max(best, max(cuts, default=0) - min(cuts, default=0))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_odd_shapes_lie_between_the_middles_and_the_corners_of_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = np.zeros((40, 40), bool)
    for _ in range(4):
        y, x = rng.integers(3, 28, 2)
        plane[y : y + rng.integers(2, 10), x : x + rng.integers(2, 10)] = True
    unit = found(plane[None], (1.0, 1.0))
    # scikit-image measures in units of one pixel, and between the middles of pixel edges.
    feret = regionprops(plane.astype(np.uint8))[0].feret_diameter_max
    assert unit.long.length_mm == pytest.approx(feret, abs=1)
    result = found(plane[None], (0.7, 1.3))
    rows, columns = np.nonzero(plane)
    middles = np.stack((columns, rows), 1) * (0.7, 1.3)
    corners = np.concatenate([middles + np.array((dx, dy)) for dx in (-0.35, 0.35) for dy in (-0.65, 0.65)])
    longest = [np.sqrt(((p[:, None] - p) ** 2).sum(axis=-1)).max() for p in (middles, corners)]
    assert longest[0] <= result.long.length_mm <= longest[1]
    direction = (np.array(result.long.end_xy) - result.long.start_xy) * (0.7, 1.3) / result.long.length_mm
    chords = [chord_by_brute_force(points, direction) for points in (middles, corners)]
    assert chords[0] * 0.998 <= result.short.length_mm <= chords[1] * 1.002


@pytest.mark.parametrize("tilt_deg", [0, 25, -15])
@pytest.mark.parametrize("step_mm", [1.0, 2.0, 2.5])
def test_a_ball_of_40_mm_in_a_tilted_stack(tilt_deg: float, step_mm: float) -> None:
    lean = step_mm * np.tan(np.radians(tilt_deg))
    turn = np.array(((0.8, -0.6, 0), (0.6, 0.8, 0), (0, 0, 1)))  # any axes of the patient's
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array(((1, 0, 0), (0, 1, lean), (0, 0, step_mm)))
    num_z = int(46 / step_mm)
    z, y, x = np.mgrid[:num_z, :96, :64]
    places = apply_affine(affine, np.stack((x, y, z), axis=-1))
    middle = apply_affine(affine, (31.3, 47.6, num_z / 2 - 0.3))
    mask = Volume((np.linalg.norm(places - middle, axis=-1) < 20).astype(np.uint8), affine)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        lines = measure_objects(mask, axis=axis)[0].diameters
        assert lines is not None
        vectors = []
        for line in (lines.long, lines.short):
            ends = np.zeros((2, 3))
            ends[:, axis] = lines.slice_index
            ends[:, others] = line.start_xy, line.end_xy
            start, end = apply_affine(affine, ends)
            assert line.length_mm == pytest.approx(40, abs=max(1, step_mm / 2))
            assert line.length_mm == pytest.approx(np.linalg.norm(end - start))
            vectors.append(end - start)
        assert vectors[0] @ vectors[1] == pytest.approx(0, abs=1e-6)


def test_a_thin_line_has_two_sides() -> None:
    line = found(np.eye(30, dtype=bool)[None], (1.0, 1.0))
    assert line.long.length_mm == pytest.approx(30 * np.sqrt(2), abs=1.1)
    assert 0.3 < line.short.length_mm < 1
    row = np.zeros((1, 3, 40000), bool)
    row[0, 1] = True
    assert longest_diameter_mm(row, (1e-3, 1.0)) == pytest.approx(np.hypot(40, 1))


def ball(radius_mm: float) -> np.ndarray:
    """A ball around voxel (x, y, z) = (30, 28, 11)."""
    z, y, x = np.ogrid[:22, :56, :60]
    return np.asarray(
        ((x - 30) * SPACING[0]) ** 2 + ((y - 28) * SPACING[1]) ** 2 + ((z - 11) * SPACING[2]) ** 2
        <= radius_mm**2
    )


def test_a_ball_on_an_anisotropic_grid() -> None:
    array = ball(18).astype(np.int16) * 7
    scan = np.random.default_rng(0).normal(40, 12, array.shape)
    labels = Volume.from_array(array, SPACING)
    (ours,) = measure_objects(labels, labels.with_array(scan), names={7: "ball"})
    (theirs,) = regionprops(array, scan, spacing=SPACING[::-1])
    assert (ours.label, ours.name) == (7, "ball")
    assert ours.num_voxels == np.count_nonzero(array)
    assert ours.volume_ml == pytest.approx(theirs.area / 1000)
    assert ours.volume_ml == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.02)
    assert ours.surface_mm2 == pytest.approx(4 * np.pi * 18**2, rel=0.06)
    z0, y0, x0, z1, y1, x1 = theirs.bbox
    assert (ours.min_xyz, ours.max_xyz) == ((x0, y0, z0), (x1 - 1, y1 - 1, z1 - 1))
    assert ours.num_slices == z1 - z0
    assert ours.diameters is not None
    assert ours.diameters.slice_index == 11
    assert ours.diameters.long.length_mm == pytest.approx(36, abs=1.2)  # a pixel
    assert ours.diameters.short.length_mm == pytest.approx(36, abs=1.2)
    inside = scan[array == 7]
    assert ours.intensities is not None
    assert ours.intensities.mean == pytest.approx(theirs.intensity_mean)
    assert ours.intensities.std == pytest.approx(theirs.intensity_std)
    assert ours.intensities.min == theirs.intensity_min
    assert ours.intensities.max == theirs.intensity_max
    assert ours.intensities.median == pytest.approx(np.median(inside))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_diameters_lie_in_the_slices_of_any_axis(axis: int) -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[4:7, 10:20, 25:31] = 1  # 6 x 10 x 3 voxels along x, y, z
    (one,) = measure_objects(Volume.from_array(array, SPACING), axis=axis)
    sides = [size * step for size, step in zip((6, 10, 3), SPACING, strict=True)]
    low = [edge - 0.5 for edge in (25, 10, 4)]
    high = [edge - 0.5 for edge in (31, 20, 7)]
    first = (25, 10, 4)[axis]
    for values in (sides, low, high):
        del values[axis]
    assert one.diameters is not None
    assert one.diameters.slice_index == first
    assert one.diameters.long.length_mm == pytest.approx(np.hypot(*sides))
    ends = np.array([one.diameters.long.start_xy, one.diameters.long.end_xy])
    assert ends.min(axis=0) == pytest.approx(low)
    assert ends.max(axis=0) == pytest.approx(high)
    assert one.num_slices == (6, 10, 3)[axis]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.1), (1.0, 0.6, 3.0)])
@pytest.mark.parametrize("radius_mm", [5, 10, 20])
def test_the_surface_of_a_ball(radius_mm: int, spacing: tuple[float, float, float]) -> None:
    x, y, z = (np.arange(-(radius_mm // step) - 2, radius_mm // step + 3) * step for step in spacing)
    array = x**2 + y[:, None] ** 2 + z[:, None, None] ** 2 <= radius_mm**2
    (one,) = measure_objects(Volume.from_array(array, spacing))
    coarse = max(spacing) / min(spacing)
    assert one.surface_mm2 == pytest.approx(4 * np.pi * radius_mm**2, rel=0.02 if coarse == 1 else 0.08)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.1), (0.5, 0.5, 5.0)])
@pytest.mark.parametrize("size_xyz", [(40, 40, 40), (10, 20, 30), (40, 40, 3), (40, 40, 1)])
def test_the_surface_of_a_box(size_xyz: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    array = np.pad(np.ones(size_xyz[::-1], bool), 2)
    (one,) = measure_objects(Volume.from_array(array, spacing))
    x, y, z = (size * step for size, step in zip(size_xyz, spacing, strict=True))
    expected = 2 * (x * y + y * z + z * x)
    assert 0.93 * expected < one.surface_mm2 < expected  # edges are rounded


def test_the_surface_of_a_lone_voxel_is_not_nothing() -> None:
    (one,) = measure_objects(Volume.from_array(np.pad(np.ones((1, 1, 1), bool), 1), SPACING))
    assert one.surface_mm2 is not None
    assert one.surface_mm2 > 0


def test_named_objects_without_voxels_are_listed() -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    array[1, 1, 1] = 2
    lost, single = measure_objects(Volume.from_array(array), names={1: "lost"})
    assert (lost.name, lost.volume_ml, lost.diameters, lost.min_xyz) == ("lost", 0, None, None)
    assert (single.name, single.num_voxels, single.intensities) == ("object 2", 1, None)
    assert single.diameters is not None
    assert single.diameters.long.length_mm == pytest.approx(np.sqrt(2))
    assert single.diameters.short.length_mm == pytest.approx(np.sqrt(2))


def test_images_that_do_not_fit_or_are_not_finite() -> None:
    labels = Volume.from_array(np.ones((2, 3, 4), np.uint8))
    with pytest.raises(GeometryError, match=r"the image has shape \(1, 3, 4\) .* the labels \(2, 3, 4\)"):
        measure_objects(labels, Volume.from_array(np.ones((1, 3, 4))))
    image = np.full(labels.shape, np.nan)
    assert measure_objects(labels, labels.with_array(image))[0].intensities is None
    image[0, 0, :2] = 3, 5
    found = measure_objects(labels, labels.with_array(image))[0].intensities
    assert found is not None
    assert (found.mean, found.min, found.max) == (4, 3, 5)
    with pytest.raises(InputError, match="labels are whole numbers"):
        measure_objects(labels.with_array(np.ones(labels.shape)))


def test_a_missing_scikit_image_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(InputError, match=r"pip install 'medsam2\[mesh\]'"):
        measure_objects(Volume.from_array(np.ones((2, 3, 4), np.uint8)))


def test_a_whole_scan_is_measured_in_less_than_two_seconds() -> None:
    array = np.zeros((300, 512, 512), np.uint8)
    z, y, x = np.ogrid[:300, :512, :512]
    array[((z - 150) / 40) ** 2 + ((y - 250) / 90) ** 2 + ((x - 240) / 110) ** 2 < 1] = 1
    labels = Volume.from_array(array, (0.7, 0.7, 1.0))
    scan = labels.with_array(np.zeros(array.shape, np.int16))
    # Of this process, as the machine may be doing other things.
    started = time.process_time()
    (one,) = measure_objects(labels, scan)
    assert time.process_time() - started < 2
    assert one.volume_ml == pytest.approx(4 / 3 * np.pi * 40 * 90 * 110 * 0.49 / 1000, rel=0.01)
