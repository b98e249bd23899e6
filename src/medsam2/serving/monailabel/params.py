"""The parameters of a viewer's request: clicks, a region, the window, the format of the mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from medsam2.errors import InputError
from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.prompts.types import Box, Point, Prompt
from medsam2.serving.http_errors import shown
from medsam2.serving.monailabel.datastore import MASKS, ORIGINAL, checked_tag
from medsam2.serving.schemas import MAX_POINTS, Expected, Memory, Number, OneOf, validated

LABEL = "object"
"""Name of an object without a name."""
AUTO = "auto"
"""A viewer sends it where nobody has chosen a window."""
WINDOWS = (AUTO, *WINDOW_PRESETS)
_NUMBERS = TypeAdapter(list[Number])
_DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32")


@dataclass(frozen=True, kw_only=True)
class Click:
    """A voxel inside or outside the object, in the order of the file's axes."""

    i: float
    j: float
    k: int | None
    """None for a picture."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle around the object, and the slices that it spans."""

    box: Box
    first: int | None = None
    """First and last slice, both included; None where only the rectangle is given."""
    last: int | None = None


def _to_whole(value: object) -> int:
    """Take a whole number in any form: viewers send what a user types as text, and indices as floats."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != math.floor(number):
        raise ValueError
    return int(number)


def _to_list(value: object) -> object:
    if not isinstance(value, list):
        raise PydanticCustomError("expected", "a list of voxels [i, j, k] is expected")
    return value


def _to_click(value: object) -> Click:
    ends = _NUMBERS.validate_python(value)
    if len(ends) not in (2, 3):
        raise ValueError
    return Click(i=ends[0], j=ends[1], k=_to_whole(ends[2]) if len(ends) == 3 else None)


def _to_region(value: object) -> Region:
    """Slicer sends both ends of each axis, in either order; four numbers are a box."""
    ends = _NUMBERS.validate_python(value)
    if len(ends) == 4:
        return Region(box=Box.from_xyxy(ends))
    if len(ends) != 6:
        raise ValueError
    (x_min, x_max), (y_min, y_max), (first, last) = (sorted(ends[at : at + 2]) for at in (0, 2, 4))
    box = Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return Region(box=box, first=_to_whole(first), last=_to_whole(last))


def _to_window(value: object) -> str | tuple[float, float] | None:
    if value in (AUTO, "none"):
        return None
    if isinstance(value, str) and value.strip().lower() in WINDOW_PRESETS:
        return value
    limits: object = value.replace(",", " ").split() if isinstance(value, str) else value
    lower, upper = (float(limit) for limit in limits) if isinstance(limits, list) else (math.nan, math.nan)
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError
    return lower, upper


def _to_flag(value: object) -> object:
    """Add two words for no to those that pydantic knows."""
    word = value.strip().lower() if isinstance(value, str) else value
    return False if word in ("", "none") else word


Flag = Annotated[bool, BeforeValidator(_to_flag), Expected("true or false is expected")]
_Clicks = Annotated[
    list[
        Annotated[
            Click,
            PlainValidator(_to_click),
            Expected("a click is a voxel of three numbers [i, j, k], where k is a whole number"),
        ]
    ],
    BeforeValidator(_to_list),
]
_Region = Annotated[
    Region,
    PlainValidator(_to_region),
    Expected(
        "six numbers [i_min, i_max, j_min, j_max, k_min, k_max], where k is whole, "
        "or four [x_min, y_min, x_max, y_max] are expected"
    ),
]
_FLAG = TypeAdapter(Flag)


def flag(word: str, name: str) -> bool:
    """Read yes or no from a query, in the words that viewers have for it; no word is no.

    Raises:
        InputError: It is neither.
    """
    try:
        return _FLAG.validate_python(word)
    except ValidationError:
        raise InputError(f"{name} is {shown(word)}; true or false is expected") from None


class ViewerParams(BaseModel):
    """What a viewer asks for; whether the places lie in the image is checked with the image.

    Numbers and flags may come as text. Keys that have no meaning here are ignored.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    foreground: _Clicks = []
    background: _Clicks = []
    roi: _Region | None = None
    slice: Annotated[int, PlainValidator(_to_whole), Expected("a whole number is expected")] | None = None
    """The slice of clicks and of a roi without one of their own."""
    window: Annotated[
        str | tuple[float, float] | None,
        PlainValidator(_to_window),
        Expected(f"[lower, upper] with lower < upper, or one of {', '.join(WINDOWS)} is expected"),
    ] = None
    memory: Memory = "recent"
    largest_cc: Flag = False
    """Keep only the part of the mask that holds the prompt."""
    label: Annotated[str, BeforeValidator(lambda name: name if isinstance(name, str) else LABEL)] = LABEL
    result_extension: Annotated[str, OneOf(MASKS)] | None = None
    """Format of the mask; the image's format if not given."""
    result_dtype: Annotated[str, OneOf(_DTYPES)] = "uint8"
    result_compress: Flag = True
    result_write_to_file: Flag = True
    """Whether the answer has a file."""
    save_label: Flag = False
    """Store the mask as a label of its image as well."""
    label_tag: Annotated[str, BeforeValidator(str)] = ORIGINAL

    @model_validator(mode="before")
    @classmethod
    def _without_empties(cls, values: Mapping[str, object]) -> dict[str, object]:
        """Leave out empty values, which viewers send where nothing is chosen; an empty flag means no."""
        flags = {key for key, entry in cls.model_fields.items() if isinstance(entry.default, bool)}
        return {
            key: value
            for key, value in values.items()
            if value is not None and value != [] and (value != "" or key in flags)
        }

    @property
    def has_prompt(self) -> bool:
        """Whether there is a click on the object, or a region around it."""
        return self.roi is not None or bool(self.foreground)

    def prompts(self, shape_zyx: tuple[int, int, int]) -> list[Prompt]:
        """Turn clicks and region into one prompt per slice; prompts that show where the object is come first.

        The rectangle of a region is taken for the slice that the viewer names, or else for the middle one of
        those that the region spans.

        Raises:
            InputError: There is no prompt, or it does not say which slice it is for.
        """
        if not self.has_prompt:
            raise InputError("there is no prompt: give clicks as foreground [[i, j, k], ...], or a roi")
        depth, height, width = shape_zyx
        points: dict[int, list[Point]] = {}
        for clicks, is_positive in ((self.foreground, True), (self.background, False)):
            for click in clicks:
                k = self._slice_of(click.k, depth, "a click")
                points.setdefault(k, []).append(Point(x=click.i, y=click.j, is_positive=is_positive))
        boxes: dict[int, Box] = {}
        if self.roi is not None:
            boxes[self._key_slice(self.roi, depth)] = _cut_off(self.roi, height, width)
        prompts = [
            Prompt(slice_index=k, box=boxes.get(k), points=tuple(points.get(k, ())))
            for k in sorted(points.keys() | boxes.keys())
        ]
        return sorted(prompts, key=lambda prompt: not shows_object(prompt))

    def _slice_of(self, k: int | None, depth: int, what: str) -> int:
        found = k if k is not None else self.slice
        if found is None and depth == 1:
            return 0
        if found is None:
            raise InputError(f"{what} names no slice: give it as third number, or as slice")
        return found

    def _key_slice(self, region: Region, depth: int) -> int:
        if self.slice is not None or region.first is None or region.last is None:
            return self._slice_of(None, depth, "the roi")
        first, last = max(region.first, 0), min(region.last, depth - 1)
        if first > last:
            raise InputError(
                f"the roi spans the slices {region.first} to {region.last}; there are 0 to {depth - 1}"
            )
        return (first + last) // 2


