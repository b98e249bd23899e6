"""Cut labelled scans into a bank of 8-bit stacks that training draws its clips from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.grids import match_order
from medsam2.imaging.intensity import to_uint8
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume
from medsam2.training.bank import MANIFEST, MAX_LABELS
from medsam2.training.datasets.contents import check_window, read_image, read_mask, whole_numbers, window_of
from medsam2.training.datasets.crops import Part, plan_parts
from medsam2.training.datasets.objects import ScanObject, find_objects, slice_axis
from medsam2.training.datasets.scan import TRAIN, VALIDATION, LabelledScan
from medsam2.training.datasets.splits import Splits

DEFAULT_FILE_BYTES = 16 * 2**20
SMALLEST_FILE_BYTES = 2**20
_BYTES_PER_VOXEL = 2  # a grey and a label
_FILE_NAME = re.compile(r"[0-9a-f]{24}-\d{3,}\.npz")
_RECORDS = "cases"


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How scans become stacks."""

    window: str | tuple[float, float] | None = None
    """Of the intensities: a CT window's name or limits; None chooses as inference does."""
    plane: str | None = None
    """Of the slices, "axial" say; the file's third axis if not given."""
    pieces: bool = False
    """Make each connected piece of a label an object of its own: lesions that share a value."""
    smallest_area: int = 12
    """Pixels that an object needs in its largest slice; `DataConfig.min_area` draws no smaller ones."""
    file_bytes: int = DEFAULT_FILE_BYTES
    """What a file of the bank may have; larger scans are cropped around their objects."""

    def __post_init__(self) -> None:
        """Check what does not depend on a scan."""
        check_window(self.window)
        if self.smallest_area < 1:
            raise InputError(f"an object has at least 1 pixel, not {self.smallest_area}")
        if self.file_bytes < SMALLEST_FILE_BYTES:
            raise InputError(
                f"a file of the bank has at least {SMALLEST_FILE_BYTES} bytes (1 MiB), not {self.file_bytes}"
            )


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What became of one scan."""

    name: str
    split: str
    files: tuple[str, ...] = ()
    """Names in the bank."""
    objects: tuple[tuple[str, ...], ...] = ()
    """For each file the names of its objects, label 1 first."""
    num_left_out: int = 0
    """Objects that are too small, or beyond the 255 that a file holds."""
    window: tuple[float, float] | None = None
    """Intensities that became 0 and 255."""
    error: str | None = None
    """Why there are no files."""


def prepare(splits: Splits, bank: Path, options: PrepareOptions, workers: int = 1) -> Iterator[PreparedCase]:
    """Fill a bank and yield what became of each scan, one by one.

    Scans that an earlier run has done with the same options are not done again. A scan that cannot be read
    does not stop the rest. The list of files that `medsam2 train` reads is written at the end; files that no
    scan has any more are removed then. Scans for testing are listed but not prepared.

    Args:
        splits: See `splits.split_by_patient`.
        bank: Folder to fill; made if need be.
        options: How scans become stacks.
        workers: Processes; 1 works here.

    Raises:
        InputError: The folder cannot be written, holds another kind of bank, or nothing is left to train or
            to validate on.
    """
    _make_folder(bank)
    work = [(scan, split) for split in (TRAIN, VALIDATION) for scan in splits.get(split, ())]
    done: list[PreparedCase] = []
    for case in _each(partial(_prepare_case, bank=bank, options=options), work, workers):
        done.append(case)
        yield case
    _finish(bank, done, splits, options)


def _each(task: partial[PreparedCase], work: Sequence[object], workers: int) -> Iterator[PreparedCase]:
    if workers <= 1:
        yield from map(task, work)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(task, work)


def _make_folder(bank: Path) -> None:
    try:
        (bank / _RECORDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{bank}: no folder can be made here: {error.strerror or error}") from error
    others = [path for path in bank.glob("*.npz") if not _FILE_NAME.fullmatch(path.name)]
    if others:
        raise InputError(
            f"{bank}: holds {others[0].name}, which is no file of a prepared bank; give an empty folder"
        )


def _prepare_case(work: tuple[LabelledScan, str], *, bank: Path, options: PrepareOptions) -> PreparedCase:
    scan, split = work
    key = _key(scan, options)
    record = bank / _RECORDS / f"{key}.json"
    known = _known(record, bank)
    if known is not None:
        return dataclasses.replace(known, name=scan.name, split=split)
    try:
        case = dataclasses.replace(_cut_scan(scan, bank, key, options), split=split)
    except (InputError, OSError) as error:
        return PreparedCase(name=scan.name, split=split, error=str(error))
    # Last: a record says that all its files are there.
    _write_json(dataclasses.asdict(case), record)
    return case


def _cut_scan(scan: LabelledScan, bank: Path, key: str, options: PrepareOptions) -> PreparedCase:
    image = read_image(scan)
    axis = slice_axis(image, options.plane)
    labels = slices_along(whole_numbers(match_order(read_mask(scan), image)), axis)
    window = window_of(scan, image, options.window)
    slices = slices_along(image.array, axis)
    found = list(find_objects(labels, scan.labels, scan.ignored, pieces=options.pieces))
    objects = [one for one in found if one.largest_area >= options.smallest_area]
    if not objects:
        raise InputError(
            f"none of the {len(found)} objects in the mask has {options.smallest_area} pixels in a slice"
            if found
            else "the mask is empty"
        )
    parts = plan_parts(slices.shape, [one.box for one in objects], options.file_bytes // _BYTES_PER_VOXEL)
    files: list[str] = []
    names: list[tuple[str, ...]] = []
    is_kept: set[int] = set()
    for part in parts:
        stack, members = _labels_of(part, objects, options)
        if not members:
            continue
        file = f"{key}-{len(files):03d}.npz"
        with replacing(bank / file, ".part") as temporary, temporary.open("xb") as stream:
            # Not compressed: reading it back must cost next to nothing.
            np.savez(
                stream,
                image=to_uint8(slices[part.box], window),
                labels=stack,
                modality=np.array(image.modality or ""),
                spacing_mm=np.array(_spacing_mm(image, axis)),
            )
        files.append(file)
        names.append(tuple(objects[member].name for member in members))
        is_kept |= set(members)
    return PreparedCase(
        name=scan.name,
        split=TRAIN,
        files=tuple(files),
        objects=tuple(names),
        num_left_out=len(found) - len(is_kept),
        window=(window.lower, window.upper),
    )


def _spacing_mm(image: Volume, axis: int) -> tuple[float, float, float]:
    """Distance of voxel centres in the slices along an axis, (x, y), and of the slices."""
    x_mm, y_mm = (step for number, step in enumerate(image.spacing) if number != axis)
    return x_mm, y_mm, image.spacing[axis]


def _labels_of(
    part: Part, objects: Sequence[ScanObject], options: PrepareOptions
) -> tuple[np.ndarray, list[int]]:
    """Number a part's objects from 1, the largest first to be kept where they are too many.

    Returns:
        uint8 labels of the part's size, and the places of its objects, label 1 first.
    """
    labels = np.zeros([place.stop - place.start for place in part.box], np.uint8)
    inside = []
    for member in part.members:
        target, source = _overlap(part, objects[member])
        mask = objects[member].mask[source]
        if mask.size and int(mask.sum(axis=(1, 2)).max()) >= options.smallest_area:
            inside.append((member, target, mask))
    inside.sort(key=lambda one: int(one[2].sum()), reverse=True)
    for number, (_, target, mask) in enumerate(inside[:MAX_LABELS], start=1):
        labels[target][mask] = number
    return labels, [member for member, _, _ in inside[:MAX_LABELS]]


def _overlap(part: Part, one: ScanObject) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where an object lies in a part, and which part of the object that is."""
    target, source = [], []
    for outer, inner in zip(part.box, one.box, strict=True):
        start, stop = max(outer.start, inner.start), max(outer.start, min(outer.stop, inner.stop))
        start = min(start, stop)
        target.append(slice(start - outer.start, stop - outer.start))
        source.append(slice(max(0, start - inner.start), max(0, stop - inner.start)))
    return tuple(target), tuple(source)


