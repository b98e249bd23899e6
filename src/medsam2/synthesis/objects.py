"""The objects to be found: what is drawn, how it contrasts, and its look-alikes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from medsam2.synthesis import shapes
from medsam2.synthesis.body import Palette, Tissue
from medsam2.synthesis.render import Floats, Grid, log_uniform, paint, smooth_field
from medsam2.synthesis.scene import Placed, Scene, add, cut_out, fill_values, fit, pick_place, surroundings
from medsam2.synthesis.shapes import Shape

HOST_WEIGHTS = {
    Tissue.LUNG: 2.5,
    Tissue.FAT: 1.3,
    Tissue.MUSCLE: 0.9,
    Tissue.ORGAN: 2.0,
    Tissue.FLUID: 0.6,
    Tissue.BLOOD: 0.6,
    Tissue.BONE: 0.15,
}
"""Weight of each tissue when a place for an object is drawn."""
KIND_SHARES = {
    "ellipsoid": 0.17,
    "blob": 0.22,
    "lobulated": 0.1,
    "spiculated": 0.05,
    "crescent": 0.04,
    "shell": 0.04,
    "tube": 0.19,
    "flat tube": 0.08,
    "branching": 0.06,
    "wings": 0.05,
}
SOLIDS: Mapping[str, Callable[[np.random.Generator, float], Shape]] = {
    "ellipsoid": shapes.ellipsoid,
    "lobulated": shapes.lobulated,
    "spiculated": shapes.spiculated,
    "crescent": shapes.crescent,
}


def add_regions(rng: np.random.Generator, scene: Scene) -> None:
    """Make one to three regions of the background, organs or ventricles, objects."""
    sizes = np.bincount(scene.body.regions.ravel(), minlength=2)
    sizes[0] = 0
    candidates = np.flatnonzero(sizes > 300)
    rng.shuffle(candidates)
    for region in candidates[: int(rng.integers(1, 4))].tolist():
        scene.num_objects += 1
        scene.labels[scene.body.regions == region] = scene.num_objects


def add_bones(rng: np.random.Generator, scene: Scene, palette: Palette) -> None:
    """Place up to two bones, bright shells with a less bright inside, most of them running through z."""
    scale = min(scene.grid.size_mm[1:]) / 250.0
    for _ in range(int(rng.integers(0, 3))):
        centre, _ = pick_place(rng, scene, {Tissue.MUSCLE: 1.0, Tissue.FAT: 1.0, Tissue.ORGAN: 0.5})
        radius_mm = float(rng.uniform(9.0, 24.0)) * max(scale, 0.4)
        if rng.random() < 0.7:
            shape = shapes.stretch(shapes.lobulated(rng, radius_mm), float(rng.uniform(1.0, 4.0)))
        else:
            half_length_mm = scene.grid.size_mm[0] * float(rng.uniform(0.4, 0.8))
            shape = shapes.tube(rng, radius_mm * 0.6, half_length_mm, slope=0.2)
        cut = cut_out(scene.grid, shape, centre)
        placed = None if cut is None else fit(scene, cut)
        if placed is None:
            continue
        shell_mm = float(rng.uniform(1.0, 3.5)) * max(scale, 0.4)
        core = 1.0 / (1.0 + np.exp(np.clip((shell_mm - placed.depth_mm) * 3.0, -30.0, 30.0)))
        values = palette[Tissue.BONE] + core * (palette[Tissue.MARROW] - palette[Tissue.BONE])
        add(scene, placed, values.astype(np.float32), labelled=rng.random() < 0.4)
        inside = placed.occupancy > 0.5
        scene.body.tissue[placed.window][inside] = Tissue.BONE


def add_objects(rng: np.random.Generator, scene: Scene, palette: Palette, look: str) -> None:
    """Place objects of all kinds, some with a look-alike next to or after them."""
    wanted = scene.num_objects + int(rng.integers(8, 15))
    for _ in range(60):
        if scene.num_objects >= wanted:
            break
        radius_mm = _draw_radius_px(rng, scene.grid) * scene.grid.step_mm[2]
        centre, host = pick_place(rng, scene, HOST_WEIGHTS if look != "us" else {Tissue.MUSCLE: 1.0})
        placed = _rasterise(rng, scene, radius_mm, centre)
        if placed is None:
            continue
        background = surroundings(scene, placed)
        contrast = _draw_contrast(rng, scene, palette, host, background, radius_mm)
        base = background + contrast
        values = fill_values(rng, scene, placed, base, contrast)
        if look == "us":
            values = _add_walls(rng, scene, placed, values)
        if rng.random() < 0.18:
            _paint_halo(rng, scene, placed, background, contrast)
        large = radius_mm > 25 * scene.grid.step_mm[2]
        edge_mm = float(rng.uniform(0.2, 0.7)) * scene.grid.step_mm[2] if rng.random() < 0.25 else 0.0
        add(scene, placed, values, labelled=rng.random() < 0.85, protect=not large, edge_mm=edge_mm)
        if rng.random() < 0.4 and not large:
            _add_look_alike(rng, scene, placed, radius_mm, (base, contrast))


def _draw_radius_px(rng: np.random.Generator, grid: Grid) -> float:
    """Draw an object's radius in pixels: mostly 3 to 20, sometimes up to 60."""
    limit = min(grid.shape[1:]) / 192
    low, high = (2.2, 5.0) if rng.random() < 0.3 else (5.0, 18.0)
    if rng.random() < 0.12:
        low, high = 18.0, 55.0
    return log_uniform(rng, low, high) * max(limit, 0.5)


