"""What a datastore is to the rest of the dialect: images and labels with ids, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medsam2.serving.http_errors import Fault, shown

IMAGES = (
    ".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh", ".npz", ".png", ".jpg", ".jpeg", ".tif", ".tiff",
    ".dcm", ".zip",
)  # fmt: skip
"""Longer ends before those that they end in."""
LABELS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
MASKS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Ends of the masks that are sent."""
RAW = ".bin"
"""A label as a page of a browser has it: one number a voxel and nothing else."""
FINAL = "final"
"""Tag of labels that a person has approved."""
ORIGINAL = "original"
"""Tag of labels as a model made them."""

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
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
        Fault: 422, it has none of these.
    """
    suffix = split_name(name, suffixes)[1]
    if not suffix:
        raise Fault(422, f"{what} is called {shown(name)}; names that end in {', '.join(suffixes)} are taken")
    return suffix


def is_picture(suffix: str) -> bool:
    """Whether files of this suffix have no place in space."""
    return suffix in _PICTURES


def checked_tag(tag: str) -> str:
    """A tag that can be a folder's name.

    Raises:
        Fault: 422, it cannot.
    """
    if not _TAG.fullmatch(tag):
        raise Fault(422, f"a tag is up to 32 letters, digits, - and _, not {shown(tag)}")
    return tag


def checked_id(given: str) -> str:
    """An id that a new file can be called by, on any system.

    Raises:
        Fault: 422, it cannot.
    """
    if not _ID.fullmatch(given) or len(given.encode()) > _LARGEST_ID or given.endswith((".", " ")):
        raise Fault(
            422,
            f"an image is called by up to {_LARGEST_ID} letters, digits, spaces and the signs _()+=@,.-, "
            f"a letter, digit or _ first, not {shown(given)}",
        )
    return given


Info = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class LabelEntry:
    """A label that is there."""

    suffix: str
    info: Info


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """An image that is there, with its labels."""

    image_id: str
    name: str
    """Of the file, or what stands for it."""
    suffix: str
    """Empty for a series of files."""
    info: Info
    labels: Mapping[str, LabelEntry] = field(default_factory=dict)
    """By tag."""


class Studies(Protocol):
    """A datastore; every call may wait for a disk or an archive, and several may be made at once.

    All of them raise a `Fault` for what is not there or cannot be done.
    """

    @property
    def name(self) -> str:
        """What people call it; no place on this machine."""

    @property
    def is_archive(self) -> bool:
        """Whether labels that a person has approved are kept as DICOM segmentations."""

    def entries(self) -> Mapping[str, ImageEntry]:
        """All images, by id, in an order that stays."""

    def find(self, image_id: str) -> ImageEntry:
        """The image that a viewer means: by its id, or by a file's name."""

    def image_path(self, entry: ImageEntry) -> Path:
        """A file with the image, or a folder with a series; for reading only."""

    def label_path(self, entry: ImageEntry, tag: str) -> Path:
        """A file with a label; for reading only."""

    def add_image(self, image_id: str, path: Path, suffix: str, info: Info) -> str:
        """Take a copy of a file in as an image, in place of an earlier one; returns its id."""

    def store_label(self, entry: ImageEntry, tag: str, path: Path, suffix: str, info: Info) -> None:
        """Take a copy of a file in as a label, in place of an earlier one of this tag."""

    def remove_image(self, entry: ImageEntry) -> None:
        """Take an image and its labels out."""

    def remove_label(self, entry: ImageEntry, tag: str) -> None:
        """Take a label out."""

    def note(self, entry: ImageEntry, info: Info, tag: str | None = None) -> None:
        """Add to what is known of an image, or of its label."""

    def described(self) -> dict[str, object]:
        """All there is, as `datastore_v2.json` has it."""
