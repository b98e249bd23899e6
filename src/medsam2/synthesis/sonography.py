"""Backgrounds for ultrasound: layered soft tissue with fasciae and bone, without the objects to be found."""

from __future__ import annotations

import numpy as np

from medsam2.synthesis.body import Body
from medsam2.synthesis.fields import Floats, Grid, paint, smooth_field, soft_occupancy
from medsam2.synthesis.tissues import Tissue


def layered_tissue(rng: np.random.Generator, grid: Grid) -> Body:
    """Paint skin, fat, muscle with fibres, bright fasciae and sometimes bone; y is depth.

    Grey is the compressed echo strength, 0 to 1, before speckle, attenuation and shadows.
    """
    depth, height, width = grid.size_mm
    _, y, _ = grid.axes_mm()
    tilt = smooth_field(rng, grid, (depth, height, width * 0.4)) * np.float32(height * 0.05)
    position = (y / height + 0.5) + tilt / np.float32(height)
    body = Body(
        grey=np.full(grid.shape, float(rng.uniform(0.2, 0.45)), dtype=np.float32),
        tissue=np.full(grid.shape, Tissue.MUSCLE, dtype=np.uint8),
        regions=np.zeros(grid.shape, dtype=np.uint8),
    )
    bounds = np.sort(rng.uniform(0.04, 0.85, size=int(rng.integers(2, 6))))
    for bound in bounds.tolist():
        level = (position - np.float32(bound)) * np.float32(height)
        paint(body.grey, soft_occupancy(level), _fibres(rng, grid, float(rng.uniform(0.12, 0.5))))
        strength = np.clip(smooth_field(rng, grid, (depth, height, width * 0.2)) + 0.5, 0.0, 1.6)
        line = np.exp(-((level / np.float32(height * float(rng.uniform(0.004, 0.01)))) ** 2))
        body.grey += np.float32(0.4) * strength * line
    _paint_fasciae(rng, grid, body)
    if rng.random() < 0.4:
        _paint_bone(rng, grid, body)
    return body


def _fibres(rng: np.random.Generator, grid: Grid, base: float) -> Floats:
    """Return echoes of a layer: strands that run about sideways."""
    z_mm, y_mm, x_mm = grid.step_mm
    length = float(rng.uniform(4.0, 30.0))
    strands = smooth_field(rng, grid, (z_mm * 6, y_mm * float(rng.uniform(1.5, 4.0)), x_mm * length))
    coarse = smooth_field(rng, grid, (z_mm * 10, y_mm * 20, x_mm * 30))
    grey = base + np.float32(rng.uniform(0.03, 0.11)) * strands + np.float32(0.07) * coarse
    return np.asarray(grey, dtype=np.float32)


def _paint_fasciae(rng: np.random.Generator, grid: Grid, body: Body) -> None:
    """Paint thin bright sheets where a stretched smooth field crosses zero, fading along their way."""
    depth, height, width = grid.size_mm
    sheet = smooth_field(rng, grid, (depth, height * float(rng.uniform(0.06, 0.2)), width * 0.35))
    fade = np.clip(smooth_field(rng, grid, (depth * 0.6, height * 0.15, width * 0.12)), 0.0, 1.5)
    line = np.exp(-((sheet / np.float32(rng.uniform(0.06, 0.14))) ** 2))
    body.grey += np.float32(rng.uniform(0.2, 0.5)) * fade * line


def _paint_bone(rng: np.random.Generator, grid: Grid, body: Body) -> None:
    """Paint a bright bone surface; the shadow below it follows from its brightness."""
    depth, height, width = grid.size_mm
    _, y, x = grid.axes_mm()
    surface = smooth_field(rng, grid, (depth, height * 2, width * 0.3)) * np.float32(height * 0.06)
    level = y - np.float32(height * float(rng.uniform(0.1, 0.35))) - surface
    half, centre = width * float(rng.uniform(0.15, 0.4)), width * float(rng.uniform(-0.4, 0.4))
    within = np.clip((half - np.abs(x - np.float32(centre))) / np.float32(width * 0.05), 0.0, 1.0)
    line = np.exp(-((level / np.float32(height * 0.012)) ** 2)) * within
    paint(body.grey, soft_occupancy(level) * within, 0.12)
    body.grey += line.astype(np.float32)
    body.tissue[(level > 0) & (within > 0.5)] = Tissue.BONE
