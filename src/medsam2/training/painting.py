"""Paint stacks from label maps: tables of maps in, files and their entries in the list of stacks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging import io
from medsam2.reports.page import make_folder
from medsam2.synthesis.label_map import LabelMap, make_label_map
from medsam2.synthesis.painted import PaintedStack, paint_stack
from medsam2.training.datasets.contents import whole_numbers
from medsam2.training.datasets.splits import is_validation_patient
from medsam2.training.datasets.tables import read_labels, read_lines
from medsam2.training.stack_files import (
    MANIFEST,
    StackEntry,
    map_in_processes,
    read_manifest,
    save_stack,
    write_manifest,
)

DATASET = "painted"
FEWEST_MASK_LABELS = 2
"""A scan's mask with fewer structures shows no neighbours."""
FEWEST_MASK_SLICES = 8
ATTEMPTS = 20
"""Maps that are tried until a stack shows an object."""
MAP_COLUMNS = ("name", "file")
MASK_COLUMNS = ("name", "mask", "patient", "labels")


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """A row of a table: where a label map is, and what its values mean."""

    name: str
    path: Path
    where: str
    """Table and line, for messages."""
    names: tuple[tuple[int, str], ...] = ()
    """Values and their names."""
    is_mask: bool = False
    """It is a training scan's mask, which is passed over if it has few labels or slices."""
    weight: float = 1.0
    """How often it is drawn."""


@dataclass(frozen=True, kw_only=True)
class PaintedFile:
    """What became of one stack."""

    seed: int
    file: str
    case: str = ""
    """Name of the map."""
    objects: tuple[str, ...] = ()
    """Names of the objects, label 1 first."""
    error: str | None = None
    """Why there is no file."""


def list_maps(table: Path, weights: Mapping[str, float]) -> tuple[list[MapFile], list[str]]:
    """Read a table of label maps, or a training table, of which only the training patients' masks are used.

    A path is relative to the table, or to the folder beside it that has the table's name.

    Args:
        table: CSV with the columns of `MAP_COLUMNS` or of `MASK_COLUMNS`.
        weights: Parts of names and how often such maps are drawn; those of several parts are multiplied.

    Returns:
        The maps, and one sentence for each row that cannot be used.

    Raises:
        InputError: There is no such table, or it lacks columns.
    """
    columns, rows = read_lines(table)
    is_mask = "mask" in columns
    missing = sorted(set(MASK_COLUMNS if is_mask else MAP_COLUMNS) - set(columns))
    if missing:
        raise InputError(
            f"{table}: line 1: the column {missing[0]} is missing; a table of maps has the columns "
            f"{', '.join(MAP_COLUMNS)}, a training table {', '.join(MASK_COLUMNS)}"
        )
    maps: list[MapFile] = []
    problems: list[str] = []
    for line, row in enumerate(rows, start=2):
        try:
            found = _map_of_row(row, table, line, weights)
        except InputError as error:
            problems.append(str(error))
        else:
            maps += [found] if found is not None else []
    return maps, problems


def _map_of_row(
    row: Mapping[str, str | None], table: Path, line: int, weights: Mapping[str, float]
) -> MapFile | None:
    """Return the map of a row; None if it is not to be used."""
    where = f"{table}: line {line}"
    is_mask = "mask" in row
    name, file = row["name"] or "", row["mask" if is_mask else "file"] or ""
    if not name or not file:
        raise InputError(f"{where}: {'mask' if is_mask else 'file'} or name is empty")
    weight = float(np.prod([factor for part, factor in weights.items() if part in name]))
    if weight == 0:
        return None
    labels = row.get("labels") or ""
    names = () if labels == "{}" else tuple(read_labels(labels, where).names.items())
    if is_mask and not (_is_for_training(row, where) and len(names) >= FEWEST_MASK_LABELS):
        return None
    path = table.parent / file
    if not path.exists():
        path = table.parent / table.stem / file
    if not path.exists():
        raise InputError(f"{where}: there is no file {file} beside the table, nor in {table.stem}/")
    return MapFile(name=name, path=path, where=where, names=names, is_mask=is_mask, weight=weight)


