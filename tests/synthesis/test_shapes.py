"""Random solids."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from medsam2.synthesis import shapes
from medsam2.synthesis.render import Grid
from medsam2.synthesis.scene import cut_out
from medsam2.synthesis.shapes import Shape

GRID = Grid(shape=(64, 96, 96), spacing_mm=(1.0, 1.0, 1.0), thickness_mm=1.0)
CENTRE = (31.5, 47.5, 47.5)
RADIUS_MM = 10.0
SOLIDS: dict[str, Callable[[np.random.Generator], Shape]] = {
    "ellipsoid": lambda rng: shapes.ellipsoid(rng, RADIUS_MM),
    "blob": lambda rng: shapes.blob(rng, RADIUS_MM),
    "lobulated": lambda rng: shapes.lobulated(rng, RADIUS_MM),
    "spiculated": lambda rng: shapes.spiculated(rng, RADIUS_MM),
    "crescent": lambda rng: shapes.crescent(rng, RADIUS_MM),
    "tube z": lambda rng: shapes.tube(rng, 5.0, 20.0),
    "tube y": lambda rng: shapes.tube(rng, 5.0, 20.0, along="y"),
    "tube x": lambda rng: shapes.tube(rng, 5.0, 20.0, along="x"),
    "branching": lambda rng: shapes.branching(rng, 5.0, 20.0),
    "hollow": lambda rng: shapes.hollow(shapes.blob(rng, RADIUS_MM), 3.0),
}


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_solid_lies_inside_of_its_extent_in_one_piece(name: str, seed: int) -> None:
    shape = SOLIDS[name](np.random.default_rng(seed))
    placed = cut_out(GRID, shape, CENTRE)
    assert placed is not None
    inside = placed.occupancy > 0.5
    assert 300 < inside.sum() < 40_000
    assert inside[0].sum() == inside[-1].sum() == 0
    assert inside[:, [0, -1]].sum() == inside[:, :, [0, -1]].sum() == 0
    pieces, count = ndimage.label(inside)
    assert np.bincount(pieces.ravel())[1:].max() > 0.95 * inside.sum()
    assert count < 5


@pytest.mark.parametrize(("along", "axis"), [("z", 0), ("y", 1), ("x", 2)])
def test_a_tube_runs_along_its_axis(along: str, axis: int) -> None:
    shape = shapes.tube(np.random.default_rng(1), 4.0, 25.0, along=along, slope=0.1)
    placed = cut_out(GRID, shape, CENTRE)
    assert placed is not None
    sizes = np.ptp(np.argwhere(placed.occupancy > 0.5), axis=0)
    assert int(sizes.argmax()) == axis
    assert sizes[axis] > 35


def test_a_hollow_solid_is_empty_inside() -> None:
    placed = cut_out(GRID, shapes.hollow(shapes.blob(np.random.default_rng(0), 12.0), 3.0), CENTRE)
    assert placed is not None
    inside = placed.occupancy > 0.5
    holes = ndimage.binary_fill_holes(inside) & ~inside
    assert holes.sum() > 100


def test_stretching_lengthens_along_z_alone() -> None:
    ball = shapes.blob(np.random.default_rng(0), 8.0, roughness=0.0)
    sizes = []
    for shape in (ball, shapes.stretch(ball, 2.0)):
        placed = cut_out(GRID, shape, CENTRE)
        assert placed is not None
        sizes.append(np.ptp(np.argwhere(placed.occupancy > 0.5), axis=0) + 1)
    assert sizes[1][0] == pytest.approx(2 * sizes[0][0], abs=3)
    assert tuple(sizes[1][1:]) == tuple(sizes[0][1:])
