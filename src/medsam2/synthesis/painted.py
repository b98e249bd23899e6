"""Stacks painted from label maps of real anatomy: random contrasts, a scanner's look, exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.contrasts import (
    Contrast,
    draw_contrast,
    find_pairs,
    match_pairs,
    paint_surroundings,
    shade_lesions,
)
from medsam2.synthesis.label_map import LabelMap, Labels, cut_map, draw_cut
from medsam2.synthesis.lesions import Lesion, add_lesions
from medsam2.synthesis.listing import Group, count_contacts, draw_alike, draw_groups, list_objects
from medsam2.synthesis.render import Floats, Grid, finish, render_ct, render_mr, smooth_field

SIDE_PX = 176
SLICES = (32, 40)
"""Fewest and most slices."""
LAYERS = 3
"""Of a thick slice, whose greys are averaged."""
FAINTEST = 8.0 / 255.0
"""Difference of grey that can be seen."""
NOISE_RANGE = (0.004, 0.07)
"""Standard deviation of the noise."""
WALL_SHARE = 0.5
"""Of borders between labels that look alike, so many have a thin wall."""
SPECKLE_SHARE = 0.12
MR_SHARE = 0.45
INVERTED_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class PaintedStack:
    """A stack of slices and the objects in it."""

    image: npt.NDArray[np.uint8]
    """Grey values (z, y, x)."""
    labels: npt.NDArray[np.uint8]
    """(z, y, x): 0 nothing, 1 to N the objects."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres along (x, y, z)."""
    objects: tuple[str, ...]
    """Names of the objects, label 1 first; of joined structures with " + " between them."""


