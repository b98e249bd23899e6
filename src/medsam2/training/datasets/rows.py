"""Read a row of a table that says how to cut each image: its kind, window, slicing axis and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError
from medsam2.prompts.tables import named_file, numbers_in
from medsam2.training.datasets.listing import LabelTable, label_table
from medsam2.training.datasets.objects import DEFAULT_AXIS
from medsam2.training.datasets.scan import (
    Kind,
    LabelledScan,
    ReadOptions,
    TableRow,
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
    labels = _labels(cells.get("labels", ""), where)
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
        raise InputError(f'{where}: a window is two numbers, "-160 240" say, not {text!r}')
    lower, upper = limits
    if lower >= upper:
        raise InputError(f"{where}: the window {text} is upside down; the lower limit comes first")
    return lower, upper


def _labels(text: str, where: str) -> LabelTable:
    """Read {"1": "liver", ...}: value -> name, and the values called "ignore"."""
    if not text:
        return LabelTable()
    try:
        labels = label_table(json.loads(text), where)
    except json.JSONDecodeError:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
        raise InputError(f'{where}: labels are JSON, {{"1": "liver"}} say, not {shown!r}') from None
    if not labels.names:
        raise InputError(f"{where}: the labels name no value above 0; leave the cell empty to use numbers")
    return labels


def _modality(word: str) -> str | None:
    """Spell CT, MR and US as we do; keep other words, and None for an empty cell."""
    return _MODALITY_WORDS.get(word.upper(), word) or None
