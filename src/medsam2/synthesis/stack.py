"""Whole synthetic stacks of slices: background, objects with exact masks, a scanner's look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.synthesis import body as bodies
from medsam2.synthesis.body import Body
from medsam2.synthesis.fields import Grid
from medsam2.synthesis.objects import add_bones, add_objects, add_regions
from medsam2.synthesis.render import field_of_view, finish, render_ct, render_mr, render_us
from medsam2.synthesis.scene import Scene, new_scene
from medsam2.synthesis.sonography import layered_tissue
from medsam2.synthesis.tissues import Palette, ct_palette, mr_palette
from medsam2.synthesis.visibility import tidy_labels

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
    noise = float(np.exp(rng.uniform(np.log(0.012), np.log(0.09))))
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
        in_plane = float(np.exp(rng.uniform(np.log(0.08), np.log(0.5))))
        between = in_plane * float(rng.uniform(1.0, 6.0))
    else:
        in_plane = float(np.exp(rng.uniform(np.log(0.5), np.log(1.5))))
        between = float(np.exp(rng.uniform(np.log(0.7), np.log(6.0))))
        between = float(np.clip(between, 0.7 * in_plane, 8.0 * in_plane))
    thickness = between * float(rng.choice([1.0, rng.uniform(0.4, 1.0), rng.uniform(1.0, 1.8)]))
    return Grid(shape=shape, spacing_mm=(in_plane, in_plane, between), thickness_mm=thickness)


def _draw_body(rng: np.random.Generator, grid: Grid, look: str) -> tuple[Body, Palette]:
    """Draw a background and the greys of its tissues."""
    if look == "us":
        return layered_tissue(rng, grid), {}
    palette = ct_palette(rng) if look == "ct" else mr_palette(rng)
    if look == "mr" and rng.random() < 0.4:
        return bodies.head(rng, grid, palette), palette
    return bodies.trunk(rng, grid, palette), palette


def _breathe(rng: np.random.Generator, scene: Scene) -> None:
    """Shift single slices by a pixel or two, image and labels alike."""
    shifts = np.rint(rng.normal(0.0, 0.8, size=(scene.grid.shape[0], 2))).astype(int)
    for index, (dy, dx) in enumerate(shifts.tolist()):
        for array in (scene.body.grey, scene.labels):
            rows = np.clip(np.arange(array.shape[1]) + dy, 0, array.shape[1] - 1)
            columns = np.clip(np.arange(array.shape[2]) + dx, 0, array.shape[2] - 1)
            array[index] = array[index][rows][:, columns]
