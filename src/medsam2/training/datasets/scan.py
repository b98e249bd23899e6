"""A scan with its mask as a data set lists it, none of its files opened; what the mask's values mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from medsam2.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
_SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN, "tr": TRAIN,
    "validation": VALIDATION, "val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST, "ts": TEST,
}  # fmt: skip

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)

_MODALITY_WORDS = (
    ("CT", re.compile(r"\b(ct|cbct|cta|computed tomography|hounsfield)\b", re.IGNORECASE)),
    ("MR", re.compile(r"\b(mri?|mra|t[12]\w*|flair|adc|dwi|swi|cine)\b", re.IGNORECASE)),
    ("US", re.compile(r"\b(us|ultrasound|echo\w*|sonograph\w*)\b", re.IGNORECASE)),
)

Regions = Mapping[int, frozenset[int]]
"""Number of a region -> the values of the mask that it is made of; empty where each value is an object."""

Storage = Literal["volume", "npz", "frames"]
Kind = Literal["volume", "still", "video"]


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """What a row of a table with a column `kind` says about an image."""

    where: str
    """Table and row, for messages: "scans.csv, row 5". The header is row 1."""
    kind: Kind
    """A 3D scan, one picture, or a video whose frames lie along the slicing axis."""
    axis: int
    """File axis that slices are stacked along: 0 (x), 1 (y) or 2 (z)."""
    window: tuple[float, float] | None
    """Intensities shown black and white, in HU for CT; None takes them from the image."""


@dataclass(frozen=True, kw_only=True)
class LabelledScan:
    """One scan and the mask that belongs to it."""

    name: str
    """Unique in its data set."""
    image: Path
    """A volume, a picture, a folder with one DICOM series, an .npz, or a folder of frames: see `storage`."""
    mask: Path
    """A file of the same kind; for an .npz, the same file."""
    labels: Mapping[int, str]
    """Value of the mask -> name, without the background; empty where the data set has no such table."""
    patient: str
    """Patient of the scan; scans of one patient stay in one split."""
    split: str | None = None
    """One of `SPLITS` where the data set says it."""
    modality: str | None = None
    """"CT", "MR" or "US" where the data set says it; a row of a table may have another, like "PET"."""
    channel: int | None = None
    """Which frame of a 4D file to take, from 0."""
    ignored: frozenset[int] = frozenset()
    """Values of the mask that mean "not looked at" and are no object."""
    regions: Regions = field(default_factory=dict)
    """Where objects are made of several values: number -> values; `labels` then names the numbers."""
    storage: Storage = "volume"
    """How image and mask are stored: files that `imaging.io` reads, an .npz with `imgs` and `gts`, or
    folders of pictures that are the slices."""
    dataset: str = ""
    """Name of the data set that the scan comes from; a table may hold scans of many."""
    row: TableRow | None = None
    """For a table with a column `kind`; such scans are cut along several axes and in several windows."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a reader has found."""

    layout: str
    """Name of the format."""
    root: Path
    scans: tuple[LabelledScan, ...]
    gaps: tuple[str, ...] = ()
    """A sentence for each file without its partner, or for each group of them."""
    row_errors: Mapping[int, str] = field(default_factory=dict)
    """Number of a table's row that cannot be used -> a sentence that names table, row and reason."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a person can say about a data set that its files do not."""

    channel: str | None = None
    """Name or number of the channel, where a scan has several."""
    images: str | None = None
    """Glob pattern of the images, relative to the root."""
    masks: str | None = None
    """Glob pattern of the masks; its stars match the same text as the stars of the image's pattern."""
    base: Path | None = None
    """Folder that paths in a list or a table are relative to; the file's own folder if not given."""
    patient: str | None = None
    """Regular expression whose first group, or whole match, is the patient; sought in the image's path. In
    a table the name of a column is accepted as well."""
    modality: str | None = None
    """"CT", "MR" or "US", for all scans."""
    fold: int | None = None
    """Which fold of a MONAI data list is for validation."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Value -> name, in the place of the data set's own table."""


