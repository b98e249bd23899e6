"""Turn the prompts of files into prompts on the slices of a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError, PromptError
from medsam2.imaging.drawings import DrawnLabel, listed, read_drawing
from medsam2.imaging.geometry import cut_of_plane, plane_axis, slices_along
from medsam2.inference.grid import SliceGrid
from medsam2.prompts.statements import MaskFile, Prompts, Statement, box_around, drawn_prompts, points_along
from medsam2.prompts.types import MAX_OBJECTS, Box, MaskPrompt, Prompt, check_slice

_Stack = npt.NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of a job."""

    prompts: Mapping[int, Sequence[Prompt]]
    """By object number."""
    names: Mapping[int, str | None] = field(default_factory=dict)
    windows: Sequence[tuple[float, float] | str] = ()
    """That a file of prompts wants, limits or names; more than one where it does not agree with itself."""
    where: str = ""
    """The file."""

    def window(self) -> tuple[float, float] | str | None:
        """The window that the prompts come with.

        Raises:
            PromptError: There are several.
        """
        if len(self.windows) > 1:
            listed = ", ".join(w if isinstance(w, str) else f"{w[0]:g} to {w[1]:g}" for w in self.windows)
            raise PromptError(f"{self.where}: has several windows ({listed}); keep one of them")
        return next(iter(self.windows), None)


def objects_of(content: Prompts, where: object, grid: SliceGrid) -> Objects:
    """Turn what a file says into objects with prompts on the slices of a volume.

    Args:
        content: What the file says.
        where: The file.
        grid: The volume.

    Returns:
        Objects with one prompt for each slice that has some. Whether boxes and points lie in the volume is
        checked when the prompts are added to a session.

    Raises:
        PromptError: Something does not lie in the volume; the message begins with the place in the file.
        InputError: A mask file cannot be read; its subclass GeometryError: it is not on the volume's grid.
    """
    if content.is_shown and grid.axis != plane_axis(grid.volume.affine, "axial"):
        raise PromptError("the prompts are for axial slices: cut the image that way, plane axial")

    @cache
    def labels(path: Path) -> _Stack:
        return slices_along(read_drawing(path, grid.volume).stack(), grid.axis)

    return Objects(
        prompts={
            item.number: _merged(
                [
                    _prompt(statement, grid, labels, is_shown=content.is_shown)
                    for statement in item.statements
                ],
                item.title,
            )
            for item in content.objects
        },
        names={item.number: item.name for item in content.objects},
        windows=content.windows,
        where=str(where),
    )


def objects_in_mask(
    path: Path, grid: SliceGrid, *, drawn_as: str = "mask", wanted: Sequence[str] = ()
) -> Objects:
    """Turn labels of a rough mask, or of a mask of RECIST lines, into objects with one prompt each.

    Args:
        path: See `imaging.drawings.read_drawing`; in whatever voxel order.
        grid: The volume.
        drawn_as: See `prompts.statements.DRAWN_AS`.
        wanted: Numbers or names of the labels to take; all if none is given.

    Returns:
        Each object has its label's number, or the next that is free if that is above `MAX_OBJECTS`.

    Raises:
        PromptError: It is empty, or holds something else than labels.
        InputError: See `objects_of`, or there is no such label.
    """
    drawing = read_drawing(path, grid.volume)
    chosen = drawing.chosen(wanted)
    numbers = _numbered(chosen) if wanted else {label: label.number for label in chosen}
    prompts: dict[int, Prompt] = {}
    try:
        for index in sorted({label.layer for label in chosen}) or [0]:
            layer = np.zeros(grid.volume.shape, np.int64)
            for label in chosen:
                if label.layer == index:
                    layer[drawing.mask(label)] = numbers[label]
            slices = slices_along(layer, grid.axis)
            prompts |= drawn_prompts(slices, drawn_as=drawn_as, pixel_mm=grid.in_plane_mm)
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None
    names = {
        numbers[label]: label.name or (f"label {label.number}" if numbers[label] != label.number else None)
        for label in chosen
    }
    return Objects(prompts={number: [prompts[number]] for number in sorted(prompts)}, names=names)