def read_params(params: Mapping[str, object]) -> ViewerParams:
    """Read the parameters of a request.

    Raises:
        InputError: A value is not usable; the message names it and says what is expected.
    """
    found = validated(ViewerParams, params)
    num_clicks = len(found.foreground) + len(found.background)
    if num_clicks > MAX_POINTS:
        raise InputError(f"there are {num_clicks} clicks; at most {MAX_POINTS} are taken")
    if found.save_label:
        checked_tag(found.label_tag)
    return found


def shows_object(prompt: Prompt) -> bool:
    """Whether a prompt shows where the object is, and not only where it is not."""
    return prompt.box is not None or any(point.is_positive for point in prompt.points)


def _cut_off(region: Region, height: int, width: int) -> Box:
    """Cut a rectangle at the edges of the slice: one that was drawn in 3D may extend beyond the image."""
    box = region.box
    is_inside = box.x_min < width and box.x_max >= 0 and box.y_min < height and box.y_max >= 0
    if region.first is None or not is_inside:
        return box  # the check of prompts refuses it, with its own numbers
    x_min, x_max = (min(max(end, 0.0), width - 1.0) for end in (box.x_min, box.x_max))
    y_min, y_max = (min(max(end, 0.0), height - 1.0) for end in (box.y_min, box.y_max))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
