"""DICOM files for tests, written by pydicom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1, 0, 0, 0, 1, 0)


def _dicom_file(sop_class: UID, **elements: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = "DOE^JOHN", "4711"
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def _set_pixels(dataset: Dataset, pixels: np.ndarray, **elements: object) -> None:
    rows, columns = pixels.shape[-2:]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)


@pytest.fixture
def dicom_object() -> Callable[..., FileDataset]:
    """Make an object of a SOP class with some elements, to be changed and saved by the test."""
    return _dicom_file


@pytest.fixture
def dicom_slice() -> Callable[..., FileDataset]:
    """Make the image of one slice; elements given by keyword replace the usual ones."""

    def make(pixels: np.ndarray, position: tuple[float, float, float], **elements: object) -> FileDataset:
        number = elements.pop("InstanceNumber", 1)
        dataset = _dicom_file(
            elements.pop("SOPClassUID", CTImageStorage),
            Modality="CT",
            SeriesInstanceUID="1.2.3.4",
            SeriesNumber=3,
            InstanceNumber=number,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=list(position),
            ImageOrientationPatient=list(AXIAL),
            PixelSpacing=[0.75, 0.5],
            SliceThickness=2.5,
            RescaleSlope=1,
            RescaleIntercept=0,
        )
        _set_pixels(dataset, pixels)
        for name, value in elements.items():
            setattr(dataset, name, value)
        return dataset

    return make


@pytest.fixture
def dicom_series(dicom_slice: Callable[..., FileDataset]) -> Callable[..., list[Path]]:
    """Write a series into a folder, from its last slice to its first, and return its files in that order."""

    def write(
        folder: Path,
        array: np.ndarray,
        *,
        step: tuple[float, float, float] = (0.0, 0.0, 2.5),
        origin: tuple[float, float, float] = (-10.0, 20.0, 100.0),
        change: Callable[[FileDataset], None] | None = None,
        **elements: object,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for z in reversed(range(len(array))):
            position = tuple(start + z * part for start, part in zip(origin, step, strict=True))
            dataset = dicom_slice(array[z], position, InstanceNumber=len(array) - z, **elements)
            if change is not None:
                change(dataset)
            files.append(folder / f"{dataset.SeriesInstanceUID}.{len(array) - z:03d}.dcm")
            dataset.save_as(files[-1])
        return files

    return write


@pytest.fixture
def enhanced_ct() -> Callable[..., FileDataset]:
    """Make a multi-frame CT, whose frames say themselves where they lie and how they are scaled."""

    def make(
        array: np.ndarray, positions: list[tuple[float, float, float]], **elements: object
    ) -> FileDataset:
        dataset = _dicom_file(
            EnhancedCTImageStorage,
            Modality="CT",
            SeriesInstanceUID="1.2.3.9",
            SeriesNumber=9,
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        )
        _set_pixels(dataset, array, NumberOfFrames=len(array))
        dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PixelMeasuresSequence = _one(PixelSpacing=[0.75, 0.5], SliceThickness=2.5)
        shared.PlaneOrientationSequence = _one(ImageOrientationPatient=list(AXIAL))
        shared.PixelValueTransformationSequence = _one(RescaleSlope=1, RescaleIntercept=-1024)
        shared.FrameVOILUTSequence = _one(WindowCenter=40, WindowWidth=350)
        frames = []
        for position in positions:
            frame = Dataset()
            frame.PlanePositionSequence = _one(ImagePositionPatient=list(position))
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
        for name, value in elements.items():
            setattr(dataset, name, value)
        return dataset

    return make


def _one(**elements: object) -> Sequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Sequence([item])
