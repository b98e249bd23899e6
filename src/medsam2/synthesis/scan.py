"""A CT scan of an invented upper belly, to try the program on and check its answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.synthesis import shapes
from medsam2.synthesis.body import Body, Palette, Tissue, even_body, fill, paint_wall
from medsam2.synthesis.render import Floats, Grid, paint, render_ct, smooth_field, soft_occupancy
from medsam2.synthesis.scene import Scene, add, cut_out, fit, new_scene
from medsam2.synthesis.shapes import Shape

STRUCTURES = ("lesion", "liver", "spleen", "right kidney", "left kidney", "aorta", "vertebra", "stomach")
"""What the labels 1, 2, ... of a scan mean."""
SHAPE = (48, 256, 256)
SPACING_MM = (1.4, 1.4, 3.0)
NOISE_HU = 12.0
AIR_HU = -1000.0
TISSUES_HU: Palette = {
    Tissue.FAT: -100.0,
    Tissue.MUSCLE: 58.0,
    Tissue.BONE: 550.0,
    Tissue.MARROW: 200.0,
}
HALF_BODY_MM = (115.0, 165.0)
"""Half of the body's depth (y) and width (x)."""
FAT_MM, WALL_MM = 14.0, 28.0
"""Depth below the skin at which the fat ends and at which the muscle ends."""


@dataclass(frozen=True, kw_only=True)
class SyntheticScan:
    """A scan and the structures in it."""

    image: npt.NDArray[np.int16]
    """Hounsfield units (z, y, x); z runs to the head, y to the back, x to the patient's left."""
    labels: npt.NDArray[np.uint8]
    """(z, y, x): 0 nothing, n the structure STRUCTURES[n - 1]."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres along (x, y, z)."""


def generate_scan(seed: int) -> SyntheticScan:
    """Generate a portal venous CT of a belly with a dark lesion in the liver; sizes vary with the seed.

    The liver's label leaves out the lesion.
    """
    rng = np.random.default_rng(seed)
    grid = Grid(shape=SHAPE, spacing_mm=SPACING_MM, thickness_mm=SPACING_MM[2])
    scene = new_scene(grid, _empty_trunk(rng, grid), NOISE_HU)
    for name, (shape, centre_mm, value_hu) in _anatomy(rng, grid).items():
        _place(scene, name, shape, centre_mm, value_hu)
    _paint_insides(rng, scene)
    _add_strands(rng, scene)
    image = np.clip(np.rint(render_ct(rng, grid, scene.body.grey, NOISE_HU)), -1024, 3071)
    return SyntheticScan(image=image.astype(np.int16), labels=scene.labels, spacing_mm=grid.spacing_mm)


def _empty_trunk(rng: np.random.Generator, grid: Grid) -> Body:
    """Paint skin, fat, muscle and ribs around fat, in Hounsfield units."""
    body = even_body(grid, TISSUES_HU[Tissue.FAT], Tissue.FAT)
    z, y, x = grid.axes_mm()
    half_y, half_x = HALF_BODY_MM
    depth = (1.0 - np.sqrt((y / half_y) ** 2 + (x / half_x) ** 2)) * half_y + 0.0 * z
    depth = np.asarray(depth + 2.0 * smooth_field(rng, grid, 90.0), dtype=np.float32)
    paint_wall(rng, grid, TISSUES_HU, body, depth, (FAT_MM, WALL_MM))
    fill(body, soft_occupancy(-depth), AIR_HU, Tissue.OUTSIDE)
    return body


