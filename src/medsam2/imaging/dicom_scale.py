"""Settle how stored numbers become intensities, where files say it badly or not at all."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.dicom_elements import element_name
from medsam2.imaging.dicom_facts import Slice

_SLOPE, _INTERCEPT = "RescaleSlope", "RescaleIntercept"


def with_scales(slices: Sequence[Slice], path: Path) -> tuple[Slice, ...]:
    """Give each slice a slope and an intercept.

    Where some slices lack one it is that of the others, if these agree, with a warning. A slope of 0, by
    which all intensities would be one, is taken for 1, as GDCM does. Slices that hold nothing may have it.

    Args:
        slices: Of one volume.
        path: Named in errors.

    Raises:
        UnsupportedFormat: Slices lack a scale and those of the others differ.
    """
    slopes = _settled([one.plane.slope for one in slices], _SLOPE, 1.0, path)
    inters = _settled([one.plane.inter for one in slices], _INTERCEPT, 0.0, path)
    return tuple(
        replace(one, plane=replace(one.plane, slope=slope, inter=inter))
        for one, slope, inter in zip(slices, slopes, inters, strict=True)
    )


def lacks_scale(slices: Sequence[Slice]) -> list[str]:
    """Return the names of the elements of the scale that no slice has."""
    found = {
        _SLOPE: [one.plane.slope for one in slices],
        _INTERCEPT: [one.plane.inter for one in slices],
    }
    return [element_name(name) for name, scale in found.items() if all(value is None for value in scale)]


def _settled(found: list[float | None], keyword: str, usual: float, path: Path) -> list[float]:
    usable = {value for value in found if value is not None and (value != 0 or keyword == _INTERCEPT)}
    num_missing = found.count(None)
    num_zero = 0 if keyword == _INTERCEPT else found.count(0.0)
    if num_missing == len(found):
        return [usual] * len(found)
    if num_missing + num_zero == 0:
        return [value for value in found if value is not None]
    what = f"missing in {num_missing}" if num_missing else f"0 in {num_zero}"
    where = f"{element_name(keyword)} is {what} of {len(found)} slices"
    if len(usable) > 1:
        if num_missing:
            raise UnsupportedFormat(
                f"{path}: {where} and differs in the others, so that nothing says what their numbers mean"
            )
        return [0.0 if value is None else value for value in found]  # refused if there is anything in them
    taken = usable.pop() if usable else usual
    reason = "as in the others" if num_missing + num_zero < len(found) else "or all intensities would be one"
    warnings.warn(f"{path}: {where}; {taken:g} is taken, {reason}", stacklevel=4)
    return [taken if value is None or (num_zero and value == 0) else value for value in found]
