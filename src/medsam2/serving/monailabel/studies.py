"""What a datastore is to the rest of the dialect: images and labels with ids, wherever they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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
