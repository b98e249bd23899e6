"""A folder of generated stacks: made once, because making one costs as much as learning from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.stack import generate_stack

MAX_LABELS = 255


@dataclass(frozen=True, kw_only=True)
class BankedStack:
    """A generated stack with what choosing an object needs."""

    image: npt.NDArray[np.uint8]
    """`(z, y, x)`, 0..255."""
    labels: npt.NDArray[np.uint8]
    """`(z, y, x)`."""
    areas: npt.NDArray[np.int64]
    """`(label, z)` pixels of each object in each slice; row 0 is the background."""


def stack_path(folder: Path, seed: int) -> Path:
    """Name of the file that holds the stack of a seed."""
    return folder / f"{seed:06d}.npz"


def build_bank(folder: Path, seeds: range, workers: int) -> Iterator[int]:
    """Generate the stacks that the folder lacks and yield how many are there, one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not stack_path(folder, seed).exists()]
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
        np.savez(file, image=stack.image, labels=stack.labels)
    temporary.replace(path)


def load_stack(folder: Path, seed: int) -> BankedStack:
    """Read a stack back."""
    with np.load(stack_path(folder, seed), allow_pickle=False) as file:
        image, labels = file["image"], file["labels"]
    count = int(labels.max()) + 1
    areas = np.stack([np.bincount(plane.ravel(), minlength=count) for plane in labels], axis=1)
    return BankedStack(image=image, labels=labels, areas=areas)
