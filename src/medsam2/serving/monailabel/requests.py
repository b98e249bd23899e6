"""What a viewer requests of the model, as values: clicks, a region, how to look and how to answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.prompts.types import Box, Point, Prompt
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.monailabel.datastore import MASKS, ORIGINAL, checked_tag
from medsam2.serving.rows import MAX_POINTS, MEMORIES

AUTO = "auto"
"""What a viewer sends for a window that nobody has chosen."""
WINDOWS = (AUTO, *WINDOW_PRESETS)
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32")

_TRUE = ("true", "t", "yes", "y", "on", "1")
_FALSE = ("false", "f", "no", "n", "off", "0", "", "none")


def read_asked(params: Mapping[str, object]) -> Asked:
    """Read the parameters of a request; those that mean nothing to us are passed over.

    Raises:
        Fault: 422, a value cannot be; the message names it and what would do.
    """
    clicks = (
        *_clicks(params.get("foreground"), "foreground", is_positive=True),
        *_clicks(params.get("background"), "background", is_positive=False),
    )
    if len(clicks) > MAX_POINTS:
        raise Fault(422, f"there are {len(clicks)} clicks; at most {MAX_POINTS} are taken")
    label = params.get("label")
    return Asked(
        clicks=clicks,
        region=_region(params.get("roi")),
        slice_index=_slice(params.get("slice")),
        window=_window(params.get("window")),
        memory=_choice(params.get("memory"), "memory", MEMORIES),
        keeps_component=True if flag(params.get("largest_cc"), "largest_cc", default=False) else None,
        label=label if isinstance(label, str) and label else LABEL,
        result=ResultForm(
            suffix=_suffix(params.get("result_extension")),
            dtype=_choice(params.get("result_dtype"), "result_dtype", DTYPES),
            is_compressed=flag(params.get("result_compress"), "result_compress", default=True),
            is_wanted=flag(params.get("result_write_to_file"), "result_write_to_file", default=True),
        ),
        saved_tag=_saved_tag(params),
    )


def flag(value: object, name: str, *, default: bool) -> bool:
    """A choice between yes and no, in the words that viewers have for it.

    Raises:
        Fault: 422, it is neither.
    """
    if value is None:
        return default
    word = str(value).strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise Fault(422, f"{name} is {shown(value)}; true or false is expected")
    return word in _TRUE


def _clicks(value: object, name: str, *, is_positive: bool) -> Iterable[Click]:
    if value is None:
        return
    if not isinstance(value, list):
        raise Fault(422, f"{name} is {shown(value)}; a list of voxels [i, j, k] is expected")
    for place in value:
        if not _are_numbers(place) or len(place) not in (2, 3):
            raise Fault(422, f"{name} holds {shown(place)}; a voxel is three numbers [i, j, k]")
        k = _whole(place[2], name) if len(place) == 3 else None
        yield Click(i=float(place[0]), j=float(place[1]), k=k, is_positive=is_positive)


def _region(value: object) -> Region | None:
    """Slicer sends two ends an axis, in whatever order its axes point; four numbers are a box."""
    if value is None or value == []:
        return None
    if not _are_numbers(value) or len(value) not in (4, 6):
        raise Fault(
            422,
            f"roi is {shown(value)}; six numbers [i_min, i_max, j_min, j_max, k_min, k_max], "
            "or four [x_min, y_min, x_max, y_max] are expected",
        )
    ends = [float(end) for end in value]
    if len(ends) == 4:
        return Region(box=Box.from_xyxy(ends))
    (x_min, x_max), (y_min, y_max), (first, last) = (sorted(ends[at : at + 2]) for at in (0, 2, 4))
    box = Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return Region(box=box, first=_whole(first, "roi"), last=_whole(last, "roi"))


def _slice(value: object) -> int | None:
    if value is None or value == "":
        return None
    return _whole(value, "slice")


def _whole(value: object, name: str) -> int:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != math.floor(number):
        raise Fault(422, f"{name} holds {shown(value)} as a slice; a whole number is expected")
    return int(number)


def _window(value: object) -> str | tuple[float, float] | None:
    if value is None or value in ("", AUTO, "none"):
        return None
    if isinstance(value, str) and value.strip().lower() in WINDOW_PRESETS:
        return value
    limits: object = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        lower, upper = (float(limit) for limit in limits)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise Fault(
            422, f"window is {shown(value)}; [lower, upper] or one of {', '.join(WINDOWS)} is expected"
        ) from None
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise Fault(422, f"window is {shown(value)}; two finite numbers, lower < upper, are expected")
    return lower, upper


def _choice(value: object, name: str, choices: Sequence[str]) -> str:
    if value is None or value == "":
        return choices[0]
    if value not in choices:
        raise Fault(422, f"{name} is {shown(value)}; one of {', '.join(choices)} is expected")
    return str(value)


def _suffix(value: object) -> str | None:
    if value is None or value == "":
        return None
    if value not in MASKS:
        raise Fault(422, f"result_extension is {shown(value)}; one of {', '.join(MASKS)} is expected")
    return str(value)


def _saved_tag(params: Mapping[str, object]) -> str | None:
    if not flag(params.get("save_label"), "save_label", default=False):
        return None
    tag = params.get("label_tag") or ORIGINAL
    return checked_tag(str(tag))


def _are_numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(
        isinstance(entry, (int, float)) and not isinstance(entry, bool) and math.isfinite(entry)
        for entry in value
    )


LABEL = "object"
"""Name of what was segmented, where the viewer gives none."""


@dataclass(frozen=True, kw_only=True)
class Click:
    """A voxel inside the object or outside of it, in the file's own order of axes."""

    i: float
    j: float
    k: int | None
    """None for a picture's."""
    is_positive: bool


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle around the object, and the slices that it spans."""

    box: Box
    first: int | None = None
    """Slices, both ends included; None where only the rectangle is given."""
    last: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResultForm:
    """How a mask is to be written."""

    suffix: str | None
    """None as the image is."""
    dtype: str
    is_compressed: bool
    is_wanted: bool
    """Whether a file is sent at all."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to segment; whether the places lie in the image is seen with the image."""

    clicks: tuple[Click, ...]
    region: Region | None
    slice_index: int | None
    window: str | tuple[float, float] | None
    memory: str
    keeps_component: bool | None
    label: str
    result: ResultForm
    saved_tag: str | None
    """Tag that the result is also stored under, or None."""

    @property
    def says_something(self) -> bool:
        """Whether there is anything to begin with."""
        return self.region is not None or any(click.is_positive for click in self.clicks)

    def prompts(self, shape_zyx: tuple[int, int, int]) -> list[Prompt]:
        """What is said about each slice, those first that say where the object is.

        A region is drawn in 3D or on a slice: its rectangle is taken for the slice that the viewer names, or
        else for the middle one of those it spans.

        Raises:
            Fault: 422, nothing is said, or not about which slice.
            PromptError: Something does not lie in the image.
        """
        if not self.says_something:
            raise Fault(
                422, "nothing says what to segment: give clicks as foreground [[i, j, k], ...], or a roi"
            )
        depth, height, width = shape_zyx
        points: dict[int, list[Point]] = {}
        for click in self.clicks:
            k = self._slice_of(click.k, depth, "a click")
            points.setdefault(k, []).append(Point(x=click.i, y=click.j, is_positive=click.is_positive))
        boxes: dict[int, Box] = {}
        if self.region is not None:
            boxes[self._key_slice(self.region, depth)] = _cut_off(self.region, height, width)
        said = [
            Prompt(slice_index=k, box=boxes.get(k), points=tuple(points.get(k, ()))).checked(shape_zyx)
            for k in sorted(points.keys() | boxes.keys())
        ]
        return sorted(said, key=lambda prompt: not tells_where(prompt))

    def _slice_of(self, k: int | None, depth: int, what: str) -> int:
        found = k if k is not None else self.slice_index
        if found is None and depth == 1:
            return 0
        if found is None:
            raise Fault(422, f"{what} names no slice: give it as third number, or as slice")
        return found

    def _key_slice(self, region: Region, depth: int) -> int:
        if self.slice_index is not None or region.first is None or region.last is None:
            return self._slice_of(None, depth, "the roi")
        first, last = max(region.first, 0), min(region.last, depth - 1)
        if first > last:
            raise Fault(
                422,
                f"the roi spans the slices {region.first} to {region.last}; there are 0 to {depth - 1}",
            )
        return (first + last) // 2


def tells_where(prompt: Prompt) -> bool:
    """Whether a prompt says where the object is, and not only where it is not."""
    return prompt.box is not None or any(point.is_positive for point in prompt.points)


def _cut_off(region: Region, height: int, width: int) -> Box:
    """A region's rectangle within the slice: one that is drawn in space may reach out of the image."""
    box = region.box
    is_seen = box.x_min < width and box.x_max >= 0 and box.y_min < height and box.y_max >= 0
    if region.first is None or not is_seen:
        return box  # to be refused with its own numbers
    x_min, x_max = (min(max(end, 0.0), width - 1.0) for end in (box.x_min, box.x_max))
    y_min, y_max = (min(max(end, 0.0), height - 1.0) for end in (box.y_min, box.y_max))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
