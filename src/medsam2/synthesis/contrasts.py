"""How bright and how textured each label of a painted stack is, and what lies around the labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.lesions import Lesion
from medsam2.synthesis.render import Floats, Grid, smooth_field

CLASSED_SHARE = 0.4
"""Of stacks whose labels share a few greys; the others look like soft tissue."""
BRIGHT_SHARE = 0.18
DARK_SHARE = 0.07
PAIR_ALIKE_SHARE = 0.9
TWIN_ALIKE_SHARE = 0.8

_SIDE = re.compile(r"\b(?:[Ll]eft|[Rr]ight|L|R)\b")


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


def match_pairs(rng: np.random.Generator, contrast: Contrast, pairs: Sequence[tuple[int, int]]) -> None:
    """Make most pairs alike, as the two sides of a body are."""
    for first, second in pairs:
        if rng.random() < PAIR_ALIKE_SHARE:
            contrast.copy_look(first, second)


def shade_lesions(rng: np.random.Generator, contrast: Contrast, lesions: Sequence[Lesion]) -> None:
    """Set each lesion off from its host, and each core from its rim."""
    for lesion in lesions:
        if lesion.twin is not None and rng.random() < TWIN_ALIKE_SHARE:
            contrast.copy_look(lesion.twin, lesion.label)
            continue
        ground = float(contrast.grey[lesion.host if lesion.rim is None else lesion.rim])
        contrast.grey[lesion.label] = _another_grey(rng, ground)


def _another_grey(rng: np.random.Generator, ground: float) -> float:
    """Draw a grey that differs from another one, mostly a little."""
    change = float(rng.uniform(0.06, 0.4)) * float(rng.choice([-1.0, 1.0]))
    return ground + change if 0.0 <= ground + change <= 1.0 else ground - change


SMALLEST_SHARE = 0.1
"""Where less of a stack is empty, it is one grey."""
FLAT_SHARE = 0.2
PATCHY_SHARE = 0.6
"""Of textured surroundings that have patches as of several tissues."""
BODY_SHARE = 0.55
"""Of textured surroundings that end at a skin around the structures, with air beyond."""
COARSENESS_PX = 4
"""The body is found on every fourth row and column."""


def paint_surroundings(rng: np.random.Generator, grid: Grid, is_empty: npt.NDArray[np.bool_]) -> Floats:
    """Paint tissue that nobody has labelled, and air.

    Args:
        rng: Source of randomness.
        grid: Voxels to fill.
        is_empty: (z, y, x), where the map has nothing.

    Returns:
        Grey values (z, y, x).
    """
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
