"""Turn prompts from the file's slices to the slices as they are shown, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medsam2.imaging.cut import Cut
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt

_TurnPoint = Callable[[float, float], tuple[float, float]]
_TurnMask = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]


def shown_prompt(prompt: Prompt, cut: Cut, shape_zyx: tuple[int, int, int]) -> Prompt:
    """Return a prompt where the slice that it was made on is shown.

    Args:
        prompt: In slices and pixels of the file.
        cut: How slices are shown.
        shape_zyx: Number of slices, and a slice's height and width, of the file.
    """
    num_slices, *shape = shape_zyx
    shape_yx = shape[0], shape[1]
    turned = replace(prompt, slice_index=cut.turn_index(prompt.slice_index, num_slices))
    return _turned(turned, lambda x, y: cut.show_point(x, y, shape_yx), cut.show)


def filed_prompt(prompt: Prompt, cut: Cut, shape_zyx: tuple[int, int, int]) -> Prompt:
    """Undo `shown_prompt`; the shape is still that of the file."""
    num_slices, *shape = shape_zyx
    shape_yx = shape[0], shape[1]
    turned = replace(prompt, slice_index=cut.turn_index(prompt.slice_index, num_slices))
    return _turned(turned, lambda x, y: cut.file_point(x, y, shape_yx), cut.file)


def _turned(prompt: Prompt, turn_point: _TurnPoint, turn_mask: _TurnMask) -> Prompt:
    return replace(
        prompt,
        box=None if prompt.box is None else _turned_box(prompt.box, turn_point),
        points=tuple(_turned_point(point, turn_point) for point in prompt.points),
        mask=None if prompt.mask is None else MaskPrompt(array=turn_mask(prompt.mask.array)),
    )


def _turned_box(box: Box, turn_point: _TurnPoint) -> Box:
    xs, ys = zip(turn_point(box.x_min, box.y_min), turn_point(box.x_max, box.y_max), strict=True)
    return Box(x_min=min(xs), y_min=min(ys), x_max=max(xs), y_max=max(ys))


def _turned_point(point: Point, turn_point: _TurnPoint) -> Point:
    x, y = turn_point(point.x, point.y)
    return replace(point, x=x, y=y)
