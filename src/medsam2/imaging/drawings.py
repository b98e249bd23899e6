"""Read what was drawn on a scan, in any form, as labels on the scan's own grid with their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging import io, itk
from medsam2.imaging.drawn_dicom import DrawnSegment, is_drawing, read_drawn_dicom
from medsam2.imaging.grids import place
from medsam2.imaging.volume import Volume

_WHOLE = 1e-3  # how far a float label may be from a whole number; resampling and scaling leave as much
_MAX_LISTED = 20
_SLICER = (".seg.nrrd", ".nrrd")


@dataclass(frozen=True, kw_only=True)
class DrawnLabel:
    """One object of a drawing."""

    layer: int
    """Which of the drawing's layers it lies in, from 0."""
    value: int
    """Its value there."""
    number: int
    """By which people choose it: the value where the drawing has one layer, else a count from 1."""
    name: str | None = None

    @property
    def title(self) -> str:
        """The label in words."""
        return f"{self.number}" if self.name is None else f"{self.number} ({self.name})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """Objects on a scan's grid. Those that overlap lie in different layers."""

    path: Path
    layers: tuple[np.ndarray, ...]
    """Whole numbers (z, y, x) each, 0 outside."""
    labels: tuple[DrawnLabel, ...]
    """What is there, by their numbers."""

    def mask(self, label: DrawnLabel) -> np.ndarray:
        """One object, boolean (z, y, x)."""
        return np.asarray(self.layers[label.layer] == label.value)

    def chosen(self, wanted: Sequence[str]) -> list[DrawnLabel]:
        """Return the labels of these numbers or names; all if none is given.

        Raises:
            InputError: There is no such label, or a name has several.
        """
        found = []
        for one in wanted:
            number = int(one) if one.strip().isdecimal() else None
            matching = [label for label in self.labels if label.number == number]
            matching = matching or [label for label in self.labels if label.name == one]
            if len(matching) != 1:
                what = f"{len(matching)} labels are called" if matching else "there is no label"
                raise InputError(f"{self.path}: {what} {one!r}; its labels are {listed(self.labels)}")
            found += matching
        return sorted(set(found), key=lambda label: label.number) if wanted else list(self.labels)

    def stack(self) -> np.ndarray:
        """Return all labels as one array (z, y, x).

        Raises:
            InputError: Some overlap.
        """
        if len(self.layers) > 1:
            raise InputError(
                f"{self.path}: holds objects that overlap, in {len(self.layers)} layers; "
                "choose one label, or save them without overlap"
            )
        return self.layers[0]


def listed(labels: Sequence[DrawnLabel]) -> str:
    """List labels for a message."""
    rest = len(labels) - _MAX_LISTED
    named = ", ".join(label.title for label in labels[:_MAX_LISTED]) or "none"
    return named + (f" and {rest} more" if rest > 0 else "")


def read_drawing(path: Path, image: Volume) -> Drawing:
    """Read a mask file that lies on a scan's grid, or on a part of it.

    Args:
        path: Whatever `imaging.io.read` takes; 3D Slicer's .seg.nrrd, cropped or with overlaps; a DICOM
            segmentation or structure set.
        image: The scan.

    Raises:
        InputError: The file cannot be read, or holds something else than labels.
        GeometryError: It does not lie on the scan's grid; the message begins with the file.
    """
    try:
        if is_drawing(path):
            return _of_segments(path, read_drawn_dicom(path, image))
        if path.name.lower().endswith(_SLICER):
            return _of_slicer(path, image)
        return _of_layers(path, (place(io.read(path), image),))
    except GeometryError as error:
        text = str(error).removeprefix(f"{path}: ")
        raise GeometryError(f"{path}: {text}; a mask lies on the image's grid") from None


def _of_layers(path: Path, layers: Sequence[np.ndarray]) -> Drawing:
    """Labels of which nothing is known but their values."""
    whole = tuple(_as_whole(layer, path) for layer in layers)
    labels = [
        DrawnLabel(layer=index, value=value, number=value)
        for index, layer in enumerate(whole)
        for value in _values(layer)
    ]
    if len(whole) > 1:
        labels = [
            DrawnLabel(layer=one.layer, value=one.value, number=number)
            for number, one in enumerate(labels, start=1)
        ]
    return Drawing(path=path, layers=whole, labels=tuple(labels))


def _of_slicer(path: Path, image: Volume) -> Drawing:
    """Put the names of 3D Slicer's header to the labels."""
    volumes, texts = itk.read_layers(path)
    plain = _of_layers(path, tuple(place(volume, image) for volume in volumes))
    names: dict[tuple[int, int], str] = {}
    index = 0
    while f"Segment{index}_ID" in texts or f"Segment{index}_Name" in texts:
        layer, value = (texts.get(f"Segment{index}_{key}", "") for key in ("Layer", "LabelValue"))
        name = texts.get(f"Segment{index}_Name", "").strip()
        if name and (layer or "0").isdecimal() and (value or str(index + 1)).isdecimal():
            names[int(layer or 0), int(value or index + 1)] = name
        index += 1
    labels = tuple(
        DrawnLabel(
            layer=one.layer, value=one.value, number=one.number, name=names.get((one.layer, one.value))
        )
        for one in plain.labels
    )
    return Drawing(path=path, layers=plain.layers, labels=labels)


def _of_segments(path: Path, segments: Sequence[DrawnSegment]) -> Drawing:
    """Put masks that may overlap into as few layers as they need."""
    layers: list[np.ndarray] = []
    labels = []
    for segment in segments:
        free = (index for index, layer in enumerate(layers) if not (layer[segment.mask] > 0).any())
        index = next(free, None)
        if index is None:
            index = len(layers)
            layers.append(np.zeros(segment.mask.shape, np.uint16))
        layers[index][segment.mask] = segment.number
        if segment.mask.any():
            labels.append(
                DrawnLabel(layer=index, value=segment.number, number=segment.number, name=segment.name)
            )
    return Drawing(path=path, layers=tuple(layers), labels=tuple(labels))


def _values(layer: np.ndarray) -> list[int]:
    found: set[int] = set()
    for plane in layer:
        found |= set(np.unique(plane).tolist())
    return sorted(found - {0})


def _as_whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Return labels as whole numbers; floats that are nearly so are rounded."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):
        odd = ~(np.abs(array - whole) <= _WHOLE)
    if odd.any():
        raise InputError(f"{path}: the mask holds the value {array[odd][0]:g}; labels are whole numbers")
    return whole.astype(np.int64)
