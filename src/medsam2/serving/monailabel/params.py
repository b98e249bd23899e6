"""Read the parameters that viewers send: JSON, but options are text, whatever they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.prompts.types import Box
from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.asked import LABEL, Asked, Click, Region, ResultForm
from medsam2.serving.monailabel.formats import MASKS, ORIGINAL, checked_tag
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
