"""Where objects usually lie in corrected scans, as prompts for scans about which nothing is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medsam2.imaging.geometry import slices_along
from medsam2.imaging.grids import match_order
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import Box, Prompt
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import LabelledScan

Place = tuple[float, float, float, float, float]
"""Slice, and box (x_min, y_min, x_max, y_max), each as a part of the scan's length, 0..1."""


def usual_places(scans: Sequence[LabelledScan], plane: str | None) -> dict[int, Place]:
    """Find each label's usual place: the medians of its largest slice and of its box there.

    Args:
        scans: With corrected masks.
        plane: Of the slices; the file's third axis if not given.

    Raises:
        InputError: A scan cannot be read.
    """
    found: dict[int, list[Place]] = {}
    for scan in scans:
        image = read_image(scan)
        axis = slice_axis(image, plane)
        labels = slices_along(whole_numbers(match_order(read_mask(scan), image)), axis)
        for label in (int(value) for value in np.unique(labels) if value):
            found.setdefault(label, []).append(_place(labels == label))
    return {
        label: tuple(float(part) for part in np.median(places, axis=0))  # type: ignore[misc]
        for label, places in found.items()
    }


def prompts_at(places: Mapping[int, Place], shape: tuple[int, int, int]) -> dict[int, list[Prompt]]:
    """Prompt a scan of `(z, y, x)` slices, rows and columns with boxes where objects usually lie."""
    num_slices, height, width = shape
    prompts = {}
    for label, (part_z, *parts) in places.items():
        x_min, y_min, x_max, y_max = (
            round(part * (size - 1)) for part, size in zip(parts, (width, height) * 2, strict=True)
        )
        box = Box(x_min=x_min, y_min=y_min, x_max=max(x_max, x_min + 1), y_max=max(y_max, y_min + 1))
        prompts[label] = [Prompt(slice_index=round(part_z * (num_slices - 1)), box=box)]
    return prompts


def _place(mask: np.ndarray) -> Place:
    key = int(mask.sum(axis=(1, 2)).argmax())
    num_slices, height, width = (max(1, size - 1) for size in mask.shape)
    x_min, y_min, x_max, y_max = tight_box(mask[key]).xyxy
    return key / num_slices, x_min / width, y_min / height, x_max / width, y_max / height