def _is_for_training(row: Mapping[str, str | None], where: str) -> bool:
    """Tell whether a scan is a volume of a patient who is neither for validation nor for testing."""
    if (row.get("kind") or "volume") != "volume":
        return False
    if split := row.get("split"):
        return split == "train"
    if not row["patient"]:
        raise InputError(f"{where}: patient is empty, so the mask may be one to validate on")
    return not is_validation_patient(row["patient"])


def check_maps(maps: Sequence[MapFile]) -> tuple[list[MapFile], list[str]]:
    """Read every map once.

    Returns:
        The maps that can be painted, and one sentence for each one that cannot be read or has no labels.
        Masks with too few labels or slices are left out without one.
    """
    usable: list[MapFile] = []
    problems: list[str] = []
    for one in maps:
        try:
            read = read_map(one)
        except InputError as error:
            problems.append(str(error))
            continue
        is_small = len(read.label_names) < FEWEST_MASK_LABELS or min(read.labels.shape) < FEWEST_MASK_SLICES
        if not (one.is_mask and is_small):
            usable.append(one)
    return usable, problems


@cache
def read_map(one: MapFile) -> LabelMap:
    """Read a label map; each process keeps what it has read.

    Raises:
        InputError: It cannot be read, holds other than whole numbers, or has no labels.
    """
    try:
        volume = io.read(one.path)
        return make_label_map(one.name, whole_numbers(volume.array), volume.spacing, dict(one.names))
    except (InputError, OSError) as error:
        raise InputError(f"{one.where}: {one.path.name}: {error}") from error


def draw_stack(maps: Sequence[MapFile], seed: int) -> tuple[str, PaintedStack] | None:
    """Draw a map and paint a stack of it; the same maps and seed give the same stack.

    Returns:
        The map's name and the stack; None if no map that was tried shows an object.
    """
    shares = np.array([one.weight for one in maps])
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        one = maps[int(rng.choice(len(maps), p=shares / shares.sum()))]
        stack = paint_stack(read_map(one), rng)
        if stack is not None:
            return one.name, stack
    return None


def paint_stacks(
    maps: Sequence[MapFile], folder: Path, seeds: range, processes: int
) -> Iterator[PaintedFile]:
    """Paint a stack for each seed, yield what became of it, and list all of them at the end.

    Args:
        maps: What to draw from, checked.
        folder: Of the stacks; made if need be. What it holds besides stays.
        seeds: Seeds of the stacks.
        processes: 1 works here.

    Raises:
        InputError: The folder cannot be written, its list is not one of ours, or there are no maps.
    """
    if not maps:
        raise InputError("there is no label map to paint from")
    _listed(folder)  # a wrong list is an error before the work is done
    make_folder(folder)
    done: list[PaintedFile] = []
    for painted in map_in_processes(partial(_paint, tuple(maps), folder), seeds, processes):
        done.append(painted)
        yield painted
    _add_to_manifest(folder, [painted for painted in done if painted.error is None])


def _paint(maps: tuple[MapFile, ...], folder: Path, seed: int) -> PaintedFile:
    """Paint and write one stack."""
    file = f"{DATASET}-{seed:06d}.npz"
    try:
        drawn = draw_stack(maps, seed)
        if drawn is None:
            return PaintedFile(seed=seed, file=file, error=f"seed {seed}: no map shows an object")
        case, stack = drawn
        save_stack(folder / file, stack.image, stack.labels, "", stack.spacing_mm)
    except (InputError, OSError) as error:
        return PaintedFile(seed=seed, file=file, error=f"seed {seed}: {error}")
    return PaintedFile(seed=seed, file=file, case=case, objects=stack.objects)


def _add_to_manifest(folder: Path, painted: Sequence[PaintedFile]) -> None:
    """Put painted stacks on the list of those to train on; entries of the same file are replaced."""
    content = _listed(folder)
    new = {one.file for one in painted}
    content["train"] = [entry for entry in content["train"] if entry["file"] not in new] + [
        StackEntry(
            file=one.file, case=one.case, objects=one.objects, dataset=DATASET, axis=0, window=(0, 255)
        )
        for one in painted
    ]
    write_manifest(folder, content)


def _listed(folder: Path) -> dict[str, Any]:
    """Return the list of stacks, an empty one if there is none yet."""
    has_list = (folder / MANIFEST).exists()
    return read_manifest(folder) if has_list else {"train": [], "validation": []}
