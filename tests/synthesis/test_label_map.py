"""Cutting label maps: exact where nothing is bent, smooth where pixels are finer than the map."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.synthesis.label_map import LabelMap, Pose, cut_map, draw_cut, make_label_map
from medsam2.synthesis.render import Grid

SHAPE = (9, 14, 17)  # (z, y, x)
SPACING_MM = (1.5, 1.25, 2.0)  # (x, y, z)


def random_map() -> LabelMap:
    values = np.random.default_rng(0).integers(0, 6, SHAPE)
    return make_label_map("blocks", values, SPACING_MM, {})


def still(label_map: LabelMap, axis: int = 0) -> tuple[Grid, Pose]:
    """The map's own grid, seen along an axis, with nothing turned or bent."""
    order = (axis, *(other for other in range(3) if other != axis))
    shape = tuple(label_map.labels.shape[one] for one in order)
    steps = tuple(label_map.step_mm[one] for one in order)
    grid = Grid(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(steps[2], steps[1], steps[0]),
        thickness_mm=steps[0],
    )
    z, y, x = ((size - 1) / 2 * step for size, step in zip(shape, steps, strict=True))
    return grid, Pose(axis=axis, centre_mm=(z, y, x), matrix=np.eye(3, dtype=np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_changes_where_nothing_is_turned(axis: int) -> None:
    label_map = random_map()
    cut = cut_map(np.random.default_rng(1), label_map, *still(label_map, axis))
    assert np.array_equal(cut, np.moveaxis(label_map.labels, axis, 0))


def test_a_shift_by_whole_voxels_moves_labels_and_leaves_nothing_behind() -> None:
    label_map = random_map()
    grid, pose = still(label_map)
    z, y, x = pose.centre_mm
    moved = Pose(axis=0, centre_mm=(z, y, x + 2 * SPACING_MM[0]), matrix=pose.matrix)
    cut = cut_map(np.random.default_rng(1), label_map, grid, moved)
    assert np.array_equal(cut[:, :, :-2], label_map.labels[:, :, 2:])
    assert not cut[:, :, -2:].any()


def test_beyond_its_ends_a_map_may_go_on() -> None:
    label_map = random_map()
    grid, pose = still(label_map)
    z, y, x = pose.centre_mm
    moved = Pose(axis=0, centre_mm=(z, y, x + 2 * SPACING_MM[0]), matrix=pose.matrix, is_extended=True)
    cut = cut_map(np.random.default_rng(1), label_map, grid, moved)
    assert np.array_equal(cut[:, :, -2:], np.repeat(label_map.labels[:, :, -1:], 2, axis=2))


def test_outlines_are_smooth_where_pixels_are_fine() -> None:
    """A ball, drawn four times as fine as its map, is nearer to a ball than the map's voxels are."""
    z, y, x = np.indices((32, 32, 32)) - 15.5
    ball = make_label_map("ball", (z * z + y * y + x * x < 12**2).astype(int), (1.0, 1.0, 1.0), {})
    grid = Grid(shape=(128, 128, 128), spacing_mm=(0.25, 0.25, 0.25), thickness_mm=0.25)
    pose = Pose(axis=0, centre_mm=(15.5, 15.5, 15.5), matrix=np.eye(3, dtype=np.float32))
    cut = cut_map(np.random.default_rng(0), ball, grid, pose) > 0
    fine = np.indices((128, 128, 128)) * 0.25 - 15.875
    exact = np.sum(fine**2, axis=0) < 12**2
    coarse = np.repeat(np.repeat(np.repeat(ball.labels > 0, 4, 0), 4, 1), 4, 2)
    assert np.count_nonzero(cut != exact) < 0.6 * np.count_nonzero(coarse != exact)


def test_a_vessel_of_one_voxel_stays_where_pixels_are_fine() -> None:
    values = np.zeros((10, 11, 11), int)
    values[:, 5, 5] = 1
    vessel = make_label_map("vessel", values, (1.0, 1.0, 1.0), {})
    grid = Grid(shape=(10, 44, 44), spacing_mm=(0.25, 0.25, 1.0), thickness_mm=1.0)
    pose = Pose(axis=0, centre_mm=(4.5, 5.0, 5.0), matrix=np.eye(3, dtype=np.float32))
    cut = cut_map(np.random.default_rng(0), vessel, grid, pose)
    assert (cut.sum(axis=(1, 2)) >= 4).all()


def test_values_are_numbered_and_named() -> None:
    values = np.zeros((4, 4, 4), np.int32)
    values[0], values[1] = 7, 300
    label_map = make_label_map("two", values, (1.0, 1.0, 1.0), {300: "liver"})
    assert label_map.label_names == ("label 7", "liver")
    assert np.unique(label_map.labels).tolist() == [0, 1, 2]
    assert (label_map.labels[1] == 2).all()


def test_a_map_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="empty map: the label map has no labels"):
        make_label_map("empty map", np.zeros((4, 4, 4), int), (1.0, 1.0, 1.0), {})


def test_cuts_show_objects_of_all_sizes() -> None:
    label_map = random_map()
    cuts = [draw_cut(np.random.default_rng(seed), label_map, (12, 64, 64)) for seed in range(60)]
    assert {pose.axis for _, pose in cuts} == {0, 1, 2}
    views = [grid.size_mm[2] / (14 * 1.25 if pose.axis == 2 else 17 * 1.5) for grid, pose in cuts]
    assert min(views) < 0.4
    assert max(views) > 0.95
    assert all(0.5 <= grid.step_mm[0] / grid.step_mm[2] <= 5.0 for grid, _ in cuts)
