"""Write labels as a DICOM RT structure set: each object is a region of interest with closed contours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from medsam2.errors import require
from medsam2.imaging.dicom.elements import dataset_of
from medsam2.imaging.dicom.header import Source, SourceSlice, lenient_dicom
from medsam2.imaging.outputs.dicom_seg import PRODUCT, SERIES_NUMBER
from medsam2.imaging.outputs.dicom_source import PATIENT_AND_STUDY, MatchedSeries, match
from medsam2.imaging.outputs.segments import LabelledObject
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

# Retired, but planning systems still look for the referenced study by this class.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_COPIED = ("SpecificCharacterSet", *PATIENT_AND_STUDY, "StudyInstanceUID", "FrameOfReferenceUID")
_DECIMALS = 4  # of a coordinate in mm; the text of a number has 16 characters at most


def write(labels: Volume, objects: Sequence[LabelledObject], path: Path, *, source: Source) -> None:
    """Write closed planar contours in the patient's coordinates; holes are joined by keyholes.

    Patient and study fields that the standard requires have the source's values; no other text of the source
    is copied.

    Args:
        labels: uint8 or uint16, on the grid of the source series or a part of it.
        objects: What `labels` holds, each with voxels.
        path: The file.
        source: The series the labels were drawn on.

    Raises:
        InputError: The source does not fit, or the file cannot be written.
    """
    series = match(source, labels)
    numbered = list(enumerate(objects, start=1))
    with lenient_dicom():
        first = series.first
        structures = _header(first)
        structures.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
        structures.StructureSetROISequence = [
            dataset_of(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
                ROIName=one.dicom_name,
                ROIGenerationAlgorithm="SEMIAUTOMATIC",
            )
            for number, one in numbered
        ]
        structures.ROIContourSequence = [
            dataset_of(
                ROIDisplayColor=list(one.color_rgb),
                ReferencedROINumber=number,
                ContourSequence=list(_slice_contours(one.label, series)),
            )
            for number, one in numbered
        ]
        structures.RTROIObservationsSequence = [
            dataset_of(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
            for number, _ in numbered
        ]
        with replacing(path, ".dcm") as temporary:
            structures.save_as(temporary, enforce_file_format=True)


def _header(first: Dataset) -> FileDataset:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    # Explicit VR limits the points of one contour to 64 KiB, too little for the outline of a large organ.
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
    first = series.slices[0].header
    referenced_series = dataset_of(
        SeriesInstanceUID=first.SeriesInstanceUID,
        ContourImageSequence=[_reference(one) for one in series.slices],
    )
    study = dataset_of(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[referenced_series],
    )
    return dataset_of(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference(one: SourceSlice) -> Dataset:
    header = one.header
    reference = dataset_of(
        ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID
    )
    if one.frame is not None:
        reference.ReferencedFrameNumber = one.frame
    return reference


def _slice_contours(label: int, series: MatchedSeries) -> Iterator[Dataset]:
    for source, plane in zip(series.slices, series.array, strict=True):
        mask = plane == label
        for outline in outlines(mask) if mask.any() else ():
            corners = _in_patient(outline, source).ravel()
            yield dataset_of(
                ContourImageSequence=[_reference(source)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(outline),
                ContourData=[f"{value:.{_DECIMALS}f}" for value in corners],
            )


def _in_patient(outline: np.ndarray, source: SourceSlice) -> np.ndarray:
    """Place corners (x, y) in pixels of a slice, (N, 3) LPS mm."""
    return np.asarray(source.position + outline * source.pixel_mm @ source.axes)


_CORNERS_AT_ONCE = 256
_LAST = 1e6  # pixels, longer than any channel


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Draw each part of a mask as one polygon, half-way between the pixels inside and outside.

    Pixels of a part touch by an edge or a corner. A channel of no width joins a hole to the outline, as DICOM
    requires of holes in CLOSED_PLANAR contours. The middle of a pixel lies inside the polygon exactly if the
    pixel is in the mask, by either of the usual rules of filling.

    Args:
        mask: Boolean, (y, x).

    Yields:
        (N, 2) float64, corners (x, y) in pixels; the last one is joined to the first.

    Raises:
        InputError: scikit-image is not installed.
    """
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        yield _keyholed(parts[rows, columns] == number) + np.array((columns.start, rows.start))


