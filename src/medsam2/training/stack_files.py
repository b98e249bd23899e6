"""A folder of stacks to draw clips from: generated once, or prepared from labelled scans."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing
from medsam2.reports.page import write_text
from medsam2.synthesis.stack import generate_stack
from medsam2.training.config import TrainConfig

A = TypeVar("A")
B = TypeVar("B")

MAX_LABELS = 255
CACHED_BYTES = 4 * 2**30
"""Bytes of stacks that a process keeps in memory."""
FORMER_NAME = "bank"
"""What earlier versions called a folder of stacks. The list in it, the stacks of rounds and a key of
`data prepare --json` keep the name, so that old and new versions read the same folders and programs go on."""
MANIFEST = "bank.json"
"""List of the stacks in a folder that were prepared from labelled scans; see `datasets.prepare`."""


@dataclass(frozen=True, kw_only=True)
class StoredStack:
    """A stack as it is read back, with the areas of its objects."""

    image: npt.NDArray[np.uint8]
    """`(z, y, x)`, 0..255."""
    labels: npt.NDArray[np.uint8]
    """`(z, y, x)`."""
    areas: npt.NDArray[np.int64]
    """`(label, z)` pixels of each object in each slice; row 0 is the background."""
    modality: str | None = None
    """"CT", "MR" or "US", where it is known."""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Distance of voxel centres, (x, y, z); 1 where it is not known."""


@dataclass(frozen=True, kw_only=True)
class StackEntry:
    """One prepared stack, as the list describes it."""

    file: str
    case: str
    """Name of the scan in its data set."""
    objects: tuple[str, ...]
    """Names of the objects, label 1 first."""
    dataset: str = ""
    """Name of the data set that the scan comes from. Lists of earlier versions lack this and what follows."""
    patient: str = ""
    axis: int | None = None
    """File axis of the scan that the slices are stacked along."""
    window: tuple[float, float] | None = None
    """Intensities that became 0 and 255."""


