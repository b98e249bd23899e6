"""Random fields and the occupancy of voxels."""

import numpy as np
import pytest

from medsam2.synthesis.render import Grid, paint, smooth_field, soft_occupancy

GRID = Grid(shape=(10, 60, 80), spacing_mm=(0.5, 1.0, 3.0), thickness_mm=3.0)


def test_axes_are_centred_and_in_mm() -> None:
    z, y, x = GRID.axes_mm()
    assert (z.shape, y.shape, x.shape) == ((10, 1, 1), (1, 60, 1), (1, 1, 80))
    assert float(z[1, 0, 0] - z[0, 0, 0]) == 3.0
    assert float(x[0, 0, 1] - x[0, 0, 0]) == 0.5
    assert abs(float(y.mean())) < 1e-6
    assert GRID.size_mm == (30.0, 60.0, 40.0)


@pytest.mark.parametrize("scale_mm", [4.0, (6.0, 2.0, 3.0)])
def test_fields_are_standardised(scale_mm: float | tuple[float, float, float]) -> None:
    fields = np.stack([smooth_field(np.random.default_rng(seed), GRID, scale_mm) for seed in range(20)])
    assert fields.dtype == np.float32
    assert abs(float(fields.mean())) < 0.1
    assert float(fields.std()) == pytest.approx(1.0, abs=0.1)


def test_a_wider_field_is_smoother() -> None:
    rough, smooth = (smooth_field(np.random.default_rng(0), GRID, scale) for scale in (2.0, 15.0))
    assert np.abs(np.diff(smooth, axis=2)).mean() < 0.5 * np.abs(np.diff(rough, axis=2)).mean()


def test_occupancy_gives_a_balls_volume() -> None:
    z, y, x = GRID.axes_mm()
    radius = 9.0
    level = np.asarray(radius - np.sqrt(z**2 + y**2 + x**2), dtype=np.float32)
    occupancy = soft_occupancy(level)
    volume = float(occupancy.sum()) * 0.5 * 1.0 * 3.0
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert occupancy.min() == 0.0
    assert occupancy.max() == 1.0


def test_painting_mixes() -> None:
    canvas = np.full((1, 1, 3), 10.0, dtype=np.float32)
    paint(canvas, np.array([[[0.0, 0.5, 1.0]]], dtype=np.float32), 20.0)
    np.testing.assert_allclose(canvas.ravel(), [10.0, 15.0, 20.0])
