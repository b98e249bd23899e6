"""Whole synthetic stacks of slices: background, visible objects with exact masks, a scanner's look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.synthesis.body import Body, Palette, ct_palette, head, layered_tissue, mr_palette, trunk
from medsam2.synthesis.listing import largest_parts
from medsam2.synthesis.objects import add_bones, add_objects, add_regions
from medsam2.synthesis.render import (
    Floats,
    Grid,
    field_of_view,
    finish,
    log_uniform,
    render_ct,
    render_mr,
    render_us,
)
from medsam2.synthesis.scene import Scene, new_scene

SMALLEST_AREA_PX = 6
"""An object must cover this many pixels of some slice to be worth a prompt."""
BAND_PX = 3
"""Width of the bands on both sides of a boundary whose greys are compared."""
SIDES_SEEN = 3
"""How many of the four sides of an object must stand out; the others may touch something alike."""


def tidy_labels(grey: Floats, labels: npt.NDArray[np.uint8], least: float) -> npt.NDArray[np.uint8]:
    """Keep the largest piece of each object, drop objects that are tiny or cannot be seen, renumber.

    Args:
        grey: Array (z, y, x) without noise.
        labels: Array (z, y, x).
        least: Difference of grey between an object and its surroundings that can be seen.
    """
    tidy = np.zeros_like(labels)
    count = 0
    windows = ndimage.find_objects(labels)
    for index in np.flatnonzero(np.bincount(labels.ravel()))[1:].tolist():
        window = windows[index - 1]
        mask = largest_parts(labels[window] == index)
        areas = mask.sum(axis=(1, 2))
        key = int(areas.argmax())
        if areas[key] < SMALLEST_AREA_PX or not _is_visible(grey, window, mask, key, least):
            continue
        count += 1
        tidy[window][mask] = count
    return tidy


def _is_visible(
    grey: Floats, window: tuple[slice, ...], mask: npt.NDArray[np.bool_], key: int, least: float
) -> bool:
    """Tell whether an object stands out on its largest slice on enough of its four sides."""
    slices, rows, columns = window
    top, left = max(rows.start - BAND_PX, 0), max(columns.start - BAND_PX, 0)
    patch = grey[slices.start + key, top : rows.stop + BAND_PX, left : columns.stop + BAND_PX]
    inside = np.zeros(patch.shape, dtype=bool)
    inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = mask[key]
    outer = ndimage.binary_dilation(inside, iterations=BAND_PX) & ~inside
    inner = inside & ~ndimage.binary_erosion(inside, iterations=BAND_PX)
    inside_y, inside_x = np.nonzero(inside)
    down = np.arange(patch.shape[0])[:, None] - float(inside_y.mean())
    right = np.arange(patch.shape[1]) - float(inside_x.mean())
    quarter = 2 * (down > right) + (down > -right)
    seen = 0
    for side in range(4):
        beyond = patch[outer & (quarter == side)]
        # A rim may average with what is inside of it to the grey outside; either may give it away.
        for part in (inner, inside):
            within = patch[part & (quarter == side)]
            if within.size and beyond.size and abs(float(within.mean() - beyond.mean())) > least:
                seen += 1
                break
    return seen >= SIDES_SEEN


LOOKS = ("ct", "mr", "us")
LOOK_SHARES = (0.55, 0.3, 0.15)
INVERTED_SHARES = {"ct": 0.02, "mr": 0.04, "us": 0.0}
FAINTEST = 4.0 / 255.0
"""Grey by which an object must differ from its surroundings at least, in so many of the 8-bit steps."""
MR_NOISE_FACTOR = 0.6
ULTRASOUND_NOISE = 0.06
"""About the standard deviation of speckle after compression, to which contrasts are matched."""


@dataclass(frozen=True, kw_only=True)
class SyntheticStack:
    """A stack of slices and the objects in it."""

    image: npt.NDArray[np.uint8]
    """Windowed grey values (z, y, x), 0 to 255."""
    labels: npt.NDArray[np.uint8]
    """(z, y, x): 0 nothing, 1 to N objects, each exactly one connected piece."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres along (x, y, z)."""
    look: str
    """"ct", "mr" or "us"."""


