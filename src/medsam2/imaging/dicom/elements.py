"""Read numbers and texts from a DICOM data set, and the traits that tell images of one place apart."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

_LONGEST_TEXT = 64  # of a UID, and of all other texts that are read here
# Damaged files may hold anything, even a patient's name; messages quote only what is nearly a number.
_NEARLY_A_NUMBER = re.compile(r"[\d+\-.,eE\\ ]{1,40}")


class UnusableElement(Exception):
    """An element is missing or cannot be understood; the message names it."""


def element_name(keyword: str) -> str:
    """Return an element's name as people look it up: "PixelSpacing (0028,0030)"."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text(value: object) -> str:
    """Return an element's text, short and printable: a damaged one may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:_LONGEST_TEXT])


def values(dataset: Dataset, keyword: str) -> list[object]:
    """Return the values of an element, of which there may be none, one or several."""
    try:
        value = dataset.get(keyword)
    except (ValueError, OverflowError):  # pydicom converts all or nothing
        raw = dataset.get_item(keyword)
        if raw is None or not isinstance(raw.value, bytes):
            raise UnusableElement(f"{element_name(keyword)} cannot be understood") from None
        value = raw.value.decode("latin-1").rstrip(" \0").split("\\")
    if value is None or value == "":
        return []
    is_several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    return list(value) if is_several else [value]


def first_values(places: Iterable[Dataset], keyword: str) -> list[object]:
    """Return the values of an element from the first data set that has any."""
    return next((found for place in places if (found := values(place, keyword))), [])


def numbers(places: Iterable[Dataset], keyword: str, length: int) -> tuple[float, ...] | None:
    """Return so many numbers, or None where the element is missing; if one is wanted, the first counts.

    A decimal comma is read as a point, since it can mean nothing else.

    Raises:
        UnusableElement: There are more or fewer, or they are not finite numbers.
    """
    found = first_values(places, keyword)
    if not found:
        return None
    try:
        parsed = tuple(decimal(value) for value in found)
    except ValueError:
        parsed = ()
    has_them = len(parsed) == length or length == 1 <= len(parsed)
    if has_them and all(math.isfinite(value) for value in parsed):
        return parsed
    written = "\\".join(str(value) for value in found)
    quoted = f"'{written}'" if _NEARLY_A_NUMBER.fullmatch(written) else "something else"
    wanted = "one number" if length == 1 else f"{length} numbers"
    raise UnusableElement(f"{element_name(keyword)} is {quoted}, where {wanted} must be")


def number_or_none(places: Iterable[Dataset], keyword: str) -> float | None:
    """Return one number, or None where there is none or it is damaged; for elements that are not needed."""
    try:
        found = numbers(places, keyword, 1)
    except UnusableElement:
        return None
    return None if found is None else found[0]


def decimal(value: object) -> float:
    """Return a number as DICOM writes it, or with a decimal comma.

    Raises:
        ValueError: It is no number.
    """
    return float(str(value).strip(" \0").replace(",", "."))


def dataset_of(**elements: object) -> Dataset:
    """Make a data set of elements, named by their keywords."""
    from pydicom import Dataset

    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def with_points(dataset: Dataset) -> None:
    """Replace decimal commas in a dataset by points, for libraries that do not know commas."""
    from pydicom.dataelem import RawDataElement

    for tag in list(dataset.keys()):
        raw: object = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value and b"," in raw.value and _is_decimal(raw.VR, tag):
            dataset[tag] = raw._replace(value=raw.value.replace(b",", b"."))


def _is_decimal(kind: str | None, tag: BaseTag) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return (kind or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")) == "DS"


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return a whole number, or None where the element is missing.

    Raises:
        UnusableElement: It is no whole number.
    """
    from pydicom.errors import BytesLengthException

    try:
        found = values(dataset, keyword)
        return int(str(found[0])) if found else None
    except (ValueError, BytesLengthException):
        raise UnusableElement(f"{element_name(keyword)} is no whole number") from None


Trait: TypeAlias = float | str

OF_A_VOLUME = (
    *("StackID", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers", "DiffusionBValue"),
    *("ComplexImageComponent", "TimeSlotVector", "RRIntervalVector", "EnergyWindowVector", "PhaseVector"),
)
"""Elements that differ between volumes and not within one, wherever their slices lie."""
OF_AN_IMAGE = (
    *("AcquisitionNumber", "FrameAcquisitionNumber", "BValue", "ImageType", "FrameType", "SequenceName"),
    *("EchoTime", "EffectiveEchoTime", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel"),
    *("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    *("FrameReferenceTime", "TemporalPositionTimeOffset", "DiffusionGradientOrientation"),
    *("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime"),
)
"""Elements that may also differ within a volume: they count if each place has the same values."""
TIMES = (
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "FrameReferenceTime", "TemporalPositionTimeOffset"),
    *("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
)
"""Elements of these by which the images of a place are ordered."""

# b-values from before the standard had an element for them: Siemens, GE, Philips, United Imaging.
_PRIVATE_B_VALUES = (0x0019100C, 0x00431039, 0x20011003, 0x00651009)
_GE_B_VALUE = 0x00431039
_GE_OFFSET = 1_000_000_000  # GE adds it to some
TRAIT_GROUPS = (
    *("FrameContentSequence", "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence"),
    *("CardiacSynchronizationSequence", "TemporalPositionSequence", "CTImageFrameTypeSequence"),
    *("CTReconstructionSequence", "MRTimingAndRelatedParametersSequence", "MRModifierSequence"),
)
"""Where a multi-frame file keeps them."""
_VECTORS = ("TimeSlotVector", "RRIntervalVector", "EnergyWindowVector", "PhaseVector")
_OF_A_FILE = tuple(
    keyword for keyword in (*OF_A_VOLUME, *OF_AN_IMAGE) if keyword not in ("BValue", *_VECTORS)
)
TRAIT_TAGS = (*_OF_A_FILE, *_VECTORS)
PRIVATE_TAGS = _PRIVATE_B_VALUES
"""Elements that are read for the traits, and tags without a keyword."""


def traits_of(places: list[Dataset], frame: int) -> tuple[tuple[str, Trait], ...]:
    """Return the elements of an image that may tell it from another at its place.

    Args:
        places: Data sets that describe the frame, the nearest first.
        frame: From 0; nuclear medicine lists for each frame to what it belongs.
    """
    found: list[tuple[str, Trait]] = []
    for keyword in _OF_A_FILE:
        values = _values_or_none(places, keyword)
        if values:
            found.append((keyword, _trait(values)))
    for keyword in _VECTORS:
        values = _values_or_none(places[-1:], keyword)
        if len(values) > frame:
            found.append((keyword, _trait(values[frame : frame + 1])))
    b_value = _private_b_value(places[-1])
    return (*found, ("BValue", b_value)) if b_value is not None else tuple(found)


def _values_or_none(places: list[Dataset], keyword: str) -> list[object]:
    try:
        return first_values(places, keyword)
    except UnusableElement:
        return []


def _trait(values: list[object]) -> Trait:
    try:
        return decimal(values[0]) if len(values) == 1 else "\\".join(text(value) for value in values)
    except ValueError:
        return text(values[0])


def _private_b_value(dataset: Dataset) -> float | None:
    for tag in _PRIVATE_B_VALUES:
        element = dataset.get_item(tag)
        value: object = None if element is None else element.value
        if value is None:
            continue
        written = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        first = written.strip("[]").replace(",", "\\").split("\\")[0]
        try:
            number = decimal(first)
        except ValueError:
            continue
        return number % _GE_OFFSET if tag == _GE_B_VALUE else number
    return None
