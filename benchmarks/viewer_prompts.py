"""Compare what a viewer's strokes, outlines and corrections may be taken as.

    python benchmarks/viewer_prompts.py CASES.json [--cases 8] [--largest 4000000] [--weights compact]

A program draws on the key slice of each case, from its reference mask: a stroke along the longest direction,
and an outline, exact or wider. Each is taken as one thing and as another, the object is followed through the
volume, and its Dice is printed. For corrections, a part of the reference is taken away around the key slice
and clicked on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import medsam2
from medsam2.evaluation.cases import Case, read_cases
from medsam2.inference.predictor import Predictor, load
from medsam2.measure.overlap import dice
from medsam2.serving.viewers import viewed_object
from medsam2.serving.viewers.interactions import click_at
from medsam2.serving.viewers.translate import centre_line
from medsam2.serving.viewers.viewed_object import ViewedObject

SLACKS = (0.0, 0.07, 0.15)
"""Of an outline, in radii of a disc of the object's area."""
REACHES = (1, 3, 5, 8)
"""Slices on each side of a correction that are found anew."""
MISSING = 4
"""Slices on each side of the key slice in which a part is taken away."""


def deepest(mask: np.ndarray) -> tuple[int, int]:
    """The pixel `(y, x)` farthest from the edge."""
    y, x = np.unravel_index(
        int(ndimage.distance_transform_edt(np.pad(mask, 1)).argmax()), np.add(mask.shape, 2)
    )
    return int(y) - 1, int(x) - 1


def stroke_in(mask: np.ndarray) -> np.ndarray:
    """A line through the deepest pixel, along the object's longest direction, that stays off the edge."""
    core = ndimage.binary_erosion(mask, iterations=2)
    core = core if core.any() else mask
    y, x = deepest(mask)
    places = np.argwhere(core).astype(float)
    direction = np.linalg.svd(places - places.mean(0), full_matrices=False)[2][0]
    ends = np.rint([y, x] + np.linspace(-1, 1, 801)[:, None] * direction * max(mask.shape)).astype(int)
    inside = ends[((ends >= 0) & (ends < mask.shape)).all(axis=1)]
    line = np.zeros_like(mask)
    line[inside[:, 0], inside[:, 1]] = True
    line &= core
    line[y, x] = True
    parts, _ = ndimage.label(line, np.ones((3, 3)))
    return parts == parts[y, x]


def measure(case: Case, predictor: Predictor) -> Iterator[tuple[str, float]]:
    """What was drawn and what it was taken as, and the Dice."""
    volume = medsam2.read(case.image)
    truth = np.isin(medsam2.read(case.mask).array, case.labels)
    z, here = case.key_slice, truth[case.key_slice]

    def found(**prompt: object) -> float:
        session = predictor.session(volume, window=case.window, axis=2)
        session.add(1, slice=z, **prompt)  # type: ignore[arg-type]
        session.finish()
        return dice(session.result().array != 0, truth)

    y, x = deepest(here)
    yield "click", found(points=[(x, y)])
    yield "box", found(box=case.box_xyxy)
    stroke = stroke_in(here)
    yield "stroke as clicks", found(points=[(x, y) for y, x in centre_line(stroke)])
    yield "stroke as a mask", found(mask=stroke)
    radius = float(np.sqrt(here.sum() / np.pi))
    for slack in SLACKS:
        width = round(radius * slack)
        outline = ndimage.binary_dilation(here, iterations=width) if width else here
        yield f"outline + {slack:.0%} as a mask", found(mask=outline)
        rows, columns = np.nonzero(outline)
        middle_y, middle_x = deepest(outline)
        session = predictor.session(volume, window=case.window, axis=2)
        box = (columns.min(), rows.min(), columns.max(), rows.max())
        look = session.add(1, slice=z, box=box, points=[(middle_x, middle_y)])
        clipped = look & ndimage.binary_dilation(outline, iterations=2)
        yield f"outline + {slack:.0%} as box and click", found(mask=clipped) if clipped.any() else 0.0
    given = truth.copy()
    given[max(0, z - MISSING) : z + MISSING + 1, :, x + 1 :] = False
    missing = here & ~given[z]
    if not missing.any():
        return
    yield "given mask", dice(given, truth)
    y, x = deepest(missing)
    for reach in REACHES:
        viewed_object.REACH = reach
        viewed = ViewedObject(
            volume,
            lambda part, axis: predictor.session(part, window=case.window, axis=axis),
        )
        viewed.give(given)
        for _ in viewed.add(click_at((z, y, x), viewed.shape, is_positive=True)):
            pass
        yield f"given mask, one click, {reach} slices", dice(viewed.mask, truth)


def small_cases(path: Path, largest: int) -> list[Case]:
    """Cases of a list that are sliced along the third axis and have so many voxels at most."""
    return [
        case
        for case in read_cases(path)
        if case.axis == 2 and case.shape is not None and np.prod(case.shape) <= largest
    ]


def main() -> None:
    """Print the mean of each over the cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("--cases", dest="count", type=int, default=8, help="how many, from the first")
    parser.add_argument("--largest", type=int, default=4_000_000, help="voxels of a volume at most")
    parser.add_argument("--weights", default="compact")
    given = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load(given.weights, device="cpu")
    small = small_cases(given.cases, given.largest)
    scores: dict[str, list[float]] = defaultdict(list)
    for case in small[: given.count]:
        for name, score in measure(case, predictor):
            scores[name].append(score)
    for name, values in scores.items():
        print(f"{name:36} {np.mean(values):.3f}  ({len(values)} cases)")


if __name__ == "__main__":
    main()
