"""Follow the objects of one scan into a later one: register, carry over, segment by one `Job`, compare.

A second `Job` segments the first scan from the same kind of prompt. There the answer is known, so it tells
how far the network can be trusted with each object.

visits = Visits(baseline="january.nii.gz", mask="january_mask.nii.gz", follow_up="may.nii.gz")
found = follow(visits, medsam2.load("compact"))
found.objects, found.labels
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError, PromptError, naming
from medsam2.followup.compare import Masks, Pair, new_objects
from medsam2.followup.findings import FollowUp
from medsam2.followup.registration import Alignment, carry_all, register
from medsam2.imaging.drawings import Drawing, read_drawing
from medsam2.imaging.geometry import PLANE_NORMALS, axis_directions, cut_of_plane, slices_along
from medsam2.imaging.intensity import Window, check_intensities, resolve_window
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume
from medsam2.inference.grid import SliceGrid, cut_volume
from medsam2.inference.job import Job, Outcome, open_job
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.prompting import objects_in_mask
from medsam2.measure.overlap import dice
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import MAX_OBJECTS, Box, Prompt

LEAST_OVERLAP = 0.1
"""Share of the second scan that the first one must cover."""
LEAST_INFORMATION, FEW_INFORMATION = 0.05, 0.15
"""Mutual information after registration. Scans of other body parts had 0.02 to 0.12, of the same brain on
other slices 0.11 to 0.19, of one patient on one scanner 0.28 to 0.55."""
_Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Two scans of a patient, and what was drawn on the first one."""

    baseline: str | os.PathLike[str]
    """The first scan: whatever `medsam2.read` takes."""
    mask: str | os.PathLike[str]
    """On the first scan's grid; each label is an object. See `imaging.drawings.read_drawing`."""
    follow_up: str | os.PathLike[str]
    """The second scan."""
    new: str | os.PathLike[str] | None = None
    """Objects that a reader drew on the second scan. Those that no object of the first scan meets are new."""
    drawn_as: str = "mask"
    """`mask`, or `recist`: each label is a line on one slice of the first scan, and the network segments that
    first."""
    wanted: Sequence[str] = ()
    """Labels of the mask to follow, by number or name; all if none is given."""
    window: str | tuple[float, float] | None = None
    """Of both scans; None finds one for each."""
    plane: str | None = None
    """Plane of the slices, `axial`, `coronal` or `sagittal`; that of the second scan's third axis if None."""
    is_rigid: bool = False
    """Do not bend the first scan after it was turned and shifted."""
    series: str | None = None
    """Of the second scan, if it is DICOM."""
    baseline_series: str | None = None
    """Of the first scan, if it is DICOM."""
    options: InferenceOptions = field(default_factory=InferenceOptions)


def follow(visits: Visits, predictor: Predictor, progress: _Progress | None = None) -> FollowUp:
    """Find each object of a first scan in a second one, and compare.

    Args:
        visits: The scans and the mask.
        predictor: With what the second scan is segmented.
        progress: Called with the name of each step as it begins.

    Returns:
        The objects, and their labels on the second scan's grid.

    Raises:
        InputError: A file cannot be read, the scans are of two modalities, they show no common place, or
            their registration fails. Its subclasses: GeometryError: a mask does not lie on its scan's grid;
            PromptError: it is empty.
    """
    tell = progress or (lambda _: None)
    tell("reading")
    first = read(visits.baseline, series=visits.baseline_series)
    second = read(visits.follow_up, series=visits.series)
    _check_alike(visits, first, second)
    plane = _plane(visits, second)
    cuts = (cut_of_plane(first.affine, plane), cut_of_plane(second.affine, plane))
    # Without a plane by name, the network sees slices as they lie in the file, as in `medsam2 segment`.
    axes = (None, None) if visits.plane else (cuts[0].axis, cuts[1].axis)
    grids = (
        cut_volume(first, plane=visits.plane, axis=axes[0]),
        cut_volume(second, plane=visits.plane, axis=axes[1]),
    )
    masks, names = _objects(visits, grids[0], predictor)
    by_reader = None if visits.new is None else _read_mask(Path(visits.new), second)
    drawn = {} if by_reader is None else {label: by_reader.mask(label) for label in by_reader.labels}
    windows = _windows(visits, first, second)
    tell("registering")
    alignment = register(first, second, windows, is_rigid=visits.is_rigid)
    notes = _check_alignment(visits, alignment)
    carried = carry_all(alignment, masks, first, second)
    there = {number: mask for number, mask in carried.items() if mask.any()}
    if not there:
        raise InputError(
            f"{visits.follow_up}: none of the {len(masks)} objects of {visits.mask} lies in its field of view"
        )
    tell("segmenting")
    again = _segment(visits, grids[0], {number: masks[number] for number in there}, predictor)
    agreement = {number: dice(_in_file(again, number), masks[number]) for number in there}
    outcome = _segment(visits, grids[1], there, predictor)
    found = {number: _in_file(outcome, number) for number in there}
    tell("comparing")
    pair = Pair(grids=grids, windows=windows, alignment=alignment, masks=masks, carried=carried, names=names)
    objects, kept = pair.compare(found, agreement)
    fresh = new_objects(drawn, [*there.values(), *kept.values()], set(masks), grids[1])
    labels = np.zeros(second.shape, np.uint8)
    for number, mask in kept.items():
        labels[mask & (labels == 0)] = number
    for one, mask in fresh:
        labels[mask & (labels == 0)] = one.number
    return FollowUp(
        first=first, second=second, windows=windows, alignment=alignment,
        cuts=cuts, objects=(*objects, *(one for one, _ in fresh)),
        labels=second.with_array(labels), masks_then=dict(masks), carried=carried, notes=tuple(notes),
    )  # fmt: skip


