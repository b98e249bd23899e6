"""Prompts that were drawn: what a rough mask, or a mask of RECIST lines, says about each of its labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsam2.errors import PromptError
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.statements import PixelMm, box_around, line_in_mask
from medsam2.prompts.types import MAX_OBJECTS, Box, MaskPrompt, Prompt

DRAWN_AS = ("mask", "box", "recist")
"""What a drawing stands for: the object's outline in that slice, the box around it, or its diameter."""


def largest_slices(slices: npt.NDArray[np.generic]) -> dict[int, int]:
    """Return, for each label, the slice in which it covers most pixels; of equals, the middle one.

    Args:
        slices: Labels `(z, y, x)`, slices first; integers, or floats that are whole. 0 is nothing.

    Raises:
        PromptError: Nothing is drawn, or a label is not a whole number from 1 to `MAX_OBJECTS`.
    """
    areas: dict[int, dict[int, int]] = {}
    for z, plane in enumerate(slices):
        values, counts = np.unique(plane[plane != 0], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not float(value).is_integer():
                raise PromptError(
                    f"the mask holds the value {value:g}; labels are whole numbers, 1 to {MAX_OBJECTS}"
                )
            areas.setdefault(int(value), {})[z] = count
    if areas and not (min(areas) >= 1 and max(areas) <= MAX_OBJECTS):
        odd = min(areas) if min(areas) < 1 else max(areas)
        raise PromptError(
            f"the mask holds the value {odd}; labels are 1 to {MAX_OBJECTS}, so choose those to take with "
            "--mask-label, by value or name"
        )
    if not areas:
        raise PromptError("the mask is empty: at least one voxel must be inside")
    return {label: _middle_largest(areas[label]) for label in sorted(areas)}


def drawn_prompts(
    slices: npt.NDArray[np.generic],
    *,
    drawn_as: str = "mask",
    pixel_mm: PixelMm = (1.0, 1.0),
) -> dict[int, Prompt]:
    """Make one prompt of each label of a mask.

    Args:
        slices: Labels `(z, y, x)`, slices first.
        drawn_as: One of `DRAWN_AS`. "mask" and "box" take a label's largest slice; for "recist" a label is a
            line on a single slice.
        pixel_mm: By which a line's length, and "across" it, are meant.

    Raises:
        PromptError: See `largest_slices`, or a label is no line on one slice.
    """
    if drawn_as not in DRAWN_AS:
        raise PromptError(f"a drawing is taken as {', '.join(DRAWN_AS)}, not as {drawn_as!r}")
    prompts: dict[int, Prompt] = {}
    for label, z in largest_slices(slices).items():
        plane = np.asarray(slices[z] == label)
        if drawn_as == "mask":
            prompts[label] = Prompt(slice_index=z, mask=MaskPrompt(array=plane))
        elif drawn_as == "box":
            prompts[label] = Prompt(slice_index=z, box=_with_area(plane, label, z))
        else:
            _check_alone(slices, label, z)
            try:
                line = line_in_mask(plane, pixel_mm=pixel_mm)
            except PromptError as error:
                raise PromptError(f"label {label}, slice {z}: {error}") from None
            prompts[label] = Prompt(
                slice_index=z, box=box_around(line, shape_yx=plane.shape, pixel_mm=pixel_mm)
            )
    return prompts


def _middle_largest(areas: dict[int, int]) -> int:
    largest = [z for z, area in sorted(areas.items()) if area == max(areas.values())]
    return largest[len(largest) // 2]


def _with_area(plane: npt.NDArray[np.bool_], label: int, z: int) -> Box:
    box = tight_box(plane)
    if box.x_min == box.x_max or box.y_min == box.y_max:
        raise PromptError(f"label {label} is a single row of pixels on slice {z}: that is no box, but a line")
    return box


def _check_alone(slices: npt.NDArray[np.generic], label: int, z: int) -> None:
    drawn = [index for index, plane in enumerate(slices) if bool(np.any(plane == label))]
    if drawn != [z]:
        raise PromptError(
            f"label {label} is drawn on slices {drawn[0]} to {drawn[-1]}: a RECIST line lies on one slice"
        )
