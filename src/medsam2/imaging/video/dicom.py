"""Multi-frame DICOM files, ultrasound cines above all, as videos."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat, reading
from medsam2.imaging.dicom.header import lenient_dicom
from medsam2.imaging.dicom.pixels import COLOURS, GREYS
from medsam2.imaging.video.container import open_container
from medsam2.imaging.video.frames import ASSUMED_FPS, FrameReader, VideoFacts, check_size, evenly

if TYPE_CHECKING:
    from pydicom import Dataset

_MAX_BITS = 8
_TISSUE = 1  # Region Spatial Format: 2D, where x and y are places
_CENTIMETRES = 3  # Physical Units
_SAME_SPACING = 1e-3
_ELEMENT_HEADER = 12  # bytes of tag, type and length before the pixels, which are encapsulated here
_PALETTE = "PALETTE COLOR"


def open_cine(path: Path) -> tuple[VideoFacts, FrameReader]:
    """Open a DICOM file of 8-bit frames, compressed or not; each frame is decoded when it is read.

    Colours become RGB; MONOCHROME1 is inverted, so that white is bright. The rate is the first that is there
    of Frame Time Vector, Frame Time, Cine Rate and Recommended Display Frame Rate. The size of a pixel is
    that of the ultrasound regions, if the 2D ones agree, or else Pixel Spacing.

    Raises:
        UnsupportedFormat: It is no DICOM file of 8-bit frames, or is damaged or truncated.
        InputError: Its header claims more than is safe to decode.
    """
    from pydicom.uid import MPEGTransferSyntaxes

    header = _header(path)
    num_frames = int(header.get("NumberOfFrames") or 1)
    height, width = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not height or not width:
        kind = header.SOPClassUID.name if "SOPClassUID" in header else "DICOM object of no class"
        raise UnsupportedFormat(f"{path}: a {kind} holds no frames")
    check_size(path, num_frames, height, width)
    syntax = header.file_meta.TransferSyntaxUID
    if syntax in MPEGTransferSyntaxes:
        facts, reader = _open_stream(path)
        return dataclasses.replace(facts, pixel_mm=_pixel_mm(header)), reader
    _check_pixels(header, path)
    times_s, fps = _times(header, num_frames)
    cine = _CineReader(path, header, num_frames)
    if syntax.is_compressed:
        next(cine.frames_up_to(num_frames - 1, 1))  # if the last frame is there, all are
    elif path.stat().st_size < num_frames * height * width * _bytes_per_pixel(header):
        raise UnsupportedFormat(f"{path}: is too short for {num_frames} frames; it is truncated")
    facts = VideoFacts(
        shape=(num_frames, height, width, 3), times_s=times_s, fps=fps, pixel_mm=_pixel_mm(header)
    )
    return facts, cine


class _CineReader:
    """Reads and decodes one frame at a time."""

    def __init__(self, path: Path, header: Dataset, num_frames: int) -> None:
        self._path = path
        self._header = header
        self._num_frames = num_frames
        self._photometric = str(header.PhotometricInterpretation)

    def frames_up_to(self, index: int, room: int) -> Iterator[tuple[int, np.ndarray]]:
        from pydicom.pixels.utils import pixel_array

        try:
            with lenient_dicom():
                stored = pixel_array(self._path, index=index)
        # A damaged frame makes pydicom and its decoders raise errors of all kinds.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnsupportedFormat(
                f"{self._path}: frame {index} of {self._num_frames} cannot be decoded: {reason}"
            ) from error
        yield index, np.ascontiguousarray(self._in_colour(stored))

    def close(self) -> None:
        pass

    def _in_colour(self, stored: np.ndarray) -> np.ndarray:
        from pydicom.pixels.processing import apply_color_lut

        if self._photometric == _PALETTE:
            coloured = apply_color_lut(stored, self._header)
            return (coloured >> 8).astype(np.uint8) if coloured.dtype == np.uint16 else coloured
        if self._photometric in GREYS:
            grey = stored if self._photometric == "MONOCHROME2" else 255 - stored
            return np.repeat(grey[:, :, None], 3, axis=2)
        return stored[:, :, :3].copy()


def _header(path: Path) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        with reading(path), lenient_dicom():
            header = dcmread(path, stop_before_pixels=True)
        if "TransferSyntaxUID" not in header.file_meta:
            raise UnsupportedFormat(f"{path}: does not say how its pixels are stored; it is damaged")
        return header
    except InputError:
        raise
    except InvalidDicomError as error:
        raise UnsupportedFormat(f"{path}: not a DICOM file") from error
    except Exception as error:
        # The error's own words may hold what the header says about a patient, as pydicom's warnings may.
        raise UnsupportedFormat(f"{path}: its DICOM header is damaged ({type(error).__name__})") from error


def _check_pixels(header: Dataset, path: Path) -> None:
    bits = int(header.get("BitsAllocated") or 0)
    if bits != _MAX_BITS:
        raise UnsupportedFormat(
            f"{path}: its frames have {bits} bits a pixel; a video has {_MAX_BITS}, scans are read as volumes"
        )
    photometric = header.get("PhotometricInterpretation")
    known = (*GREYS, *COLOURS, _PALETTE)
    if photometric not in known:
        raise UnsupportedFormat(f"{path}: its colours are {photometric!r}; {', '.join(known)} are read")


def _bytes_per_pixel(header: Dataset) -> int:
    # Pairs of pixels share their colour in YBR_FULL_422.
    is_shared = header.PhotometricInterpretation == "YBR_FULL_422"
    return 2 if is_shared else int(header.get("SamplesPerPixel") or 1)


def _times(header: Dataset, num_frames: int) -> tuple[np.ndarray, float | None]:
    """Seconds of each frame, and frames per second."""
    steps_ms = np.atleast_1d(np.array(header.get("FrameTimeVector") or [], dtype=np.float64))
    if len(steps_ms) == num_frames > 1 and (steps_ms[1:] > 0).all():
        times_s = np.cumsum([0.0, *steps_ms[1:]]) / 1000  # the first number says nothing
        return times_s, (num_frames - 1) / float(times_s[-1])
    fps = None
    if (frame_ms := float(header.get("FrameTime") or 0)) > 0:
        fps = 1000 / frame_ms
    elif (rate := float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0)) > 0:
        fps = rate
    return evenly(num_frames, fps or ASSUMED_FPS), fps


def _pixel_mm(header: Dataset) -> tuple[float, float] | None:
    """Size (x, y) of a pixel of the picture of tissue in mm, if there is one size."""
    sizes = [
        (10 * abs(float(region.PhysicalDeltaX)), 10 * abs(float(region.PhysicalDeltaY)))
        for region in header.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat") == _TISSUE
        and region.get("PhysicalUnitsXDirection") == _CENTIMETRES
        and region.get("PhysicalUnitsYDirection") == _CENTIMETRES
        and region.get("PhysicalDeltaX")
        and region.get("PhysicalDeltaY")
    ]
    if sizes:
        return sizes[0] if np.allclose(sizes, sizes[0], rtol=_SAME_SPACING) else None
    spacing = header.get("PixelSpacing")
    if spacing and len(spacing) == 2 and min(float(step) for step in spacing) > 0:
        return float(spacing[1]), float(spacing[0])  # DICOM gives the distance of rows first
    return None


def _open_stream(path: Path) -> tuple[VideoFacts, FrameReader]:
    """Open the MPEG stream that some files hold instead of single frames."""
    from pydicom import dcmread
    from pydicom.encaps import generate_fragments

    content = tempfile.TemporaryFile()  # noqa: SIM115  closed with the reader
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True)
        file.seek(_ELEMENT_HEADER, os.SEEK_CUR)
        fragments = generate_fragments(file)
        next(fragments)  # the table of offsets
        for fragment in fragments:
            content.write(fragment)
    content.seek(0)
    try:
        return open_container(path, content=content)
    except BaseException:
        content.close()
        raise