def stem_of(path: Path) -> str:
    """Return a file's name without the suffix of its format, of which .nii.gz is one."""
    lowered = path.name.lower()
    for suffix in (*SUFFIXES, ".npz"):
        if lowered.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def files_by_stem(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Find a folder's images by the stem of their names, sorted.

    Hidden files are left out: archives made on a Mac hold a `._name.nii.gz` for each `name.nii.gz`.
    """
    if not folder.is_dir():
        return {}
    return {
        stem_of(path): path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(suffixes) and not path.name.startswith(".") and path.is_file()
    }


def patient_of(path: Path, root: Path, options: ReadOptions, stem: str) -> str:
    """Return the patient of a file.

    Args:
        path: The image.
        root: Folder of the data set.
        options: May have a regular expression for the patient; without one, the patient is `stem`.
        stem: The image's stem, without a channel's number.

    Raises:
        InputError: The expression is none, or it is not found in the path.
    """
    if options.patient is None:
        return stem
    text = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    try:
        found = re.search(options.patient, text)
    except re.error as error:
        raise InputError(f"the patient {options.patient!r} is no regular expression: {error}") from error
    if found is None:
        raise InputError(f"the patient {options.patient!r} is not found in {text}")
    group = found.group(1) if found.re.groups else found.group()
    if not group:
        raise InputError(f"the patient {options.patient!r} gives an empty name for {text}")
    return str(group)


def split_of(word: object, where: str) -> str | None:
    """Turn the word that a table has for a split into one of `SPLITS`; an empty one is None.

    Raises:
        InputError: The word is not known.
    """
    text = "" if word is None else str(word).strip().lower()
    if not text:
        return None
    if text not in _SPLIT_WORDS:
        raise InputError(f"{where}: a split is {', '.join(SPLITS)}, not {word!r}")
    return _SPLIT_WORDS[text]


def modality_of(words: str | None) -> str | None:
    """Recognise CT, MR or US in the name of a channel; None if it is none of them."""
    if words is None:
        return None
    spaced = words.replace("_", " ")
    return next((modality for modality, pattern in _MODALITY_WORDS if pattern.search(spaced)), None)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What a data set calls its objects."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Value -> name, or number of a region -> name; without the background."""
    ignored: frozenset[int] = frozenset()
    """Values that mean "ignore"."""
    regions: Regions = field(default_factory=dict)
    """Number -> the values that an object is made of; empty where each object is one value."""


def label_table(value: object, path: Path | str) -> LabelTable:
    """Read a table of labels in either direction.

    nnU-Net 2 writes name -> value, or a list of values for a region, which is their union; regions may
    overlap. nnU-Net 1, MSD and MONAI write value -> name. As soon as one object has several values, all
    objects are numbered in the order of the table, from 1, past the values that mean "ignore".

    Raises:
        InputError: It is there in another form, or a region holds the background.
    """
    if value is None:
        return LabelTable()
    if not isinstance(value, dict):
        raise InputError(f"{path}: labels are a JSON object, not {value!r}")
    objects: list[tuple[str, frozenset[int]]] = []
    for key, entry in value.items():
        name, numbers = (str(entry), [key]) if str(key).lstrip("-").isdecimal() else (str(key), entry)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if not numbers or not all(_is_whole(number) for number in numbers):
            raise InputError(f"{path}: the label {name!r} has the value {entry!r}, not whole numbers")
        values = frozenset(int(number) for number in numbers)
        if len(values) > 1 and min(values) < 1:
            raise InputError(f"{path}: the region {name!r} holds {min(values)}; 0 is the background")
        if values != {0}:
            objects.append((name, values))
    ignored = frozenset(v for name, values in objects if name.strip().lower() == "ignore" for v in values)
    objects = [(name, values) for name, values in objects if not values <= ignored]
    if all(len(values) == 1 for _, values in objects):
        return LabelTable(
            names=dict(sorted((min(values), name) for name, values in objects)), ignored=ignored
        )
    numbered = list(zip((n for n in count(1) if n not in ignored), objects, strict=False))
    return LabelTable(
        names={number: name for number, (name, _) in numbered},
        ignored=ignored,
        regions={number: values for number, (_, values) in numbered},
    )


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdecimal())


def layers_of(mask: np.ndarray, regions: Regions) -> list[np.ndarray]:
    """Number the regions of a mask.

    Args:
        mask: Whole numbers from 0.
        regions: Of its values.

    Returns:
        Masks of the same shape in which a region has its number, as few as keep regions apart that share a
        value; the mask itself where there are no regions.
    """
    if not regions:
        return [mask]
    dtype = np.uint8 if max(regions) < 256 else np.uint16
    length = max(int(mask.max()), *(max(values) for values in regions.values())) + 1
    layers = []
    for group in _disjoint_groups(regions):
        numbers = np.zeros(length, dtype)
        for number in group:
            numbers[sorted(regions[number])] = number
        layers.append(numbers[mask])
    return layers


def _disjoint_groups(regions: Regions) -> list[list[int]]:
    """Put regions into groups in which no two share a value."""
    groups: list[list[int]] = []
    for number, values in regions.items():
        fitting = (g for g in groups if all(values.isdisjoint(regions[other]) for other in g))
        group = next(fitting, None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups
