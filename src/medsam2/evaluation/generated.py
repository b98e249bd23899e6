"""Generated objects long enough for memory to matter, some of which vanish for a while."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medsam2.evaluation.ablation import Subject
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.stack import generate_stack

SHAPE = (64, 192, 192)
SHORTEST = 16  # slices
LEAST_AREA = 40  # pixels in the slice that is prompted
PER_STACK = 2
GAP = 3  # slices that show noise alone


def long_objects(seeds: range) -> Iterator[Subject]:
    """Generate stacks and give up to two long objects of each.

    The prompt lies on the object's first slice of sufficient size, so that there is a way to go. Every
    other stack also comes with three slices in the middle of the object spoilt by noise, where nothing
    is to be found, as after a movement: the object must be taken up again behind them.
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
    """Drown three slices in the middle of an object in noise and take it out of the truth there."""
    image, truth, areas = image.copy(), truth.copy(), areas.copy()
    filled = np.flatnonzero(areas)
    start = int(filled[len(filled) // 2])
    gap = slice(start, start + GAP)
    image[gap] = np.random.default_rng(seed).integers(0, 256, image[gap].shape, dtype=np.uint8)
    truth[gap] = False
    areas[gap] = 0
    return image, truth, areas
