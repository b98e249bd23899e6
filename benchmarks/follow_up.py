"""Measure `medsam2 follow` on pairs of scans whose truth is known.

    python benchmarks/follow_up.py CASES.json [--only NAME] [--seeds 2] [--weights compact] [--rows FILE]
    python benchmarks/follow_up.py PAIRS.json --rescans

Each scan of the list becomes the first scan of pairs. The second one is made of it: turned, shifted, bent by
a smooth random field, sampled on other voxels, with noise and for MR with another scale of intensities. What
happens to the objects is the kind of the pair:

- moved: nothing else;
- pushed: they grow to 1.3 times their diameter, and the tissue around them gives way;
- drawn in: they shrink to 0.75 times their diameter, and the tissue around them follows;
- spreading: their grey is painted over the tissue around them;
- receding: the grey of the tissue around them is painted over their rim;
- vanished: that grey is painted over the whole of them.

The last three are for objects that the list calls lesions or tumours, and for balls that this program paints
into organs of a CT. Beside the masks of `followup.follow`, which the command calls, stands the floor: the
first mask, merely carried over.

PAIRS.json lists real scans of one patient with masks of both: [{"name", "baseline", "baseline_mask",
"follow_up", "follow_up_mask", "label", "kind"}], with paths relative to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from scipy import ndimage

import medsam2
from medsam2.evaluation.cases import Case, read_cases
from medsam2.followup.follow import Visits, follow
from medsam2.imaging.volume import Volume, match_order
from medsam2.inference.predictor import Predictor, load
from medsam2.measure.overlap import dice

KINDS = ("moved", "pushed", "drawn in", "spreading", "receding", "vanished")
PAINTED = KINDS[3:]
LESIONS = ("lesion", "tumour", "glioma", "sarcoma", "nodule", "ball")
GROWN, SHRUNK = 1.3, 0.75  # of the diameter
TURN_DEG, SHIFT_MM, BEND_MM, BEND_SIGMA_MM = 6.0, 12.0, 6.0, 22.0
COARSER = (1.15, 1.15, 1.25)  # voxels of the second scan, x y z
NOISE = 0.03  # of the range of intensities
BALL_MM = 11.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A scan and its objects, numbered from 1."""

    name: str
    image: Volume
    labels: np.ndarray
    titles: dict[int, str]
    window: str | tuple[float, float] | None
    plane_axis: int

    def is_lesion(self, number: int) -> bool:
        """Whether an object may be painted over."""
        return any(word in self.titles[number] for word in LESIONS)


def scans_of(cases: Sequence[Case]) -> Iterator[Scan]:
    """Put the cases of one image together; a CT with a liver also gives a scan with balls in its organs."""
    groups: dict[Path, list[Case]] = defaultdict(list)
    for case in cases:
        if case.axis is not None:
            groups[case.image].append(case)
    for path, group in groups.items():
        image = medsam2.read(path)
        if min(image.shape) < 8:
            continue
        labels = np.zeros(image.shape, np.uint8)
        for number, case in enumerate(group, start=1):
            labels[np.isin(match_order(medsam2.read(case.mask), image), case.labels)] = number
        titles = {number: case.target.lower() for number, case in enumerate(group, start=1)}
        scan = Scan(
            name=group[0].name, image=image, labels=labels, titles=titles, window=group[0].window,
            plane_axis=group[0].axis or 0,
        )  # fmt: skip
        yield scan
        if group[0].modality == "CT" and not any(map(scan.is_lesion, titles)):
            yield with_balls(scan)


def with_balls(scan: Scan) -> Scan:
    """Paint an uneven dark ball into each organ that has room for one."""
    rng = np.random.default_rng(7)
    grey, labels = scan.image.array.astype(np.float32), np.zeros_like(scan.labels)
    step = np.array(scan.image.spacing[::-1])
    titles: dict[int, str] = {}
    places = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), -1) * step
    for number, title in scan.titles.items():
        depth = ndimage.distance_transform_edt(np.pad(scan.labels == number, 1), step)[1:-1, 1:-1, 1:-1]
        if depth.max() < BALL_MM:
            continue
        centre = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) * step
        distance = np.linalg.norm((places - centre) * rng.uniform(0.85, 1.2, 3), axis=-1)
        uneven = ndimage.gaussian_filter(rng.normal(size=labels.shape), 5 / step)
        ball = distance + 1.5 * uneven / uneven.std() < BALL_MM * rng.uniform(0.7, 1)
        labels[ball] = new = len(titles) + 1
        titles[new] = f"ball in the {title}"
        soft = ndimage.gaussian_filter(ball.astype(np.float32), 1.5 / step)
        grey -= soft * 55
    image = scan.image.with_array(np.rint(grey).astype(np.int16))
    return Scan(
        name=f"{scan.name}_balls", image=image, labels=labels, titles=titles, window=scan.window,
        plane_axis=scan.plane_axis,
    )  # fmt: skip


