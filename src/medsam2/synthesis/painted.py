"""Stacks painted from label maps of real anatomy: random contrasts, a scanner's look, exact masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.label_map import LabelMap, Labels, cut_map, draw_cut, number_labels
from medsam2.synthesis.lesions import Lesion, add_lesions
from medsam2.synthesis.listing import Group, count_contacts, draw_alike, draw_groups, list_objects
from medsam2.synthesis.render import Floats, Grid, finish, log_uniform, render_ct, render_mr, smooth_field

SIDE_PX = 176
SLICES = (32, 40)
"""Fewest and most slices."""
LAYERS = 3
"""Layers of a thick slice; their greys are averaged."""
FAINTEST = 8.0 / 255.0
"""Difference of grey that can be seen."""
NOISE_RANGE = (0.004, 0.07)
"""Standard deviation of the noise."""
WALL_SHARE = 0.5
"""Share of the borders between labels that look alike that have a thin wall."""
SPECKLE_SHARE = 0.12
MR_SHARE = 0.45
INVERTED_SHARE = 0.03
CLASSED_SHARE = 0.4
"""Share of stacks whose labels share a few greys; the others look like soft tissue."""
BRIGHT_SHARE = 0.18
DARK_SHARE = 0.07
PAIR_ALIKE_SHARE = 0.9
TWIN_ALIKE_SHARE = 0.8
SMALLEST_SHARE = 0.1
"""Surroundings that fill less of a stack than this have one grey."""
FLAT_SHARE = 0.2
PATCHY_SHARE = 0.6
"""Share of textured surroundings that have patches, as of several tissues."""
BODY_SHARE = 0.55
"""Share of textured surroundings that end at a skin around the structures, with air beyond."""
COARSENESS_PX = 4
"""The body is found on every fourth row and column."""

_SIDE = re.compile(r"\b(?:[Ll]eft|[Rr]ight|L|R)\b")


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
    noise = log_uniform(rng, *NOISE_RANGE)
    visible = np.clip(grey, 0.0, 1.0)  # what the 8 bits cut off cannot be seen
    least = max(FAINTEST, 0.6 * noise)
    objects, listed = list_objects(rng, visible, anatomy.shown, anatomy.groups, anatomy.alike, least)
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
    """Layers of each slice."""
    labels: Labels
    """(slice and layer, y, x): 0 nothing, 1 to N the structures and lesions in view."""
    names: tuple[str, ...]
    """Names of the labels, label 1 first."""
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
    """Cut a map, put lesions in and group labels into objects; None if nothing is in view."""
    grid, pose = draw_cut(rng, label_map, shape)
    layers = LAYERS if grid.thickness_mm >= grid.step_mm[0] else 1
    fine = _split_slices(grid, layers)
    labels, present = number_labels(cut_map(rng, label_map, fine, pose))
    if not present.size:
        return None
    names = tuple(label_map.label_names[int(label) - 1] for label in present)
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


def _draw_look(rng: np.random.Generator, anatomy: Anatomy) -> Contrast:
    """Draw what each label looks like; most pairs are alike, as the two sides of a body are."""
    contrast = draw_contrast(rng, len(anatomy.names))
    for first, second in anatomy.pairs:
        if rng.random() < PAIR_ALIKE_SHARE:
            contrast.copy_look(first, second)
    for group in anatomy.groups:
        if group.is_pair:
            contrast.copy_look(*group.labels)
    _shade_lesions(rng, contrast, anatomy.lesions)
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
    surroundings = _paint_surroundings(rng, grid, anatomy.shown == 0)
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
    cross = np.array([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]], dtype=bool)
    return np.asarray(ndimage.binary_dilation(beside, cross) & inside)


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


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The look of each label, one value a label, that of the background first."""

    grey: Floats
    fine: Floats
    """Standard deviation of the texture of some pixels' size."""
    coarse: Floats
    """Standard deviation of the texture of a structure's size."""

    def copy_look(self, source: int, target: int) -> None:
        """Make two labels look alike."""
        for values in (self.grey, self.fine, self.coarse):
            values[target] = values[source]


def draw_contrast(rng: np.random.Generator, num_labels: int) -> Contrast:
    """Draw the look of labels 0 to `num_labels`.

    A part of the stacks has fully random greys, of which labels share a few. In the others most labels are
    near the middle as soft tissues are, some are bright like vessels and bone, and few are dark like fluid
    and gas.
    """
    size = num_labels + 1
    if rng.random() < CLASSED_SHARE:
        classes = rng.uniform(0.05, 0.95, size=int(rng.integers(3, 9)))
        grey = classes[rng.integers(classes.size, size=size)]
        grey = grey + rng.normal(0.0, float(rng.choice([0.01, 0.06])), size=size)
    else:
        grey = np.clip(rng.normal(0.5, rng.uniform(0.05, 0.14), size=size), 0.05, 0.95)
        lot = rng.random(size)
        grey = np.where(lot < BRIGHT_SHARE, rng.uniform(0.7, 1.0, size=size), grey)
        grey = np.where(lot > 1 - DARK_SHARE, rng.uniform(0.0, 0.2, size=size), grey)
    fine, coarse = (np.abs(rng.normal(0.0, rng.uniform(0.005, 0.035), size=size)) for _ in range(2))
    return Contrast(
        grey=grey.astype(np.float32), fine=fine.astype(np.float32), coarse=coarse.astype(np.float32)
    )


