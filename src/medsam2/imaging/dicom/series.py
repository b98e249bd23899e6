"""Find the DICOM series in a file or a folder, leave out scouts, and choose the one to read."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medsam2.errors import InputError, MedSAM2Error, UnsupportedFormat
from medsam2.imaging.dicom.facts import Header, Slice
from medsam2.imaging.dicom.header import read_header
from medsam2.imaging.dicom.pixels import same_pixels

MAX_FILES = 50_000
"""A folder with more is refused: it may be a whole disk."""
MAX_DEPTH = 8
"""Levels of folders that are searched; study, series and files are three."""

VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
# Modalities whose single images are pictures, as PNG stills are.
PICTURE_MODALITIES = ("US", "CR", "DX", "MG", "XA", "RF", "IO", "PX", "ES", "GM", "OP", "XC", "OT", "NM")
_DIRECTORY = "1.2.840.10008.1.3.10"
_READ = "CT, MR, PET and other slices that say where in the patient they lie are read"
_CINES = ("US", "XA", "RF", "ES", "XC", "IVUS")


def find_headers(path: Path) -> list[Header]:
    """Read the headers of a DICOM file, or of all in a folder and below; copies are left out.

    Raises:
        InputError: A file cannot be read, or the folder holds more than `MAX_FILES`.
        UnsupportedFormat: A DICOM file is damaged.
    """
    found: dict[object, list[Header]] = {}
    for file in _files(path) if path.is_dir() else (path,):
        header = read_header(file)
        if header is None:
            continue
        # Anonymisers give one UID to all files; a copy also has the same place and the same pixels.
        others = found.setdefault(_identity(header), [])
        if not any(same_pixels(header, other) for other in others):
            others.append(header)
    headers = [header for group in found.values() for header in group]
    _warn_of_shared_uids(headers, path)
    return headers


def choose_series(headers: Sequence[Header], series: int | str | None, path: Path) -> list[Header]:
    """Return the files of the series to read.

    Args:
        headers: From `find_headers`.
        series: Number or UID of a series; None for the one with most slices, with a warning if there are
            others.
        path: Named in errors.

    Raises:
        InputError: There is no such series, or only a localizer.
        UnsupportedFormat: No series can be read: there is no image, or images have no place in the patient,
            or are a cine or pictures in colour.
    """
    groups = _grouped([header for header in headers if header.is_scan])
    if not groups:
        raise UnsupportedFormat(f"{path}: {_no_scan(headers, path)}")
    if series is None:
        chosen = max(groups, key=lambda group: (_refusal(group, path) is None, _num_slices(group)))
    else:
        chosen = _named(groups, series, path)
    refusal = _refusal(chosen, path)
    if refusal is not None:
        raise refusal
    if series is None and len(groups) > 1:
        others = "; ".join(_description(group) for group in groups if group is not chosen)
        warnings.warn(
            f"{path}: holds {len(groups)} image series; the one with most slices is read: "
            f"{_description(chosen)}. Not read: {others}",
            stacklevel=4,
        )
    return chosen


def _identity(header: Header) -> object:
    """Return what copies of a file have in common."""
    if not header.uid:
        return str(header.path)
    of_file = (header.uid, header.sop_class, header.series, header.instance_number, header.image_type)
    return of_file, (header.rows, header.columns, header.num_frames), header.planes


def _warn_of_shared_uids(headers: Iterable[Header], path: Path) -> None:
    uids = {uid: number for uid, number in Counter(one.uid for one in headers).items() if uid and number > 1}
    if uids:
        warnings.warn(
            f"{path}: {sum(uids.values())} different files share {len(uids)} SOPInstanceUID (0008,0018), "
            "which must be unique; each file is read as an image of its own, and no SEG or RTSTRUCT can "
            "refer to them",
            stacklevel=4,
        )


def _files(folder: Path) -> Iterator[Path]:
    num_files = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        if len(Path(place).relative_to(folder).parts) >= MAX_DEPTH:
            folders.clear()
        for name in sorted(names):
            num_files += 1
            if num_files > MAX_FILES:
                raise InputError(
                    f"{folder}: holds more than {MAX_FILES} files; give the folder of one study or series"
                )
            file = Path(place, name)
            if file.is_file():  # reading a pipe would never end
                yield file


def _grouped(headers: Sequence[Header]) -> list[list[Header]]:
    """Return the series in the order of their numbers; a multi-frame file is a series of its own."""
    groups: dict[tuple[str, str], list[Header]] = {}
    for header in headers:
        groups.setdefault((header.series, header.uid if header.num_frames > 1 else ""), []).append(header)
    return [groups[key] for key in sorted(groups, key=lambda key: (groups[key][0].series_number or 0, key))]


def _named(groups: list[list[Header]], series: int | str, path: Path) -> list[Header]:
    wanted = str(series).strip()
    matching = [
        group for group in groups if wanted in (group[0].series, str(group[0].series_number), group[0].uid)
    ]
    if len(matching) == 1:
        return matching[0]
    there = "; ".join(_description(group) for group in matching or groups)
    what = f"{len(matching)} series are called" if matching else "there is no series"
    raise InputError(f"{path}: {what} {wanted!r}; give the number or UID of one: {there}")


def _num_slices(group: Sequence[Header]) -> int:
    return sum(header.num_frames for header in group)


def _description(group: Sequence[Header]) -> str:
    """Say which series this is, without its name, which may hold anything about the patient."""
    first = group[0]
    number = "" if first.series_number is None else f" {first.series_number}"
    uid = first.uid if first.num_frames > 1 else first.series
    num_slices = _num_slices(group)
    slices = "1 slice" if num_slices == 1 else f"{num_slices} slices"
    return f"series{number} ({first.modality or 'no modality'}, {slices}, UID {uid})"


def _no_scan(headers: Sequence[Header], path: Path) -> str:
    if not headers:
        return f"no DICOM image is in this {'folder' if path.is_dir() else 'file'}"
    if not path.is_dir() and headers[0].sop_class == _DIRECTORY:
        return (
            "is a DICOMDIR, which lists the images of a disc and holds none; give the folder that it is in, "
            f"{path.parent}"
        )
    counts = Counter(header.sop_class_name for header in headers)
    kinds = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    return f"holds no scan but {kinds}; {_READ}"


def _is_placed(header: Header) -> bool:
    """Whether a file says where its images lie; several frames need several places."""
    planes = [plane for plane in header.planes if plane.is_placed]
    num_places = len({plane.position for plane in planes})
    return len(planes) == header.num_frames and (header.num_frames == 1 or num_places > 1)


def _refusal(group: Sequence[Header], path: Path) -> MedSAM2Error | None:
    """Return the reason why a series cannot be read, if there is one."""
    first, num_frames = group[0], max(header.num_frames for header in group)
    is_placed = all(_is_placed(header) for header in group)
    if num_frames > 1 and first.modality in _CINES and not is_placed:
        return UnsupportedFormat(f"{path}: is a cine of {num_frames} frames; `medsam2 video` takes it")
    if len(group) == 1 and num_frames == 1 and first.modality in PICTURE_MODALITIES:
        return None  # a single picture needs no place in the patient
    if first.modality == "NM" and not is_placed:
        return UnsupportedFormat(
            f"{path}: is nuclear medicine of {'projections' if num_frames > 1 else 'single views'}, not of "
            "slices; a reconstructed volume is read"
        )
    if first.modality not in VOLUME_MODALITIES and not is_placed:
        return UnsupportedFormat(
            f"{path}: the series is {first.modality or 'of no modality'!r}, and its images do not say where "
            f"in the patient they lie; {_READ}"
        )
    colours = [header for header in group if header.num_samples > 1]
    if colours and (len(colours) == len(group) or not all(_is_screen_shot(header) for header in colours)):
        return UnsupportedFormat(f"{path}: holds pictures in colour; CT, MR and other grey slices are read")
    if any("MOSAIC" in header.image_type for header in group):
        return UnsupportedFormat(
            f"{path}: is a mosaic, with all slices tiled in one picture; convert it to NIfTI (dcm2niix does)"
        )
    if all("LOCALIZER" in header.image_type for header in group):
        slices = [one for header in group for one in header.slices]
        return InputError(f"{path}: the series is a localizer, of {contents(slices)}; a scan is read")
    if any(header.has_table for header in group):
        return UnsupportedFormat(f"{path}: looks intensities up in a table; a rescale slope is read")
    return None


_SAME_DIRECTION = 1e-3
_PLANE_OF_NORMAL = ("sagittal", "coronal", "axial")
_STRAIGHT = 0.95  # cosine; below it a plane is called oblique
_LOCALIZER = "LOCALIZER"
_SCREEN_SHOT = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture, and its kinds of several frames


def without_scouts(slices: Sequence[Slice], path: Path) -> list[Slice]:
    """Leave out the localizers, single crossing pictures and screen shots of a series, with a warning."""
    scan = max(_kinds(slices), key=len)
    others = [one for one in slices if _is_no_slice_of(scan, one, slices)]
    if not others or len(others) >= len(slices):
        return list(slices)
    warnings.warn(
        f"{path}: the series holds images that are no slices of the scan; they are left out: "
        f"{contents(others)}",
        stacklevel=5,
    )
    left_out = {id(one) for one in others}
    return [one for one in slices if id(one) not in left_out]


def _is_screen_shot(header: Header) -> bool:
    """Whether a file is a picture of a screen or a page, such as a dose report."""
    return header.sop_class.startswith(_SCREEN_SHOT)


def contents(slices: Sequence[Slice]) -> str:
    """Count slices by kind: "20 axial of 512 x 512 pixels, 1 coronal of 512 x 888 pixels"."""
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
    """Group slices that are alike."""
    kinds: list[list[Slice]] = []
    for one in slices:
        kind = next((kind for kind in kinds if is_alike(kind[0], one)), None)
        if kind is None:
            kinds.append(kind := [])
        kind.append(one)
    return kinds


def _is_no_slice_of(scan: list[Slice], one: Slice, slices: Sequence[Slice]) -> bool:
    """Whether an image of a series is a scout or a screen shot."""
    num_localizers = sum(_LOCALIZER in other.file.image_type for other in slices)
    if _LOCALIZER in one.file.image_type and num_localizers < len(slices) - num_localizers:
        return True
    if len(scan) < 2 or is_alike(one, scan[0]):
        return False
    if not one.plane.is_placed:
        return _is_screen_shot(one.file) and not _is_screen_shot(scan[0].file)
    is_alone = sum(_is_parallel(one, other) for other in slices) == 1
    return is_alone and scan[0].plane.orientation is not None


def _plane_name(one: Slice) -> str:
    if one.plane.orientation is None:
        return "unplaced"
    across, down = np.reshape(one.plane.orientation, (2, 3))
    normal = np.abs(np.cross(across, down))
    return _PLANE_OF_NORMAL[int(normal.argmax())] if normal.max() >= _STRAIGHT else "oblique"
