"""Tissues, their greys, and backgrounds of them for CT, MR and ultrasound, without the objects to find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.render import Floats, Grid, paint, smooth_field, soft_occupancy

Palette = dict["Tissue", float]
"""Grey of each tissue; 0 is black and 1 is white in the window shown, values beyond are cut off later."""

# Partial volume with air far below the window would eat into everything that touches it.
GREY_RANGE = (-0.3, 1.4)


class Tissue(IntEnum):
    """What fills a voxel of the background."""

    OUTSIDE = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    ORGAN = 4
    FLUID = 5
    BLOOD = 6
    BONE = 7
    MARROW = 8
    GAS = 9


def ct_window_hu(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a window (lowest, highest) in Hounsfield units as radiologists set them."""
    # Soft tissue, narrow, lung, wide, bone: centre and width.
    windows = ((40.0, 400.0), (70.0, 200.0), (-550.0, 1500.0), (0.0, 1600.0), (400.0, 1800.0))
    centre, width = windows[int(rng.choice(5, p=[0.52, 0.1, 0.24, 0.1, 0.04]))]
    width *= float(rng.uniform(0.8, 1.3))
    centre += float(rng.uniform(-0.08, 0.08)) * width
    low, high = centre - width / 2, centre + width / 2
    return low, max(high, 120.0)  # soft tissue stays below white


def ct_hounsfield(rng: np.random.Generator) -> dict[Tissue, float]:
    """Draw plausible mean Hounsfield units of each tissue, with or without contrast agent."""
    blood = float(rng.uniform(30.0, 60.0) if rng.random() < 0.35 else rng.uniform(90.0, 280.0))
    return {
        Tissue.OUTSIDE: -1000.0,
        Tissue.LUNG: float(rng.uniform(-900.0, -720.0)),
        Tissue.FAT: float(rng.uniform(-120.0, -80.0)),
        Tissue.MUSCLE: float(rng.uniform(40.0, 75.0)),
        Tissue.ORGAN: float(rng.uniform(40.0, 120.0)),
        Tissue.FLUID: float(rng.uniform(-5.0, 25.0)),
        Tissue.BLOOD: blood,
        Tissue.BONE: float(rng.uniform(400.0, 1100.0)),
        Tissue.MARROW: float(rng.uniform(80.0, 300.0)),
        Tissue.GAS: -950.0,
    }


def ct_palette(rng: np.random.Generator) -> Palette:
    """Draw the grey of each tissue in a random CT window."""
    low, high = ct_window_hu(rng)
    values = ct_hounsfield(rng)
    return {tissue: float(np.clip((hu - low) / (high - low), *GREY_RANGE)) for tissue, hu in values.items()}


