"""Lesions that are put into the structures of a label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.label_map import Labels
from medsam2.synthesis.render import Grid, smooth_field

Place = npt.NDArray[np.float64]
"""A voxel (z, y, x), in parts of voxels."""

STACK_SHARE = 0.4
"""Share of stacks that have lesions."""
CORE_SHARE = 0.35
TWIN_SHARE = 0.25
INVADING_SHARE = 0.25
"""Share of lesions that grow over their host's border into its neighbours."""
SMALLEST_HOST_PX = 900
"""Pixels of a host in all slices together."""
MOST = 3
PLACES_TRIED = 8


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A label that a stack has beside those of its map."""

    label: int
    host: int
    """Label of the structure that it lies in."""
    twin: int | None = None
    """Label of the lesion beside it, whose grey it mostly shares."""
    rim: int | None = None
    """Label of the lesion whose core this is."""


@dataclass(frozen=True, kw_only=True)
class _Site:
    """Where lesions are put."""

    grid: Grid
    labels: Labels
    """(z, y, x), changed in place."""
    num_structures: int
    """Labels above are lesions."""


def add_lesions(rng: np.random.Generator, grid: Grid, labels: Labels, num_labels: int) -> list[Lesion]:
    """Put up to `MOST` lesions into structures, in some stacks.

    Args:
        rng: Source of randomness.
        grid: That of the labels; its thickness says how far slices are apart.
        labels: (z, y, x), changed in place.
        num_labels: Labels that are taken; those of lesions come next.
    """
    if rng.random() > STACK_SHARE:
        return []
    site = _Site(grid=grid, labels=labels, num_structures=num_labels)
    sizes = np.bincount(labels.ravel(), minlength=num_labels + 1)
    hosts = np.flatnonzero(sizes > SMALLEST_HOST_PX)
    hosts = hosts[hosts > 0]
    found: list[Lesion] = []
    for _ in range(int(rng.integers(1, MOST + 1)) if hosts.size else 0):
        host = int(rng.choice(hosts))
        radius_mm = _draw_radius(rng, grid, int(sizes[host]))
        centre = _draw_centre(rng, site, host, radius_mm)
        if centre is not None:
            found += _add_lesion(rng, site, num_labels + len(found) + 1, host, centre, radius_mm)
    return found


def _add_lesion(
    rng: np.random.Generator, site: _Site, label: int, host: int, centre: Place, radius_mm: float
) -> list[Lesion]:
    """Put in one lesion, sometimes with a core, sometimes with another beside it."""
    if not _grow(rng, site, (host, label), centre, radius_mm, may_invade=True):
        return []
    found = [Lesion(label=label, host=host)]
    if rng.random() < CORE_SHARE:
        core = label + len(found)
        core_mm = radius_mm * float(rng.uniform(0.4, 0.75))
        if _grow(rng, site, (label, core), centre, core_mm, may_invade=False):
            found.append(Lesion(label=core, host=host, rim=label))
    if rng.random() < TWIN_SHARE:
        other_mm = radius_mm * float(rng.uniform(0.6, 1.2))
        angle = float(rng.uniform(0.0, 2 * np.pi))
        apart_mm = (radius_mm + other_mm) * float(rng.uniform(0.75, 1.1))
        beside = centre + np.array([0.0, np.sin(angle), np.cos(angle)]) * apart_mm / site.grid.step_mm
        twin = label + len(found)
        if _grow(rng, site, (host, twin), beside, other_mm, may_invade=True):
            found.append(Lesion(label=twin, host=host, twin=label))
    return found


def _draw_radius(rng: np.random.Generator, grid: Grid, host_voxels: int) -> float:
    """Draw a radius in mm that suits a host: from a speck in it to half of its size."""
    z_mm, y_mm, x_mm = grid.step_mm
    host_mm = (host_voxels * z_mm * y_mm * x_mm * 3 / (4 * np.pi)) ** (1 / 3)
    largest = 0.2 * grid.size_mm[2]
    return float(np.clip(host_mm * rng.uniform(0.12, 0.55), 4.0 * x_mm, max(largest, 4.0 * x_mm)))


def _draw_centre(rng: np.random.Generator, site: _Site, host: int, radius_mm: float) -> Place | None:
    """Draw a voxel (z, y, x) of a host, of several the one with most of the host around it."""
    voxels = np.flatnonzero(site.labels == host)
    if not voxels.size:
        return None
    tried = voxels[rng.integers(voxels.size, size=PLACES_TRIED)]
    places = np.stack(np.unravel_index(tried, site.labels.shape), axis=1).astype(np.float64)
    boxes = [_box(place, site.grid, 0.7 * radius_mm) for place in places]
    return places[int(np.argmax([np.mean(site.labels[box] == host) for box in boxes]))]


def _box(centre: Place, grid: Grid, radius_mm: float) -> tuple[slice, slice, slice]:
    """Return the voxels within a distance of a voxel along each axis; at least one is left."""
    slices = []
    for place, step, size in zip(centre, grid.step_mm, grid.shape, strict=True):
        reach = int(np.ceil(radius_mm / step))
        low = min(max(int(place) - reach, 0), size - 1)
        slices.append(slice(low, max(min(int(place) + reach + 1, size), low + 1)))
    return slices[0], slices[1], slices[2]


def _ball(
    rng: np.random.Generator, grid: Grid, centre: Place, radius_mm: float
) -> tuple[tuple[slice, slice, slice], npt.NDArray[np.float32]]:
    """Draw an uneven ellipsoid: where it may lie, and its level there, 1 at the centre and 0 at the rim."""
    radii = radius_mm * rng.uniform(0.7, 1.3, size=3)
    # Through fewer slices nobody could follow it.
    radii[0] = max(radii[0], 2.5 * grid.thickness_mm)
    box = _box(centre, grid, float(radii.max()) * 1.6)
    part = grid.sized(tuple(side.stop - side.start for side in box))
    square = np.zeros(part.shape, dtype=np.float32)
    for axis, (step, radius) in enumerate(zip(grid.step_mm, radii, strict=True)):
        along = ((np.arange(box[axis].start, box[axis].stop) - centre[axis]) * step / radius) ** 2
        square += along.astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
    uneven = smooth_field(rng, part, radius_mm * float(rng.uniform(0.5, 1.2)))
    level = 1 - np.sqrt(square) + np.float32(rng.uniform(0.03, 0.22)) * uneven
    return box, np.asarray(level, dtype=np.float32)


def _grow(
    rng: np.random.Generator,
    site: _Site,
    ground_and_label: tuple[int, int],
    centre: Place,
    radius_mm: float,
    *,
    may_invade: bool,
) -> bool:
    """Label an uneven ellipsoid where the ground is, or a little beyond; False if it covers nothing."""
    ground, label = ground_and_label
    box, level = _ball(rng, site.grid, centre, radius_mm)
    around = site.labels[box]
    covered = around == ground
    if may_invade and rng.random() < INVADING_SHARE:
        covered |= (around > 0) & (around <= site.num_structures)
    covered &= level > 0
    around[covered] = label
    return bool(covered.any())