def use_stacks(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return a run's values with the numbers of prepared stacks; for generated ones, the recipe's.

    Raises:
        InputError: The list of stacks is not one of ours.
    """
    listed = _prepared(folder)
    if listed is None:
        return config
    data = dataclasses.replace(
        config.data, first_seed=0, stacks=len(listed[0]), validation_stacks=len(listed[1])
    )
    return dataclasses.replace(config, data=data)


def stack_path(folder: Path, seed: int) -> Path:
    """Return the file of a seed's stack; where stacks are prepared, seeds number them from 0.

    Raises:
        InputError: There are fewer prepared stacks.
    """
    entries = _all_entries(folder)
    if entries is None:
        return folder / f"{seed:06d}.npz"
    if not 0 <= seed < len(entries):
        raise InputError(
            f"{folder}: has {len(entries)} prepared stacks, numbered from 0; none is number {seed}"
        )
    return folder / entries[seed].file


def entry_of(folder: Path, seed: int) -> StackEntry | None:
    """Return how the list describes a prepared stack; None for a generated one.

    Raises:
        InputError: The list of stacks is not one of ours.
    """
    entries = _all_entries(folder)
    return None if entries is None else entries[seed]


def list_entries(folder: Path, seeds: range) -> list[StackEntry]:
    """Describe some stacks, by their numbers; a generated stack is a data set's only case.

    Raises:
        InputError: There are fewer stacks, or the list is not one of ours.
    """
    entries = _all_entries(folder)
    if entries is not None:
        stack_path(folder, seeds[-1])
        return [entries[seed] for seed in seeds]
    stacks = ((stack_path(folder, seed), load_stack(folder, seed)) for seed in seeds)
    return [
        StackEntry(
            file=path.name,
            case=path.stem,
            objects=tuple(f"object {label}" for label in range(1, len(stack.areas))),
            dataset="generated",
        )
        for path, stack in stacks
    ]


def num_slices(path: Path) -> int:
    """Read how many slices a stack's file has, and nothing else of it."""
    with zipfile.ZipFile(path) as archive, archive.open("image.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return int(shape[0])


def generate_stacks(folder: Path, seeds: range, workers: int) -> Iterator[int]:
    """Generate the stacks that the folder lacks and yield how many are there, one by one.

    Nothing is generated beside stacks that were prepared from scans.

    Raises:
        InputError: There are fewer prepared stacks than that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not stack_path(folder, seed).exists()]
    if missing and _prepared(folder) is not None:
        raise InputError(
            f"{stack_path(folder, missing[0])}: is on the list of stacks and not there; prepare them again"
        )
    done = len(seeds) - len(missing)
    yield done
    for _ in map_in_processes(partial(_store, folder), missing, workers):
        done += 1
        yield done


def _store(folder: Path, seed: int) -> None:
    stack = generate_stack(seed)
    save_stack(stack_path(folder, seed), stack.image, stack.labels, stack.look.upper(), stack.spacing_mm)


def save_stack(
    path: Path,
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    modality: str,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Write a stack's file, whole or not at all.

    Args:
        path: The file.
        image: Greys (z, y, x).
        labels: (z, y, x).
        modality: "CT", "MR" or "US"; empty where nothing says it.
        spacing_mm: Distance of voxel centres, (x, y, z).

    Raises:
        InputError: It cannot be written.
    """
    with replacing(path, ".part") as temporary, temporary.open("xb") as file:
        # Not compressed: a stack is read many times, and that must be fast.
        np.savez(
            file, image=image, labels=labels, modality=np.array(modality), spacing_mm=np.array(spacing_mm)
        )


def map_in_processes(task: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Yield the task's result for each item, in order; with one worker the work is done here."""
    if workers <= 1:
        yield from map(task, items)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(task, items)


def load_stack(folder: Path, seed: int) -> StoredStack:
    """Read a stack back.

    Raises:
        InputError: There is no such stack.
    """
    with np.load(stack_path(folder, seed), allow_pickle=False) as file:
        image, labels = file["image"], file["labels"]
        # Stacks of earlier versions do not have these.
        modality = str(file["modality"]) if "modality" in file else ""
        x_mm, y_mm, z_mm = file["spacing_mm"].tolist() if "spacing_mm" in file else (1.0, 1.0, 1.0)
    count = int(labels.max()) + 1
    areas = np.stack([np.bincount(plane.ravel(), minlength=count) for plane in labels], axis=1)
    return StoredStack(
        image=image,
        labels=labels,
        areas=areas,
        modality=modality or None,
        spacing_mm=(x_mm, y_mm, z_mm),
    )


class StackCache:
    """The latest stacks, as many as fit; prepared ones are of any size."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.stacks: OrderedDict[Path, StoredStack] = OrderedDict()

    def get(self, folder: Path, seed: int) -> StoredStack:
        """Return a stack, read from its file if it is not kept."""
        key = stack_path(folder, seed)
        if key in self.stacks:
            self.stacks.move_to_end(key)
            return self.stacks[key]
        stack = load_stack(folder, seed)
        self.stacks[key] = stack
        self.num_bytes += _size(stack)
        while self.num_bytes > self.most_bytes and len(self.stacks) > 1:
            self.num_bytes -= _size(self.stacks.popitem(last=False)[1])
        return stack


def _size(stack: StoredStack) -> int:
    return stack.image.nbytes + stack.labels.nbytes


STACKS = StackCache(CACHED_BYTES)
"""The stacks that this process cuts clips from."""


def write_manifest(folder: Path, content: Mapping[str, object]) -> None:
    """Write the list of the prepared stacks in a folder.

    Args:
        folder: Of the stacks.
        content: "train" and "validation" are sequences of `StackEntry`, or of entries as `read_manifest`
            returns them; what else is in it is kept.

    Raises:
        InputError: It cannot be written.
    """
    write_text(folder / MANIFEST, json.dumps(content, indent=1, default=dataclasses.asdict) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the list of the prepared stacks in a folder as it is written, once its entries are checked.

    Raises:
        InputError: There is no list, or it is not one of ours.
    """
    return _read_manifest(folder)[0]


Parts = tuple[Sequence[StackEntry], Sequence[StackEntry]]


def _read_manifest(folder: Path) -> tuple[dict[str, Any], Parts]:
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        train, validation = ([_entry(one) for one in content[part]] for part in ("train", "validation"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: is no list of prepared stacks; prepare them again") from error
    return content, (train, validation)


def _prepared(folder: Path) -> Parts | None:
    """Return the prepared stacks to train and to validate on; None if there is no list of them."""
    path = folder / MANIFEST
    return _read_parts(folder, path.stat().st_mtime_ns) if path.exists() else None


def _all_entries(folder: Path) -> Sequence[StackEntry] | None:
    listed = _prepared(folder)
    return None if listed is None else (*listed[0], *listed[1])


@lru_cache(maxsize=4)
def _read_parts(folder: Path, _written_ns: int) -> Parts:
    """Read the list once each time that it is written; it is needed at every draw."""
    return _read_manifest(folder)[1]


def _entry(listed: Mapping[str, Any]) -> StackEntry:
    lower_upper = listed.get("window")
    return StackEntry(
        file=str(listed["file"]),
        case=str(listed["case"]),
        objects=tuple(str(name) for name in listed["objects"]),
        dataset=str(listed.get("dataset", "")),
        patient=str(listed.get("patient", "")),
        axis=None if listed.get("axis") is None else int(listed["axis"]),
        window=None if lower_upper is None else (float(lower_upper[0]), float(lower_upper[1])),
    )
