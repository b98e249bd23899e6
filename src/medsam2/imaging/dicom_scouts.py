"""Leave out what lies among the slices of a series and is none of them: scouts, screen shots."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsam2.imaging.dicom_facts import Header, Slice

_SAME_DIRECTION = 1e-3
_PLANE_OF_NORMAL = ("sagittal", "coronal", "axial")
_STRAIGHT = 0.95  # cosine; beyond it a plane is called oblique
_LOCALIZER = "LOCALIZER"
_SCREEN_SHOT = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture, and its kinds of several frames


def without_scouts(slices: Sequence[Slice], path: Path) -> list[Slice]:
    """Leave out localizers, single pictures across the others and screen shots, with a warning.

    Args:
        slices: Of one series.
        path: Named in warnings.
    """
    main = max(_kinds(slices), key=len)
    others = [one for one in slices if _is_beside(one, slices, main)]
    if not others or len(others) >= len(slices):
        return list(slices)
    warnings.warn(
        f"{path}: the series holds what is no slice of the scan, and is left out: {contents(others)}",
        stacklevel=5,
    )
    left_out = {id(one) for one in others}
    return [one for one in slices if id(one) not in left_out]


def is_screen_shot(header: Header) -> bool:
    """Whether a file is a picture of a screen or a page, such as a dose report."""
    return header.sop_class.startswith(_SCREEN_SHOT)


def contents(slices: Sequence[Slice]) -> str:
    """Say what is among slices: "20 axial of 512 x 512 pixels, 1 coronal of 512 x 888 pixels"."""
    kinds = sorted(_kinds(slices), key=len, reverse=True)
    return ", ".join(
        f"{len(kind)} {_plane_name(kind[0])} of {kind[0].file.columns} x {kind[0].file.rows} pixels"
        for kind in kinds
    )


def is_alike(one: Slice, other: Slice) -> bool:
    """Whether two slices are of one size and parallel."""
    if (one.file.rows, one.file.columns) != (other.file.rows, other.file.columns):
        return False
    return _is_parallel(one, other)


def _is_parallel(one: Slice, other: Slice) -> bool:
    first, second = one.plane.orientation, other.plane.orientation
    if first is None or second is None:
        return first is second
    return np.allclose(first, second, atol=_SAME_DIRECTION)


def _kinds(slices: Sequence[Slice]) -> list[list[Slice]]:
    kinds: list[list[Slice]] = []
    for one in slices:
        like = next((kind for kind in kinds if is_alike(kind[0], one)), None)
        if like is None:
            kinds.append([one])
        else:
            like.append(one)
    return kinds


def _is_beside(one: Slice, slices: Sequence[Slice], main: list[Slice]) -> bool:
    """Whether a slice is a scout or a screen shot beside the scan."""
    num_localizers = sum(_LOCALIZER in other.file.image_type for other in slices)
    if _LOCALIZER in one.file.image_type and num_localizers < len(slices) - num_localizers:
        return True
    if len(main) < 2 or is_alike(one, main[0]):
        return False
    is_placed = one.plane.position is not None and one.plane.orientation is not None
    if not is_placed:
        return is_screen_shot(one.file) and not is_screen_shot(main[0].file)
    is_alone = sum(_is_parallel(one, other) for other in slices) == 1
    return is_alone and main[0].plane.orientation is not None


def _plane_name(one: Slice) -> str:
    if one.plane.orientation is None:
        return "unplaced"
    across, down = np.reshape(one.plane.orientation, (2, 3))
    normal = np.abs(np.cross(across, down))
    return _PLANE_OF_NORMAL[int(normal.argmax())] if normal.max() >= _STRAIGHT else "oblique"
