"""Write labels in the requested format, or in that of the file's name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat, require
from medsam2.imaging import io
from medsam2.imaging.dicom.header import Source
from medsam2.imaging.formats.itk import as_itk, write_image
from medsam2.imaging.outputs import dicom_seg, mesh, rtstruct
from medsam2.imaging.outputs.mesh import require_skimage
from medsam2.imaging.outputs.segments import LabelledObject, Segment, as_labels, find_objects
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

SUFFIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nifti": (".nii.gz", ".nii"),
        "seg.nrrd": (".seg.nrrd",),
        "nrrd": (".nrrd",),
        "mha": (".mha",),
        "dicom-seg": (".dcm",),
        "rtstruct": (".dcm",),
        "stl": (".stl",),
        "npz": (".npz",),
    }
)
"""Kind -> suffixes of its files, the usual one first. Without a kind, .dcm is a DICOM segmentation."""
NEEDS_SOURCE = frozenset({"dicom-seg", "rtstruct"})
"""Kinds that refer to the DICOM series on which the labels were drawn."""
_FOLLOWS_OUTLINES = frozenset({"rtstruct", "stl"})
_NEEDS_VOXELS = {"stl": "a surface", "dicom-seg": "a DICOM segmentation", "rtstruct": "a structure set"}


def kind_of(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """Return the kind of a file to be written, after a check of its suffix.

    Args:
        path: The file.
        kind: A key of `SUFFIXES`, or None to take it from the name.

    Raises:
        InputError: There is no such kind.
        UnsupportedFormat: The suffix belongs to no kind, or not to this one.
    """
    name = os.fspath(path).lower()
    if kind is None:
        for known, suffixes in SUFFIXES.items():
            if name.endswith(suffixes):
                return known
        endings = ", ".join(dict.fromkeys(suffix for suffixes in SUFFIXES.values() for suffix in suffixes))
        raise UnsupportedFormat(f"{path}: labels are not written with this suffix; {endings} are")
    if kind not in SUFFIXES:
        raise InputError(f"labels are written as {', '.join(SUFFIXES)}, not as {kind!r}")
    if not name.endswith(SUFFIXES[kind]):
        raise UnsupportedFormat(f"{path}: a {kind} file ends in {' or '.join(SUFFIXES[kind])}")
    return kind


def check_labels_output(path: str | os.PathLike[str], kind: str | None, source: Source | None) -> None:
    """Refuse a path, kind and source that `write_labels` would refuse, before the work begins.

    Raises:
        InputError: The place cannot be written to, there is no such kind, a DICOM kind has no source, or an
            optional library is missing.
        UnsupportedFormat: The suffix is not the kind's.
    """
    kind = kind_of(path, kind)
    io.check_output(Path(path))
    if kind in NEEDS_SOURCE and source is None:
        raise InputError(
            f"{path}: {kind} refers to the DICOM series on which the labels were drawn; give it as source"
        )
    if kind in NEEDS_SOURCE:
        require("highdicom", "writing DICOM needs", "dicom")
    if kind == "stl":
        require("trimesh", "STL files need", "mesh")
    if kind in _FOLLOWS_OUTLINES:
        require_skimage()


def write_labels(
    labels: Volume,
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    names: Mapping[int, str | Segment] | None = None,
    source: Source | None = None,
    weights: str | None = None,
) -> tuple[Path, ...]:
    """Write labels on their own grid; an existing file is replaced at the end.

    Args:
        labels: (z, y, x), whole numbers, 0 outside all objects.
        path: The file. Several objects as STL become NAME_<label>.stl each.
        kind: A key of `SUFFIXES`; taken from the name if not given.
        names: Label to its object's name, or to a `Segment` with colour and codes too. NIfTI, MetaImage,
            plain NRRD and npz have no place for them; DICOM takes 64 characters.
        source: The DICOM series on which the labels were drawn, for the kinds in `NEEDS_SOURCE`: a folder,
            files or datasets.
        weights: Name of the network's weights, which DICOM segmentations record.

    Returns:
        The files that were written.

    Raises:
        InputError: The labels are not whole numbers from 0 to 65535, a name has no label, nothing is
            labelled and the kind needs an object, an optional library is missing, or the file cannot be
            written.
        UnsupportedFormat: The suffix is not the kind's.
        GeometryError: The source is not the series of these labels.
    """
    path = Path(path)
    kind = kind_of(path, kind)
    check_labels_output(path, kind, source)
    labels = as_labels(labels)
    objects = find_objects(labels, names)
    present = [one for one in objects if one.box is not None]
    if kind in _NEEDS_VOXELS and not present:
        raise InputError(f"{path}: no voxel is labelled, and {_NEEDS_VOXELS[kind]} needs at least one")
    if kind == "stl":
        return mesh.write(labels, present, path)
    if kind == "seg.nrrd":
        _write_seg_nrrd(labels, objects, path)
    elif kind == "npz":
        _write_npz(labels, path)
    elif kind == "dicom-seg" and source is not None:
        dicom_seg.write(labels, present, path, source=source, weights=weights)
    elif kind == "rtstruct" and source is not None:
        rtstruct.write(labels, present, path, source=source)
    else:
        io.write(labels, path)
    return (path,)


def _write_npz(labels: Volume, path: Path) -> None:
    """Write `segs`, (z, y, x), and `spacing`, (x, y, z) in mm; the same labels always give the same bytes."""
    spacing = np.asarray(labels.spacing, np.float64)
    with replacing(path, ".npz") as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, allow_pickle=False, segs=labels.array, spacing=spacing)


_REPRESENTATION = "Binary labelmap"
# 3D Slicer's own names of the lists in which it looks terms up.
_TYPES = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_NO_EXTENT = "0 -1 0 -1 0 -1"


def _write_seg_nrrd(labels: Volume, objects: Sequence[LabelledObject], path: Path) -> None:
    """Write 3D Slicer's segmentation: all objects in one layer, as for objects that do not overlap.

    An object without voxels becomes an empty segment.
    """
    image = as_itk(labels)
    texts = {
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        # The first was the key up to 3D Slicer 5.0, the second is since.
        "Segmentation_MasterRepresentation": _REPRESENTATION,
        "Segmentation_SourceRepresentation": _REPRESENTATION,
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, one in enumerate(objects):
        texts |= {f"Segment{index}_{key}": value for key, value in _segment_fields(one).items()}
    for key, value in texts.items():
        image.SetMetaData(key, value)
    write_image(image, path, ".seg.nrrd")


def _segment_fields(one: LabelledObject) -> dict[str, str]:
    extent = _NO_EXTENT
    if one.box is not None:  # first and last voxel along x, y and z
        extent = " ".join(f"{part.start} {part.stop - 1}" for part in reversed(one.box))
    category, kind = (
        f"{code.scheme}^{code.value}^{code.meaning}" for code in (one.segment.category, one.segment.type)
    )
    # Category, type, its modifier, then the anatomical region and its modifier, each list named first.
    terms = f"{_TYPES}~{category}~{kind}~^^~{_REGIONS}~^^~^^"
    return {
        "ID": f"Segment_{one.label}",
        "Name": one.line,
        "NameAutoGenerated": "0",
        "Color": " ".join(f"{part / 255:.6g}" for part in one.color_rgb),
        "ColorAutoGenerated": "0",
        "LabelValue": str(one.label),
        "Layer": "0",
        "Extent": extent,
        "Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{terms}|",
    }
