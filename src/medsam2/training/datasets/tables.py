"""Read pairs of image and mask from a table, CSV or TSV.

A table with a column `kind` says more about each image; `rows` reads that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError
from medsam2.imaging.volume import MODALITIES
from medsam2.prompts.tables import delimited, named_file
from medsam2.training.datasets.rows import read_row
from medsam2.training.datasets.listing import read_text
from medsam2.training.datasets.scan import DataSet, LabelledScan, ReadOptions, patient_of, split_of, stem_of

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


def recognises(path: Path) -> bool:
    """Say whether this is a file called .csv or .tsv."""
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv")


def read(path: Path, options: ReadOptions) -> DataSet:
    """List the rows; paths are relative to the table, or to `options.base`.

    Raises:
        InputError: A column is missing, a row lacks its image, or a split or modality is not known. In a
            table with a column `kind`, such a row is left out and its sentence is in `DataSet.row_errors`.
    """
    text, delimiter = delimited(read_text(path, is_table=True))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter
    try:
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        lines = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: is no table: {error}") from error
    columns = _columns(list(reader.fieldnames or ()), path)
    patient_column = columns.get("patient")
    if options.patient is not None:
        patient_column = options.patient if options.patient in (reader.fieldnames or ()) else None
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
                scans.append(
                    read_row({**cells, "patient": named}, f"{path}, row {number}", base, naming)
                )
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
                split=split_of(cells.get("split"), where), modality=_modality(cells.get("modality"), where),
                dataset=cells.get("dataset", ""),
            )
        )  # fmt: skip
    return DataSet(layout="table", root=base, scans=tuple(scans), gaps=tuple(gaps), row_errors=row_errors)


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


def _modality(word: str | None, where: str) -> str | None:
    if not word:
        return None
    modality = {"MRI": "MR", "ULTRASOUND": "US"}.get(word.upper(), word.upper())
    if modality not in MODALITIES:
        raise InputError(f"{where}: a modality is {', '.join(MODALITIES)} or empty, not {word!r}")
    return modality
