"""A datastore: images and labels with ids, and their files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medsam2.errors import InputError
from medsam2.serving.http_errors import NotFound, shown

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Files that have no place in space."""
IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh", ".npz", *PICTURES, ".dcm", ".zip")
"""A suffix comes before a shorter one that it ends in."""
LABELS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
MASKS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Ends of the masks that are sent."""
RAW = ".bin"
"""A label that a browser sends: one number for each voxel and nothing else."""
FINAL = "final"
"""Tag of labels that a person has approved."""
ORIGINAL = "original"
"""Tag of labels as a model made them."""

_LARGEST_ID = 200
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_ID = re.compile(r"\w[\w ()+=@,.\-]*")


def split_name(name: str, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """Split a file's name into an id and one of several suffixes, which is empty if none fits."""
    lower = name.lower()
    for suffix in suffixes:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return name, ""


def suffix_of(name: str, suffixes: tuple[str, ...], what: str) -> str:
    """The suffix of a caller's file.

    Raises:
        InputError: It has none of these.
    """
    suffix = split_name(name, suffixes)[1]
    if not suffix:
        raise InputError(f"{what} is called {shown(name)}; names that end in {', '.join(suffixes)} are taken")
    return suffix


def checked_tag(tag: str) -> str:
    """A tag that can be a folder's name.

    Raises:
        InputError: It cannot.
    """
    if not _TAG.fullmatch(tag):
        raise InputError(f"a tag is up to 32 letters, digits, - and _, not {shown(tag)}")
    return tag


def checked_id(given: str) -> str:
    """An id that a new file can be called by, on any system.

    Raises:
        InputError: It cannot.
    """
    if not _ID.fullmatch(given) or len(given.encode()) > _LARGEST_ID or given.endswith((".", " ")):
        raise InputError(
            f"the id of an image has up to {_LARGEST_ID} letters, digits, spaces and the signs _()+=@,.-, "
            f"and begins with a letter, a digit or _; it cannot be {shown(given)}"
        )
    return given


Info = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class LabelEntry:
    """A label of the datastore."""

    suffix: str
    info: Info


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """An image of the datastore, with its labels."""

    image_id: str
    name: str
    """Name of the file, or of the folder with a series; of an archive's series its UID."""
    suffix: str
    """Empty for a series of files."""
    info: Info
    labels: Mapping[str, LabelEntry] = field(default_factory=dict)
    """By tag."""

    def label(self, tag: str) -> LabelEntry:
        """The label of a tag.

        Raises:
            NotFound: There is none.
        """
        if tag not in self.labels:
            tags = ", ".join(self.labels) or "none"
            raise NotFound(f"{shown(self.image_id)} has no label tagged {shown(tag)}; its tags are {tags}")
        return self.labels[tag]


class Datastore(Protocol):
    """A folder or an archive with images and labels.

    Every call may wait for a disk or an archive, and several may be made at once. They raise `NotFound` for
    an id or a tag that is not there, `InputError` for one that is not allowed, `NotOffered` for what this
    datastore does not do, and another `MedSAM2Error` where the folder cannot be written to or the archive
    fails.
    """

    is_archive: bool
    """Whether approved labels are kept as DICOM segmentations."""

    def entries(self) -> Mapping[str, ImageEntry]:
        """All images by id; the order does not change."""

    def find(self, image_id: str) -> ImageEntry:
        """The image that a viewer names, by its id or by a file's name."""

    def image_path(self, entry: ImageEntry) -> Path:
        """A file with the image, or a folder with a series; for reading only."""

    def label_path(self, entry: ImageEntry, tag: str) -> Path:
        """A file with a label; for reading only."""

    def add_image(self, image_id: str, path: Path, suffix: str, info: Info) -> str:
        """Add a copy of a file as an image, in place of an earlier one; returns its id."""

    def store_label(self, entry: ImageEntry, tag: str, path: Path, suffix: str, info: Info) -> None:
        """Store a copy of a file as a label, in place of an earlier one of this tag."""

    def remove_image(self, entry: ImageEntry) -> None:
        """Remove an image and its labels."""

    def remove_label(self, entry: ImageEntry, tag: str) -> None:
        """Remove a label."""

    def note(self, entry: ImageEntry, info: Info, tag: str | None = None) -> None:
        """Add facts to an image, or to its label."""

    def document(self) -> dict[str, object]:
        """All images and labels, as `datastore_v2.json` has them."""


def document_of(head: Mapping[str, object], entries: Mapping[str, ImageEntry]) -> dict[str, object]:
    """Images and labels by id behind what else an index says, as `datastore_v2.json` has them."""
    objects = {
        image_id: {
            "image": {"ext": entry.suffix, "info": entry.info},
            "labels": {tag: {"ext": label.suffix, "info": label.info} for tag, label in entry.labels.items()},
        }
        for image_id, entry in entries.items()
    }
    return {**head, "objects": objects}


def statistics(entries: Mapping[str, ImageEntry]) -> dict[str, object]:
    """Count the images, and the labels of each tag."""
    tags = Counter(tag for entry in entries.values() for tag in entry.labels)
    return {"total": len(entries), "completed": tags[FINAL], "label_tags": dict(sorted(tags.items()))}
