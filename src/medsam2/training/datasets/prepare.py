"""Cut labelled scans into 8-bit stacks, which training draws its clips from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medsam2.errors import InputError
from medsam2.reports.page import make_folder, write_text
from medsam2.training.datasets.scan import TRAIN, VALIDATION, LabelledScan
from medsam2.training.datasets.splits import Splits
from medsam2.training.datasets.stacks import PrepareOptions as PrepareOptions
from medsam2.training.datasets.stacks import cut
from medsam2.training.stack_files import StackEntry, map_in_processes, save_stack, write_manifest

_FILE_NAME = re.compile(r"[0-9a-f]{24}-\d{3,}\.npz")
_RECORDS = "cases"


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What became of one scan."""

    name: str
    split: str
    files: tuple[str, ...] = ()
    """Names of the stacks' files."""
    objects: tuple[tuple[str, ...], ...] = ()
    """For each file the names of its objects, label 1 first."""
    num_left_out: int = 0
    """Objects along the scan's own axis that are too small, or more than a file holds."""
    axes: tuple[int, ...] = ()
    """For each file the file axis of the scan that its slices are stacked along."""
    windows: tuple[tuple[float, float], ...] = ()
    """For each file the intensities that became 0 and 255."""
    patient: str = ""
    """Patient of the scan."""
    dataset: str = ""
    """Name of the data set that it comes from."""
    error: str | None = None
    """Why there are no files."""

    @property
    def window(self) -> tuple[float, float] | None:
        """The scan's own window, that of its first file; None without files."""
        return self.windows[0] if self.windows else None


def prepare(
    splits: Splits, folder: Path, options: PrepareOptions, workers: int = 1
) -> Iterator[PreparedCase]:
    """Cut all scans into stacks and yield what became of each scan, one by one.

    Scans that an earlier run has done with the same options are not done again. A scan that cannot be read
    does not stop the rest. The list of files that `medsam2 train` reads is written at the end; files that no
    scan has any more are removed then. Scans for testing are listed but not prepared.

    Args:
        splits: See `splits.split_by_patient`.
        folder: For the stacks; made if need be.
        options: How scans become stacks.
        workers: Processes; 1 works here.

    Raises:
        InputError: The folder cannot be written, holds other stacks, or nothing is left to train or
            to validate on.
    """
    _make_folder(folder)
    work = [(scan, split) for split in (TRAIN, VALIDATION) for scan in splits.get(split, ())]
    done: list[PreparedCase] = []
    for case in map_in_processes(partial(_prepare_case, folder=folder, options=options), work, workers):
        done.append(case)
        yield case
    _finish(folder, done, splits, options)


def _make_folder(folder: Path) -> None:
    for path in (folder, folder / _RECORDS):
        make_folder(path)
    others = [path for path in folder.glob("*.npz") if not _FILE_NAME.fullmatch(path.name)]
    if others:
        raise InputError(
            f"{folder}: holds {others[0].name}, which was not prepared from a scan; give an empty folder"
        )


def _prepare_case(work: tuple[LabelledScan, str], *, folder: Path, options: PrepareOptions) -> PreparedCase:
    scan, split = work
    key = _key(scan, options)
    record = folder / _RECORDS / f"{key}.json"
    case = _known(record, folder)
    if case is None:
        try:
            case = _cut_scan(scan, folder, key, options)
        except (InputError, OSError) as error:
            return PreparedCase(name=scan.name, split=split, error=_explained(scan, error))
        # Last: a record says that all its files are there.
        write_text(record, json.dumps(dataclasses.asdict(case), indent=1) + "\n")
    return dataclasses.replace(case, name=scan.name, split=split, patient=scan.patient, dataset=scan.dataset)


def _cut_scan(scan: LabelledScan, folder: Path, key: str, options: PrepareOptions) -> PreparedCase:
    files: list[str] = []
    stacks: list[tuple[tuple[str, ...], int, tuple[float, float]]] = []  # names, axis, window
    is_kept: set[int] = set()
    num_found = 0
    for stack in cut(scan, options):
        file = f"{key}-{len(files):03d}.npz"
        save_stack(folder / file, stack.image, stack.labels, stack.modality, stack.spacing_mm)
        files.append(file)
        stacks.append((stack.names, stack.axis, (stack.window.lower, stack.window.upper)))
        if stack.axis == stacks[0][1]:
            is_kept |= stack.objects
            num_found = stack.num_found
    objects, axes, windows = zip(*stacks, strict=True)
    return PreparedCase(
        name=scan.name,
        split=TRAIN,
        files=tuple(files),
        objects=objects,
        axes=axes,
        windows=windows,
        num_left_out=num_found - len(is_kept),
    )


def _explained(scan: LabelledScan, error: Exception) -> str:
    """Say which row of a table and which file an error is about."""
    text = str(error)
    if scan.row is None:
        return text
    is_named = str(scan.image) in text or str(scan.mask) in text
    return f"{scan.row.where}: {text if is_named else f'{scan.image} with {scan.mask}: {text}'}"


def _key(scan: LabelledScan, options: PrepareOptions) -> str:
    """Name what a scan's files depend on: its own files as they are now, its labels, the options."""
    about = (
        [[str(path.resolve()), *_state(path)] for path in (scan.image, scan.mask)],
        sorted(scan.labels.items()),
        sorted(scan.ignored),
        scan.channel,
        scan.modality,
        scan.storage,
        None if scan.row is None else [scan.row.kind, scan.row.axis, scan.row.window],
        # Files of data sets without regions keep the names they have.
        *([[number, sorted(values)] for number, values in scan.regions.items()]),
    )
    text = json.dumps([about, dataclasses.asdict(options)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]


def _known(record: Path, folder: Path) -> PreparedCase | None:
    """Return what an earlier run has written, if all of it is there."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        content["files"] = tuple(content["files"])
        content["objects"] = tuple(tuple(names) for names in content["objects"])
        content["axes"] = tuple(content["axes"])
        content["windows"] = tuple(tuple(window) for window in content["windows"])
        case = PreparedCase(**content)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return case if all((folder / file).is_file() for file in case.files) else None


def _finish(folder: Path, cases: Sequence[PreparedCase], splits: Splits, options: PrepareOptions) -> None:
    """Write the list of files that training reads, then remove what is not on it."""
    listed = {
        split: [
            StackEntry(
                file=file,
                case=case.name,
                objects=names,
                dataset=case.dataset,
                patient=case.patient,
                axis=axis,
                window=window,
            )
            for case in cases
            if case.split == split
            for file, names, axis, window in zip(
                case.files, case.objects, case.axes, case.windows, strict=True
            )
        ]
        for split in (TRAIN, VALIDATION)
    }
    for split, files in listed.items():
        if not files:
            failed = next((f", {case.name}: {case.error}" for case in cases if case.error), "")
            raise InputError(f"{folder}: no scan is left to {_PURPOSE[split]}{failed}")
    content = {
        "options": dataclasses.asdict(options),
        **listed,
        "test": [scan.name for scan in splits.get("test", ())],
        "failed": {case.name: case.error for case in cases if case.error},
    }
    write_manifest(folder, content)
    kept = {entry.file for files in listed.values() for entry in files}
    for path in folder.glob("*.npz"):
        if _FILE_NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink()


_PURPOSE: Mapping[str, str] = {TRAIN: "train on", VALIDATION: "validate on"}
