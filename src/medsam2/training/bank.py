"""A folder of stacks to draw clips from: generated once, or prepared from labelled scans."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.synthesis.stack import generate_stack
from medsam2.training.config import TrainConfig

MAX_LABELS = 255
MANIFEST = "bank.json"
"""List of the files of a bank that was prepared from labelled scans; see `datasets.prepare`."""


@dataclass(frozen=True, kw_only=True)
class BankedStack:
    """A stack with what choosing an object needs."""

    image: npt.NDArray[np.uint8]
    """`(z, y, x)`, 0..255."""
    labels: npt.NDArray[np.uint8]
    """`(z, y, x)`."""
    areas: npt.NDArray[np.int64]
    """`(label, z)` pixels of each object in each slice; row 0 is the background."""
    modality: str | None = None
    """"CT", "MR" or "US", where the bank knows it."""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Distance of voxel centres, (x, y, z); 1 where the bank does not know it."""


@dataclass(frozen=True, kw_only=True)
class BankEntry:
    """One file of a bank that was prepared from scans, as its list has it."""

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


def use_bank(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return a run's values with the numbers of stacks that a prepared bank has; others keep the recipe's.

    Raises:
        InputError: The bank's list is not one of ours.
    """
    listed = _prepared(folder)
    if listed is None:
        return config
    data = dataclasses.replace(
        config.data, first_seed=0, stacks=len(listed[0]), validation_stacks=len(listed[1])
    )
    return dataclasses.replace(config, data=data)


def stack_path(folder: Path, seed: int) -> Path:
    """Name of the file that holds the stack of a seed; of a prepared bank, seeds number its files from 0.

    Raises:
        InputError: A prepared bank has fewer files.
    """
    listed = _prepared(folder)
    if listed is None:
        return folder / f"{seed:06d}.npz"
    entries = (*listed[0], *listed[1])
    if not 0 <= seed < len(entries):
        raise InputError(
            f"{folder}: has {len(entries)} prepared stacks, numbered from 0; none is number {seed}"
        )
    return folder / entries[seed].file


def entry_of(folder: Path, seed: int) -> BankEntry | None:
    """What the list of a prepared bank says of a stack; None for a generated one.

    Raises:
        InputError: The bank's list is not one of ours.
    """
    listed = _prepared(folder)
    return None if listed is None else (*listed[0], *listed[1])[seed]


def list_entries(folder: Path, seeds: range) -> list[BankEntry]:
    """What is known of some stacks, by their numbers; a generated stack is a data set's only case.

    Raises:
        InputError: The bank has fewer stacks, or its list is not one of ours.
    """
    listed = _prepared(folder)
    if listed is not None:
        stack_path(folder, seeds[-1])
        return [(*listed[0], *listed[1])[seed] for seed in seeds]
    stacks = ((stack_path(folder, seed), load_stack(folder, seed)) for seed in seeds)
    return [
        BankEntry(
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


def build_bank(folder: Path, seeds: range, workers: int) -> Iterator[int]:
    """Generate the stacks that the folder lacks and yield how many are there, one by one.

    Nothing is generated into a bank that was prepared from scans.

    Raises:
        InputError: A prepared bank has fewer stacks than that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not stack_path(folder, seed).exists()]
    if missing and _prepared(folder) is not None:
        raise InputError(
            f"{stack_path(folder, missing[0])}: is on the bank's list and not there; prepare it again"
        )
    done = len(seeds) - len(missing)
    yield done
    if not missing:
        return
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(_store, [folder] * len(missing), missing):
            done += 1
            yield done


def _store(folder: Path, seed: int) -> None:
    stack = generate_stack(seed)
    path = stack_path(folder, seed)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        # Not compressed: reading it back must cost next to nothing.
        np.savez(
            file,
            image=stack.image,
            labels=stack.labels,
            modality=np.array(stack.look.upper()),
            spacing_mm=np.array(stack.spacing_mm),
        )
    temporary.replace(path)


def load_stack(folder: Path, seed: int) -> BankedStack:
    """Read a stack back.

    Raises:
        InputError: The bank has no such stack.
    """
    with np.load(stack_path(folder, seed), allow_pickle=False) as file:
        image, labels = file["image"], file["labels"]
        # Banks of earlier versions do not have these.
        modality = str(file["modality"]) if "modality" in file else ""
        x_mm, y_mm, z_mm = file["spacing_mm"].tolist() if "spacing_mm" in file else (1.0, 1.0, 1.0)
    count = int(labels.max()) + 1
    areas = np.stack([np.bincount(plane.ravel(), minlength=count) for plane in labels], axis=1)
    return BankedStack(
        image=image,
        labels=labels,
        areas=areas,
        modality=modality or None,
        spacing_mm=(x_mm, y_mm, z_mm),
    )


def _prepared(folder: Path) -> tuple[tuple[BankEntry, ...], tuple[BankEntry, ...]] | None:
    """Return the files to train and to validate on of a prepared bank; None if it is none."""
    path = folder / MANIFEST
    return _read_manifest(path, path.stat().st_mtime_ns) if path.exists() else None


@lru_cache(maxsize=4)
def _read_manifest(path: Path, _written_ns: int) -> tuple[tuple[BankEntry, ...], tuple[BankEntry, ...]]:
    """Read a bank's list once each time that it is written; every draw asks for it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        train, validation = (
            tuple(_entry(listed) for listed in content[split]) for split in ("train", "validation")
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: is no list of a prepared bank; prepare it again") from error
    return train, validation


def _entry(listed: Mapping[str, Any]) -> BankEntry:
    lower_upper = listed.get("window")
    return BankEntry(
        file=str(listed["file"]),
        case=str(listed["case"]),
        objects=tuple(str(name) for name in listed["objects"]),
        dataset=str(listed.get("dataset", "")),
        patient=str(listed.get("patient", "")),
        axis=None if listed.get("axis") is None else int(listed["axis"]),
        window=None if lower_upper is None else (float(lower_upper[0]), float(lower_upper[1])),
    )
