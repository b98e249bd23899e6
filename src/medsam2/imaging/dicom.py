"""Read a folder with one DICOM series of CT or MR slices."""

import os
from pathlib import Path

import numpy as np
import SimpleITK

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.itk import quiet_itk, volume_from_itk
from medsam2.imaging.volume import Volume

_MODALITY_TAG = "0008|0060"
_MODALITIES = ("CT", "MR")
# Positions are written with a few decimals. A missing slice doubles a step, a rounded one changes it little.
_UNEVEN_STEP = 0.1
_SAME_DIRECTION = 1e-3
# A gantry of half a degree moves the far end of a 30 cm scan by 2.6 mm.
_SMALLEST_TILT_DEG = 0.5


def read(folder: Path) -> Volume:
    """Read the one series in a folder, slices sorted by their position in the patient.

    A tilted gantry gives a sheared affine, as the slices lie. Folders inside are not searched.

    Raises:
        UnsupportedFormat: No DICOM image is there, or it is neither CT nor MR, in colour, or damaged.
        InputError: There are several series.
        GeometryError: Slices differ in size or direction, or one is missing or there twice.
    """
    try:
        with quiet_itk():
            files = _only_series(folder)
            slices = [_read_header(name) for name in files]
            modality = _modality(slices[0], folder)
            step = _step(slices, folder) if len(slices) > 1 else None
            reader = SimpleITK.ImageSeriesReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileNames(files)
            image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UnsupportedFormat(f"{folder}: the DICOM series cannot be read: {reason}") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise UnsupportedFormat(f"{folder}: holds pictures in colour; CT and MR slices are read")
    if image.GetDimension() != 3:
        raise UnsupportedFormat(f"{folder}: its files hold several slices each; one per file is read")
    volume = volume_from_itk(image, folder, modality)
    return volume if step is None else _leaning(volume, step)


def _only_series(folder: Path) -> tuple[str, ...]:
    """Return the files of the folder's series, sorted by position."""
    names = os.fspath(folder)
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(names)
    files = [SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(names, one) for one in series]
    if not files:
        raise UnsupportedFormat(f"{folder}: no DICOM image is in this folder")
    if len(files) > 1:
        counts = ", ".join(str(len(one)) for one in sorted(files, key=len, reverse=True))
        raise InputError(
            f"{folder}: holds {len(files)} DICOM series, of {counts} files; give a folder with one series"
        )
    return tuple(files[0])


def _read_header(name: str) -> SimpleITK.ImageFileReader:
    header = SimpleITK.ImageFileReader()
    header.SetImageIO("GDCMImageIO")
    header.SetFileName(name)
    header.ReadImageInformation()
    return header


def _modality(header: SimpleITK.ImageFileReader, folder: Path) -> str:
    modality = header.GetMetaData(_MODALITY_TAG).strip() if header.HasMetaDataKey(_MODALITY_TAG) else ""
    if modality not in _MODALITIES:
        raise UnsupportedFormat(
            f"{folder}: the series is {modality or 'of no modality'!r}; CT and MR are read"
        )
    return str(modality)


def _step(slices: list[SimpleITK.ImageFileReader], folder: Path) -> np.ndarray:
    """Return the mean way from a slice to the next, (x, y, z) in LPS mm, if all are alike.

    Raises:
        GeometryError: Slices differ in size or direction, or one is missing or there twice.
    """
    first = slices[0]
    for other in slices[1:]:
        is_parallel = np.allclose(first.GetDirection(), other.GetDirection(), atol=_SAME_DIRECTION)
        if first.GetSize() != other.GetSize() or not is_parallel:
            raise GeometryError(f"{folder}: the slices of the series differ in size or direction")
    steps = np.diff([one.GetOrigin() for one in slices], axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    typical = float(np.median(lengths))
    if not lengths.min() > 0:
        raise GeometryError(f"{folder}: two slices of the series lie at the same position")
    if np.abs(lengths - typical).max() > _UNEVEN_STEP * typical:
        raise GeometryError(
            f"{folder}: slices are {lengths.min():g} to {lengths.max():g} mm apart; one is missing, or they "
            "belong to several scans"
        )
    return np.asarray(steps.mean(axis=0))


def _leaning(volume: Volume, step: np.ndarray) -> Volume:
    """Return the volume with its slices stacked along their real step; ITK stacks them upright."""
    normal = np.reshape(volume.direction, (3, 3))[:, 2]
    cosine = abs(float(normal @ step)) / float(np.linalg.norm(step))
    if np.degrees(np.arccos(min(1.0, cosine))) < _SMALLEST_TILT_DEG:
        return volume
    affine = np.array(volume.affine)
    affine[:3, 2] = step * (-1, -1, 1)  # LPS to RAS
    return Volume(volume.array, affine, volume.modality)
