"""Decode the pixels of DICOM slices into intensities; padding does not count as an intensity."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from PIL import Image

from medsam2.errors import UnsupportedFormat, in_a_line
from medsam2.imaging.dicom.elements import element_name
from medsam2.imaging.dicom.facts import Header, Slice
from medsam2.imaging.dicom.header import damage, lenient_dicom
from medsam2.imaging.formats.voxels import gathered
from medsam2.imaging.volume import check_claim

if TYPE_CHECKING:
    from pydicom import Dataset

# The best codecs reach about this on an empty image; a header that claims more is false.
_LARGEST_CODEC_RATIO = 10_000
GREYS = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_BITS = (8, 16, 32)
# How the UIDs of manufacturers with encodings of their own begin.
_VENDORS = {
    "1.2.840.113619.": "GE",
    "1.3.46.670589.": "Philips",
    "1.3.12.2.1107.": "Siemens",
    "1.2.392.200036.9116.": "Toshiba",
}
# Implicit and explicit, little and big endian; none in old files, which do not say it.
_NATIVE = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def check_slices(slices: Sequence[Slice], path: Path) -> None:
    """Refuse slices that cannot be decoded, or whose files are shorter than their headers say.

    Raises:
        UnsupportedFormat: Pixels are no greys, or there is no decoder for them, or a file is truncated, or
            the volume is too large.
    """
    for file in {one.file.path: one.file for one in slices}.values():
        _check_file(file)
    # Intensities may need more bytes than stored values, and there may be many files.
    first = slices[0].file
    shape = (len(slices), first.rows, first.columns)
    check_claim(path, shape, math.prod(shape) * result_dtype(slices).itemsize, 0, 0)


def read_slices(slices: Sequence[Slice]) -> np.ndarray:
    """Return the intensities of checked slices, (z, y, x) in the order given; all have slope and intercept.

    They are rescaled by slope and intercept, so CT is in Hounsfield units. Greys where the lowest is white
    (MONOCHROME1) are inverted within their bits, except in CT, whose numbers are no greys. Pictures in colour
    become greys by ITU-R 601-2 luma. Padding gets the lowest intensity, or 0.

    Raises:
        UnsupportedFormat: A file is damaged or truncated.
        InputError: The folder for temporary files has no room for a large volume.
    """
    dtype = result_dtype(slices)
    first = slices[0].file
    shape = (len(slices), first.rows, first.columns)
    padding = Padding()
    voxels = gathered(_intensities(slices, dtype, padding), dtype, shape)
    if not padding.is_there:
        return voxels
    return gathered(padding.filled(voxels), dtype, shape)


def same_pixels(one: Header, other: Header) -> bool:
    """Whether two files hold the same pixels; True if these cannot be compared, as the encodings differ."""
    if one.transfer_syntax != other.transfer_syntax or not one.rows:
        return True
    first, second = (_stored(file) for file in (one, other))
    return first == second


def shown_window(slices: Sequence[Slice]) -> tuple[float, float] | None:
    """Return the window that most slices have, in the units of `read_slices`; None if none has one."""
    windows = Counter(_seen_window(one) for one in slices if one.plane.window is not None)
    return windows.most_common(1)[0][0] if windows else None


def result_dtype(slices: Sequence[Slice]) -> np.dtype:
    """Return the smallest dtype that holds the intensities of all slices."""
    if slices[0].file.num_samples > 1:
        return np.dtype(np.uint8)
    stored = {_stored_dtype(one.file) for one in slices}
    if len(stored) == 1 and all(_scale(one) == (1.0, 0.0) for one in slices):
        return stored.pop()
    scales = {(*_scale(one), _stored_range(one.file)) for one in slices}
    if all(slope.is_integer() and inter.is_integer() for slope, inter, _ in scales):
        ends = [slope * end + inter for slope, inter, limits in scales for end in limits]
        for candidate in (np.int16, np.int32):
            if np.iinfo(candidate).min <= min(ends) and max(ends) <= np.iinfo(candidate).max:
                return np.dtype(candidate)
    return np.dtype(np.float32 if max(dtype.itemsize for dtype in stored) <= 2 else np.float64)


def _check_file(file: Header) -> None:
    path = file.path
    kinds = GREYS if file.num_samples == 1 else COLOURS
    if file.photometric not in kinds or file.bits_allocated not in _BITS:
        raise UnsupportedFormat(
            f"{path}: holds {file.photometric} pixels of {file.bits_allocated} bits; greys and RGB or YBR "
            "colours of 8, 16 or 32 bits are read"
        )
    if not 1 <= file.bits_stored <= file.bits_allocated:
        raise UnsupportedFormat(
            f"{path}: the header claims {file.bits_stored} of {file.bits_allocated} bits; it is damaged"
        )
    num_bytes = file.rows * file.columns * file.num_samples * file.num_frames * (file.bits_allocated // 8)
    is_packed = file.transfer_syntax not in _NATIVE
    if is_packed:
        _check_codec(file)
    # Chroma that is stored for every other pixel takes two thirds.
    num_stored = num_bytes * 2 // 3 if file.photometric == "YBR_FULL_422" else num_bytes
    num_available = path.stat().st_size * (_LARGEST_CODEC_RATIO if is_packed else 1)
    check_claim(path, (file.num_frames, file.rows, file.columns), num_bytes, num_stored, num_available)


def _check_codec(file: Header) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    uid = UID(file.transfer_syntax)
    try:
        is_available = get_decoder(uid).is_available
    except NotImplementedError:
        is_available = None
    if is_available:
        return
    name = in_a_line(uid.name)
    if is_available is None:
        whose = _VENDORS.get(next((root for root in _VENDORS if uid.startswith(root)), ""), "a manufacturer")
        kind = f"in {whose}'s own way ({name})" if uid.is_private else f"as {name}"
        raise UnsupportedFormat(
            f"{file.path}: its pixels are encoded {kind}, which is not read here; export the series again as "
            "'Explicit VR Little Endian', or convert each file, with `gdcmconv --raw IN OUT` for example"
        )
    raise UnsupportedFormat(
        f"{file.path}: its pixels are encoded as {name}, for which no decoder is installed; "
        "pip install 'medsam2[dicom]' brings those for JPEG, JPEG-LS, JPEG 2000 and RLE"
    )


def _intensities(slices: Sequence[Slice], dtype: np.dtype, padding: Padding) -> Iterator[np.ndarray]:
    for file, run in groupby(slices, key=lambda one: one.file):
        part = list(run)
        decoded = _decoded(file, [one.frame for one in part])
        for one, pixels in zip(part, decoded, strict=True):
            yield _luma(pixels) if file.num_samples > 1 else _scaled(one, pixels, dtype, padding)


def _decoded(file: Header, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield the frames of a file as stored, (y, x) or in colour (y, x, 3) as RGB."""
    from pydicom.pixels.utils import iter_pixels

    try:
        with (
            _opened(file) as source,
            closing(_generated(iter_pixels(source, indices=frames, **_known_elements(file)))) as pixels,
        ):
            for _ in frames:
                with lenient_dicom():
                    decoded = next(pixels)
                if decoded.shape[:2] != (file.rows, file.columns):
                    raise ValueError(
                        f"{decoded.shape[:2]} pixels where the header has {file.rows, file.columns}"
                    )
                yield decoded
    except damage(StopIteration) as error:
        reason = "there are fewer than the header claims"
        if file.transfer_syntax not in _NATIVE:
            reason = in_a_line(" ".join(str(error).split())) or "the decoder gives up"
        raise UnsupportedFormat(f"{file.path}: its pixels are damaged or truncated: {reason}") from error


