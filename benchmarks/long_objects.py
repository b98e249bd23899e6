"""Objects to follow: those of a case list, and generated ones that are long enough for memory to matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.cases import XYXY, Task
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.stack import generate_stack

SHAPE = (64, 192, 192)
SHORTEST = 16  # slices
LEAST_AREA = 40  # pixels in the slice that is prompted
PER_STACK = 2
GAP = 3  # slices that show noise alone


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """An object to follow."""

    name: str
    group: str
    """Kind of object, for tables."""
    volume: Volume
    truth: np.ndarray
    """Boolean `(z, y, x)` along the sliced axis."""
    key_slice: int
    box_xyxy: XYXY
    window: str | tuple[float, float] | None
    axis: int = 2


def subject_of(task: Task) -> Subject:
    """Turn a case of a list into an object to follow."""
    return Subject(
        name=task.case.name,
        group=f"{task.case.modality} {task.case.target}",
        volume=task.volume,
        truth=slices_along(task.truth, task.axis),
        key_slice=task.case.key_slice,
        box_xyxy=task.case.box_xyxy,
        window=task.case.window,
        axis=task.axis,
    )


def long_objects(seeds: range) -> Iterator[Subject]:
    """Generate stacks and yield up to two long objects of each.

    The prompt lies on the object's first slice of sufficient size, so that many slices follow. Every other
    stack is also given with noise in three slices in the middle of the object, as after a movement. Nothing
    can be found there, and the object must be found again behind them.
    """
    for seed in seeds:
        stack = generate_stack(seed, shape=SHAPE)
        labels = np.arange(1, int(stack.labels.max()) + 1)
        areas = np.stack([(stack.labels == label).sum(axis=(1, 2)) for label in labels])
        lengths = (areas > 0).sum(axis=1)
        chosen = [i for i in np.argsort(-lengths) if lengths[i] >= SHORTEST and areas[i].max() >= LEAST_AREA]
        for index in chosen[:PER_STACK]:
            truth = stack.labels == labels[index]
            yield _subject(f"generated {seed}.{labels[index]}", stack.look, stack.image, truth, areas[index])
            if seed % 2:
                image, seen, left = _spoil(stack.image, truth, areas[index], seed)
                yield _subject(f"generated {seed}.{labels[index]} gap", "gap", image, seen, left)


def _subject(name: str, group: str, image: np.ndarray, truth: np.ndarray, areas: np.ndarray) -> Subject:
    key_slice = int(np.flatnonzero(areas >= min(LEAST_AREA, areas.max()))[0])
    return Subject(
        name=name,
        group=f"generated, {group}",
        volume=Volume.from_array(image),
        truth=truth,
        key_slice=key_slice,
        box_xyxy=tight_box(truth[key_slice]).xyxy,
        window=(0.0, 255.0),
    )


def _spoil(
    image: np.ndarray, truth: np.ndarray, areas: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace three slices in the middle of an object by noise, and take them out of the truth."""
    image, truth, areas = image.copy(), truth.copy(), areas.copy()
    filled = np.flatnonzero(areas)
    start = int(filled[len(filled) // 2])
    gap = slice(start, start + GAP)
    image[gap] = np.random.default_rng(seed).integers(0, 256, image[gap].shape, dtype=np.uint8)
    truth[gap] = False
    areas[gap] = 0
    return image, truth, areas
