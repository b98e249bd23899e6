"""Placing objects."""

import numpy as np
import pytest

from medsam2.synthesis import shapes
from medsam2.synthesis.body import Body, Tissue
from medsam2.synthesis.render import Grid
from medsam2.synthesis.scene import Scene, add, cut_out, fill_values, fit, new_scene, surroundings

GRID = Grid(shape=(20, 64, 64), spacing_mm=(1.0, 1.0, 4.0), thickness_mm=4.0)


@pytest.fixture
def scene() -> Scene:
    body = Body(
        grey=np.full(GRID.shape, 0.3, dtype=np.float32),
        tissue=np.full(GRID.shape, Tissue.MUSCLE, dtype=np.uint8),
        regions=np.zeros(GRID.shape, dtype=np.uint8),
    )
    return new_scene(GRID, body, 0.05)


def ball(radius_mm: float) -> shapes.Shape:
    def level(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(radius_mm - np.sqrt(z * z + y * y + x * x), dtype=np.float32)

    return shapes.Shape(level=level, extent_mm=(radius_mm,) * 3)


def test_thick_slices_show_partial_volume_and_the_exact_volume() -> None:
    placed = cut_out(GRID, ball(10.0), (10.0, 32.0, 32.0))
    assert placed is not None
    assert float(placed.occupancy.sum()) * 4.0 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.02)
    per_slice = placed.occupancy.sum(axis=(1, 2))
    # 20 mm: three whole slices and two parts.
    assert np.count_nonzero(per_slice > 1.0) == 5
    assert 0.2 * per_slice.max() < per_slice[per_slice > 1.0].min() < 0.5 * per_slice.max()


def test_outside_of_the_grid_there_is_nothing() -> None:
    assert cut_out(GRID, ball(5.0), (100.0, 32.0, 32.0)) is None


def test_an_object_is_painted_and_numbered(scene: Scene) -> None:
    placed = cut_out(GRID, ball(8.0), (10.0, 32.0, 32.0))
    assert placed is not None
    assert surroundings(scene, placed) == pytest.approx(0.3)
    add(scene, placed, 0.8, labelled=True)
    assert scene.labels[10, 32, 32] == 1
    assert scene.body.grey[10, 32, 32] == pytest.approx(0.8)
    assert scene.body.grey[0, 0, 0] == pytest.approx(0.3)


def test_a_later_object_goes_under_an_earlier_one(scene: Scene) -> None:
    first = cut_out(GRID, ball(8.0), (10.0, 32.0, 28.0))
    second = cut_out(GRID, ball(8.0), (10.0, 32.0, 38.0))
    assert first is not None
    assert second is not None
    add(scene, first, 0.8, labelled=True)
    before = scene.labels == 1
    fitted = fit(scene, second)
    assert fitted is not None
    add(scene, fitted, 0.6, labelled=True)
    assert np.array_equal(scene.labels == 1, before)
    assert (scene.labels == 2).any()


def test_an_object_with_no_room_is_given_up(scene: Scene) -> None:
    placed = cut_out(GRID, ball(8.0), (10.0, 32.0, 32.0))
    assert placed is not None
    add(scene, placed, 0.8, labelled=True)
    assert fit(scene, placed) is None


def test_an_object_in_the_air_is_given_up(scene: Scene) -> None:
    scene.body.tissue[:] = Tissue.OUTSIDE
    placed = cut_out(GRID, ball(8.0), (10.0, 32.0, 32.0))
    assert placed is not None
    assert fit(scene, placed) is None


def test_insides_keep_close_to_their_mean_on_average(scene: Scene) -> None:
    placed = cut_out(GRID, ball(12.0), (10.0, 32.0, 32.0))
    assert placed is not None
    inside = placed.occupancy > 0.5
    means = []
    for seed in range(40):
        values = fill_values(np.random.default_rng(seed), scene, placed, 0.6, 0.3)
        assert values.shape == inside.shape
        assert values.dtype == np.float32
        means.append(float(values[inside].mean()))
    assert float(np.mean(means)) == pytest.approx(0.6, abs=0.15)
    assert len({round(m, 3) for m in means}) > 5