def _key(scan: LabelledScan, options: PrepareOptions) -> str:
    """Name what a scan's files depend on: its own files as they are now, its labels, the options."""
    about = (
        [[str(path.resolve()), *_state(path)] for path in (scan.image, scan.mask)],
        sorted(scan.labels.items()),
        sorted(scan.ignored),
        scan.channel,
        scan.modality,
        scan.storage,
    )
    text = json.dumps([about, dataclasses.asdict(options)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]


def _known(record: Path, bank: Path) -> PreparedCase | None:
    """Return what an earlier run has written, if all of it is there."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        content["files"] = tuple(content["files"])
        content["objects"] = tuple(tuple(names) for names in content["objects"])
        content["window"] = tuple(content["window"])
        case = PreparedCase(**content)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return case if all((bank / file).is_file() for file in case.files) else None


def _finish(bank: Path, cases: Sequence[PreparedCase], splits: Splits, options: PrepareOptions) -> None:
    """Write the list of files that training reads, then remove what is not on it."""
    listed = {
        split: [
            {"file": file, "case": case.name, "objects": list(names), "window": case.window}
            for case in cases
            if case.split == split
            for file, names in zip(case.files, case.objects, strict=True)
        ]
        for split in (TRAIN, VALIDATION)
    }
    for split, files in listed.items():
        if not files:
            failed = next((f", {case.name}: {case.error}" for case in cases if case.error), "")
            raise InputError(f"{bank}: no scan is left to {_PURPOSE[split]}{failed}")
    content = {
        "options": dataclasses.asdict(options),
        **listed,
        "test": [scan.name for scan in splits.get("test", ())],
        "failed": {case.name: case.error for case in cases if case.error},
    }
    _write_json(content, bank / MANIFEST)
    kept = {entry["file"] for files in listed.values() for entry in files}
    for path in bank.glob("*.npz"):
        if _FILE_NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink()


_PURPOSE: Mapping[str, str] = {TRAIN: "train on", VALIDATION: "validate on"}


def _write_json(content: object, path: Path) -> None:
    with replacing(path, ".part") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
