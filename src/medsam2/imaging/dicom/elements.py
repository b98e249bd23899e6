"""Take numbers and texts out of a DICOM data set, and what tells images of one place apart."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

_LONGEST_TEXT = 64  # of a UID, and of all other texts that are read here
# Damaged files may hold anything, a patient's name too; only what is nearly a number is quoted.
_NEARLY_A_NUMBER = re.compile(r"[\d+\-.,eE\\ ]{1,40}")


class UnusableElement(Exception):
    """An element is there and cannot be understood; the message names it."""


def element_name(keyword: str) -> str:
    """Return an element's name as people look it up: "PixelSpacing (0028,0030)"."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text(value: object) -> str:
    """Return an element's text as it can stand in a sentence; damaged ones hold anything."""
    said = str(value)
    if len(said) > _LONGEST_TEXT or not said.isprintable():
        return "".join(letter if letter.isprintable() else "?" for letter in said[:_LONGEST_TEXT])
    return said


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
    """Return the values of an element where it is first found with any."""
    return next((found for place in places if (found := values(place, keyword))), [])


def numbers(places: Iterable[Dataset], keyword: str, length: int) -> tuple[float, ...] | None:
    """Return as many numbers as there should be; of a single one the first of those there are.

    A decimal comma is read as a point: there is nothing else that it can mean.

    Raises:
        UnusableElement: There are others, or none that are finite.
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
    """Return one number, or None where there is none that can be used; for elements that can be spared."""
    try:
        found = numbers(places, keyword, 1)
    except UnusableElement:
        return None
    return None if found is None else found[0]


def decimal(value: object) -> float:
    """Return a number as DICOM writes it, or as programs in some countries do.

    Raises:
        ValueError: It is none.
    """
    return float(str(value).strip(" \0").replace(",", "."))


def with_points(dataset: Dataset) -> None:
    """Write points for decimal commas into a dataset, for libraries that know none."""
    from pydicom.dataelem import RawDataElement

    for tag in list(dataset.keys()):
        raw: object = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value and b"," in raw.value and _is_decimal(raw.VR, tag):
            dataset[tag] = raw._replace(value=raw.value.replace(b",", b"."))


def _is_decimal(kind: str | None, tag: BaseTag) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return (kind or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")) == "DS"


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return a whole number, None where there is none.

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
"""Elements that may differ within a volume too: they count where they do so alike at each place."""
TIMES = (
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "FrameReferenceTime", "TemporalPositionTimeOffset"),
    *("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
)
"""Those of them by which images of a place have an order."""

# b-values from before the standard had a place for them: Siemens, GE, Philips, United Imaging.
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
"""What is read of a file for them, and tags that have no keyword."""


def traits_of(places: list[Dataset], frame: int) -> tuple[tuple[str, Trait], ...]:
    """Return the elements of an image that may tell it from another at its place.

    Args:
        places: Where to look for what a frame says of itself, the nearest first.
        frame: From 0; nuclear medicine lists for each frame what it belongs to.
    """
    found: list[tuple[str, Trait]] = []
    for keyword in _OF_A_FILE:
        values = _spared(places, keyword)
        if values:
            found.append((keyword, _trait(values)))
    for keyword in _VECTORS:
        values = _spared(places[-1:], keyword)
        if len(values) > frame:
            found.append((keyword, _trait(values[frame : frame + 1])))
    b_value = _private_b_value(places[-1])
    return (*found, ("BValue", b_value)) if b_value is not None else tuple(found)


def _spared(places: list[Dataset], keyword: str) -> list[object]:
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
