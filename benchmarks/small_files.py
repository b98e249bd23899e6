"""One small file of every format that is read, with the part of it that is header."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
from nibabel.freesurfer.mghformat import MGHImage
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, RLELossless

VOXELS = np.random.default_rng(0).integers(0, 500, (4, 6, 8)).astype(np.int16)
"""(z, y, x); what every file holds, or one slice of it."""
COMPANION = "voxels.raw"
"""File beside a .mhd, which holds its voxels."""

_AFFINE = np.array([[-0.8, 0.1, 0, 7], [0.1, 0.8, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1.0]])
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"SQ", b"UN", b"UT", b"UC", b"UR")
_WHOLE = 1 << 30
_PIXEL_HEAD = 24  # packed pixels begin by saying how long they are


@dataclass(frozen=True, kw_only=True)
class Element:
    """Where a DICOM element lies in its file."""

    start: int
    value: int
    """Where its value begins ..."""
    end: int
    """... and ends."""
    vr: bytes
    lengths: tuple[tuple[int, int], ...]
    """(place, bytes) of every length that grows with the value: its own, then those of what holds it."""


@dataclass(frozen=True, kw_only=True)
class SmallFile:
    """A file to be changed, then packed if its format is."""

    suffix: str
    content: bytes
    header_size: int
    """How many of the first bytes are worth changing."""
    pack: Callable[[bytes], bytes] = bytes
    is_text: bool = False
    elements: tuple[Element, ...] = field(default=(), repr=False)
    """Of DICOM."""


def small_files() -> dict[str, SmallFile]:
    """Make the files, by the names that a report has for them."""
    return {**_nifti_files(), **_itk_files(), **_mgh_files(), **_npz_files(), **_dicom_files()}


def _nifti_files() -> dict[str, SmallFile]:
    plain = _nifti(nibabel.Nifti1Header)
    scaled = _nifti(nibabel.Nifti1Header, endianness=">", slope=0.5)
    second = _nifti(nibabel.Nifti2Header)
    packed = _packed(plain)
    return {
        "nifti-1": SmallFile(suffix=".nii", content=plain, header_size=352),
        "nifti-1 scaled": SmallFile(suffix=".nii", content=scaled, header_size=352),
        "nifti-2": SmallFile(suffix=".nii", content=second, header_size=544),
        "nifti gz": SmallFile(suffix=".nii.gz", content=plain, header_size=352, pack=_packed),
        "nifti gz bytes": SmallFile(suffix=".nii.gz", content=packed, header_size=len(packed)),
    }


def _nifti(kind: type[nibabel.Nifti1Header], *, endianness: str = "<", slope: float | None = None) -> bytes:
    header = kind(endianness=endianness)
    header.set_data_dtype(VOXELS.dtype)
    header.set_data_shape(VOXELS.shape[::-1])
    header.set_sform(_AFFINE, code=1)
    header.set_qform(_AFFINE, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.sizeof_hdr + 4
    if slope is not None:
        header["scl_slope"], header["scl_inter"] = slope, -100
    return header.binaryblock + bytes(4) + VOXELS.astype(VOXELS.dtype.newbyteorder(endianness)).tobytes()


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _itk_files() -> dict[str, SmallFile]:
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((1.5, -2.0, 30.0))
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".nrrd", ".mha"):
            for packs in (False, True):
                path = Path(name, f"a{suffix}")
                SimpleITK.WriteImage(image, path, useCompression=packs)
                found[f"{suffix[1:]}{' packed' * packs}"] = _text_file(suffix, path.read_bytes())
        SimpleITK.WriteImage(image, Path(name, "a.mhd"))
        header = Path(name, "a.mhd").read_bytes().replace(b"a.raw", COMPANION.encode())
    return {**found, "mhd": _text_file(".mhd", header)}


def _text_file(suffix: str, content: bytes) -> SmallFile:
    ends = (b"\n\n", b"ElementDataFile = LOCAL\n")
    size = next((content.index(end) + len(end) for end in ends if end in content), len(content))
    return SmallFile(suffix=suffix, content=content, header_size=size, is_text=True)


def _mgh_files() -> dict[str, SmallFile]:
    image = MGHImage(VOXELS.T, _AFFINE)
    content = image.to_bytes()
    return {
        "mgh": SmallFile(suffix=".mgh", content=content, header_size=90),
        "mgz": SmallFile(suffix=".mgz", content=content, header_size=90, pack=_packed),
    }


def _npz_files() -> dict[str, SmallFile]:
    voxels, spacing = _npy(VOXELS), _npy(np.array([0.8, 0.7, 2.5]))
    whole = _npz(voxels, spacing)
    # An .npy header is text, but for its first ten bytes.
    return {
        "npz image": SmallFile(
            suffix=".npz", content=voxels, header_size=128, pack=partial(_npz, spacing=spacing), is_text=True
        ),
        "npz spacing": SmallFile(
            suffix=".npz", content=spacing, header_size=152, pack=partial(_npz, voxels), is_text=True
        ),
        "npz bytes": SmallFile(suffix=".npz", content=whole, header_size=len(whole)),
    }


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _npz(voxels: bytes, spacing: bytes) -> bytes:
    return _zipped({"imgs.npy": voxels, "spacing.npy": spacing})


def _zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _dicom_files() -> dict[str, SmallFile]:
    ct = _slice()
    run_lengths = _slice()
    run_lengths.compress(RLELossless)
    old = _saved(ct)[132:]  # from before there was a preamble
    packed = _zipped({"a.dcm": _saved(ct)})
    return {
        "dicom": _dicom_file(_saved(ct)),
        "dicom enhanced": _dicom_file(_saved(_enhanced())),
        "dicom rle": _dicom_file(_saved(run_lengths)),
        "dicom zip": SmallFile(suffix=".zip", content=packed, header_size=len(packed)),
        "dicom old": SmallFile(suffix=".dcm", content=old, header_size=old.index(b"\xe0\x7f\x10\x00")),
    }


def _dataset(sop_class: UID, pixels: np.ndarray) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, UID("1.2.3.4.5")
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "CT", "1.2.3.4", 3
    dataset.InstanceNumber, dataset.ImageType = 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    return dataset


def _slice() -> FileDataset:
    dataset = _dataset(CTImageStorage, VOXELS[0])
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-10, 20, 100], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.75, 0.5], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 350
    return dataset


def _enhanced() -> FileDataset:
    dataset = _dataset(EnhancedCTImageStorage, VOXELS)
    dataset.NumberOfFrames = len(VOXELS)
    shared = Dataset()
    shared.PixelMeasuresSequence = _one(PixelSpacing=[0.75, 0.5], SliceThickness=2.5)
    shared.PlaneOrientationSequence = _one(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelValueTransformationSequence = _one(RescaleSlope=1, RescaleIntercept=-1024)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    places = [_one(ImagePositionPatient=[-10, 20, 2.5 * z]) for z in range(len(VOXELS))]
    dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in places])
    for frame, place in zip(dataset.PerFrameFunctionalGroupsSequence, places, strict=True):
        frame.PlanePositionSequence = place
    return dataset


def _one(**elements: object) -> Sequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Sequence([item])


def _saved(dataset: FileDataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _dicom_file(content: bytes) -> SmallFile:
    elements = tuple(_elements(content, 132, _WHOLE, ()))
    pixels = next(one.value for one in elements if content[one.start : one.start + 4] == b"\xe0\x7f\x10\x00")
    return SmallFile(suffix=".dcm", content=content, header_size=pixels + _PIXEL_HEAD, elements=elements)


def _elements(content: bytes, place: int, end: int, outer: tuple[tuple[int, int], ...]) -> list[Element]:
    """Walk through explicit little endian elements, those within sequences of known length too."""
    found: list[Element] = []
    while place < min(end, len(content)):
        start, vr = place, content[place + 4 : place + 6]
        size_place, size_bytes = (place + 8, 4) if vr in _LONG_VRS else (place + 6, 2)
        (size,) = struct.unpack_from("<I" if size_bytes == 4 else "<H", content, size_place)
        value = size_place + size_bytes
        place = min(value + size, len(content))  # pixels that are packed do not say how long they are
        lengths = ((size_place, size_bytes), *outer)
        found.append(Element(start=start, value=value, end=place, vr=vr, lengths=lengths))
        item = value
        while vr == b"SQ" and item < place:
            (item_size,) = struct.unpack_from("<I", content, item + 4)
            found += _elements(content, item + 8, item + 8 + item_size, ((item + 4, 4), *lengths))
            item += 8 + item_size
    return found
