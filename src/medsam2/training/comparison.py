"""The report of a run: held-out cases before and after it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medsam2.evaluation.cases import OTHER, read_cases
from medsam2.evaluation.experiment import Arm, Experiment, Masks, conclude, describe_run, run_arms_of
from medsam2.evaluation.page import show_cases
from medsam2.evaluation.report import PAGE, prepare_folder, publish
from medsam2.evaluation.runner import CaseResult
from medsam2.evaluation.simulated_user import RunOptions
from medsam2.imaging import io
from medsam2.imaging.volume import MODALITIES, Volume
from medsam2.inference.predictor import load
from medsam2.prompts.simulate import tight_box
from medsam2.reports.page import write_text
from medsam2.training.stack_files import StoredStack, entry_of, load_stack

CASES = "cases.json"


def write_held_out(stacks: Path, seeds: Sequence[int], folder: Path, *, most: int, min_area: int) -> Path:
    """Write objects of some stacks as images, masks and a list of cases, as `medsam2 evaluate` takes them.

    Each object is prompted by its tight box in the slice where it is largest. Of more objects than wanted,
    an even choice over the stacks is taken. Files have numbers for names, the list has those of the data set.

    Args:
        stacks: Folder of the stacks.
        seeds: Numbers of the stacks.
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
        for label, areas in enumerate(load_stack(stacks, seed).areas)
        if label and areas.max() >= min_area
    ]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    by_seed: dict[int, list[int]] = {}
    for place in chosen:
        seed, label = found[place]
        by_seed.setdefault(seed, []).append(label)
    entries = [
        entry for seed, labels in by_seed.items() for entry in _write_stack(stacks, seed, labels, folder)
    ]
    write_text(folder / CASES, json.dumps(entries, indent=1) + "\n")
    return folder / CASES


def _write_stack(stacks: Path, seed: int, labels: list[int], folder: Path) -> Iterator[dict[str, object]]:
    """Write a stack's image and mask, and yield the entry of each of its objects."""
    stack = load_stack(stacks, seed)
    image, mask = f"{seed:06d}.nii.gz", f"{seed:06d}-mask.nii.gz"
    for array, name in ((stack.image, image), (stack.labels, mask)):
        io.write(Volume.from_array(array, stack.spacing_mm), folder / name)
    entry = entry_of(stacks, seed)
    for label in labels:
        target = f"object {label}" if entry is None else entry.objects[label - 1]
        scan = f"stack {seed}" if entry is None else entry.case
        yield {
            "name": f"{scan}, {target} ({seed}.{label})",
            "image": image,
            "mask": mask,
            "label": label,
            "modality": stack.modality
            if stack.modality in MODALITIES
            else OTHER,  # a table may have any word
            "target": target,
            "window": [0, 255],
            "axis": 2,
            "patient": scan,
            **_prompt(stack, label),
        }


def _prompt(stack: StoredStack, label: int) -> dict[str, object]:
    key_slice = int(stack.areas[label].argmax())
    box = tight_box(stack.labels[key_slice] == label)
    return {"key_slice": key_slice, "box": list(box.xyxy)}


TEXT = "report.txt"
_BEFORE, _AFTER = "before", "after"


def compare_weights(cases: Path, before: str | Path, after: Path, *, device: str, command: str) -> Experiment:
    """Segment cases with the weights that a run began with and with those that it ended with.

    Args:
        cases: The list of cases.
        before: Name or file of weights.
        after: File of weights.
        device: `auto`, `cpu` or `cuda`.
        command: What the report says was run.

    Returns:
        An experiment whose first arm is before, and whose masks are those of after.

    Raises:
        CheckpointError: Weights cannot be loaded.
        InputError: The list cannot be read, or MONAI is not installed.
    """
    listed, options = read_cases(cases), RunOptions()
    arms = [
        Arm(name=name, segmenter=load(weights, device=device), options=options)
        for name, weights in ((_BEFORE, before), (_AFTER, after))
    ]
    facts = describe_run(command, cases, [str(before), str(after)], device)
    masks = Masks()
    # The masks that are kept and shown are those of the arm that runs first.
    found = [(1 - arm, result) for arm, result in run_arms_of(listed, arms[::-1], masks)]
    return conclude(listed, arms, found, masks, facts)


def write_comparison(found: Experiment, folder: Path) -> list[str]:
    """Write a comparison as a page that needs no other file, as tables, and as text.

    Args:
        found: From `compare_weights`.
        folder: Where to write; made if need be.

    Returns:
        The lines of the text.

    Raises:
        InputError: A file cannot be written, or matplotlib is not installed.
    """
    prepare_folder(folder)
    turned = dataclasses.replace(found, arms=found.arms[::-1], results=found.results[::-1])
    publish(found, folder, show_cases(turned))
    lines = list(_lines(found))
    write_text(folder / TEXT, "\n".join([*lines, f"pictures and tables: {PAGE}", ""]))
    return lines


def _lines(found: Experiment) -> Iterator[str]:
    before, after = found.results
    pairs = list(zip(before, after, strict=True))
    width = max(len(first.name) for first, _ in pairs)
    measured = [(_dice(first), _dice(second)) for first, second in pairs]
    both = [(b, a) for b, a in measured if b is not None and a is not None]
    if both:
        first, second = (sum(values) / len(both) for values in zip(*both, strict=True))
        yield f"mean Dice of {len(both)} held-out objects: {first:.3f} before, {second:.3f} after"
        better = sum(a > b for b, a in both)
        worse = sum(a < b for b, a in both)
        yield f"{better} are better, {worse} worse"
    for (result, other), (b, a) in zip(pairs, measured, strict=True):
        if b is None or a is None:
            yield f"{result.name:{width}}  failed: {result.error or other.error}"
        else:
            yield f"{result.name:{width}}  {b:.3f} -> {a:.3f}  ({a - b:+.3f})"


def _dice(result: CaseResult) -> float | None:
    return None if result.scores is None else result.scores.dice
