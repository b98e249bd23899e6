"""Write labels as a DICOM segmentation that refers to the series it was drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.dicom.elements import dataset_of
from medsam2.imaging.dicom.header import Source, lenient_dicom
from medsam2.imaging.outputs.dicom_source import MatchedSeries, match
from medsam2.imaging.outputs.segments import Code, LabelledObject
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset
    from pydicom.sr.coding import Code as DicomCode

PRODUCT = "medsam2"
SERIES_NUMBER = 900
"""Of our segmentations; the standard requires a number, and scanners count from 1."""
_NO_SERIAL_NUMBER = "0"  # software has none, and the standard requires one
_STEP_DECIMALS = 6  # of a distance in mm; more are rounding


def write(
    labels: Volume,
    objects: Sequence[LabelledObject],
    path: Path,
    *,
    source: Source,
    weights: str | None = None,
) -> None:
    """Write one BINARY segment for each object; frames without it are left out.

    Segments are numbered from 1 in the order of the labels. Every frame has the position of its source
    slice, so that a tilted gantry keeps its tilt. Patient, study and the scanner's make are the source's;
    no other text of the source is copied.

    Args:
        labels: uint8 or uint16, on the grid of the source series or a part of it.
        objects: What `labels` holds, each with voxels.
        path: The file.
        source: The series the labels were drawn on.
        weights: Name of the network's weights, for the record.

    Raises:
        InputError: The source does not fit, or the file cannot be written.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation

    series = match(source, labels)
    instances, array = _as_stored(series, _numbered(series.array, objects))
    descriptions = [_description(number, one, weights) for number, one in enumerate(objects, start=1)]
    with lenient_dicom():
        try:
            segmentation = Segmentation(
                source_images=instances,
                pixel_array=array,
                segmentation_type="BINARY",
                segment_descriptions=descriptions,
                series_instance_uid=UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer=PRODUCT,
                manufacturer_model_name=PRODUCT,
                software_versions=version(PRODUCT),
                device_serial_number=_NO_SERIAL_NUMBER,
                content_label="SEGMENTATION",
                series_description=f"{PRODUCT} segmentation",
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Without highdicom's own words, which may quote the patient's data.
            raise InputError(
                f"{path}: cannot be made, as the source breaks DICOM's rules for "
                f"{instances[0].SOPClassUID.name} ({type(error).__name__} in highdicom)"
            ) from error
        _refer_to_frames(segmentation, series)
        with replacing(path, ".dcm") as temporary:
            segmentation.save_as(temporary)


def _as_stored(series: MatchedSeries, numbers: np.ndarray) -> tuple[list[Dataset], np.ndarray]:
    """Put segment numbers (slice, row, column) into the order of the source's files or of its frames."""
    from pydicom.valuerep import DSfloat

    first = series.first
    # highdicom copies the source's value, which may be wrong, or takes 1 mm for a single slice.
    step_mm = DSfloat(round(series.step_mm, _STEP_DECIMALS), auto_format=True)
    first.SpacingBetweenSlices = step_mm
    if series.slices[0].frame is None:
        return [first, *(one.header for one in series.slices[1:])], numbers
    _say_places(series, first)
    first.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = step_mm
    # The frames of one volume only: highdicom does not support several frames at one place.
    groups = first.PerFrameFunctionalGroupsSequence
    first.PerFrameFunctionalGroupsSequence = [groups[(one.frame or 1) - 1] for one in series.slices]
    first.NumberOfFrames = len(series.slices)
    return [first], numbers


def _refer_to_frames(segmentation: Dataset, series: MatchedSeries) -> None:
    """Write the numbers of the frames in their file into the references."""
    images = {
        id(image): image  # several segments share one
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in group.get("DerivationImageSequence", ())
        for image in derivation.get("SourceImageSequence", ())
        if "ReferencedFrameNumber" in image
    }
    for image in images.values():
        image.ReferencedFrameNumber = series.slices[int(image.ReferencedFrameNumber) - 1].frame


def _say_places(series: MatchedSeries, first: Dataset) -> None:
    """Write the places of frames into the elements that highdicom reads."""
    if "SharedFunctionalGroupsSequence" not in first:
        # Nuclear medicine gives only the place of its first slice.
        places = {one.frame: one.place for one in series.slices}
        place = series.slices[0].place
        measures = dataset_of(
            PixelSpacing=place.PixelSpacing,
            SliceThickness=first.get("SliceThickness") or first.SpacingBetweenSlices,
        )
        orientation = dataset_of(ImageOrientationPatient=place.ImageOrientationPatient)
        first.SharedFunctionalGroupsSequence = [
            dataset_of(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures])
        ]
        positions = (
            places.get(number, place).ImagePositionPatient
            for number in range(1, int(first.NumberOfFrames) + 1)
        )
        first.PerFrameFunctionalGroupsSequence = [
            dataset_of(PlanePositionSequence=[dataset_of(ImagePositionPatient=position)])
            for position in positions
        ]
    # Scanners may write shared elements for each frame; highdicom reads them only where they are shared.
    shared, group = first.SharedFunctionalGroupsSequence[0], first.PerFrameFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if keyword not in shared:
            shared.add(group[keyword])


def _numbered(array: np.ndarray, objects: Sequence[LabelledObject]) -> np.ndarray:
    """Turn labels into segment numbers, which have no gaps."""
    numbers = np.zeros(objects[-1].label + 1, array.dtype)
    numbers[[one.label for one in objects]] = np.arange(1, len(objects) + 1)
    return np.asarray(numbers[array])


def _description(number: int, one: LabelledObject, weights: str | None) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=one.dicom_name,
        segmented_property_category=_dicom_code(one.segment.category),
        segmented_property_type=_dicom_code(one.segment.type),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=PRODUCT,
            family=codes.DCM.ArtificialIntelligence,
            version=version(PRODUCT),
            parameters=None if weights is None else {"weights": weights},
        ),
        display_color=CIELabColor.from_rgb(*one.color_rgb),
    )


def _dicom_code(code: Code) -> DicomCode:
    from pydicom.sr.coding import Code as DicomCode

    return DicomCode(code.value, code.scheme, code.meaning)
