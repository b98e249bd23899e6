"""Find out in which format a data set is kept, and list its scans."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.training.datasets import datalist, decathlon, frames, medsam_npz, nnunet, pairs, tables
from medsam2.training.datasets.scan import DataSet, LabelledScan, ReadOptions


@dataclass(frozen=True)
class Layout:
    """One way to keep a data set."""

    looked_for: str
    """What is looked for, for the message when nothing is found."""
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], DataSet]


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "nnunet": Layout(
            "imagesTr/CASE_0000.* with labelsTr, or a dataset.json with channel_names",
            nnunet.recognises,
            nnunet.read,
        ),
        "msd": Layout('a dataset.json with "modality" and "training"', decathlon.recognises, decathlon.read),
        "monai": Layout(
            'one JSON file with "training", "validation" or "testing"', datalist.recognises, datalist.read
        ),
        "table": Layout("a .csv or .tsv with columns image and mask", tables.recognises, tables.read),
        "monailabel": Layout("masks in labels/final", pairs.recognises_final, pairs.read_final),
        "frames": Layout(
            "JPEGImages/VIDEO/*.jpg with Annotations/VIDEO/*.png", frames.recognises, frames.read
        ),
        "npz": Layout(".npz files with imgs and gts", medsam_npz.recognises, medsam_npz.read),
        "pairs": Layout(
            "images/ beside masks/ or labels/, or two patterns (--images, --masks)",
            pairs.recognises,
            pairs.read,
        ),
    }
)
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
    scans = tuple(_as_said(scan, options, name) for scan in _with_names_of_their_own(found))
    return dataclasses.replace(found, scans=scans)


def _as_said(scan: LabelledScan, options: ReadOptions, name: str) -> LabelledScan:
    """What a person says counts more than what the files say."""
    return dataclasses.replace(
        scan,
        modality=options.modality or scan.modality,
        labels=dict(options.labels) if options.labels else scan.labels,
        regions={} if options.labels else scan.regions,
        dataset=scan.dataset or name,
    )


def _with_names_of_their_own(found: DataSet) -> list[LabelledScan]:
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
