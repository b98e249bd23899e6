"""The files that a datastore holds, by the ends of their names."""

from __future__ import annotations

import re

from medsam2.serving.faults import Fault, shown

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