def mr_palette(rng: np.random.Generator) -> Palette:
    """Draw the grey of each tissue in a random MR sequence."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    fat_bright = rng.random() < 0.6
    fluid_bright = rng.random() < 0.5
    return {
        Tissue.OUTSIDE: 0.0,
        Tissue.LUNG: between(0.02, 0.1),
        Tissue.FAT: between(0.65, 1.0) if fat_bright else between(0.08, 0.3),
        Tissue.MUSCLE: between(0.15, 0.5),
        Tissue.ORGAN: between(0.2, 0.75),
        Tissue.FLUID: between(0.7, 1.1) if fluid_bright else between(0.08, 0.3),
        Tissue.BLOOD: between(0.0, 0.15) if rng.random() < 0.4 else between(0.5, 1.1),
        Tissue.BONE: between(0.02, 0.15),
        Tissue.MARROW: between(0.4, 0.9) if fat_bright else between(0.2, 0.5),
        Tissue.GAS: between(0.0, 0.06),
    }


@dataclass(kw_only=True)
class Body:
    """A background that is being painted."""

    grey: Floats
    """(z, y, x), 0 to 1 is the range shown."""
    tissue: npt.NDArray[np.uint8]
    """(z, y, x), values of Tissue."""
    regions: npt.NDArray[np.uint8]
    """(z, y, x), which organ-like region a voxel belongs to, 0 = none; an object can be one of them."""


def even_body(grid: Grid, grey: float, tissue: Tissue) -> Body:
    """Return a background of one tissue."""
    return Body(
        grey=np.full(grid.shape, grey, dtype=np.float32),
        tissue=np.full(grid.shape, tissue, dtype=np.uint8),
        regions=np.zeros(grid.shape, dtype=np.uint8),
    )


def trunk(rng: np.random.Generator, grid: Grid, palette: Palette) -> Body:
    """Paint chest, belly, neck or limb: skin fat, muscle with ribs, organs and gut in fat, or lungs."""
    body = even_body(grid, palette[Tissue.FAT], Tissue.FAT)
    depth = _depth_below_skin(rng, grid)
    scale = min(grid.size_mm[1:]) / 250.0
    fat_mm = float(rng.uniform(2.0, 22.0)) * max(scale, 0.5)
    wall_mm = fat_mm + float(rng.uniform(6.0, 22.0)) * max(scale, 0.5)
    _paint_organs(rng, grid, palette, body)
    # In other windows lung is a black hole: useful, but not in every second stack.
    shows_lung = palette[Tissue.LUNG] > 0.05
    if rng.random() < (0.75 if shows_lung else 0.3):
        _paint_lungs(rng, grid, palette, body, depth - np.float32(wall_mm))
    paint_wall(rng, grid, palette, body, depth, (fat_mm, wall_mm))
    fill(body, soft_occupancy(-depth), palette[Tissue.OUTSIDE], Tissue.OUTSIDE)
    return body


def head(rng: np.random.Generator, grid: Grid, palette: Palette) -> Body:
    """Paint a head: skin, skull, folded cortex, white matter and ventricles."""
    grey_matter, white_matter = float(rng.uniform(0.3, 0.75)), float(rng.uniform(0.3, 0.75))
    if abs(grey_matter - white_matter) < 0.06:
        white_matter += 0.12
    fluid = palette[Tissue.FLUID]
    body = even_body(grid, white_matter, Tissue.ORGAN)
    depth = _depth_below_skin(rng, grid)
    scalp_mm, skull_mm = float(rng.uniform(3.0, 8.0)), float(rng.uniform(4.0, 9.0))
    inner = depth - np.float32(scalp_mm + skull_mm)
    # Distance from the zero sheets of a smooth field makes folds; they close with depth below the skull.
    folds = np.abs(smooth_field(rng, grid, float(rng.uniform(5.0, 9.0))))
    deep = np.clip(inner / np.float32(rng.uniform(15.0, 30.0)), 0.0, None)
    sulcus = np.float32(0.22) - folds - np.float32(0.25) * deep
    ribbon = np.minimum(sulcus + np.float32(0.5), np.float32(0.6) - 0.4 * deep)
    fill(body, soft_occupancy(ribbon), grey_matter, Tissue.ORGAN)
    nuclei = smooth_field(rng, grid, float(rng.uniform(14.0, 25.0))) - np.float32(1.1)
    fill(body, soft_occupancy(nuclei), grey_matter, Tissue.ORGAN)
    fill(body, soft_occupancy(sulcus), fluid, Tissue.FLUID)
    ventricles = smooth_field(rng, grid, float(rng.uniform(18.0, 30.0)))
    ventricles = np.minimum(ventricles - np.float32(1.2), (inner - 20.0) / 20.0)
    level = soft_occupancy(ventricles)
    fill(body, level, fluid, Tissue.FLUID)
    body.regions[level > 0.5] = 1
    fill(body, soft_occupancy(np.float32(1.5) - inner), fluid, Tissue.FLUID)
    if rng.random() < 0.35:  # skull-stripped, as many data sets are
        fill(body, soft_occupancy(-inner), 0.0, Tissue.OUTSIDE)
        return body
    fill(body, soft_occupancy(-inner), palette[Tissue.BONE], Tissue.BONE)
    marrow = np.float32(skull_mm * 0.25) - np.abs(inner + np.float32(skull_mm / 2))
    fill(body, soft_occupancy(marrow), palette[Tissue.MARROW], Tissue.MARROW)
    fill(body, soft_occupancy(np.float32(scalp_mm) - depth), palette[Tissue.FAT], Tissue.FAT)
    fill(body, soft_occupancy(-depth), 0.0, Tissue.OUTSIDE)
    return body


def fill(body: Body, occupancy: Floats, value: Floats | float, tissue: Tissue) -> None:
    """Paint a tissue and take its voxels away from the regions below."""
    paint(body.grey, occupancy, value)
    covered = occupancy > 0.5
    body.tissue[covered] = tissue
    body.regions[covered] = 0


def _depth_below_skin(rng: np.random.Generator, grid: Grid) -> Floats:
    """Return about the distance to the body's surface in mm, positive inside."""
    z, y, x = grid.axes_mm()
    _, height, width = grid.size_mm
    if rng.random() < 0.4:  # the whole body is in view
        half_y, half_x = height * float(rng.uniform(0.33, 0.47)), width * float(rng.uniform(0.38, 0.49))
        centre_y, centre_x = rng.uniform(-0.04, 0.04, size=2) * (height, width)
    else:  # a part, often with the wall on one side
        half_y, half_x = rng.uniform(0.7, 1.4, size=2) * (height, width)
        angle, reach = float(rng.uniform(0.0, 2 * np.pi)), float(rng.uniform(0.2, 0.9))
        centre_y, centre_x = reach * half_y * np.sin(angle), reach * half_x * np.cos(angle)
    warp = smooth_field(rng, grid, (60.0 + height / 4, height / 3, width / 3))
    rho = np.sqrt(((y - float(centre_y)) / float(half_y)) ** 2 + ((x - float(centre_x)) / float(half_x)) ** 2)
    depth = (1.0 - rho) * np.float32(min(half_y, half_x)) + warp * np.float32(height * 0.02)
    return np.asarray(depth + 0 * z, dtype=np.float32)