def find_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the labels that are the left and the right one of a structure, by their names.

    Args:
        names: Label 1 first.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for label, name in enumerate(names, start=1):
        side = _SIDE.search(name)
        if side is not None:
            rest = _SIDE.sub("", name, count=1)
            found.setdefault(" ".join(rest.split()), []).append((label, side.group()[0].lower()))
    return [
        (both[0][0], both[1][0]) for both in found.values() if len(both) == 2 and both[0][1] != both[1][1]
    ]


def _shade_lesions(rng: np.random.Generator, contrast: Contrast, lesions: Sequence[Lesion]) -> None:
    """Set each lesion off from its host, and each core from its rim, mostly a little."""
    for lesion in lesions:
        if lesion.twin is not None and rng.random() < TWIN_ALIKE_SHARE:
            contrast.copy_look(lesion.twin, lesion.label)
            continue
        ground = float(contrast.grey[lesion.host if lesion.rim is None else lesion.rim])
        change = float(rng.uniform(0.06, 0.4)) * float(rng.choice([-1.0, 1.0]))
        is_shown = 0.0 <= ground + change <= 1.0
        contrast.grey[lesion.label] = ground + change if is_shown else ground - change


def _paint_surroundings(rng: np.random.Generator, grid: Grid, is_empty: npt.NDArray[np.bool_]) -> Floats:
    """Paint tissue without a label, and air, where the map is empty, (z, y, x)."""
    air = float(rng.choice([0.0, 0.02, rng.uniform(0.0, 0.15)]))
    if is_empty.mean() < SMALLEST_SHARE or rng.random() < FLAT_SHARE:
        return np.full(grid.shape, rng.choice([air, rng.uniform(0.1, 0.45)]), dtype=np.float32)
    tissue = _paint_tissue(rng, grid)
    if rng.random() > BODY_SHARE:
        return tissue
    return np.asarray(air + _body(rng, grid, is_empty) * (tissue - air), dtype=np.float32)


def _paint_tissue(rng: np.random.Generator, grid: Grid) -> Floats:
    """Paint patches with borders, or one grey, with a texture."""
    view_mm, pixel_mm = grid.size_mm[2], grid.step_mm[2]
    ground = float(rng.uniform(0.08, 0.6))
    tissue = np.full(grid.shape, ground, dtype=np.float32)
    if rng.random() < PATCHY_SHARE:
        field = smooth_field(rng, grid, view_mm * float(rng.uniform(0.04, 0.2)))
        borders = np.sort(rng.normal(0.0, 0.9, size=int(rng.integers(1, 4))))
        greys = ground + rng.uniform(-0.2, 0.3, size=borders.size + 1)
        tissue = np.clip(greys, 0.0, 1.0).astype(np.float32)[np.digitize(field, borders)]
    tissue += np.float32(rng.uniform(0.005, 0.045)) * smooth_field(
        rng, grid, pixel_mm * rng.uniform(2.0, 8.0)
    )
    return tissue


def _body(rng: np.random.Generator, grid: Grid, is_empty: npt.NDArray[np.bool_]) -> Floats:
    """Return 1 within a smooth body around the structures and 0 in the air."""
    filled = ~is_empty[:, ::COARSENESS_PX, ::COARSENESS_PX]
    reach = float(rng.uniform(2.0, 7.0))
    near = ndimage.gaussian_filter(filled.astype(np.float32), (1.0, reach, reach), truncate=2.5)
    num_rows, num_columns = grid.shape[1:]
    for axis, size in ((1, num_rows), (2, num_columns)):
        near = _stretch(near, axis, size)
    near += np.float32(0.02) * smooth_field(rng, grid, grid.size_mm[2] * 0.3)
    return np.clip((near - np.float32(rng.uniform(0.05, 0.2))) / np.float32(0.02), 0.0, 1.0)


def _stretch(values: Floats, axis: int, size: int) -> Floats:
    """Interpolate linearly between every fourth row or column."""
    place = np.arange(size, dtype=np.float32) / COARSENESS_PX
    first = np.minimum(place.astype(np.intp), values.shape[axis] - 1)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    fraction = (place - first).reshape((1, -1, 1) if axis == 1 else (1, 1, -1)).astype(np.float32)
    lower, upper = values.take(first, axis), values.take(second, axis)
    return np.asarray(lower + np.clip(fraction, 0.0, 1.0) * (upper - lower))
