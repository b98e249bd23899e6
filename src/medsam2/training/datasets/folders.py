"""Data sets that the names of files and folders describe: pairs, MONAI Label folders, frames, .npz files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.scan import (
    PICTURE_SUFFIXES,
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
VIDEO_FOLDERS = (
    ("JPEGImages", "Annotations"), ("frames", "masks"), ("images", "masks"), ("videos", "masks"),
)  # fmt: skip
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
_NPZ_KEYS = ("imgs", "gts")
_NPZ_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "US": "US", "US3D": "US"}

Keyed = Mapping[tuple[str, ...], Path]
"""What the stars of a pattern match -> file."""


def is_paired(path: Path) -> bool:
    """Tell whether this is a folder with images in one folder and masks in the one beside it."""
    return _side_by_side(path) is not None


def read_pairs(root: Path, options: ReadOptions) -> DataSet:
    """List the pairs that two patterns find, or that lie in two folders side by side."""
    if (options.images is None) != (options.masks is None):
        raise InputError("images and masks are found by two patterns; give --images and --masks")
    if options.images is not None and options.masks is not None:
        images, masks = _matches(root, options.images), _matches(root, options.masks)
    elif (found := _side_by_side(root)) is not None:
        images, masks = (_by_stem(folder) for folder in found)
    else:
        raise InputError(
            f"{root}: has no folder {' or '.join(IMAGE_FOLDERS)} beside {' or '.join(MASK_FOLDERS)}; "
            "give --images and --masks"
        )
    scans = [
        _scan(key[0] if len(key) == 1 else stem_of(image), image, masks[key], root, options)
        for key, image in images.items()
        if key in masks
    ]
    gaps = [f"{image.relative_to(root)}: has no mask" for key, image in images.items() if key not in masks]
    gaps += [f"{mask.relative_to(root)}: has no image" for key, mask in masks.items() if key not in images]
    return DataSet(layout="pairs", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _scan(name: str, image: Path, mask: Path, root: Path, options: ReadOptions) -> LabelledScan:
    patient = patient_of(image, root, options, name)
    return LabelledScan(name=name, image=image, mask=mask, labels={}, patient=patient)


def _by_stem(folder: Path) -> Keyed:
    return {(stem,): path for stem, path in files_by_stem(folder).items()}


def _side_by_side(path: Path) -> tuple[Path, Path] | None:
    for images in IMAGE_FOLDERS:
        for masks in MASK_FOLDERS:
            if files_by_stem(path / images) and files_by_stem(path / masks):
                return path / images, path / masks
    return None


def _matches(root: Path, pattern: str) -> Keyed:
    """Find the files of a pattern, each by what the stars of the pattern match in it."""
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
            # "**/" matches nothing where there is no folder between.
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


def has_final_masks(path: Path) -> bool:
    """Tell whether this is a folder of MONAI Label or CVAT: images, and masks in labels/final."""
    return (path / FINAL_MASKS).is_dir()


def read_final_masks(root: Path, options: ReadOptions) -> DataSet:
    """List the images of a MONAI Label folder that have a final mask; the others wait for theirs."""
    images, masks = files_by_stem(root), files_by_stem(root / FINAL_MASKS)
    scans = [_scan(stem, images[stem], mask, root, options) for stem, mask in masks.items() if stem in images]
    gaps = [f"{FINAL_MASKS / mask.name}: has no image" for stem, mask in masks.items() if stem not in images]
    num_waiting = len(images.keys() - masks.keys())
    if num_waiting:
        gaps.append(f"{num_waiting} images have no mask in {FINAL_MASKS} yet")
    return DataSet(layout="monailabel", root=root, scans=tuple(scans), gaps=tuple(gaps))


def has_frames(path: Path) -> bool:
    """Tell whether this is a folder with videos and their masks in two folders side by side."""
    return _video_roots(path) is not None


def read_frames(root: Path, options: ReadOptions) -> DataSet:
    """List videos kept as DAVIS and YouTube-VOS keep them; the frames that have a mask are the slices."""
    found = _video_roots(root)
    if found is None:
        listed = " or ".join("/".join(pair) for pair in VIDEO_FOLDERS)
        raise InputError(f"{root}: has no folders {listed} of videos")
    images, masks = found
    if files_by_stem(images, PICTURE_SUFFIXES):
        videos = [(root.name, images, masks)]
    else:
        videos = [(folder.name, folder, masks / folder.name) for folder in _videos(images)]
    scans, gaps = [], []
    for name, frames, mask_frames in videos:
        with_image, with_mask = (
            files_by_stem(folder, PICTURE_SUFFIXES).keys() for folder in (frames, mask_frames)
        )
        num_pairs = len(with_mask & with_image)
        if not num_pairs:
            gaps.append(f"{name}: no frame has a mask")
            continue
        if num_pairs < len(with_image):
            gaps.append(
                f"{name}: {num_pairs} of {len(with_image)} frames have a mask, the others are left out"
            )
        if num_pairs < len(with_mask):
            gaps.append(f"{name}: {len(with_mask) - num_pairs} masks have no frame")
        patient = patient_of(frames, root, options, name)
        scans.append(
            LabelledScan(
                name=name, image=frames, mask=mask_frames, labels={}, patient=patient, storage="frames"
            )
        )
    return DataSet(layout="frames", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _video_roots(path: Path) -> tuple[Path, Path] | None:
    for image_name, mask_name in VIDEO_FOLDERS:
        images, masks = path / image_name, path / mask_name
        if not (images.is_dir() and masks.is_dir()):
            continue
        # Pictures themselves, not videos: a video called frames, or stills, which are pairs.
        if files_by_stem(images, PICTURE_SUFFIXES):
            return (images, masks) if image_name == "frames" else None
        for name in _RESOLUTIONS:
            if (images / name).is_dir() and (masks / name).is_dir():
                return images / name, masks / name
        if any(files_by_stem(masks / video.name, PICTURE_SUFFIXES) for video in _videos(images)):
            return images, masks
    return None


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_npz(path: Path) -> bool:
    """Tell whether this is an .npz file of MedSAM or MedSAM2, or a folder with at least one, at any depth."""
    return any(_has_keys(file) for file in _npz_files(path))


def read_npz_files(path: Path, options: ReadOptions) -> DataSet:
    """List the .npz files that have an image and a mask; each is a scan of its own."""
    root = path.parent if path.is_file() else path
    scans, gaps = [], []
    for file in _npz_files(path):
        if not _has_keys(file):
            gaps.append(f"{file.relative_to(root)}: has no {' and '.join(_NPZ_KEYS)}")
            continue
        # The names of the published sets begin with the modality: CT_Abd_..., MR_..., US3D_...
        modality = _NPZ_MODALITIES.get(file.name.partition("_")[0].upper())
        patient = patient_of(file, root, options, file.stem)
        scans.append(LabelledScan(name=file.stem, image=file, mask=file, labels={}, patient=patient,
                                  storage="npz", modality=modality))  # fmt: skip
    return DataSet(layout="npz", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _npz_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".npz" else []
    return sorted(file for file in path.rglob("*.npz") if not file.name.startswith("."))


def _has_keys(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(f"{key}.npy" in archive.namelist() for key in _NPZ_KEYS)
    except (OSError, zipfile.BadZipFile):
        return False
