"""The objects of a label volume: their numbers, names, colours and codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume

MAX_LABEL = 65535
"""Highest number of an object in DICOM and in 16-bit labels."""
MAX_NAME = 64
"""Longest name in DICOM, in characters; other formats have no limit."""
MAX_CODE = 16
"""Longest value and scheme of a code, in characters."""

# Far apart in hue and readable on grey; they are used again after the last.
_PALETTE = (
    (230, 60, 60),
    (60, 180, 75),
    (70, 110, 230),
    (245, 190, 40),
    (170, 80, 200),
    (40, 190, 200),
    (245, 130, 50),
    (230, 100, 180),
    (150, 200, 60),
    (150, 110, 70),
)


def _is_plain(text: str, limit: int) -> bool:
    return bool(text.strip()) and len(text) <= limit and text.isprintable() and "\\" not in text


@dataclass(frozen=True)
class Code:
    """A term of a coding scheme, as DICOM writes it.

    Raises:
        InputError: A part is empty, too long for DICOM or not plain text.
    """

    value: str
    """The term's code, such as "10200004"."""
    scheme: str
    """Short name of the scheme, "SCT" for SNOMED CT, "DCM" for DICOM's own."""
    meaning: str
    """The term for people, such as "Liver"."""

    def __post_init__(self) -> None:
        """Check the three parts."""
        for part, limit in ((self.value, MAX_CODE), (self.scheme, MAX_CODE), (self.meaning, MAX_NAME)):
            if not _is_plain(part, limit):
                raise InputError(
                    f"a code's value and scheme are 1 to {MAX_CODE} and its meaning 1 to {MAX_NAME} "
                    f"printable characters without a backslash, not {part!r}"
                )


TISSUE = Code("85756007", "SCT", "Tissue")
"""3D Slicer's category and type of a segment of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Name, colour and codes of one object.

    Raises:
        InputError: The name is empty, or the colour is none.
    """

    name: str
    color_rgb: tuple[int, int, int] | None = None
    """0 to 255 each; None takes one from a palette."""
    category: Code = TISSUE
    """DICOM's property category, such as tissue or morphologically altered structure."""
    type: Code = TISSUE
    """DICOM's property type, such as liver or lesion."""

    def __post_init__(self) -> None:
        """Check the segment; nothing else has to check it again."""
        if not self.name.strip():
            raise InputError(f"an object's name is not blank, as {self.name!r} is")
        color = self.color_rgb
        if color is not None and not (len(color) == 3 and all(0 <= part <= 255 for part in color)):
            raise InputError(f"a colour is three numbers from 0 to 255, not {color}")


@dataclass(frozen=True, kw_only=True)
class LabelledObject:
    """One object of a label volume."""

    label: int
    """Its value in the volume."""
    segment: Segment
    color_rgb: tuple[int, int, int]
    """The segment's own, or the palette's."""
    box: tuple[slice, ...] | None
    """Its bounding box as array slices (z, y, x); None if no voxel has its label."""

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.segment.name

    @property
    def line(self) -> str:
        """Its name on one line, for headers: characters that are not printable become spaces."""
        letters = (letter if letter.isprintable() else " " for letter in self.name)
        return "".join(letters).strip() or f"object {self.label}"

    @property
    def dicom_name(self) -> str:
        """Its name for DICOM: on one line, cut, with slashes for backslashes, which separate values."""
        return self.line.replace("\\", "/")[:MAX_NAME].strip()


def as_labels(volume: Volume) -> Volume:
    """Return a volume of labels as uint8, or uint16 where a label needs it; an array that fits is not copied.

    Raises:
        InputError: The array does not hold whole numbers from 0 to `MAX_LABEL`.
    """
    array = volume.array
    if array.dtype.kind not in "biu":
        raise InputError(f"labels are whole numbers, this volume holds {array.dtype}")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > MAX_LABEL:
        raise InputError(f"labels are 0 to {MAX_LABEL}, this volume has {lowest} to {highest}")
    return volume.with_array(array.astype(np.uint8 if highest < 256 else np.uint16, copy=False))


def find_objects(labels: Volume, names: Mapping[int, str | Segment] | None = None) -> list[LabelledObject]:
    """List the objects of a label volume, and those that have only a name, in the order of their labels.

    Args:
        labels: As `as_labels` returns it.
        names: Label to name or `Segment`; objects without one are called "object 1" and so on.

    Raises:
        InputError: A name belongs to no possible label, or is not usable.
    """
    segments = {label: _as_segment(label, given) for label, given in (names or {}).items()}
    boxes = dict(enumerate(ndimage.find_objects(labels.array), start=1))
    found = {label for label, box in boxes.items() if box is not None}
    return [
        LabelledObject(
            label=label,
            segment=(segment := segments.get(label) or Segment(name=f"object {label}")),
            color_rgb=segment.color_rgb or _PALETTE[(label - 1) % len(_PALETTE)],
            box=boxes.get(label),
        )
        for label in sorted(found | segments.keys())
    ]


def _as_segment(label: int, given: str | Segment) -> Segment:
    if not 1 <= label <= MAX_LABEL:
        raise InputError(f"objects are numbered 1 to {MAX_LABEL}, none can be {label}, named {given!r}")
    if isinstance(given, str):
        return Segment(name=given if given.strip() else f"object {label}")
    return given
