"""Check the places of slices against the straight, even line that a volume has."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError

# Positions are written with a few decimals. A missing slice doubles a step, a rounded one changes it little.
_UNEVEN_STEP = 0.1
# Of a step: a slice that lies farther from the line is taken for the neighbour of another.
_FARTHEST = 0.25
_GAP = 1.5
TOLD_DEVIATION = 0.01
"""Share of a step by which a slice may lie beside its place without a word."""
_FEWEST_SLICES = 3  # of a part: two are even anyway
_MOST_GAPS_TOLD = 5


@dataclass(frozen=True)
class Part:
    """Slices of a volume that lie evenly, from the first to the last."""

    first: int
    last: int
    step_mm: float

    @property
    def num_slices(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


def even_parts(places: np.ndarray, path: Path) -> list[Part]:
    """Divide slices where the distance between them changes.

    A head is often scanned with thin slices at the base of the skull and thick ones above; both parts have
    the slice in between. Where a single step is too long a slice is missing, and there is no volume.

    Args:
        places: (n, 3), mm, sorted along the normal.
        path: Named in errors.

    Returns:
        One part if all lie evenly.

    Raises:
        GeometryError: A slice is missing, or no three neighbours lie evenly.
    """
    steps = np.diff(places, axis=0)
    if _is_even(places, steps):
        return [Part(0, len(places) - 1, _mean_step(places))]
    runs = list(_runs(steps))
    _check_complete(runs, steps, path)
    parts = [Part(start, stop, _mean_step(places[start : stop + 1])) for start, stop in runs]
    return [part for part in parts if part.num_slices >= _FEWEST_SLICES]


def deviations_mm(places: np.ndarray, first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how far each slice lies from its place on the line, (n,)."""
    line = first + np.arange(len(places))[:, None] * step
    return np.asarray(np.linalg.norm(places - line, axis=1))


def _mean_step(places: np.ndarray) -> float:
    return float(np.linalg.norm(places[-1] - places[0])) / max(1, len(places) - 1)


def _is_even(places: np.ndarray, steps: np.ndarray) -> bool:
    """Whether slices make one volume: all steps are alike, or all places are near the line."""
    if len(steps) < 2:
        return True
    typical = np.median(steps, axis=0)
    length = float(np.linalg.norm(typical))
    if length and np.linalg.norm(steps - typical, axis=1).max() <= _UNEVEN_STEP * length:
        return True
    mean = (places[-1] - places[0]) / len(steps)
    lengths = np.linalg.norm(steps, axis=1)
    is_near = deviations_mm(places, places[0], mean).max() <= _FARTHEST * np.linalg.norm(mean)
    return bool(is_near and lengths.max() < _GAP * np.median(lengths))


def _runs(steps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first and last slice of each stretch of like steps."""
    start = 0
    for number in range(1, len(steps) + 1):
        mean = steps[start:number].mean(axis=0)
        if number == len(steps) or np.linalg.norm(steps[number] - mean) > _UNEVEN_STEP * np.linalg.norm(mean):
            yield start, number
            start = number


def _check_complete(runs: list[tuple[int, int]], steps: np.ndarray, path: Path) -> None:
    """Refuse steps that make no even parts: some are too long, or none are alike."""
    lengths = np.linalg.norm(steps, axis=1)
    longest = max(runs, key=lambda run: run[1] - run[0])
    is_any_even = longest[1] - longest[0] > 1
    typical = float(lengths[longest[0] : longest[1]].mean() if is_any_even else lengths.min())
    gaps = [
        step
        for number, (start, stop) in enumerate(runs)
        if _is_gap(runs, lengths, number, typical)
        for step in range(start, stop)
    ]
    if is_any_even and not gaps:
        return
    what = "they are not one scan"
    if gaps:
        num_missing = int(sum(max(1, round(lengths[gap] / typical) - 1) for gap in gaps))
        after = ", ".join(str(gap) for gap in gaps[:_MOST_GAPS_TOLD])
        after += " and others" if len(gaps) > _MOST_GAPS_TOLD else ""
        missing = "one is missing" if num_missing == 1 else f"{num_missing} are missing"
        what = f"{missing} after slice {after} (of {len(steps) + 1}, from 0), or they belong to several scans"
    raise GeometryError(f"{path}: slices are {lengths.min():g} to {lengths.max():g} mm apart; {what}")


def _is_gap(runs: list[tuple[int, int]], lengths: np.ndarray, number: int, typical: float) -> bool:
    """Whether slices are missing in a stretch: it is one long step, or stands between two that are alike."""
    start, stop = runs[number]
    beside = [runs[other] for other in (number - 1, number + 1) if 0 <= other < len(runs)]
    even = [float(lengths[first:last].mean()) for first, last in beside if last - first > 1]
    if stop - start > 1 and (len(even) < 2 or abs(even[0] - even[1]) > _UNEVEN_STEP * min(even)):
        return False
    return bool(lengths[start:stop].mean() > _GAP * min(even, default=typical))
