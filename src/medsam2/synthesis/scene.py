"""Placing objects: where, how bright, beside what; with their exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.body import Body, Tissue
from medsam2.synthesis.render import Floats, Grid, smooth_field, soft_occupancy
from medsam2.synthesis.shapes import Shape

Window = tuple[slice, slice, slice]
MOST_HIDDEN = 0.35
"""An object is given up when more of it than this share would lie under others."""
MOST_OUTSIDE = 0.12
"""Likewise for the share that would stick out of the skin."""
STYLE_SHARES = {"even": 0.4, "rim": 0.13, "core": 0.15, "gradient": 0.08, "texture": 0.18, "calcium": 0.06}
"""Shares of the ways to fill an object."""
MARGIN_PX = 3
"""Surroundings cut out around an object, to learn how bright they are."""


@dataclass(kw_only=True)
class Scene:
    """A background and the objects placed in it so far."""

    grid: Grid
    body: Body
    labels: npt.NDArray[np.uint8]
    """(z, y, x), 0 or the number of an object."""
    taken: Floats
    """(z, y, x), how far earlier objects fill a voxel; later ones go under them."""
    noise: float
    """Standard deviation of the noise to come, in grey."""
    num_objects: int = 0


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An object that is in the scene."""

    window: Window
    occupancy: Floats
    """Within the window, 0 to 1."""
    depth_mm: Floats
    """Within the window: depth below the object's surface, averaged over the slice's thickness."""
    free: Floats
    """Within the window: the share of each voxel that earlier objects and the skin leave to it."""


def new_scene(grid: Grid, body: Body, noise: float) -> Scene:
    """Return a scene without objects."""
    return Scene(
        grid=grid,
        body=body,
        labels=np.zeros(grid.shape, dtype=np.uint8),
        taken=np.zeros(grid.shape, dtype=np.float32),
        noise=noise,
    )


def cut_out(grid: Grid, shape: Shape, centre: tuple[float, float, float]) -> Placed | None:
    """Rasterise a solid around a centre given in voxels (z, y, x); None if nothing of it is in the grid.

    Slices are averages over their thickness: several sections of each are computed.
    """
    bounds = []
    for n, step, middle, half in zip(grid.shape, grid.step_mm, centre, shape.extent_mm, strict=True):
        low = max(0, int(np.floor(middle - half / step)) - MARGIN_PX)
        high = min(n, int(np.ceil(middle + half / step)) + MARGIN_PX + 1)
        if low >= high:
            return None
        bounds.append((low, high))
    window: Window = (slice(*bounds[0]), slice(*bounds[1]), slice(*bounds[2]))
    z, y, x = (
        ((np.arange(low, high) - middle) * step).astype(np.float32)
        for (low, high), middle, step in zip(bounds, centre, grid.step_mm, strict=True)
    )
    pixels = len(y) * len(x)
    sections = 1 if pixels > 8000 else int(np.clip(round(grid.thickness_mm / grid.step_mm[2]), 2, 4))
    offsets = ((np.arange(sections) + 0.5) / sections - 0.5) * grid.thickness_mm
    occupancy = np.zeros((len(z), len(y), len(x)), dtype=np.float32)
    depth = np.zeros_like(occupancy)
    for offset in offsets.astype(np.float32):
        level = shape.level((z + offset)[:, None, None], y[None, :, None], x[None, None, :])
        occupancy += soft_occupancy(level, grid.thickness_mm / sections / grid.step_mm[0])
        depth += level
    occupancy /= sections
    depth /= sections
    return Placed(window=window, occupancy=occupancy, depth_mm=depth, free=np.ones_like(occupancy))


def pick_place(
    rng: np.random.Generator, scene: Scene, weights: dict[Tissue, float]
) -> tuple[tuple[float, float, float], Tissue]:
    """Pick a voxel (z, y, x) away from the first and last slices, with preferences among tissues."""
    num_slices, height, width = scene.grid.shape
    num_tries = 60
    z = rng.integers(int(0.15 * num_slices), max(int(0.85 * num_slices), 1), size=num_tries)
    y = rng.integers(int(0.04 * height), int(0.96 * height), size=num_tries)
    x = rng.integers(int(0.04 * width), int(0.96 * width), size=num_tries)
    found = scene.body.tissue[z, y, x]
    odds = np.array([weights.get(Tissue(int(t)), 0.0) for t in found]) * (1.0 - scene.taken[z, y, x])
    odds = np.maximum(odds, 1e-6)
    index = int(rng.choice(num_tries, p=odds / odds.sum()))
    return (float(z[index]), float(y[index]), float(x[index])), Tissue(int(found[index]))


