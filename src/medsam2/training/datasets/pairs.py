"""Read pairs of image and mask whose names agree: by two glob patterns, or in two folders side by side."""

from __future__ import annotations

import re
from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.scan import (
    SUFFIXES,
    DataSet,
    LabelledScan,
    ReadOptions,
    files_by_stem,
    patient_of,
    stem_of,
)

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "scans")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "segmentations", "annotations", "gts")
FINAL_MASKS = Path("labels") / "final"


def recognises(path: Path) -> bool:
    """Say whether this is a folder with images in one folder and masks in the one beside it."""
    return _side_by_side(path) is not None


def read(root: Path, options: ReadOptions) -> DataSet:
    """List the pairs of two patterns, or of the folders that `recognises` has found.

    Raises:
        InputError: One pattern is given without the other, or one cannot be used.
    """
    if (options.images is None) != (options.masks is None):
        raise InputError("images and masks are found by two patterns; give --images and --masks")
    if options.images is not None and options.masks is not None:
        images, masks = _matches(root, options.images), _matches(root, options.masks)
        named = {key: key[0] if len(key) == 1 else stem_of(path) for key, path in images.items()}
        return _paired(root, options, images, masks, named)
    folders = _side_by_side(root)
    if folders is None:
        raise InputError(
            f"{root}: has no folder {' or '.join(IMAGE_FOLDERS)} beside {' or '.join(MASK_FOLDERS)}; "
            "give --images and --masks"
        )
    found, labelled = _keyed(folders[0]), _keyed(folders[1])
    return _paired(root, options, found, labelled, {key: key[0] for key in found})


def recognises_final(path: Path) -> bool:
    """Say whether this is a folder of MONAI Label or CVAT: images, and masks in labels/final."""
    return (path / FINAL_MASKS).is_dir()


def read_final(root: Path, options: ReadOptions) -> DataSet:
    """List the images of a MONAI Label folder that have a final mask; the others wait for theirs.

    Raises:
        InputError: The folder cannot be read.
    """
    images, masks = files_by_stem(root), files_by_stem(root / FINAL_MASKS)
    scans = [_scan(stem, images[stem], mask, root, options) for stem, mask in masks.items() if stem in images]
    gaps = [f"{FINAL_MASKS / mask.name}: has no image" for stem, mask in masks.items() if stem not in images]
    waiting = len(images.keys() - masks.keys())
    if waiting:
        gaps.append(f"{waiting} images have no mask in {FINAL_MASKS} yet")
    return DataSet(layout="monailabel", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _paired(
    root: Path,
    options: ReadOptions,
    images: dict[tuple[str, ...], Path],
    masks: dict[tuple[str, ...], Path],
    named: dict[tuple[str, ...], str],
) -> DataSet:
    scans = [
        _scan(named[key], image, masks[key], root, options) for key, image in images.items() if key in masks
    ]
    gaps = [f"{image.relative_to(root)}: has no mask" for key, image in images.items() if key not in masks]
    gaps += [f"{mask.relative_to(root)}: has no image" for key, mask in masks.items() if key not in images]
    return DataSet(layout="pairs", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _scan(name: str, image: Path, mask: Path, root: Path, options: ReadOptions) -> LabelledScan:
    patient = patient_of(image, root, options, name)
    return LabelledScan(name=name, image=image, mask=mask, labels={}, patient=patient)


def _side_by_side(path: Path) -> tuple[Path, Path] | None:
    for images in IMAGE_FOLDERS:
        for masks in MASK_FOLDERS:
            if files_by_stem(path / images) and files_by_stem(path / masks):
                return path / images, path / masks
    return None


def _keyed(folder: Path) -> dict[tuple[str, ...], Path]:
    return {(stem,): path for stem, path in files_by_stem(folder).items()}


def _matches(root: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """Return what a pattern's stars stand for -> file."""
    expression = _expression(pattern)
    try:
        files = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"the pattern {pattern!r} cannot be used in {root}: {error}") from error
    found: dict[tuple[str, ...], Path] = {}
    for path in files:
        match = re.fullmatch(expression, path.relative_to(root).as_posix())
        is_image = path.name.lower().endswith(SUFFIXES) or path.is_dir()  # a folder may be a DICOM series
        if match and is_image and not path.name.startswith("."):
            # "**/" stands for nothing where there is no folder between.
            key = tuple(part or "" for part in match.groups())
            if key in found:
                raise InputError(f"the pattern {pattern!r} finds {found[key]} and {path} as one case")
            found[key] = path
    return found


def _expression(pattern: str) -> str:
    """Turn a glob pattern into a regular expression with a group for each star."""
    if "[" in pattern:
        raise InputError(f"the pattern {pattern!r} has brackets; stars and question marks are known")
    if "*" not in pattern:
        raise InputError(f"the pattern {pattern!r} has no star, so it finds one file at most")
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    meaning = {"**/": "(.*/)?", "*": "([^/]*)", "?": "([^/])"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts)
