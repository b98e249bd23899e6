"""Turn prompts from the file's slices to the slices as they are shown."""

from __future__ import annotations

from dataclasses import replace

from medsam2.imaging.cut import Cut
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt


def shown_prompt(prompt: Prompt, cut: Cut, shape_zyx: tuple[int, int, int]) -> Prompt:
    """Return a prompt where the slice that it was made on is shown.

    Args:
        prompt: In slices and pixels of the file.
        cut: How slices are shown.
        shape_zyx: Number of slices, and a slice's height and width, of the file.
    """
    num_slices, *shape = shape_zyx
    shape_yx = shape[0], shape[1]
    return replace(
        prompt,
        slice_index=cut.turn_index(prompt.slice_index, num_slices),
        box=None if prompt.box is None else _shown_box(prompt.box, cut, shape_yx),
        points=tuple(_shown_point(point, cut, shape_yx) for point in prompt.points),
        mask=None if prompt.mask is None else MaskPrompt(array=cut.show(prompt.mask.array)),
    )


def _shown_box(box: Box, cut: Cut, shape_yx: tuple[int, int]) -> Box:
    corners = (
        cut.show_point(box.x_min, box.y_min, shape_yx),
        cut.show_point(box.x_max, box.y_max, shape_yx),
    )
    xs, ys = zip(*corners, strict=True)
    return Box(x_min=min(xs), y_min=min(ys), x_max=max(xs), y_max=max(ys))


def _shown_point(point: Point, cut: Cut, shape_yx: tuple[int, int]) -> Point:
    x, y = cut.show_point(point.x, point.y, shape_yx)
    return replace(point, x=x, y=y)