def _check_alike(visits: Visits, first: Volume, second: Volume) -> None:
    """Refuse two scans that cannot be compared, and pictures that show nothing."""
    for path, volume in ((visits.baseline, first), (visits.follow_up, second)):
        with naming(Path(path)):
            check_intensities(volume.array)
    if first.modality is not None and second.modality is not None and first.modality != second.modality:
        raise InputError(
            f"{visits.baseline} is {first.modality} and {visits.follow_up} is {second.modality}; give two "
            "scans of one modality"
        )


def _plane(visits: Visits, second: Volume) -> str:
    """The plane in which both scans are cut, so that their diameters can be compared."""
    if visits.plane is not None:
        return visits.plane
    world, _ = axis_directions(second.affine)[2]
    return next(name for name, normal in PLANE_NORMALS.items() if normal == world)


def _objects(visits: Visits, grid: SliceGrid, predictor: Predictor) -> tuple[Masks, Mapping[int, str | None]]:
    """The objects of the first scan, as they were drawn or as the network finds them at a RECIST line."""
    path = Path(visits.mask)
    if visits.drawn_as == "recist":
        job = Job(
            image=grid.volume, window=visits.window, plane=visits.plane,
            axis=None if visits.plane else grid.axis, options=visits.options,
            objects=lambda cut: objects_in_mask(path, cut, drawn_as="recist", wanted=visits.wanted),
        )  # fmt: skip
        outcome = _run(job, predictor)
        found = {number: _in_file(outcome, number) for number in outcome.names}
        return {number: mask for number, mask in found.items() if mask.any()}, outcome.names
    drawing = _read_mask(path, grid.volume)
    chosen = drawing.chosen(visits.wanted)
    if any(not 1 <= label.number <= MAX_OBJECTS for label in chosen):
        odd = next(label.number for label in chosen if not 1 <= label.number <= MAX_OBJECTS)
        raise PromptError(f"{path}: the mask holds the value {odd}; labels are 1 to {MAX_OBJECTS}")
    return {one.number: drawing.mask(one) for one in chosen}, {one.number: one.name for one in chosen}


def _read_mask(path: Path, volume: Volume) -> Drawing:
    drawing = read_drawing(path, volume)
    if not drawing.labels:
        raise PromptError(f"{path}: the mask is empty: at least one voxel must be inside")
    return drawing


def _windows(visits: Visits, first: Volume, second: Volume) -> tuple[Window, Window]:
    """Choose the window of both scans; greys of two CT scans must mean the same."""
    now = resolve_window(second, visits.window)
    if visits.window is None and now.source in ("file", "soft-tissue"):
        return Window(now.lower, now.upper, source=now.source), now
    return resolve_window(first, visits.window), now


def _check_alignment(visits: Visits, alignment: Alignment) -> list[str]:
    """Refuse a registration that failed, and say what is doubtful about another one."""
    before, after = alignment.before, alignment.after
    figures = (
        f"mutual information {before.information:.2f} before and {after.information:.2f} after, correlation "
        f"{before.correlation:.2f} and {after.correlation:.2f}, overlap {before.overlap:.0%} and "
        f"{after.overlap:.0%}"
    )
    pair = f"{visits.baseline} and {visits.follow_up}"
    if after.overlap < LEAST_OVERLAP:
        raise InputError(f"{pair}: their fields of view do not overlap ({figures})")
    if after.information < LEAST_INFORMATION:
        raise InputError(
            f"{pair}: the registration failed, since the scans do not look alike ({figures}); are they of "
            "one patient and one region?"
        )
    if after.information < FEW_INFORMATION:
        return [f"the scans look little alike after registration ({figures}); check where objects lie"]
    return []


def _segment(visits: Visits, grid: SliceGrid, masks: Masks, predictor: Predictor) -> Outcome:
    """Segment a scan; the prompt of an object is a box around its mask, where that is largest."""
    job = Job(
        image=grid.volume,
        objects={number: [_prompt(slices_along(mask, grid.axis))] for number, mask in masks.items()},
        window=visits.window,
        plane=visits.plane,
        axis=None if visits.plane else grid.axis,
        options=visits.options,
    )
    return _run(job, predictor)


def _run(job: Job, predictor: Predictor) -> Outcome:
    opened = open_job(job, predictor)
    for _ in opened.propagate():
        pass
    return opened.outcome()


def _prompt(slices: npt.NDArray[np.bool_]) -> Prompt:
    """A box around a mask in its largest slice, at least a pixel wide and high."""
    index = int(slices.sum(axis=(1, 2)).argmax())
    height, width = slices.shape[1:]
    box = tight_box(slices[index])
    x_min, x_max = _widened(box.x_min, box.x_max, width)
    y_min, y_max = _widened(box.y_min, box.y_max, height)
    return Prompt(slice_index=index, box=Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))


def _widened(low: float, high: float, size: int) -> tuple[float, float]:
    return (low, high) if high > low else (max(low - 0.5, 0.0), min(high + 0.5, size - 1.0))


def _in_file(outcome: Outcome, number: int) -> npt.NDArray[np.bool_]:
    """An object by itself, `(z, y, x)`."""
    return np.asarray(outcome.session.result(number).array != 0)
