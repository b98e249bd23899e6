"""The validation stacks of a bank as a list of cases that an evaluation reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medsam2.evaluation.protocol import OTHER
from medsam2.imaging import io
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box
from medsam2.training.bank import BankedStack, entry_of, load_stack

CASES = "cases.json"


def write_held_out(bank: Path, seeds: Sequence[int], folder: Path, *, most: int, min_area: int) -> Path:
    """Write objects of some stacks as images, masks and a list of cases, as `medsam2 evaluate` takes them.

    Each object is prompted by its tight box in the slice where it is largest. Of more objects than wanted,
    an even choice over the stacks is taken. Files have numbers for names, the list has those of the data set.

    Args:
        bank: The bank.
        seeds: Of the stacks.
        folder: Where to write; made if need be.
        most: How many objects at most.
        min_area: Pixels that an object has at least in its largest slice.

    Returns:
        The list.

    Raises:
        InputError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        (seed, label)
        for seed in seeds
        for label, areas in enumerate(load_stack(bank, seed).areas)
        if label and areas.max() >= min_area
    ]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    by_seed: dict[int, list[int]] = {}
    for place in chosen:
        seed, label = found[place]
        by_seed.setdefault(seed, []).append(label)
    entries = [
        entry for seed, labels in by_seed.items() for entry in _write_stack(bank, seed, labels, folder)
    ]
    with replacing(folder / CASES, ".part") as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return folder / CASES


def _write_stack(bank: Path, seed: int, labels: list[int], folder: Path) -> Iterator[dict[str, object]]:
    """Write a stack's image and mask, and yield the entry of each of its objects."""
    stack = load_stack(bank, seed)
    image, mask = f"{seed:06d}.nii.gz", f"{seed:06d}-mask.nii.gz"
    for array, name in ((stack.image, image), (stack.labels, mask)):
        io.write(Volume.from_array(array, stack.spacing_mm), folder / name)
    entry = entry_of(bank, seed)
    for label in labels:
        target = f"object {label}" if entry is None else entry.objects[label - 1]
        scan = f"stack {seed}" if entry is None else entry.case
        yield {
            "name": f"{scan}, {target} ({seed}.{label})",
            "image": image,
            "mask": mask,
            "label": label,
            "modality": stack.modality or OTHER,
            "target": target,
            "window": [0, 255],
            "axis": 2,
            "patient": scan,
            **_prompt(stack, label),
        }


def _prompt(stack: BankedStack, label: int) -> dict[str, object]:
    key_slice = int(stack.areas[label].argmax())
    box = tight_box(stack.labels[key_slice] == label)
    return {"key_slice": key_slice, "box": list(box.xyxy)}