def _rasterise(
    rng: np.random.Generator, scene: Scene, radius_mm: float, centre: tuple[float, float, float]
) -> Placed | None:
    """Draw a shape and put it there, if it fits."""
    placed = cut_out(scene.grid, _draw_shape(rng, scene.grid, radius_mm), centre)
    return None if placed is None else fit(scene, placed)


def _draw_shape(rng: np.random.Generator, grid: Grid, radius_mm: float) -> Shape:
    """Draw a solid of about that radius."""
    slice_mm, pixel_mm = grid.step_mm[0], grid.step_mm[2]
    thin = min(radius_mm, 11 * pixel_mm)
    half_length = max(grid.size_mm[0] / 2 * float(rng.uniform(0.25, 1.3)), 2.0 * slice_mm, thin * 1.5)
    slope = min(float(rng.uniform(0.05, 0.6)), 25 * pixel_mm / half_length)
    kind = str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
    if kind == "tube":
        tube = shapes.tube(rng, thin, half_length, slope=slope)
        is_hollow = thin > 4 * pixel_mm and rng.random() < 0.1
        return shapes.hollow(tube, thin * 0.45) if is_hollow else tube
    if kind == "branching":
        return shapes.branching(rng, thin, half_length)
    if kind == "flat tube":
        along = str(rng.choice(["y", "x"]))
        half_px = float(rng.uniform(45, 110) if rng.random() < 0.3 else rng.uniform(12, 45))
        flat = min(thin, 8 * pixel_mm)
        return shapes.tube(rng, flat, half_px * pixel_mm, along=along, slope=min(slope, 0.3))
    if kind == "wings":
        reach = float(rng.uniform(6, 14)) * pixel_mm
        return shapes.wings(rng, reach, float(rng.uniform(1.2, 2.6)) * pixel_mm, half_length)
    if kind == "shell" and radius_mm > 7 * pixel_mm:
        wall_mm = max(radius_mm * float(rng.uniform(0.2, 0.4)), 3 * pixel_mm)
        shape = shapes.hollow(shapes.blob(rng, radius_mm), wall_mm)
    else:
        least_mm = 6 * pixel_mm if kind == "crescent" else 0.0
        shape = SOLIDS.get(kind, shapes.blob)(rng, max(radius_mm, least_mm))
    # An object seen in a single slice teaches nothing about following it.
    longest = float(rng.uniform(0.75, 1.35))
    return shapes.stretch(shape, max(longest, 1.3 * slice_mm / radius_mm))


