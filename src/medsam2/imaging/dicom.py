"""Read DICOM: a folder, a file of one slice or of many, CT, MR or a single picture."""

from pathlib import Path

from medsam2.errors import GeometryError
from medsam2.imaging.archive import is_zip, unpacked
from medsam2.imaging.dicom_grid import Stack, stacked
from medsam2.imaging.dicom_header import require_pydicom
from medsam2.imaging.dicom_pixels import check_slices, read_slices, shown_window
from medsam2.imaging.dicom_series import choose_series, find_headers
from medsam2.imaging.volume import MODALITIES, Volume


def read(path: Path, *, frame: int | None = None, series: int | str | None = None) -> Volume:
    """Read one series, slices sorted by their position in the patient.

    CT comes in Hounsfield units, with the window that most of its slices ask for. A tilted gantry gives a
    sheared affine, as the slices lie, and a warning.

    Args:
        path: A file, or a folder, which is searched below as well.
        frame: Which of several images at each position (times, echoes), from 0; not needed if there is one.
        series: Number (as viewers show it) or UID of the series; if none is named the one with most slices is
            taken, with a warning where there are others.

    Raises:
        UnsupportedFormat: No DICOM image is there, or it is neither CT nor MR nor a single picture, or a
            cine, in colour, damaged, truncated or too large.
        InputError: There is no such series or frame, it is a localizer, or pydicom is not installed.
        GeometryError: Slices differ in size or direction, or one is missing or there twice.
    """
    stack = _stack(path, frame, series)
    check_slices(stack.slices, path)
    modality = stack.slices[0].file.modality
    try:
        return Volume(
            read_slices(stack.slices),
            stack.affine,
            modality if modality in MODALITIES else None,
            itk_grid=stack.itk_grid,
            window=shown_window(stack.slices),
        )
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def series_files(
    path: Path, series: int | str | None = None, *, frame: int | None = None
) -> list[Path | bytes]:
    """Return the files of the series that `read` reads, in the order of its slices.

    A multi-frame file is there once, whatever its frames.

    Args:
        path: A file, a folder or a .zip.
        series: As in `read`.
        frame: As in `read`.

    Returns:
        Paths; of a .zip, which is not left unpacked, the files' contents.

    Raises:
        InputError: As in `read`, and its subclasses.
    """
    if is_zip(path):
        with unpacked(path) as folder:
            return [file.read_bytes() for file in _files(_stack(folder, frame, series))]
    return list(_files(_stack(path, frame, series)))


def _stack(path: Path, frame: int | None, series: int | str | None) -> Stack:
    require_pydicom()
    chosen = choose_series(find_headers(path), series, path)
    return stacked([one for header in chosen for one in header.slices], frame, path)


def _files(stack: Stack) -> list[Path]:
    return list(dict.fromkeys(one.file.path for one in stack.slices))
