"""Say what the objects of a label volume are: their numbers, names, colours and codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume

MAX_LABEL = 65535
"""Highest number of an object; DICOM's segments and our 16-bit labels end here."""
MAX_NAME = 64
"""Characters of a name in DICOM, whose text values of this kind end here; other forms have no limit."""
MAX_CODE = 16
"""Characters of a code's value and of its scheme."""

# Far apart in hue and readable on grey; the objects after them begin again.
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
"""What 3D Slicer calls a segment of which nothing is known, as category and as type."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What is to be said of one object beside its voxels.

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
        """Check everything there is to check about a segment, here and nowhere else."""
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
    """The array slices (z, y, x) that just hold it; None if no voxel has its label."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.segment.name

    @property
    def line(self) -> str:
        """Its name on one line, as the text of a header: whatever is not printable becomes a space."""
        letters = (letter if letter.isprintable() else " " for letter in self.name)
        return "".join(letters).strip() or f"object {self.label}"

    @property
    def dicom_name(self) -> str:
        """Its name as DICOM holds it: on one line, cut, with slashes for backslashes, which part values."""
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
    """List the objects of a label volume, and those that are only named, in the order of their labels.

    Args:
        labels: As `as_labels` returns it.
        names: Label to name, or to everything that is known; the others are called "object 1" and so on.

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