def paint_stack(
    label_map: LabelMap, rng: np.random.Generator, shape: tuple[int, int, int] | None = None
) -> PaintedStack | None:
    """Paint a stack of slices through a label map.

    Args:
        label_map: The anatomy.
        rng: Source of all randomness; the same state gives the same stack.
        shape: Slices, rows, columns; drawn if not given.

    Returns:
        None if no object is in view that is worth finding.
    """
    if shape is None:
        shape = (int(rng.integers(SLICES[0], SLICES[1] + 1)), SIDE_PX, SIDE_PX)
    anatomy = _draw_anatomy(rng, label_map, shape)
    if anatomy is None:
        return None
    contrast = _draw_look(rng, anatomy)
    grey = paint_greys(rng, anatomy, contrast)
    noise = float(np.exp(rng.uniform(*np.log(NOISE_RANGE))))
    # What the 8 bits cut off cannot be seen.
    objects, listed = list_objects(
        rng,
        np.clip(grey, 0.0, 1.0),
        anatomy.shown,
        anatomy.groups,
        anatomy.alike,
        max(FAINTEST, 0.6 * noise),
    )
    if not listed:
        return None
    return PaintedStack(
        image=_expose(rng, anatomy.grid, grey, noise),
        labels=objects,
        spacing_mm=anatomy.grid.spacing_mm,
        objects=tuple(" + ".join(anatomy.names[label - 1] for label in group.labels) for group in listed),
    )


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What lies in a stack, before it has greys."""

    grid: Grid
    layers: int
    """Of each slice."""
    labels: Labels
    """(slice and layer, y, x): 0 nothing, 1 to N the structures and lesions in view."""
    names: tuple[str, ...]
    """Of the labels, label 1 first."""
    pairs: tuple[tuple[int, int], ...]
    """Labels that are the left and the right one of a structure."""
    lesions: tuple[Lesion, ...]
    groups: tuple[Group, ...]
    """The labels of each object."""
    alike: tuple[tuple[int, int], ...]
    """Labels of two objects that touch and look alike."""

    @property
    def shown(self) -> Labels:
        """The labels in the middle of each slice, (z, y, x)."""
        return self.labels[self.layers // 2 :: self.layers]


def _draw_anatomy(
    rng: np.random.Generator, label_map: LabelMap, shape: tuple[int, int, int]
) -> Anatomy | None:
    """Cut a map, put lesions in and say what is one object; None if nothing is in view."""
    grid, pose = draw_cut(rng, label_map, shape)
    layers = LAYERS if grid.thickness_mm >= grid.step_mm[0] else 1
    fine = _split_slices(grid, layers)
    labels, names = number_in_view(cut_map(rng, label_map, fine, pose), label_map.label_names)
    if not names:
        return None
    pairs = find_pairs(names)
    lesions = add_lesions(rng, fine, labels, len(names))
    for lesion in lesions:
        kind = "lesion" if lesion.rim is None else "core of lesion"
        names += (f"{kind} in {names[lesion.host - 1]}",)
    shown = labels[layers // 2 :: layers]
    sizes = np.bincount(shown.ravel(), minlength=len(names) + 1)
    contacts = count_contacts(shown, len(names))
    groups = draw_groups(rng, sizes, contacts, pairs, lesions)
    return Anatomy(
        grid=grid,
        layers=layers,
        labels=labels,
        names=names,
        pairs=tuple(pairs),
        lesions=tuple(lesions),
        groups=tuple(groups),
        alike=tuple(draw_alike(rng, groups, contacts)),
    )


def _split_slices(grid: Grid, layers: int) -> Grid:
    """Return a grid with each slice in so many layers; its thickness is the distance of slices."""
    num_slices, num_rows, num_columns = grid.shape
    x_mm, y_mm, z_mm = grid.spacing_mm
    return Grid(
        shape=(num_slices * layers, num_rows, num_columns),
        spacing_mm=(x_mm, y_mm, z_mm / layers),
        thickness_mm=z_mm,
    )


def number_in_view(labels: Labels, names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
    """Number the labels of an array from 1, and return the names of those that are there."""
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    present = present[present > 0]
    numbers = np.zeros(len(names) + 1, dtype=np.uint16)
    numbers[present] = np.arange(1, present.size + 1)
    return numbers[labels], tuple(names[int(label) - 1] for label in present)


def _draw_look(rng: np.random.Generator, anatomy: Anatomy) -> Contrast:
    """Draw what each label looks like."""
    contrast = draw_contrast(rng, len(anatomy.names))
    match_pairs(rng, contrast, anatomy.pairs)
    for group in anatomy.groups:
        if group.is_pair:
            contrast.copy_look(*group.labels)
    shade_lesions(rng, contrast, anatomy.lesions)
    for first, second in anatomy.alike:
        contrast.copy_look(first, second)
    return contrast


def paint_greys(rng: np.random.Generator, anatomy: Anatomy, contrast: Contrast) -> Floats:
    """Paint a stack without blur and noise.

    Returns:
        Array (z, y, x), 0 to 1 is the range shown.
    """
    grid, layers = anatomy.grid, anatomy.layers
    split = (grid.shape[0], layers, *grid.shape[1:])
    layered = contrast.grey[anatomy.labels]
    for first, second in anatomy.alike:
        if rng.random() < WALL_SHARE:
            wall = _wall(anatomy.labels, first, second)
            layered[wall] += np.float32(rng.normal(0.0, 0.12))
    # The mean of its layers is what a thick slice shows of borders that cross it.
    grey = layered.reshape(split).mean(axis=1)
    is_empty = anatomy.labels == 0
    share = is_empty.reshape(split).mean(axis=1, dtype=np.float32)
    surroundings = paint_surroundings(rng, grid, anatomy.shown == 0)
    grey += share * (surroundings - contrast.grey[0])
    pixel_mm = grid.step_mm[2]
    for strength, scale_mm in (
        (contrast.fine, pixel_mm * float(rng.uniform(1.5, 4.0))),
        (contrast.coarse, grid.size_mm[2] * float(rng.uniform(0.04, 0.15))),
    ):
        strength[0] = 0.0
        grey += strength[anatomy.shown] * smooth_field(rng, grid, scale_mm)
    sample = grey[::2, ::3, ::3]
    low, high = np.percentile(sample, [rng.uniform(0.0, 1.5), rng.uniform(98.5, 100.0)])
    # Where most of a slice has the brightest grey, noise would be cut off.
    high += rng.uniform(0.0, 0.25) * (high - low)
    return np.asarray((grey - np.float32(low)) / np.float32(max(high - low, 0.05)), dtype=np.float32)


def _wall(labels: Labels, first: int, second: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of one label that touch another one within their layer, (slice and layer, y, x)."""
    inside, beside = labels == first, labels == second
    near = np.zeros(labels.shape, dtype=bool)
    near[:, 1:] |= beside[:, :-1]
    near[:, :-1] |= beside[:, 1:]
    near[:, :, 1:] |= beside[:, :, :-1]
    near[:, :, :-1] |= beside[:, :, 1:]
    return np.asarray(near & inside)


def _expose(rng: np.random.Generator, grid: Grid, grey: Floats, noise: float) -> npt.NDArray[np.uint8]:
    """Add what a scanner does: blur, shading, noise, speckle, 8 bits."""
    if rng.random() < MR_SHARE:
        image = render_mr(rng, grid, grey, noise)
    else:
        image = render_ct(rng, grid, grey, noise)
    if rng.random() < SPECKLE_SHARE:
        grain = smooth_field(rng, grid, grid.step_mm[2] * float(rng.uniform(1.0, 2.2)))
        image = image * np.maximum(1 + np.float32(rng.uniform(0.05, 0.25)) * grain, 0.0)
    return finish(rng, image, INVERTED_SHARE)
