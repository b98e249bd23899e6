"""List videos kept as folders of frames beside folders of mask frames, as DAVIS and YouTube-VOS do."""

from __future__ import annotations

from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.scan import (
    PICTURE_SUFFIXES,
    DataSet,
    LabelledScan,
    ReadOptions,
    files_by_stem,
    patient_of,
)

FOLDERS = (("JPEGImages", "Annotations"), ("frames", "masks"), ("images", "masks"), ("videos", "masks"))
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


def recognises(path: Path) -> bool:
    """Say whether this is a folder with videos and their masks in two folders side by side."""
    return _roots(path) is not None


def read(root: Path, options: ReadOptions) -> DataSet:
    """List the videos; of each, the frames that have a mask are the slices.

    Raises:
        InputError: There are no such folders.
    """
    found = _roots(root)
    if found is None:
        raise InputError(
            f"{root}: has no folders {' or '.join('/'.join(pair) for pair in FOLDERS)} of videos"
        )
    images, masks = found
    if files_by_stem(images, PICTURE_SUFFIXES):
        videos = [(root.name, images, masks)]
    else:
        videos = [(folder.name, folder, masks / folder.name) for folder in _videos(images)]
    scans, gaps = [], []
    for name, frames, mask_frames in videos:
        num_frames = len(files_by_stem(frames, PICTURE_SUFFIXES))
        stems = files_by_stem(mask_frames, PICTURE_SUFFIXES).keys()
        num_paired = len(stems & files_by_stem(frames, PICTURE_SUFFIXES).keys())
        if not num_paired:
            gaps.append(f"{name}: no frame has a mask")
            continue
        if num_paired < num_frames:
            gaps.append(f"{name}: {num_paired} of {num_frames} frames have a mask, the others are left out")
        if num_paired < len(stems):
            gaps.append(f"{name}: {len(stems) - num_paired} masks have no frame")
        scans.append(
            LabelledScan(
                name=name, image=frames, mask=mask_frames, labels={}, storage="frames",
                patient=patient_of(frames, root, options, name),
            )
        )  # fmt: skip
    return DataSet(layout="frames", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _roots(path: Path) -> tuple[Path, Path] | None:
    for image_name, mask_name in FOLDERS:
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