def _anatomy(
    rng: np.random.Generator, grid: Grid
) -> dict[str, tuple[Shape, tuple[float, float, float], float]]:
    """Return each structure's solid, centre (z, y, x) in mm and Hounsfield units; earlier ones lie on top."""

    def about(value: float) -> float:
        return value * float(rng.uniform(0.9, 1.1))

    whole_stack = grid.size_mm[0]
    lesion_mm = (float(rng.uniform(-10.0, 10.0)), float(rng.uniform(-25.0, 0.0)), about(-70.0))
    return {
        "lesion": (shapes.blob(rng, about(14.0), roughness=0.08), lesion_mm, about(50.0)),
        "vertebra": (shapes.stretch(shapes.ellipsoid(rng, about(24.0)), 6.0), (0.0, 58.0, 0.0), 0.0),
        "aorta": (shapes.tube(rng, about(10.0), whole_stack, slope=0.05), (0.0, 26.0, 14.0), about(160.0)),
        "right kidney": (
            shapes.stretch(shapes.ellipsoid(rng, 28.0), 1.5),
            (-25.0, 48.0, -58.0),
            about(165.0),
        ),
        "left kidney": (shapes.stretch(shapes.ellipsoid(rng, 28.0), 1.5), (-20.0, 48.0, 58.0), about(165.0)),
        "spleen": (shapes.blob(rng, about(34.0), roughness=0.1), (15.0, 12.0, 100.0), about(120.0)),
        "liver": (shapes.blob(rng, about(62.0), roughness=0.08), (5.0, -14.0, -64.0), about(105.0)),
        "stomach": (shapes.blob(rng, about(36.0), roughness=0.1), (10.0, -38.0, 50.0), about(25.0)),
    }


def _place(
    scene: Scene, name: str, shape: Shape, centre_mm: tuple[float, float, float], value_hu: float
) -> None:
    """Paint a structure under those already there and give it its label."""
    z, y, x = (
        (n - 1) / 2 + offset / step
        for n, step, offset in zip(scene.grid.shape, scene.grid.step_mm, centre_mm, strict=True)
    )
    cut = cut_out(scene.grid, shape, (z, y, x))
    assert cut is not None, f"{name} lies outside of the scan"
    placed = fit(scene, cut)
    assert placed is not None, f"{name} has no room"
    values: Floats | float = value_hu
    if name == "vertebra":
        cortex = np.exp(-((placed.depth_mm / np.float32(2.0)) ** 2))
        values = TISSUES_HU[Tissue.MARROW] + np.float32(350.0) * cortex
    add(scene, placed, values, labelled=True)
    # Structures are painted in another order than they are numbered.
    scene.labels[placed.window][placed.occupancy > 0.5] = STRUCTURES.index(name) + 1


def _paint_insides(rng: np.random.Generator, scene: Scene) -> None:
    """Paint vessels in the liver, and gas that rises to the front of the stomach."""
    first, second = smooth_field(rng, scene.grid, 32.0), smooth_field(rng, scene.grid, 32.0)
    vessels = soft_occupancy(np.float32(0.12) - np.sqrt(first * first + second * second))
    liver = STRUCTURES.index("liver") + 1
    paint(scene.body.grey, vessels * (scene.labels == liver), 155.0)
    rows = np.arange(SHAPE[1])[None, :, None]
    stomach = scene.labels == STRUCTURES.index("stomach") + 1
    surface = int(np.argwhere(stomach.any(axis=(0, 2))).mean()) - 8
    gas = np.asarray(stomach & (rows < surface), dtype=np.float32)
    paint(scene.body.grey, gas, -900.0)


def _add_strands(rng: np.random.Generator, scene: Scene) -> None:
    """Paint vessels and bowel-like folds into the fat that is left between the organs."""
    folds = smooth_field(rng, scene.grid, 16.0)
    free = (scene.labels == 0) & (scene.body.tissue == Tissue.FAT)
    z, y, x = scene.grid.axes_mm()
    half_y, half_x = HALF_BODY_MM
    cavity = np.sqrt((y / half_y) ** 2 + (x / half_x) ** 2) + 0.0 * z < 1.0 - (WALL_MM + 4.0) / half_y
    bowel = soft_occupancy(folds - np.float32(0.5)) * (free & cavity)
    paint(scene.body.grey, np.asarray(bowel, dtype=np.float32), 35.0)
