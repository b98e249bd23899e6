"""Read DICOM: a folder, a file of one slice or of several, a scan or a single picture."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medsam2.errors import UnsupportedFormat, naming, require
from medsam2.imaging.dicom.elements import element_name
from medsam2.imaging.dicom.facts import Header, Slice
from medsam2.imaging.dicom.grid import Stack, stacked
from medsam2.imaging.dicom.header import SourceFrames
from medsam2.imaging.dicom.pixels import check_slices, read_slices, shown_window
from medsam2.imaging.dicom.series import choose_series, find_headers
from medsam2.imaging.formats.archive import is_zip, unpacked
from medsam2.imaging.volume import MODALITIES, Volume

# Every CT has some air or fat: numbers that are all above this are no Hounsfield units.
_HIGHEST_MINIMUM_HU = -100.0


def read_dicom(path: Path, *, frame: int | None = None, series: int | str | None = None) -> Volume:
    """Read one series, slices sorted by their position in the patient.

    CT is in Hounsfield units, with the window that most of its slices have. A tilted gantry gives a sheared
    affine, since the slices keep their places, and a warning.

    Args:
        path: A file, or a folder, which is searched below as well.
        frame: Which of several volumes (times, echoes, or parts of different spacing), from 0; not needed if
            there is one.
        series: Number (as viewers show it) or UID of the series. If there are several and none is named, the
            one with most slices is taken, with a warning.

    Raises:
        UnsupportedFormat: There is no DICOM image, or it is neither slices with a place in the patient nor a
            single picture, or it is a cine, in colour, damaged, truncated or too large.
        InputError: There is no such series or frame, it is a localizer, or pydicom is not installed.
        GeometryError: Slices differ in size or direction, or one is missing or present twice.
    """
    stack = _stack(path, frame, series)
    slices = _with_scales(stack.slices, path)
    check_slices(slices, path)
    modality = slices[0].file.modality
    array = read_slices(slices)
    if modality == "CT" and not _is_hounsfield(array, stack.slices, path):
        modality = ""
    with naming(path):
        return Volume(
            array,
            stack.affine,
            modality if modality in MODALITIES else None,
            itk_grid=stack.itk_grid,
            window=shown_window(slices),
        )


def series_files(
    path: Path, series: int | str | None = None, *, frame: int | None = None
) -> list[Path | bytes | SourceFrames]:
    """Return the files of the series that `read_dicom` reads, in the order of its slices.

    A multi-frame file is listed once, with the numbers of its frames if the volume lacks some. Warnings of
    `read_dicom` are not given again.

    Args:
        path: A file, a folder or a .zip.
        series: As in `read_dicom`.
        frame: As in `read_dicom`.

    Returns:
        Paths; of a .zip, the files' contents. `write_labels` takes them as source once contents are read by
        pydicom.

    Raises:
        InputError: As in `read_dicom`, and its subclasses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not is_zip(path):
            return list(_files(_stack(path, frame, series)))
        with unpacked(path) as folder:
            return [_content(one) for one in _files(_stack(folder, frame, series))]


def _stack(path: Path, frame: int | None, series: int | str | None) -> Stack:
    require("pydicom", "reading DICOM needs", "dicom")
    chosen = choose_series(find_headers(path), series, path)
    _warn_of_inferred(chosen, path)
    return stacked([one for header in chosen for one in header.slices], frame, path)


def _files(stack: Stack) -> list[Path | SourceFrames]:
    frames: dict[Path, list[int]] = {}
    for one in stack.slices:
        frames.setdefault(one.file.path, []).append(one.frame)
    num_frames = {one.file.path: one.file.num_frames for one in stack.slices}
    return [
        path if len(numbers) == num_frames[path] else SourceFrames(path, tuple(numbers))
        for path, numbers in frames.items()
    ]


def _content(one: Path | SourceFrames) -> bytes | SourceFrames:
    if isinstance(one, SourceFrames):
        return replace(one, file=one.file if isinstance(one.file, bytes) else one.file.read_bytes())
    return one.read_bytes()


def _warn_of_inferred(headers: Sequence[Header], path: Path) -> None:
    """Warn of elements that are missing in the files of a series."""
    counts = Counter(name for header in headers for name in header.inferred)
    for name, number in counts.items():
        files = f"{number} of {len(headers)} files" if len(headers) > 1 else "the file"
        warnings.warn(
            f"{path}: {name} is missing or empty in {files}; its value is inferred from other elements",
            stacklevel=4,
        )


def _is_hounsfield(array: np.ndarray, slices: Sequence[Slice], path: Path) -> bool:
    """Whether the numbers of a CT that lacks its scale can be Hounsfield units."""
    scales = {
        _SLOPE: [one.plane.slope for one in slices],
        _INTERCEPT: [one.plane.inter for one in slices],
    }
    missing = [element_name(name) for name, found in scales.items() if found.count(None) == len(found)]
    if not missing:
        return True
    what = f"{path}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    lowest = min(float(part.min()) for part in array)
    if lowest > _HIGHEST_MINIMUM_HU:
        warnings.warn(
            f"{what}, and no voxel is below {lowest:g}, where air has -1000: the numbers are no Hounsfield "
            "units, and are read without a unit",
            stacklevel=3,
        )
        return False
    warnings.warn(f"{what}; the numbers are taken for Hounsfield units as they are", stacklevel=3)
    return True


_SLOPE, _INTERCEPT = "RescaleSlope", "RescaleIntercept"


def _with_scales(slices: Sequence[Slice], path: Path) -> tuple[Slice, ...]:
    """Give each slice of a volume a slope and an intercept.

    A slice without one gets that of the others, if these agree, with a warning. A slope of 0, which would
    make all intensities equal, is read as 1, as GDCM does; slices that are 0 everywhere may have it.
    """
    slopes = _settled([one.plane.slope for one in slices], _SLOPE, 1.0, path)
    inters = _settled([one.plane.inter for one in slices], _INTERCEPT, 0.0, path)
    return tuple(
        replace(one, plane=replace(one.plane, slope=slope, inter=inter))
        for one, slope, inter in zip(slices, slopes, inters, strict=True)
    )


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
        # `read_slices` refuses a slope of 0 unless all is 0.
        return [0.0 if value is None else value for value in found]
    value_used = usable.pop() if usable else usual
    is_known = num_missing + num_zero < len(found)
    reason = "as in the others" if is_known else "or all intensities would be equal"
    warnings.warn(f"{path}: {where}; {value_used:g} is taken, {reason}", stacklevel=4)
    return [value_used if value is None or (num_zero and value == 0) else value for value in found]
