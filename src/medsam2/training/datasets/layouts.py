"""Find out in which format a data set is kept, and list its scans."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.training.datasets import folders, lists, tables
from medsam2.training.datasets.scan import DataSet, LabelledScan, ReadOptions


class Layout(NamedTuple):
    """One way to keep a data set."""

    looked_for: str
    """What is looked for, for the message when nothing is found."""
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], DataSet]
    """Raises `InputError` where the files are not as this layout has them."""


LAYOUTS: Mapping[str, Layout] = MappingProxyType({
    "nnunet": Layout("imagesTr/CASE_0000.* with labelsTr, or a dataset.json with channel_names",
                     lists.is_nnunet, lists.read_nnunet),
    "msd": Layout('a dataset.json with "modality" and "training"',
                  lists.is_decathlon, lists.read_decathlon),
    "monai": Layout('one JSON file with "training", "validation" or "testing"',
                    lists.is_monai_list, lists.read_monai_list),
    "table": Layout("a .csv or .tsv with columns image and mask", tables.is_table, tables.read_table),
    "monailabel": Layout("masks in labels/final", folders.has_final_masks, folders.read_final_masks),
    "frames": Layout("JPEGImages/VIDEO/*.jpg with Annotations/VIDEO/*.png",
                     folders.has_frames, folders.read_frames),
    "npz": Layout(".npz files with imgs and gts", folders.has_npz, folders.read_npz_files),
    "pairs": Layout("images/ beside masks/ or labels/, or two patterns (--images, --masks)",
                    folders.is_paired, folders.read_pairs),
})  # fmt: skip
"""Name -> layout, in the order in which they are tried."""


def recognise(path: Path) -> str:
    """Return the name of the layout that a file or a folder is kept in.

    Raises:
        InputError: There is nothing at this path.
        UnsupportedFormat: It is none of `LAYOUTS`.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    for name, layout in LAYOUTS.items():
        if layout.recognises(path):
            return name
    looked_for = "; ".join(f"{name}: {layout.looked_for}" for name, layout in LAYOUTS.items())
    raise UnsupportedFormat(f"{path}: is no data set that we recognise; looked for {looked_for}")


def read_data_set(path: Path, layout: str | None = None, options: ReadOptions | None = None) -> DataSet:
    """List the labelled scans of a data set; only lists and tables are opened, no image.

    Args:
        path: A folder, a table, a data list or an .npz.
        layout: One of `LAYOUTS`; recognised from the files if not given.
        options: What the files do not say.

    Raises:
        InputError: There is no data set here, no scan in it has a mask, or an option does not fit it.
        UnsupportedFormat: It is none of `LAYOUTS`.
    """
    options = ReadOptions() if options is None else options
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if layout is None:
        has_patterns = options.images is not None or options.masks is not None
        layout = "pairs" if has_patterns else recognise(path)
    elif layout not in LAYOUTS:
        raise InputError(f"no format is called {layout!r}; formats are {', '.join(LAYOUTS)}")
    found = LAYOUTS[layout].read(path, options)
    if not found.scans:
        reason = "".join(f", {sentence}" for sentence in (*found.gaps, *found.row_errors.values())[:1])
        raise InputError(
            f"{path}: no scan with a mask is here as {layout} keeps them "
            f"({LAYOUTS[layout].looked_for}){reason}"
        )
    name = path.resolve().stem if path.is_file() else path.resolve().name
    scans = tuple(_with_options(scan, options, name) for scan in _with_unique_names(found))
    return dataclasses.replace(found, scans=scans)


def _with_options(scan: LabelledScan, options: ReadOptions, name: str) -> LabelledScan:
    """Let what a person says replace what the files say."""
    return dataclasses.replace(
        scan,
        modality=options.modality or scan.modality,
        labels=dict(options.labels) if options.labels else scan.labels,
        regions={} if options.labels else scan.regions,
        dataset=scan.dataset or name,
    )


def _with_unique_names(found: DataSet) -> list[LabelledScan]:
    """Where two scans have one name, call them by their paths, and what is still the same by its number."""
    counts = Counter(scan.name for scan in found.scans)
    named = [
        scan if counts[scan.name] == 1 else dataclasses.replace(scan, name=_path_name(scan, found.root))
        for scan in found.scans
    ]
    counts = Counter(scan.name for scan in named)
    return [
        scan if counts[scan.name] == 1 else dataclasses.replace(scan, name=f"{scan.name} #{number + 1}")
        for number, scan in enumerate(named)
    ]


def _path_name(scan: LabelledScan, root: Path) -> str:
    return (scan.image.relative_to(root) if scan.image.is_relative_to(root) else scan.image).as_posix()