def surroundings(
    grey: np.ndarray, hidden: np.ndarray, step: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The grey that tissue around a region would have in it, with its noise."""
    sigma = 6.0 / step
    shown = ndimage.binary_dilation(hidden, iterations=1) == 0
    weight = ndimage.gaussian_filter(shown.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(shown, grey, 0), sigma) / np.maximum(weight, 1e-4)
    ring = ndimage.binary_dilation(hidden, iterations=4) & shown
    rough = grey - ndimage.gaussian_filter(grey, 2.0 / step)
    spread = float(np.median(np.abs(rough[ring]))) * 1.48 if ring.any() else 0.0
    return np.asarray(smooth + ndimage.gaussian_filter(rng.normal(size=grey.shape), 0.6) * 1.6 * spread)


def paint(
    grey: np.ndarray, mask: np.ndarray, kind: str, step: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Let an object spread, recede or vanish; returns the grey and the new mask."""
    radius = (3 * mask.sum() * step.prod() / 4 / np.pi) ** (1 / 3)
    if kind == "spreading":
        new = ndimage.distance_transform_edt(~mask, step) <= max(0.22 * radius, 1.01 * step.min())
        values = grey[mask]
        fill = ndimage.gaussian_filter(rng.normal(size=grey.shape), 0.7) * 1.9 * values.std() + values.mean()
        changed = new & ~mask
    else:
        depth = ndimage.distance_transform_edt(mask, step)
        new = (
            mask & (depth > max(0.25 * depth.max(), 1.01 * step.min()))
            if kind == "receding"
            else np.zeros_like(mask)
        )
        fill = surroundings(grey, mask, step, rng)
        changed = mask & ~new
    soft = ndimage.gaussian_filter(changed.astype(np.float32), 0.5)
    soft = np.maximum(soft, changed * np.float32(0.85))
    return grey + soft * (fill - grey), new


def pushed_by(points: np.ndarray, centre: np.ndarray, radius: float, factor: float) -> np.ndarray:
    """The way from points to where they come from, if a ball is scaled and what is around it gives way."""
    offset = points - centre
    distance = np.maximum(np.linalg.norm(offset, axis=-1), 1e-6)
    far = 2 * radius * max(factor, 1.0)
    source = np.interp(distance, [0, factor * radius, far, 1e6], [0, radius, far, 1e6])
    return np.asarray(offset * (source / distance - 1)[..., None])


def second_scan(scan: Scan, kind: str, seed: int) -> tuple[Volume, np.ndarray]:
    """Make the second scan of a pair and its true labels."""
    rng = np.random.default_rng([seed, KINDS.index(kind), len(scan.name)])
    image = scan.image
    step = np.array(image.spacing[::-1])
    grey, labels = image.array.astype(np.float32), scan.labels.copy()
    for number in scan.titles:
        if kind in PAINTED and scan.is_lesion(number):
            before = labels == number
            grey, new = paint(grey, before, kind, step, rng)
            labels[before] = 0
            labels[new & (labels == 0)] = number
    # Millimetres along the axes of the first scan, (z, y, x), from its first voxel.
    extent = (np.array(image.shape) - 1) * step
    coarse = step * np.array(COARSER[::-1])
    size = np.maximum(np.floor(extent / coarse).astype(int) + 1, 4)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) * coarse
    middle = extent / 2
    thin = np.minimum(1, extent / (8 * SHIFT_MM))  # a thin stack would lose its objects
    turn = np.deg2rad(rng.uniform(-TURN_DEG, TURN_DEG, 3)) * np.array([1, thin[0], thin[0]])
    rotation = SimpleITK.Euler3DTransform((0, 0, 0), *turn[::-1]).GetMatrix()
    matrix = np.reshape(rotation, (3, 3))[::-1, ::-1]
    shift = rng.uniform(-SHIFT_MM, SHIFT_MM, 3) * thin
    source = (points - middle) @ matrix.T + middle + shift
    field = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=size), BEND_SIGMA_MM / coarse) for _ in range(3)], -1
    )
    source += field / np.abs(field).max() * BEND_MM * thin
    if kind in ("pushed", "drawn in"):
        factor = GROWN if kind == "pushed" else SHRUNK
        moved = source.copy()
        for number in scan.titles:
            where = np.argwhere(labels == number) * step
            reach = float(np.percentile(np.linalg.norm(where - where.mean(0), axis=1), 98))
            # An organ changes little, and a large one would push the body out of the picture.
            mild = factor if scan.is_lesion(number) else 1 + (factor - 1) / 4
            source += pushed_by(moved, where.mean(0), reach, mild)
    places = np.moveaxis(source / step, -1, 0)
    lowest = float(grey.min())
    made = ndimage.map_coordinates(grey, places, order=1, cval=lowest, prefilter=False)
    truth = np.zeros(made.shape, np.uint8)
    best = np.full(made.shape, 0.5, np.float32)
    for number in scan.titles:
        share = ndimage.map_coordinates((labels == number).astype(np.float32), places, order=1)
        truth[share > best] = number
        best = np.maximum(best, share)
    spread = float(np.percentile(grey, 99) - np.percentile(grey, 1))
    if isinstance(scan.window, tuple):
        spread = scan.window[1] - scan.window[0]
    made += rng.normal(size=made.shape) * NOISE * spread
    if scan.image.array.min() >= -500 and not isinstance(scan.window, tuple):  # units of MR are arbitrary
        made = np.where(made > 0, made * 1.2, made)
    affine = image.affine.copy()
    affine[:3, :3] *= np.array(COARSER)
    affine[:3, 3] += rng.uniform(-4, 4, 3) * thin[::-1]
    kind_of = np.iinfo(image.array.dtype) if image.array.dtype.kind in "iu" else None
    if kind_of is not None:
        made = np.rint(np.clip(made, kind_of.min, kind_of.max))
    return Volume(made.astype(image.array.dtype), affine, image.modality), truth


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one object of a pair."""

    scan: str
    kind: str
    title: str
    truth: int
    """Voxels in the second scan."""
    status: str
    source: str
    dice: dict[str, float]
    volume_error: dict[str, float]
    """In per cent of the truth."""
    centre_mm: dict[str, float]


def measured(mask: np.ndarray, truth: np.ndarray, step: np.ndarray) -> tuple[float, float, float]:
    """Dice, volume error in per cent and distance of the centres in mm; without a truth only Dice counts."""
    if not truth.any() or not mask.any():
        return dice(mask, truth), -100.0 if truth.any() else np.nan, np.nan
    apart = (np.argwhere(mask).mean(0) - np.argwhere(truth).mean(0)) * step
    error = 100 * (mask.sum() - truth.sum()) / truth.sum()
    return dice(mask, truth), float(error), float(np.linalg.norm(apart))


def rows_of(scan: Scan, kind: str, second: Volume, truth: np.ndarray, predictor: Predictor) -> list[Row]:
    """Follow the objects of a pair, and compare the masks and those that were merely carried over."""
    plane = None if scan.plane_axis == 2 else "sagittal"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        first, mask, last = (Path(folder) / f"{name}.nii.gz" for name in ("first", "mask", "last"))
        medsam2.write(scan.image, first)
        medsam2.write(scan.image.with_array(scan.labels), mask)
        medsam2.write(second, last)
        visits = Visits(baseline=first, mask=mask, follow_up=last, window=scan.window, plane=plane)
        facts = follow(visits, predictor)
    seconds = time.perf_counter() - started
    step = np.array(second.spacing[::-1])
    rows = []
    for one in facts.objects:
        there = truth == one.number
        masks = {"found": facts.labels.array == one.number, "floor": facts.carried[one.number]}
        figures = {way: measured(mask, there, step) for way, mask in masks.items()}
        dices, errors, distances = (
            dict(zip(figures, column, strict=True)) for column in zip(*figures.values(), strict=True)
        )
        rows.append(
            Row(
                scan=scan.name, kind=kind, title=scan.titles[one.number], truth=int(there.sum()),
                status=one.status, source=one.source or "-", dice=dices, volume_error=errors,
                centre_mm=distances,
            )
        )  # fmt: skip
    shown = " ".join(f"{row.status}:{row.dice['found']:.2f}/{row.dice['floor']:.2f}" for row in rows)
    print(f"{scan.name} {kind}: {seconds:.0f} s, found/floor {shown}", file=sys.stderr, flush=True)
    return rows


def report(rows: Sequence[Row]) -> None:
    """Print a line for each kind and group of objects, the command's masks beside the floor."""
    print("kind        objects            n  masks    >0.1  >0.5   Dice  volume error  centre mm  network's")
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        is_lesion = any(word in row.title for word in LESIONS)
        if row.kind in PAINTED and not is_lesion:
            continue
        groups[row.kind, "lesions" if is_lesion else "organs"].append(row)
    for (kind, group), some in groups.items():
        gone = [row for row in some if not row.truth]
        if gone:
            flagged = sum(row.status == "vanished" for row in gone)
            print(f"{kind:11} {group:16} {len(gone):3}  reported as vanished: {flagged}")
        there = [row for row in some if row.truth]
        if not there:
            continue
        for way in ("found", "floor"):
            scores = np.array([row.dice[way] for row in there])
            error = np.median([abs(row.volume_error[way]) for row in there])
            centre = np.nanmedian([row.centre_mm[way] for row in there])
            share = np.mean([row.source == "network" for row in there])
            print(
                f"{kind:11} {group:16} {len(there):3}  {way:7} {np.mean(scores > 0.1):5.0%} "
                f"{np.mean(scores > 0.5):5.0%}  {scores.mean():.3f}  {error:10.0f} %  {centre:9.1f}"
                + (f"  {share:9.0%}" if way == "found" else "")
            )
        wrong = sum(row.status == "vanished" for row in there)
        if wrong:
            print(f"{'':28} {wrong} of them reported as vanished")