def _stored(file: Header) -> object:
    from pydicom import dcmread

    try:
        with lenient_dicom():
            return dcmread(file.path, specific_tags=["PixelData"], force=True).get("PixelData")
    except damage() as error:
        raise UnsupportedFormat(f"{file.path}: its pixels are damaged or truncated") from error


def _known_elements(file: Header) -> dict[str, Any]:
    """Return the elements that pydicom needs and the file lacks."""
    if not file.inferred:
        return {}
    return {
        "bits_allocated": file.bits_allocated,
        "bits_stored": file.bits_stored,
        "samples_per_pixel": file.num_samples,
        "photometric_interpretation": file.photometric,
    }


def _generated(pixels: Iterator[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """Declare that pydicom's iterator can be closed; it must be, before the file is."""
    return cast(Generator[np.ndarray, None, None], pixels)


@contextmanager
def _opened(file: Header) -> Iterator[Path | BinaryIO | Dataset]:
    """Open what pydicom decodes."""
    if file.transfer_syntax and file.transfer_syntax in _NATIVE:
        yield file.path
        return
    # Encapsulated parts say how long they are. Reading from a map gives no more than there is; reading from a
    # file would first allocate the length that a damaged part claims.
    with file.path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = cast(BinaryIO, mapped)
        yield content if file.transfer_syntax else _with_encoding(content)


def _with_encoding(content: BinaryIO) -> Dataset:
    """Read an old file, which does not say how it is encoded, and add its encoding."""
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = dcmread(content, force=True)
    is_implicit = dataset.original_encoding[0]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    return dataset


def _luma(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise ValueError(f"colours of {pixels.dtype.itemsize * 8} bits")
    return np.array(Image.fromarray(pixels).convert("L"))


def _scaled(one: Slice, pixels: np.ndarray, dtype: np.dtype, padding: Padding) -> np.ndarray:
    """Turn stored values into intensities."""
    file = one.file
    num_unused = pixels.dtype.itemsize * 8 - file.bits_stored
    if num_unused:
        # Bits above those stored may hold anything, an overlay or no sign: shifting up and down removes them.
        pixels = (pixels << num_unused) >> num_unused
    slope, inter = _scale(one)
    if slope == 0 and pixels.any():
        raise UnsupportedFormat(
            f"{file.path}: {element_name('RescaleSlope')} is 0, which would make all its intensities equal, "
            "and other slices have other slopes"
        )
    is_padding = padding.note(pixels, file.padding)
    if _is_inverted(file):
        pixels = np.asarray(sum(_stored_range(file)) - pixels.astype(np.int64))
    if (slope, inter) != (1.0, 0.0):
        pixels = pixels.astype(np.float64) * slope + inter
    intensities = pixels.astype(dtype)
    padding.note_intensities(intensities, is_padding)
    return intensities


def _scale(one: Slice) -> tuple[float, float]:
    slope, inter = one.plane.slope, one.plane.inter
    return (1.0 if slope is None else slope, 0.0 if inter is None else inter)


def _seen_window(one: Slice) -> tuple[float, float] | None:
    """Return the window of a slice in its intensities as they are read."""
    window = one.plane.window
    if window is None or not _is_inverted(one.file):
        return window
    slope, inter = _scale(one)
    mirror = slope * sum(_stored_range(one.file)) + 2 * inter
    return mirror - window[1], mirror - window[0]


def _is_inverted(file: Header) -> bool:
    return file.photometric == "MONOCHROME1" and file.modality != "CT"


def _stored_dtype(file: Header) -> np.dtype:
    return np.dtype(f"{'i' if file.is_signed else 'u'}{file.bits_allocated // 8}")


def _stored_range(file: Header) -> tuple[int, int]:
    """Return the lowest and highest value that the stored bits can have."""
    num_values = 1 << file.bits_stored
    return (-num_values // 2, num_values // 2 - 1) if file.is_signed else (0, num_values - 1)


class Padding:
    """Records where slices are padded while they are read, and fills these places at the end."""

    def __init__(self) -> None:
        """Begin with no slice."""
        self._places: list[np.ndarray | None] = []
        self._claims: list[tuple[int, int]] = []
        self._stored = (np.inf, -np.inf)
        self._lowest = np.inf

    def note(self, pixels: np.ndarray, limits: tuple[int, int] | None) -> np.ndarray | None:
        """Record a slice's stored values; `limits` are the lowest and highest that are padding.

        Returns:
            Whether each pixel is padding; None if none is.
        """
        is_padding = None
        if limits is not None:
            is_padding = (pixels >= limits[0]) & (pixels <= limits[1])
            if is_padding.any():
                self._claims.append(limits)
            else:
                is_padding = None
        self._places.append(None if is_padding is None else np.packbits(is_padding))
        real = pixels if is_padding is None else pixels[~is_padding]
        if real.size:
            low, high = self._stored
            self._stored = (min(low, int(real.min())), max(high, int(real.max())))
        return is_padding

    def note_intensities(self, intensities: np.ndarray, is_padding: np.ndarray | None) -> None:
        """Record the same slice's intensities."""
        real = intensities if is_padding is None else intensities[~is_padding]
        if real.size:
            self._lowest = min(self._lowest, float(real.min()))

    @property
    def is_there(self) -> bool:
        """Whether any pixel is padding.

        A value within the range of measured values is not padding, whatever the header says: 0 may be water.
        """
        low, high = self._stored
        is_outside = all(claim[1] < low or claim[0] > high for claim in self._claims)
        return bool(self._claims) and is_outside and low <= high

    def filled(self, voxels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the slices with padding at the lowest intensity, or at 0 if no intensity is lower."""
        value = min(0.0, self._lowest)
        for intensities, places in zip(voxels, self._places, strict=True):
            if places is None:
                yield intensities
                continue
            is_padding = np.unpackbits(places, count=intensities.size).astype(bool)
            filled = intensities.copy()
            filled[is_padding.reshape(intensities.shape)] = value
            yield filled
