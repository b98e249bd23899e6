"""Write labels as a DICOM RT structure set, one region of interest an object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.outputs.contours import outlines
from medsam2.imaging.outputs.dicom_seg import PRODUCT, SERIES_NUMBER
from medsam2.imaging.outputs.dicom_slices import Source, SourceSlice, lenient_dicom, require_highdicom
from medsam2.imaging.outputs.dicom_source import MatchedSeries, match
from medsam2.imaging.outputs.segments import LabelledObject
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

# Retired, and yet the class by which planning systems look for the referenced study.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_COPIED = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
)
_DECIMALS = 4  # of a coordinate in mm; the text of a number has 16 characters at most


def write(labels: Volume, objects: Sequence[LabelledObject], path: Path, *, source: Source) -> None:
    """Write closed planar contours in the patient's coordinates, holes through keyholes.

    Patient and study fields are those the standard asks for, with the source's values; no other text of it
    is there.

    Args:
        labels: uint8 or uint16, on the grid of the source series or a part of it.
        objects: What `labels` holds; those without voxels are left out.
        path: The file.
        source: The series the labels were drawn on.

    Raises:
        InputError: There is no object, the source does not fit, a library is not installed, or the file
            cannot be written.
    """
    require_highdicom()
    present = [one for one in objects if one.box is not None]
    if not present:
        raise InputError(f"{path}: no voxel is labelled, and a structure set needs at least one")
    series = match(source, labels)
    with lenient_dicom():
        first = series.first
        structures = _header(first)
        structures.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
        structures.StructureSetROISequence = []
        structures.ROIContourSequence = []
        structures.RTROIObservationsSequence = []
        for number, one in enumerate(present, start=1):
            structures.StructureSetROISequence.append(_region(number, one, first))
            structures.ROIContourSequence.append(_contours(number, one, series))
            structures.RTROIObservationsSequence.append(_observation(number))
        with replacing(path, ".dcm") as temporary:
            structures.save_as(temporary, enforce_file_format=True)


def _header(first: Dataset) -> FileDataset:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    # Explicit VR gives the points of one contour 64 KiB, which a large organ's outline fills.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in _COPIED:
        setattr(header, keyword, first[keyword].value)
    now = datetime.now()
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.InstanceCreationDate = header.StructureSetDate = now.strftime("%Y%m%d")
    header.InstanceCreationTime = header.StructureSetTime = now.strftime("%H%M%S")
    header.Modality = "RTSTRUCT"
    header.SeriesInstanceUID = generate_uid()
    header.SeriesNumber = SERIES_NUMBER
    header.SeriesDescription = f"{PRODUCT} structures"
    header.OperatorsName = ""
    header.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    header.Manufacturer = header.ManufacturerModelName = PRODUCT
    header.SoftwareVersions = version(PRODUCT)
    header.InstanceNumber = 1
    header.StructureSetLabel = PRODUCT
    return header


def _frame_of_reference(series: MatchedSeries) -> Dataset:
    from pydicom import Dataset

    first = series.slices[0].header
    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = first.SeriesInstanceUID
    referenced_series.ContourImageSequence = [_instance(one) for one in series.slices]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [referenced_series]
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _instance(one: SourceSlice) -> Dataset:
    from pydicom import Dataset

    instance = Dataset()
    instance.ReferencedSOPClassUID = one.header.SOPClassUID
    instance.ReferencedSOPInstanceUID = one.header.SOPInstanceUID
    if one.frame is not None:
        instance.ReferencedFrameNumber = one.frame
    return instance


def _region(number: int, one: LabelledObject, first: Dataset) -> Dataset:
    from pydicom import Dataset

    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    region.ROIName = one.dicom_name
    region.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
    return region


def _observation(number: int) -> Dataset:
    from pydicom import Dataset

    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = ""
    return observation


def _contours(number: int, one: LabelledObject, series: MatchedSeries) -> Dataset:
    from pydicom import Dataset

    contours = Dataset()
    contours.ROIDisplayColor = list(one.color_rgb)
    contours.ReferencedROINumber = number
    contours.ContourSequence = list(_slice_contours(one.label, series))
    return contours


def _slice_contours(label: int, series: MatchedSeries) -> Iterator[Dataset]:
    from pydicom import Dataset

    for source, plane in zip(series.slices, series.array, strict=True):
        mask = plane == label
        for outline in outlines(mask) if mask.any() else ():
            contour = Dataset()
            contour.ContourImageSequence = [_instance(source)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(outline)
            contour.ContourData = [f"{value:.{_DECIMALS}f}" for value in _in_patient(outline, source).ravel()]
            yield contour


def _in_patient(outline: np.ndarray, source: SourceSlice) -> np.ndarray:
    """Place corners (x, y) in pixels of a slice, (N, 3) LPS mm."""
    return np.asarray(source.position + outline * source.pixel_mm @ source.axes)
