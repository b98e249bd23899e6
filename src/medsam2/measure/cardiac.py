"""Find heartbeats in the area of a ventricle over time, and draw the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from medsam2.errors import require

SMOOTHING_S = 0.04
"""Standard deviation of the smoothing, about a frame of usual echocardiography; a systole takes 0.3 s."""
SHORTEST_BEAT_S = 0.3  # 200 beats a minute
LEAST_SWING = 0.3  # of the whole curve's swing: a contraction has at least so much
LEAST_CHANGE = 0.05  # of the largest area; smaller changes are noise of the outline
LEAST_PRESENT = 0.5  # of the frames; with fewer, no curve is drawn


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One contraction."""

    end_diastole: int
    """Number of the frame."""
    end_systole: int
    area_end_diastole: float
    """As measured in the frame, in the unit of the curve."""
    area_end_systole: float

    @property
    def fractional_area_change(self) -> float:
        """Of the end-diastolic area, 0..1."""
        return 1 - self.area_end_systole / self.area_end_diastole


def find_beats(areas: np.ndarray, times_s: np.ndarray) -> list[Beat]:
    """Find each contraction in a curve of areas.

    End-diastole is the frame in which the ventricle is largest, end-systole the one in which it is smallest;
    fractional area change is (end-diastolic area - end-systolic area) / end-diastolic area: Lang et al.,
    "Recommendations for cardiac chamber quantification by echocardiography in adults", J Am Soc Echocardiogr
    2015;28:1-39. Both frames are found in the smoothed curve, within a beat; the areas are the measured ones.
    A contraction that the video cuts off is left out, unless it is the only one. A contraction is also left
    out if the ventricle was not found during it or soon after it.

    Args:
        areas: (frame,); 0 where the ventricle was not found, which counts as not measured.
        times_s: (frame,) seconds, rising.

    Returns:
        The beats in order of time; none if there is no beat.
    """
    present = np.flatnonzero(areas > 0)
    if len(present) < max(3, LEAST_PRESENT * len(areas)):
        return []
    curve = smooth(areas, times_s)
    swing = float(np.ptp(curve))
    if swing < LEAST_CHANGE * curve.max():
        return []
    beats = []
    begin = 0
    for lowest in _lows(curve, swing, times_s):
        before = present[(present >= begin) & (present < lowest)]
        if len(before):
            systole = int(present[np.abs(present - lowest).argmin()])
            diastole = int(before[curve[before].argmax()])
            beat = Beat(
                end_diastole=diastole,
                end_systole=systole,
                area_end_diastole=float(areas[diastole]),
                area_end_systole=float(areas[systole]),
            )
            beats.append(beat)
        begin = lowest
    return [beat for beat in beats if beat.fractional_area_change > 0 and _is_measured(beat, areas)]


def smooth(areas: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Smooth a curve of areas (frame,); frames without a measurement are filled along straight lines."""
    present = np.flatnonzero(areas > 0)
    filled = np.interp(times_s, times_s[present], areas[present])
    return np.asarray(ndimage.gaussian_filter1d(filled, SMOOTHING_S / _step_s(times_s), mode="nearest"))


def _lows(curve: np.ndarray, swing: float, times_s: np.ndarray) -> list[int]:
    """Frames of the smallest area of each contraction."""
    # The ends are high, so that a curve that ends in systole has a minimum there.
    padded = np.pad(curve, 1, constant_values=curve.max() + swing)
    lows, _ = signal.find_peaks(
        -padded,
        prominence=LEAST_SWING * swing,
        distance=max(1, round(SHORTEST_BEAT_S / _step_s(times_s))),
    )
    inner = [int(low) - 1 for low in lows if 1 < low < len(curve)]
    return inner or [int(low) - 1 for low in lows]


def _is_measured(beat: Beat, areas: np.ndarray) -> bool:
    """Whether the ventricle was found throughout; an outline that gets lost shrinks too."""
    length = beat.end_systole - beat.end_diastole
    return bool((areas[beat.end_diastole : beat.end_systole + length + 1] > 0).all())


def _step_s(times_s: np.ndarray) -> float:
    return float(np.median(np.diff(times_s)))


_WIDTH, _HEIGHT = 960, 420  # pixels
_DPI = 100
_MEASURED, _SMOOTHED = "#96aac8", "#1446a0"
_MARKS = {"ED": ("#008c46", 8), "ES": ("#c82814", -16)}
"""Colour of a mark, and how far its name is above the curve, in points."""


def draw_curve(areas: np.ndarray, times_s: np.ndarray, unit: str, beats: Sequence[Beat]) -> Image.Image:
    """Draw a curve: measured areas as dots, the smoothed curve as a line, beats as marks with frame numbers.

    Args:
        areas: (frame,); 0 where the object was not found.
        times_s: (frame,) seconds.
        unit: Of the areas.
        beats: From `find_beats`, of areas in any unit.

    Raises:
        InputError: matplotlib is not installed.
    """
    require("matplotlib.figure", "the curve needs", "video", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="seconds", ylabel=f"area in {unit}", ylim=(0, max(1.2 * float(areas.max()), 1.0)))
    axes.grid(alpha=0.3)
    axes.plot(times_s, areas, "o", markersize=3, color=_MEASURED)
    if np.count_nonzero(areas) > 1:
        axes.plot(times_s, smooth(areas, times_s), color=_SMOOTHED)
    for beat in beats:
        for name, frame in (("ED", beat.end_diastole), ("ES", beat.end_systole)):
            colour, above = _MARKS[name]
            place = (float(times_s[frame]), float(areas[frame]))
            axes.plot(*place, "o", markersize=8, markerfacecolor="none", markeredgewidth=2, color=colour)
            axes.annotate(
                f"{name} {frame}", place, (0, above), textcoords="offset points", ha="center", color=colour
            )
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return Image.open(picture).convert("RGB")
