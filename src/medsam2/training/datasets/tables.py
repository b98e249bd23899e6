"""A data set as a table, CSV or TSV: a row names an image and its mask."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError
from medsam2.imaging.volume import MODALITIES
from medsam2.prompts.tables import delimited, named_file, numbers_in, read_text
from medsam2.training.datasets.lists import LARGEST_LIST_BYTES
from medsam2.training.datasets.objects import DEFAULT_AXIS
from medsam2.training.datasets.scan import (
    DataSet,
    Kind,
    LabelledScan,
    LabelTable,
    ReadOptions,
    TableRow,
    label_table,
    patient_of,
    split_of,
    stem_of,
)

KINDS: Mapping[str, Kind] = {"volume": "volume", "still": "still", "video": "video"}
_AXES = {"": DEFAULT_AXIS, "0": 0, "1": 1, "2": 2}
_MODALITY_WORDS = {"CT": "CT", "MR": "MR", "MRI": "MR", "US": "US", "ULTRASOUND": "US"}
_SHOWN_CHARACTERS = 60


def read_row(cells: Mapping[str, str], where: str, base: Path, options: ReadOptions) -> LabelledScan:
    """Check one row; image and mask are looked for but not opened.

    Args:
        cells: Name of a known column -> its text, see `tables.COLUMNS`. "image", "mask" and "kind" are there.
        where: Table and row, for messages.
        base: What paths are relative to.
        options: How to tell the patient from the path where the cell is empty.

    Raises:
        InputError: A cell has a value that is not accepted, or a file is missing.
    """
    image, mask = (_existing(cells[what], what, base, where) for what in ("image", "mask"))
    kind = _kind(cells["kind"], where)
    axis = _axis(cells.get("axis", ""), kind, where)
    labels = read_labels(cells.get("labels", ""), where)
    return LabelledScan(
        name=cells.get("name") or stem_of(image),
        image=image,
        mask=mask,
        labels=labels.names,
        ignored=labels.ignored,
        regions=labels.regions,
        patient=cells["patient"] or patient_of(image, base, options, stem_of(image)),
        split=split_of(cells.get("split"), where),
        modality=_modality(cells.get("modality") or cells.get("imaging") or ""),
        storage="frames" if kind == "video" and image.is_dir() else "volume",
        dataset=cells.get("dataset", ""),
        row=TableRow(where=where, kind=kind, axis=axis, window=_window(cells.get("window", ""), where)),
    )


def _existing(text: str, what: str, base: Path, where: str) -> Path:
    if not text:
        raise InputError(f"{where}: has no {what}")
    path = named_file(text, base)
    if not os.path.exists(path):  # of a name that is too long, pathlib raises
        raise InputError(f"{where}: {path}: no such file")
    return path


def _kind(word: str, where: str) -> Kind:
    if word.lower() not in KINDS:
        raise InputError(f"{where}: a kind is {', '.join(KINDS)}, not {word!r}")
    return KINDS[word.lower()]


def _axis(word: str, kind: Kind, where: str) -> int:
    if word not in _AXES:
        raise InputError(f"{where}: a slicing axis is 0, 1, 2, or empty for {DEFAULT_AXIS}, not {word!r}")
    if kind == "still" and _AXES[word] != DEFAULT_AXIS:
        raise InputError(f"{where}: a still has one slice and no slicing axis {word}; leave the axis empty")
    return _AXES[word]


def _window(text: str, where: str) -> tuple[float, float] | None:
    """Read "lo hi"; an empty cell is None."""
    if not text:
        return None
    limits = numbers_in(text, (2,))
    if limits is None:
        raise InputError(f'{where}: a window is two numbers, for example "-160 240", not {text!r}')
    lower, upper = limits
    if lower >= upper:
        raise InputError(f"{where}: the window {text} is upside down; the lower limit comes first")
    return lower, upper


def read_labels(text: str, where: str) -> LabelTable:
    """Read a cell {"1": "liver", ...}: value -> name, and the values called "ignore".

    Raises:
        InputError: It is no such JSON, or names no value above 0; the message begins with `where`.
    """
    if not text:
        return LabelTable()
    try:
        labels = label_table(json.loads(text), where)
    except json.JSONDecodeError:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
        raise InputError(f'{where}: labels are JSON, for example {{"1": "liver"}}, not {shown!r}') from None
    if not labels.names:
        raise InputError(f"{where}: the labels name no value above 0; leave the cell empty to use numbers")
    return labels


def _modality(word: str) -> str | None:
    """Spell CT, MR and US as we do; keep other words, and None for an empty cell."""
    return _MODALITY_WORDS.get(word.upper(), word) or None


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "image_path", "scan", "ct", "volume"),
    "mask": ("mask", "label", "seg", "segmentation", "mask_path", "label_path"),
    "patient": ("patient", "patient_id", "subject", "subject_id", "case_id"),
    "split": ("split", "set", "subset"),
    "modality": ("modality",),
    "name": ("name", "case", "id"),
    "dataset": ("dataset",),
    "kind": ("kind",),
    "window": ("window",),
    "axis": ("slicing_axis",),
    "labels": ("labels",),
    "imaging": ("imaging",),
}
"""What we look for -> how the column may be called, in any case."""


def is_table(path: Path) -> bool:
    """Tell whether this is a file called .csv or .tsv."""
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv")


def read_table(path: Path, options: ReadOptions) -> DataSet:
    """List the rows; paths are relative to the table, or to `options.base`.

    Raises:
        InputError: A column is missing, a row lacks its image, or a split or modality is not known. In a
            table with a column `kind`, such a row is left out and its sentence is in `DataSet.row_errors`.
    """
    header, lines = read_lines(path)
    columns = _columns(header, path)
    patient_column = columns.get("patient")
    if options.patient is not None:
        patient_column = options.patient if options.patient in header else None
    base = path.parent if options.base is None else options.base
    # A cell that is empty leaves the patient to the name of the file.
    naming = options if patient_column is None else ReadOptions()
    scans, gaps = [], []
    row_errors: dict[int, str] = {}
    for number, row in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        cells = {what: (row.get(column) or "").strip() for what, column in columns.items()}
        named = (row.get(patient_column) or "").strip() if patient_column else ""
        if "kind" in columns:
            try:
                scans.append(read_row({**cells, "patient": named}, f"{path}, row {number}", base, naming))
            except InputError as error:
                row_errors[number] = str(error)
            continue
        if not cells["image"]:
            raise InputError(f"{where}: has no {columns['image']}")
        if not cells["mask"]:
            gaps.append(f"line {number} ({cells['image']}): has no {columns['mask']}")
            continue
        image = named_file(cells["image"], base)
        scans.append(
            LabelledScan(
                name=cells.get("name") or stem_of(image), image=image, labels={},
                mask=named_file(cells["mask"], base),
                patient=named or patient_of(image, base, naming, stem_of(image)),
                split=split_of(cells.get("split"), where),
                modality=_known_modality(cells.get("modality"), where),
                dataset=cells.get("dataset", ""),
            )
        )  # fmt: skip
    return DataSet(layout="table", root=base, scans=tuple(scans), gaps=tuple(gaps), row_errors=row_errors)


def read_lines(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Read a table as spreadsheets save it: the names of its columns, and its lines by column.

    Raises:
        InputError: It cannot be read, or is no table.
    """
    text, delimiter = delimited(
        read_text(path, most_bytes=LARGEST_LIST_BYTES, limit="lists of scans have", is_table=True)
    )
    delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter
    try:
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        return list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: is no table: {error}") from error


def _columns(header: list[str], path: Path) -> dict[str, str]:
    """Find the columns that we know; image and mask must be there."""
    by_name = {name.strip().lower(): name for name in reversed(header)}
    found = {
        what: by_name[name] for what, names in COLUMNS.items() for name in reversed(names) if name in by_name
    }
    for what in ("image", "mask"):
        if what not in found:
            raise InputError(
                f"{path}: no column is called {' or '.join(COLUMNS[what])}; there are {', '.join(header)}"
            )
    return found


def _known_modality(word: str | None, where: str) -> str | None:
    if not word:
        return None
    modality = {"MRI": "MR", "ULTRASOUND": "US"}.get(word.upper(), word.upper())
    if modality not in MODALITIES:
        raise InputError(f"{where}: a modality is {', '.join(MODALITIES)} or empty, not {word!r}")
    return modality