def fit(scene: Scene, placed: Placed) -> Placed | None:
    """Let an object go under the earlier ones and end at the skin; None if too little of it would be left."""
    whole = float(placed.occupancy.sum())
    if whole < 4.0:
        return None
    is_body = scene.body.tissue[placed.window] != Tissue.OUTSIDE
    if float((placed.occupancy * is_body).sum()) < (1.0 - MOST_OUTSIDE) * whole:
        return None
    free = (1.0 - scene.taken[placed.window]) * is_body
    occupancy = placed.occupancy * free
    if float(occupancy.sum()) < (1.0 - MOST_HIDDEN) * whole or not (occupancy > 0.5).any():
        return None
    return Placed(window=placed.window, occupancy=occupancy, depth_mm=placed.depth_mm, free=free)


def surroundings(scene: Scene, placed: Placed) -> float:
    """Return the median grey around an object."""
    grey = scene.body.grey[placed.window]
    near = (placed.occupancy < 0.05) & (placed.depth_mm > -6 * scene.grid.step_mm[2])
    around = grey[near] if near.any() else grey[placed.occupancy < 0.5]
    return float(np.median(around)) if around.size else float(np.median(grey))


def add(
    scene: Scene,
    placed: Placed,
    values: Floats | float,
    *,
    labelled: bool,
    protect: bool = True,
    edge_mm: float = 0.0,
) -> None:
    """Paint an object into the scene and, if labelled, give it the next number.

    Args:
        scene: Changed in place.
        placed: The object, fitted.
        values: Grey, one value or one for each voxel of the window.
        labelled: Whether it is one of the objects to be found.
        protect: Whether later objects must stay outside of it; large organs may contain others.
        edge_mm: Width of a gradual passage into the surroundings, centred on the boundary; 0 is abrupt.
    """
    grey = scene.body.grey[placed.window]
    cover = placed.occupancy
    if edge_mm > 0.0:
        cover = placed.free / (1.0 + np.exp(np.clip(placed.depth_mm / -edge_mm, -30.0, 30.0)))
    grey += cover * (values - grey)
    scene.num_objects += labelled
    scene.labels[placed.window][placed.occupancy > 0.5] = scene.num_objects if labelled else 0
    if protect:
        taken = scene.taken[placed.window]
        np.maximum(taken, placed.occupancy, out=taken)


def fill_values(
    rng: np.random.Generator, scene: Scene, placed: Placed, base: float, contrast: float
) -> Floats:
    """Return grey for an object's inside: even, or with a rim, a core, a gradient, texture or calcium.

    Args:
        rng: Source of randomness.
        scene: Where it lies.
        placed: The object.
        base: Its mean grey.
        contrast: Its grey minus that of its surroundings; rims keep to this side so that the edge shows.

    Returns:
        Array of the window's shape, float32.
    """
    deepest = max(float(placed.depth_mm.max()), 1e-3)
    relative = np.clip(placed.depth_mm / deepest, 0.0, 1.0)
    values = np.full_like(relative, base, dtype=np.float32)
    _, height, width = values.shape
    strength = max(abs(contrast), 2 * scene.noise) * float(rng.uniform(0.3, 1.2))
    style = str(rng.choice(list(STYLE_SHARES), p=list(STYLE_SHARES.values())))
    if style == "rim":
        thin = float(rng.uniform(0.1, 0.35))
        values += np.float32(np.sign(contrast) * strength) * np.exp(-((relative / thin) ** 2))
    elif style == "core":
        edge = float(rng.uniform(0.3, 0.7))
        sign = float(rng.choice([-1.0, -1.0, 1.0]))
        values += np.float32(sign * strength) / (1.0 + np.exp((edge - relative) * np.float32(14.0)))
    elif style == "gradient":
        angle = float(rng.uniform(0.0, 2 * np.pi))
        y = np.linspace(-0.4, 0.4, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
        x = np.linspace(-0.4, 0.4, width, dtype=np.float32) * np.float32(np.cos(angle))
        values += np.float32(strength) * (y + x)
    elif style in ("texture", "calcium"):
        mottle = smooth_field(
            rng, scene.grid.sized(values.shape), scene.grid.step_mm[2] * float(rng.uniform(2.0, 6.0))
        )
        if style == "texture":
            values += np.float32(0.5 * strength) * mottle
        else:
            values += np.float32(0.8) * np.clip(mottle - 1.4, 0.0, 1.0) * (relative > 0.15)
    # Below the surface texture must not reach the grey outside: there would be no edge to find.
    limit = np.float32(base - 0.65 * contrast)
    beyond = values < limit if contrast > 0 else values > limit
    return np.where(beyond & (placed.depth_mm < 2.5 * scene.grid.step_mm[2]), limit, values)