def _keyholed(part: np.ndarray) -> np.ndarray:
    """Outline one connected part."""
    rings = _rings(part)
    # The outer ring encloses all others.
    outer = rings.pop(int(np.argmax([abs(_signed_area(ring)) for ring in rings])))
    return _joined(outer, rings) if rings else outer


def _joined(outer: np.ndarray, rings: list[np.ndarray]) -> np.ndarray:
    """Join rings to the ring around them, the nearest first, so that channels are short and do not cross.

    Every corner of a ring that is not joined yet keeps its shortest distance to the joined ones. A ring that
    joins can only shorten it, so each pair of corners is measured once.
    """
    corners = np.concatenate((outer, *rings))
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    starts = len(outer) + np.cumsum([0, *(len(ring) for ring in rings)])
    alone = corners[len(outer) :]
    shortest, nearest = np.full(len(alone), np.inf), np.zeros(len(alone), int)

    def shorten(joined: np.ndarray) -> None:
        waiting = np.flatnonzero(ring_of >= 0)
        for some in np.array_split(joined, -(-len(joined) // _CORNERS_AT_ONCE)):
            lengths = _channel_lengths(corners[some], alone[waiting])
            best = lengths.argmin(axis=0)
            least = lengths[best, np.arange(len(waiting))]
            is_less = least < shortest[waiting]
            shortest[waiting[is_less]], nearest[waiting[is_less]] = least[is_less], some[best[is_less]]

    following = [*range(1, len(outer)), 0]
    for first, end in pairwise(starts.tolist()):
        following += [*range(first + 1, end), first]
    places = list(range(len(corners)))
    shorten(np.arange(len(outer)))
    for _ in rings:
        corner = int(shortest.argmin())
        ring = int(ring_of[corner])
        here, there = int(nearest[corner]), len(outer) + corner
        # There, around the ring and there again; then here again and on.
        last = int(starts[ring + 1] - 1 if there == starts[ring] else there - 1)
        there_again, here_again = len(places), len(places) + 1
        places += [there, here]
        following += [here_again, following[here]]
        following[here], following[last] = there, there_again
        own = np.flatnonzero(ring_of == ring)
        ring_of[own], shortest[own] = -1, np.inf
        if (ring_of >= 0).any():
            shorten(own + len(outer))
    order = [0]
    while (after := following[order[-1]]) != 0:
        order.append(after)
    return np.asarray(corners[[places[one] for one in order]])


def _channel_lengths(outer: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Distances (N, M) between the corners of two rings; a channel across a pixel's middle comes last.

    Readers may take such a pixel as inside or outside. In half pixels, the coordinates of corners are whole
    numbers of which one is odd, and those of a pixel's middle are both even. A channel has whole-numbered
    points at equal distances; if one of them is a pixel's middle, the first one after its start is.
    """
    doubled = np.rint(2 * outer).astype(int)[:, None], np.rint(2 * ring).astype(int)
    path = doubled[1] - doubled[0]
    num_steps = np.gcd(path[..., 0], path[..., 1])
    first_point = doubled[0] + path // np.maximum(num_steps, 1)[..., None]
    meets_middle = (num_steps > 1) & (first_point % 2 == 0).all(axis=-1)
    return np.asarray(cdist(outer, ring) + np.where(meets_middle, _LAST, 0))


def _rings(part: np.ndarray) -> list[np.ndarray]:
    """The outer ring and those of the holes, corners (x, y); holes run in the opposite sense."""
    require("skimage.measure", "contours need", "dicom", "scikit-image")
    from skimage.measure import find_contours

    found = find_contours(np.pad(part, 1).astype(np.float64), 0.5, fully_connected="high")
    return [_without_straight_corners(ring[:-1, ::-1] - 1) for ring in found]


def _without_straight_corners(ring: np.ndarray) -> np.ndarray:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[turns != 0]


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