def generated(
    cases: Sequence[Case], seeds: Sequence[int], kinds: Sequence[str], predictor: Predictor
) -> Iterator[Row]:
    """Make pairs of the scans and compare each."""
    for scan in scans_of(cases):
        has_lesions = any(map(scan.is_lesion, scan.titles))
        for kind in (kind for kind in kinds if has_lesions or kind not in PAINTED):
            for seed in seeds:
                second, truth = second_scan(scan, kind, seed)
                yield from rows_of(scan, kind, second, truth, predictor)


def rescanned(path: Path, predictor: Predictor) -> Iterator[Row]:
    """Compare pairs of real scans."""
    for pair in json.loads(path.read_text("utf-8")):
        image, mask, second, truth = (
            medsam2.read(path.parent / pair[key])
            for key in ("baseline", "baseline_mask", "follow_up", "follow_up_mask")
        )
        scan = Scan(
            name=pair["name"], image=image, labels=(mask.array == pair["label"]).astype(np.uint8),
            titles={1: pair["kind"]}, window=None, plane_axis=2,
        )  # fmt: skip
        yield from rows_of(scan, pair["kind"], second, truth.array == pair["label"], predictor)


def main() -> None:
    """Run every pair and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("--rescans", action="store_true", help="the list is one of pairs of real scans")
    parser.add_argument("--only", default="", help="a part of the names of the cases to take")
    parser.add_argument(
        "--kind", dest="kinds", action="append", choices=KINDS, help="of pairs; may be repeated"
    )
    parser.add_argument("--rows", type=Path, help="also write every object of every pair, as JSON")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", default="compact")
    given = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load(given.weights, device="cpu")
    if given.rescans:
        found = rescanned(given.cases, predictor)
    else:
        cases = [case for case in read_cases(given.cases) if given.only in case.name]
        found = generated(cases, range(given.seeds), given.kinds or KINDS, predictor)
    rows = []
    for row in found:
        rows.append(row)
        if given.rows is not None:
            given.rows.write_text(json.dumps([asdict(one) for one in rows]), "utf-8")
    report(rows)


if __name__ == "__main__":
    main()