def generate_stack(
    seed: int, *, shape: tuple[int, int, int] = (28, 192, 192), look: str | None = None
) -> SyntheticStack:
    """Generate a stack; the same arguments give the same stack.

    Args:
        seed: Any non-negative integer.
        shape: Slices, rows, columns.
        look: "ct", "mr" or "us"; drawn at random if not given.

    Raises:
        InputError: The look is none of these, or the shape is smaller than 4 x 32 x 32.
    """
    if look is not None and look not in LOOKS:
        raise InputError(f"look must be one of {', '.join(LOOKS)}, not {look!r}")
    if len(shape) != 3 or shape[0] < 4 or min(shape[1:]) < 32:
        raise InputError(f"shape must be at least (4, 32, 32) slices, rows, columns, not {shape}")
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(LOOKS, p=LOOK_SHARES))
    look = drawn if look is None else look
    grid = _draw_grid(rng, shape, look)
    noise = log_uniform(rng, 0.012, 0.09)
    body, palette = _draw_body(rng, grid, look)
    scene = new_scene(grid, body, ULTRASOUND_NOISE if look == "us" else noise)
    add_regions(rng, scene)
    if look != "us":
        add_bones(rng, scene, palette)
    add_objects(rng, scene, palette, look)
    if rng.random() < 0.2:
        _breathe(rng, scene)
    # What can be seen is judged without noise; speckle is part of the picture and is averaged out.
    if look == "us":
        seen = field_of_view(rng, grid)
        scene.labels *= seen
        rendered = render_us(rng, body.grey, seen)
        clean, least = ndimage.gaussian_filter(rendered, (0.0, 1.5, 1.5), truncate=2.0), FAINTEST
    else:
        render = render_ct if look == "ct" else render_mr
        rendered = render(rng, grid, body.grey, noise if look == "ct" else noise * MR_NOISE_FACTOR)
        clean, least = body.grey, max(FAINTEST, 0.5 * noise)
    labels = tidy_labels(np.clip(clean, 0.0, 1.0), scene.labels, least)
    image = finish(rng, rendered, INVERTED_SHARES[look])
    return SyntheticStack(image=image, labels=labels, spacing_mm=grid.spacing_mm, look=look)


def _draw_grid(rng: np.random.Generator, shape: tuple[int, int, int], look: str) -> Grid:
    """Draw spacings and a slice thickness."""
    if look == "us":
        in_plane = log_uniform(rng, 0.08, 0.5)
        between = in_plane * float(rng.uniform(1.0, 6.0))
    else:
        in_plane = log_uniform(rng, 0.5, 1.5)
        between = log_uniform(rng, 0.7, 6.0)
        between = float(np.clip(between, 0.7 * in_plane, 8.0 * in_plane))
    thickness = between * float(rng.choice([1.0, rng.uniform(0.4, 1.0), rng.uniform(1.0, 1.8)]))
    return Grid(shape=shape, spacing_mm=(in_plane, in_plane, between), thickness_mm=thickness)


def _draw_body(rng: np.random.Generator, grid: Grid, look: str) -> tuple[Body, Palette]:
    """Draw a background and the greys of its tissues."""
    if look == "us":
        return layered_tissue(rng, grid), {}
    palette = ct_palette(rng) if look == "ct" else mr_palette(rng)
    if look == "mr" and rng.random() < 0.4:
        return head(rng, grid, palette), palette
    return trunk(rng, grid, palette), palette


def _breathe(rng: np.random.Generator, scene: Scene) -> None:
    """Shift single slices by a pixel or two, image and labels alike."""
    shifts = np.rint(rng.normal(0.0, 0.8, size=(scene.grid.shape[0], 2))).astype(int)
    for index, (dy, dx) in enumerate(shifts.tolist()):
        for array in (scene.body.grey, scene.labels):
            rows = np.clip(np.arange(array.shape[1]) + dy, 0, array.shape[1] - 1)
            columns = np.clip(np.arange(array.shape[2]) + dx, 0, array.shape[2] - 1)
            array[index] = array[index][rows][:, columns]