def _paint_organs(rng: np.random.Generator, grid: Grid, palette: Palette, body: Body) -> None:
    """Divide the inside into cells of tissue with fat of varying width between them."""
    gap, nearest = _cells(rng, grid)
    count = int(nearest.max()) + 1
    kinds = rng.choice(
        np.array([Tissue.ORGAN, Tissue.MUSCLE, Tissue.GAS, Tissue.FLUID, Tissue.BLOOD, Tissue.FAT]),
        size=count,
        p=[0.38, 0.16, 0.2, 0.08, 0.06, 0.12],
    )
    jitter = rng.normal(0.0, 0.07, size=count)
    values = np.array([palette[Tissue(int(k))] for k in kinds], dtype=np.float32)
    gut_wall = np.float32(0.5 * (palette[Tissue.MUSCLE] + palette[Tissue.ORGAN]))
    is_gut = kinds == Tissue.GAS
    values = np.where(is_gut, gut_wall, values + jitter).astype(np.float32)
    occupancy = soft_occupancy(gap)
    fill(body, occupancy, values[nearest], Tissue.ORGAN)
    inside = occupancy > 0.5
    body.tissue[inside] = kinds.astype(np.uint8)[nearest][inside]
    body.regions[inside] = (nearest[inside] + 1).astype(np.uint8)
    if is_gut.any():
        _paint_gut(rng, grid, palette, body, np.where(is_gut[nearest], gap, np.float32(-5.0)))
    vessels = _vessels(rng, grid, float(rng.uniform(18.0, 40.0)), 0.09)
    vessels *= (body.tissue == Tissue.ORGAN) | (body.tissue == Tissue.FAT)
    body.tissue[body.tissue == Tissue.GAS] = Tissue.ORGAN
    paint(body.grey, vessels, palette[Tissue.BLOOD] * 0.6 + palette[Tissue.ORGAN] * 0.4)
    texture = smooth_field(rng, grid, float(rng.uniform(3.0, 8.0))) * np.float32(rng.uniform(0.005, 0.03))
    body.grey += texture


def _cells(rng: np.random.Generator, grid: Grid) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return the level of warped Voronoi cells in mm, positive inside, and the index of each voxel's cell."""
    z, y, x = grid.axes_mm()
    depth, height, width = grid.size_mm
    cell_mm = float(rng.uniform(0.16, 0.42)) * min(height, width)
    count = int(np.clip(1.6 * height * width / cell_mm**2, 5, 22))
    seeds = rng.uniform(-0.58, 0.58, size=(count, 3)) * (depth + cell_mm, height, width)
    # Organs are longer than wide, so that they change less along z.
    squeeze = float(rng.uniform(0.4, 1.0))
    warps = [
        smooth_field(rng, grid, cell_mm * 0.7) * np.float32(cell_mm * 0.2)
        + smooth_field(rng, grid, cell_mm * 0.25) * np.float32(cell_mm * float(rng.uniform(0.01, 0.04)))
        for _ in range(2)
    ]
    warped_y, warped_x = y + warps[0], x + warps[1]
    first = np.full(grid.shape, np.inf, dtype=np.float32)
    total = np.full(grid.shape, 1e-30, dtype=np.float32)
    softness = np.float32(cell_mm * float(rng.uniform(0.05, 0.14)))
    nearest = np.zeros(grid.shape, dtype=np.intp)
    for index, (seed_z, seed_y, seed_x) in enumerate(seeds.tolist()):
        distance = (warped_y - seed_y) ** 2
        distance += (warped_x - seed_x) ** 2
        distance += (squeeze * (z - seed_z)) ** 2
        np.sqrt(distance, out=distance)
        distance += np.float32(rng.uniform(-0.2, 0.2) * cell_mm)
        closer = distance < first
        np.copyto(first, distance, where=closer)
        nearest[closer] = index
        total += np.exp(distance / -softness)
    # A soft minimum over all other cells rounds the corners where three cells meet.
    second = -softness * np.log(np.maximum(total - np.exp(first / -softness), 1e-30))
    wobble = smooth_field(rng, grid, cell_mm * 0.5)
    spread = float(rng.uniform(0.03, 0.12)) * cell_mm
    gap = second - first - (np.float32(rng.uniform(-0.5, 1.2)) + wobble) * np.float32(spread)
    return np.asarray(gap, dtype=np.float32), nearest