def _draw_contrast(
    rng: np.random.Generator,
    scene: Scene,
    palette: Palette,
    host: Tissue,
    background: float,
    radius_mm: float,
) -> float:
    """Draw an object's grey minus its surroundings': a tissue's, or some multiple of the noise."""
    background = float(np.clip(background, 0.0, 1.0))
    shown = 0.0
    if palette and rng.random() < (0.9 if host == Tissue.LUNG else 0.2):
        tissues = (Tissue.MUSCLE, Tissue.ORGAN, Tissue.BLOOD, Tissue.FLUID)
        value = palette[tissues[int(rng.integers(4))]] + float(rng.normal(0.0, 0.05))
        shown = float(np.clip(value, 0.0, 1.0)) - background
    low, high = ((1.0, 1.8), (1.8, 3.5), (3.5, 9.0))[int(rng.choice(3, p=[0.15, 0.4, 0.45]))]
    least = max(scene.noise, 0.03)
    if abs(shown) >= least:
        return shown
    small = radius_mm < 4 * scene.grid.step_mm[2]
    size = max(float(rng.uniform(low, high)) * scene.noise * (1.6 if small else 1.0), 0.03)
    if rng.random() < 0.12:
        size = float(rng.uniform(0.2, 0.6))
    sign = 1.0 if rng.random() < 0.55 else -1.0
    if not 0.0 <= background + sign * size <= 1.0:  # it would be cut off by the window
        sign = 1.0 if background < 0.5 else -1.0
    return sign * min(size, 0.9)


def _add_walls(rng: np.random.Generator, scene: Scene, placed: Placed, values: Floats) -> Floats:
    """Give an object in ultrasound what it has there: a vessel's wall or a nerve's honeycomb."""
    pixel = scene.grid.step_mm[2]
    wall = np.exp(-((placed.depth_mm / np.float32(1.2 * pixel)) ** 2))
    kind = rng.random()
    if kind < 0.4:  # vessel: no echo inside, walls square to the beam shine
        _, y, _ = np.indices(values.shape, dtype=np.float32)
        facing = np.abs(y / max(values.shape[1] - 1, 1) - 0.5) * 2
        return np.asarray(np.float32(rng.uniform(0.0, 0.1)) + 0.5 * wall * facing, dtype=np.float32)
    if kind < 0.75:  # nerve: bright sheath, dark bundles
        patch = scene.grid.sized(values.shape)
        size = pixel * float(rng.uniform(2.0, 4.5))
        bundles = np.abs(smooth_field(rng, patch, (scene.grid.size_mm[0], size, size)))
        base = float(rng.uniform(0.3, 0.6))
        sheath = float(rng.uniform(0.05, 0.3)) * wall
        return np.asarray(base + sheath - 0.2 * np.minimum(bundles, 1.5), dtype=np.float32)
    return values


def _paint_halo(
    rng: np.random.Generator, scene: Scene, placed: Placed, background: float, contrast: float
) -> None:
    """Surround an object with a thin coat of another grey, as fluid around the cord or oedema."""
    pixel = scene.grid.step_mm[2]
    outside = placed.depth_mm + np.float32(
        pixel * float(rng.choice([rng.uniform(1.0, 2.5), rng.uniform(2.5, 6.0)]))
    )
    cover = placed.free / (1.0 + np.exp(np.clip(outside / np.float32(-0.4 * pixel), -30.0, 30.0)))
    grey = background - float(rng.choice([-0.4, 0.6, 1.2])) * contrast
    paint(scene.body.grey[placed.window], np.asarray(cover, dtype=np.float32), grey)


def _add_look_alike(
    rng: np.random.Generator, scene: Scene, placed: Placed, radius_mm: float, tone: tuple[float, float]
) -> None:
    """Place something as bright and large beside an object, or where it has just ended."""
    rows = np.argwhere(placed.occupancy > 0.5)
    offset = [s.start for s in placed.window]
    low, high = rows.min(axis=0) + offset, rows.max(axis=0) + offset
    middle = (low + high) / 2.0
    radius_px = radius_mm / scene.grid.step_mm[2]
    size_mm = radius_mm * float(rng.uniform(0.7, 1.3))
    if rng.random() < 0.6:
        angle = float(rng.uniform(0.0, 2 * np.pi))
        reach = radius_px * float(rng.uniform(1.7, 2.6))
        centre = middle + np.array([rng.normal(0.0, 1.0), reach * np.sin(angle), reach * np.cos(angle)])
    else:
        gap = float(rng.uniform(1.5, 4.0)) + size_mm / scene.grid.step_mm[0]
        z = high[0] + gap if rng.random() < 0.5 else low[0] - gap
        centre = np.array([z, *(middle[1:] + rng.normal(0.0, 0.3 * radius_px, size=2))])
    other = _rasterise(rng, scene, size_mm, (float(centre[0]), float(centre[1]), float(centre[2])))
    if other is not None:
        base = tone[0] + float(rng.normal(0.0, 0.7)) * scene.noise
        add(scene, other, fill_values(rng, scene, other, base, tone[1]), labelled=rng.random() < 0.5)