def slice_of_mask(path: Path, grid: SliceGrid, slice_index: int, wanted: Sequence[str] = ()) -> MaskPrompt:
    """Take what one label of a mask file covers on one slice.

    Args:
        path: See `imaging.drawings.read_drawing`.
        grid: The volume.
        slice_index: Along the grid's axis.
        wanted: Number or name of the label; not needed if the slice has one.

    Raises:
        PromptError: Several labels are on the slice and none is chosen, or nothing is there.
        InputError: The file cannot be read, or there is no such label.
    """
    drawing = read_drawing(path, grid.volume)
    planes = {
        label: slices_along(drawing.mask(label), grid.axis)[slice_index] for label in drawing.chosen(wanted)
    }
    there = [label for label, plane in planes.items() if plane.any()]
    if len(there) > 1:
        raise PromptError(
            f"{path}: slice {slice_index} holds the labels {listed(there)}, and the prompt is one object; "
            "choose one with --mask-label, or take each with --from-mask"
        )
    if not there:
        raise PromptError(f"{path}: nothing is drawn on slice {slice_index}; a mask has a voxel inside")
    return MaskPrompt(array=np.ascontiguousarray(planes[there[0]]))


def _numbered(chosen: Sequence[DrawnLabel]) -> dict[DrawnLabel, int]:
    """Give each label its own number if a mask can hold it, else the lowest that is free.

    Raises:
        InputError: There are more than a mask can hold.
    """
    taken = {label.number for label in chosen if 1 <= label.number <= MAX_OBJECTS}
    free = (number for number in range(1, MAX_OBJECTS + 1) if number not in taken)
    if len(chosen) > MAX_OBJECTS:
        raise InputError(f"{len(chosen)} labels are chosen; a mask holds {MAX_OBJECTS} objects at most")
    return {label: label.number if label.number in taken else next(free) for label in chosen}


def _prompt(
    statement: Statement, grid: SliceGrid, labels: Callable[[Path], _Stack], *, is_shown: bool
) -> Prompt:
    try:
        if statement.mask is not None:
            prompt = _drawn(statement.mask, statement.slice_index, labels(statement.mask.path))
            return replace(prompt, where=statement.where)
        assert statement.slice_index is not None  # only masks go without
        check_slice(statement.slice_index, grid.shape[0])
        box, points = statement.box, statement.points
        if box is not None and is_shown:
            box = _box_in_file(box, grid)
        if statement.line is not None:
            box = box_around(statement.line, shape_yx=grid.shape[1:], pixel_mm=grid.in_plane_mm)
            points += points_along(statement.line, statement.line_points)
        return Prompt(slice_index=statement.slice_index, box=box, points=points, where=statement.where)
    except InputError as error:
        raise type(error)(f"{statement.where}: {error}") from None


def _drawn(mask: MaskFile, slice_index: int | None, stack: _Stack) -> Prompt:
    """Take one label of a mask file, on the slice that is named or where it is largest."""
    if slice_index is not None:
        check_slice(slice_index, len(stack))
    part = stack if slice_index is None else stack[slice_index]
    where = "" if slice_index is None else f" on slice {slice_index}"
    there = [value for value in np.unique(part).tolist() if value]
    listed = ", ".join(f"{value:g}" for value in there) or "none"
    if mask.label is None and len(there) > 1:
        raise PromptError(f"{mask.path} holds the labels {listed}{where}: choose one by mask_label")
    label = mask.label if mask.label is not None else next(iter(there), None)
    if label not in there:
        wanted = "no label" if label is None else f"no label {label}, its labels are {listed}"
        raise PromptError(f"{mask.path} holds {wanted}{where}")
    if slice_index is None:
        slice_index = int(np.argmax([np.count_nonzero(plane == label) for plane in stack]))
    return Prompt(slice_index=slice_index, mask=MaskPrompt(array=np.asarray(stack[slice_index] == label)))


def _box_in_file(box: Box, grid: SliceGrid) -> Box:
    """A box on an axial picture as radiologists see it, in pixels of the file and cut off at the edge."""
    shape_yx = grid.shape[1:]
    cut = cut_of_plane(grid.volume.affine, "axial")
    ends = [cut.file_point(x, y, shape_yx) for x, y in ((box.x_min, box.y_min), (box.x_max, box.y_max))]
    limits = np.array(shape_yx[::-1]) - 1
    low, high = (edge.clip(0, limits) for edge in (np.min(ends, axis=0), np.max(ends, axis=0)))
    return Box.from_xyxy([*low.tolist(), *high.tolist()])


def _merged(prompts: Sequence[Prompt], title: str) -> list[Prompt]:
    """Put together what a file says about the same slice of one object."""
    by_slice: dict[int, Prompt] = {}
    for prompt in prompts:
        earlier = by_slice.setdefault(prompt.slice_index, prompt)
        if earlier is prompt:
            continue
        if (earlier.box is not None and prompt.box is not None) or earlier.mask or prompt.mask:
            raise PromptError(
                f"{prompt.where}: slice {prompt.slice_index} of {title} has a box or a mask already; "
                "say it once, or as another object"
            )
        by_slice[prompt.slice_index] = replace(
            earlier, box=earlier.box or prompt.box, points=earlier.points + prompt.points
        )
    return list(by_slice.values())
