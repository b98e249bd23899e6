"""Bring what files say to an open volume: slices, pixels and masks of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError, PromptError
from medsam2.imaging.cut import cut_of_plane
from medsam2.imaging.drawings import DrawnLabel, listed, read_drawing
from medsam2.imaging.geometry import plane_axis, slices_along
from medsam2.inference.session import Session
from medsam2.prompts.drawn import drawn_prompts
from medsam2.prompts.statements import MaskFile, Prompts, Statement, box_around, points_along
from medsam2.prompts.types import MAX_OBJECTS, Box, MaskPrompt, Prompt, check_slice

_Stack = npt.NDArray[np.generic]


def prompts_of(said: Prompts, session: Session) -> dict[int, list[Prompt]]:
    """Turn what a file says into prompts on the slices of a session.

    Returns:
        For each object's number one prompt for each slice that something is said about.

    Raises:
        PromptError: Something does not lie in the volume; the message begins with the place where it is said.
        InputError: A mask file cannot be read; its subclass GeometryError: it is not on the volume's grid.
    """
    if said.is_shown and session.axis != plane_axis(session.volume.affine, "axial"):
        raise PromptError("the prompts are for axial slices: cut the image that way, plane axial")

    @cache
    def labels(path: Path) -> _Stack:
        return slices_along(read_labels(path, session), session.axis)

    return {
        item.number: _merged(
            [
                (statement.where, _prompt(statement, session, labels, is_shown=said.is_shown))
                for statement in item.statements
            ],
            item.title,
        )
        for item in said.objects
    }


@dataclass(frozen=True, kw_only=True)
class DrawnObject:
    """An object that a mask file holds."""

    number: int
    """Its label in the mask; the next that is free if that is above `MAX_OBJECTS`."""
    name: str | None
    prompt: Prompt


def objects_in_mask(
    path: Path, session: Session, *, drawn_as: str = "mask", wanted: Sequence[str] = ()
) -> list[DrawnObject]:
    """Turn labels of a rough mask, or of a mask of RECIST lines, into prompts.

    Args:
        path: See `imaging.drawings.read_drawing`; in whatever voxel order.
        session: The open volume.
        drawn_as: See `prompts.drawn.DRAWN_AS`.
        wanted: Numbers or names of the labels to take; all if none is given.

    Raises:
        PromptError: It is empty, or holds something else than labels.
        InputError: See `prompts_of`, or there is no such label.
    """
    drawing = read_drawing(path, session.volume)
    chosen = drawing.chosen(wanted)
    numbers = _numbered(chosen) if wanted else {label: label.number for label in chosen}
    prompts: dict[int, Prompt] = {}
    try:
        for index in sorted({label.layer for label in chosen}) or [0]:
            layer = np.zeros(session.volume.shape, np.int64)
            for label in chosen:
                if label.layer == index:
                    layer[drawing.mask(label)] = numbers[label]
            slices = slices_along(layer, session.axis)
            prompts |= drawn_prompts(slices, drawn_as=drawn_as, pixel_mm=session.in_plane_mm)
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None
    names = {
        numbers[label]: label.name or (f"label {label.number}" if numbers[label] != label.number else None)
        for label in chosen
    }
    return [
        DrawnObject(number=number, name=names[number], prompt=prompts[number]) for number in sorted(prompts)
    ]


def prompts_in_mask(path: Path, session: Session, *, drawn_as: str = "mask") -> dict[int, list[Prompt]]:
    """Turn each label of a mask into a prompt, as `objects_in_mask` does.

    Raises:
        InputError: See `objects_in_mask`.
    """
    return {one.number: [one.prompt] for one in objects_in_mask(path, session, drawn_as=drawn_as)}


def slice_of_mask(path: Path, session: Session, slice_index: int, wanted: Sequence[str] = ()) -> MaskPrompt:
    """Take what one label of a mask file covers on one slice.

    Args:
        path: See `imaging.drawings.read_drawing`.
        session: The open volume.
        slice_index: Along the session's axis.
        wanted: Number or name of the label; not needed if the slice has one.

    Raises:
        PromptError: Several labels are on the slice and none is chosen, or nothing is there.
        InputError: The file cannot be read, or there is no such label.
    """
    drawing = read_drawing(path, session.volume)
    planes = {
        label: slices_along(drawing.mask(label), session.axis)[slice_index]
        for label in drawing.chosen(wanted)
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


def add_prompts(session: Session, prompts: Mapping[int, Sequence[Prompt]]) -> None:
    """Add prompts to a session, by object number; a prompt that does not lie in it keeps all others out.

    Raises:
        PromptError: A prompt does not lie in the volume.
    """
    for said in prompts.values():
        for prompt in said:
            prompt.checked(session.shape)
    for number, said in prompts.items():
        for prompt in said:
            session.add(
                number,
                slice=prompt.slice_index,
                box=None if prompt.box is None else prompt.box.xyxy,
                points=[(point.x, point.y) for point in prompt.points],
                labels=[int(point.is_positive) for point in prompt.points],
                mask=None if prompt.mask is None else prompt.mask.array,
            )


def read_labels(path: Path, session: Session) -> _Stack:
    """Read a mask and bring it to the order of the volume's voxels, `(z, y, x)`.

    Raises:
        InputError: The file cannot be read.
        GeometryError: It does not lie on the volume's grid; the message begins with the file.
    """
    return read_drawing(path, session.volume).stack()


def _prompt(
    statement: Statement, session: Session, labels: Callable[[Path], _Stack], *, is_shown: bool
) -> Prompt:
    try:
        if statement.mask is not None:
            return _drawn(statement.mask, statement.slice_index, labels(statement.mask.path))
        assert statement.slice_index is not None  # said of everything but masks
        check_slice(statement.slice_index, session.shape[0])
        box, points = statement.box, statement.points
        if box is not None and is_shown:
            box = _filed_box(box, session)
        if statement.line is not None:
            box = box_around(statement.line, shape_yx=session.shape[1:], pixel_mm=session.in_plane_mm)
            points += points_along(statement.line, statement.line_points)
        return Prompt(slice_index=statement.slice_index, box=box, points=points).checked(session.shape)
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


def _filed_box(box: Box, session: Session) -> Box:
    """A box on an axial picture as radiologists see it, in pixels of the file and cut off at the edge."""
    shape_yx = session.shape[1:]
    cut = cut_of_plane(session.volume.affine, "axial")
    ends = [cut.file_point(x, y, shape_yx) for x, y in ((box.x_min, box.y_min), (box.x_max, box.y_max))]
    limits = np.array(shape_yx[::-1]) - 1
    low, high = (edge.clip(0, limits) for edge in (np.min(ends, axis=0), np.max(ends, axis=0)))
    return Box.from_xyxy([*low.tolist(), *high.tolist()])


def _merged(said: Sequence[tuple[str, Prompt]], title: str) -> list[Prompt]:
    """Put together what is said about the same slice of one object."""
    by_slice: dict[int, Prompt] = {}
    for where, prompt in said:
        earlier = by_slice.setdefault(prompt.slice_index, prompt)
        if earlier is prompt:
            continue
        if (earlier.box is not None and prompt.box is not None) or earlier.mask or prompt.mask:
            raise PromptError(
                f"{where}: slice {prompt.slice_index} of {title} has a box or a mask already; "
                "say it once, or as another object"
            )
        by_slice[prompt.slice_index] = Prompt(
            slice_index=prompt.slice_index,
            box=earlier.box or prompt.box,
            points=earlier.points + prompt.points,
        )
    return list(by_slice.values())