def _paint_gut(rng: np.random.Generator, grid: Grid, palette: Palette, body: Body, level: Floats) -> None:
    """Fill gut with content below a wall, and gas pockets in it."""
    wall_mm = float(rng.uniform(1.5, 4.0))
    content = soft_occupancy(level - np.float32(wall_mm))
    stool = smooth_field(rng, grid, float(rng.uniform(2.5, 7.0)))
    paint(body.grey, content, palette[Tissue.FLUID] + stool * np.float32(rng.uniform(0.0, 0.15)))
    pockets = smooth_field(rng, grid, float(rng.uniform(8.0, 25.0))) - np.float32(rng.uniform(-0.3, 1.0))
    pockets = np.minimum(pockets * 6.0, level - np.float32(wall_mm))
    paint(body.grey, soft_occupancy(pockets), palette[Tissue.GAS])


def _vessels(rng: np.random.Generator, grid: Grid, scale_mm: float, width: float) -> Floats:
    """Return the occupancy of a network of vessels: where two smooth fields are both near zero."""
    first, second = smooth_field(rng, grid, scale_mm), smooth_field(rng, grid, scale_mm)
    calibre = np.float32(width) * (1.0 + 0.6 * smooth_field(rng, grid, scale_mm * 2))
    return soft_occupancy(np.asarray(calibre - np.sqrt(first * first + second * second), dtype=np.float32))


def _paint_lungs(
    rng: np.random.Generator, grid: Grid, palette: Palette, body: Body, below_wall: Floats
) -> None:
    """Paint aerated lung with vessels wherever a smooth field and the chest wall allow."""
    size = max(grid.size_mm[1:])
    extent = smooth_field(rng, grid, (size * 0.5, size * 0.3, size * 0.3)) + np.float32(rng.uniform(0.2, 1.0))
    lung = soft_occupancy(np.minimum(extent * np.float32(size * 0.1), below_wall))
    mottle = smooth_field(rng, grid, float(rng.uniform(3.0, 10.0))) * np.float32(0.02)
    fill(body, lung, palette[Tissue.LUNG] + mottle, Tissue.LUNG)
    vessel = palette[Tissue.MUSCLE]
    for scale_mm, width in ((float(rng.uniform(14.0, 30.0)), 0.12), (float(rng.uniform(6.0, 11.0)), 0.17)):
        paint(body.grey, _vessels(rng, grid, scale_mm, width) * lung, vessel)


def paint_wall(
    rng: np.random.Generator,
    grid: Grid,
    palette: Palette,
    body: Body,
    depth: Floats,
    layers_mm: tuple[float, float],
) -> None:
    """Paint skin fat and a muscle wall with fat between its sheets and ribs in it."""
    fat_mm, wall_mm = layers_mm
    sheets = smooth_field(rng, grid, (12.0, 9.0, 9.0))
    muscle = np.where(sheets > 1.2, palette[Tissue.FAT], palette[Tissue.MUSCLE]).astype(np.float32)
    fill(body, soft_occupancy(np.float32(wall_mm) - depth), muscle, Tissue.MUSCLE)
    if rng.random() < 0.6:
        z, y, x = grid.axes_mm()
        turns = float(rng.uniform(7.0, 16.0))
        along = np.cos(turns * np.arctan2(y + grid.size_mm[1] * 0.2, x) + float(rng.uniform(0.02, 0.12)) * z)
        middle, half = (fat_mm + wall_mm) / 2, (wall_mm - fat_mm) * float(rng.uniform(0.2, 0.42))
        across = (depth - np.float32(middle)) / np.float32(half)
        length = (1.0 - along) / np.float32(rng.uniform(0.5, 1.0))
        ribs = np.asarray(half * (1.0 - np.sqrt(across**2 + length**2)), dtype=np.float32)
        fill(body, soft_occupancy(ribs), palette[Tissue.BONE], Tissue.BONE)
        paint(body.grey, soft_occupancy(ribs - np.float32(half * 0.5)), palette[Tissue.MARROW])
    fill(body, soft_occupancy(np.float32(fat_mm) - depth), palette[Tissue.FAT], Tissue.FAT)
    paint(body.grey, soft_occupancy(np.float32(1.5) - depth), palette[Tissue.MUSCLE])


def layered_tissue(rng: np.random.Generator, grid: Grid) -> Body:
    """Paint skin, fat, muscle with fibres, bright fasciae and sometimes bone; y is depth.

    Grey is the compressed echo strength, 0 to 1, before speckle, attenuation and shadows.
    """
    depth, height, width = grid.size_mm
    _, y, _ = grid.axes_mm()
    tilt = smooth_field(rng, grid, (depth, height, width * 0.4)) * np.float32(height * 0.05)
    position = (y / height + 0.5) + tilt / np.float32(height)
    body = even_body(grid, float(rng.uniform(0.2, 0.45)), Tissue.MUSCLE)
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
