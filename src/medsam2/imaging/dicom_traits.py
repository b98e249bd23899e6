"""What tells images of one place apart: the phase, echo, b-value or acquisition that each belongs to."""

from typing import TYPE_CHECKING, TypeAlias

from medsam2.imaging.dicom_elements import UnusableElement, decimal, first_values, text

if TYPE_CHECKING:
    from pydicom import Dataset

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


def traits_of(places: "list[Dataset]", frame: int) -> tuple[tuple[str, Trait], ...]:
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


def _spared(places: "list[Dataset]", keyword: str) -> list[object]:
    try:
        return first_values(places, keyword)
    except UnusableElement:
        return []


def _trait(values: list[object]) -> Trait:
    try:
        return decimal(values[0]) if len(values) == 1 else "\\".join(text(value) for value in values)
    except ValueError:
        return text(values[0])


def _private_b_value(dataset: "Dataset") -> float | None:
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
