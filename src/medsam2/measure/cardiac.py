"""Find heartbeats in the area of a ventricle over time, and draw the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, signal

SMOOTHING_S = 0.04
"""Standard deviation of the smoothing, about a frame of usual echocardiography; a systole takes 0.3 s."""
SHORTEST_BEAT_S = 0.3  # 200 beats a minute
LEAST_SWING = 0.3  # of the whole curve's swing, that a contraction must have
LEAST_CHANGE = 0.05  # of the largest area; less is the outline's own unrest
LEAST_PRESENT = 0.5  # of the frames; a curve with fewer is not one


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One contraction."""

    end_diastole: int
    """Number of the frame."""
    end_systole: int
    area_end_diastole: float
    """As measured in the frame, in the unit that was given."""
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
    2015;28:1-39. Both are looked for in the smoothed curve, within a beat; the areas are those measured.
    A contraction that the video cuts off is left out, unless it is the only one, and so is one in which, or
    soon after which, the ventricle was not found.

    Args:
        areas: (frame,); 0 where the ventricle was not found, which counts as not measured.
        times_s: (frame,) seconds, rising.

    Returns:
        In the order of time; none if nothing beats.
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
            beats.append(_beat(diastole, systole, areas))
        begin = lowest
    return [beat for beat in beats if beat.fractional_area_change > 0 and _is_measured(beat, areas)]


def smooth(areas: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Smooth a curve of areas (frame,), after filling what was not measured along straight lines."""
    present = np.flatnonzero(areas > 0)
    filled = np.interp(times_s, times_s[present], areas[present])
    return np.asarray(ndimage.gaussian_filter1d(filled, SMOOTHING_S / _step_s(times_s), mode="nearest"))


def _lows(curve: np.ndarray, swing: float, times_s: np.ndarray) -> list[int]:
    """Frames of the smallest area of each contraction."""
    # High ends, so that a curve that ends in systole has a low there.
    padded = np.pad(curve, 1, constant_values=curve.max() + swing)
    lows, _ = signal.find_peaks(
        -padded,
        prominence=LEAST_SWING * swing,
        distance=max(1, round(SHORTEST_BEAT_S / _step_s(times_s))),
    )
    inner = [int(low) - 1 for low in lows if 1 < low < len(curve)]
    return inner or [int(low) - 1 for low in lows]


def _is_measured(beat: Beat, areas: np.ndarray) -> bool:
    """Whether the ventricle was found throughout; an outline that is being lost shrinks as well."""
    length = beat.end_systole - beat.end_diastole
    return bool((areas[beat.end_diastole : beat.end_systole + length + 1] > 0).all())


def _beat(diastole: int, systole: int, areas: np.ndarray) -> Beat:
    return Beat(
        end_diastole=diastole,
        end_systole=systole,
        area_end_diastole=float(areas[diastole]),
        area_end_systole=float(areas[systole]),
    )


def _step_s(times_s: np.ndarray) -> float:
    return float(np.median(np.diff(times_s)))


_WIDTH, _HEIGHT = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 40, 50  # margins
_PAPER, _INK, _GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_MEASURED, _SMOOTHED = (150, 170, 200), (20, 70, 160)
_DIASTOLE, _SYSTOLE = (0, 140, 70), (200, 40, 20)
_NUM_TICKS = 6
_ROUND_STEPS = (1, 2, 2.5, 5, 10)


def draw_curve(areas: np.ndarray, times_s: np.ndarray, unit: str, beats: Sequence[Beat]) -> Image.Image:
    """Draw a curve: measured areas as dots, the smoothed curve as a line, beats as marks with frame numbers.

    Args:
        areas: (frame,); 0 where the object was not found.
        times_s: (frame,) seconds.
        unit: Of the areas.
        beats: As `find_beats` gives them, in whatever unit.
    """
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(picture)
    last_s, top = max(float(times_s[-1]), 1e-3), max(float(areas.max()) * 1.1, 1.0)

    def place(time_s: float, area: float) -> tuple[float, float]:
        x = _LEFT + time_s / last_s * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - area / top * (_HEIGHT - _TOP - _BOTTOM)

    for value in _ticks(top):
        draw.line([place(0, value), place(last_s, value)], fill=_GRID)
        draw.text((_LEFT - 8, place(0, value)[1]), f"{value:g}", fill=_INK, anchor="rm")
    for value in _ticks(last_s):
        draw.line([place(value, 0), place(value, top)], fill=_GRID)
        draw.text((place(value, 0)[0], _HEIGHT - _BOTTOM + 6), f"{value:g}", fill=_INK, anchor="mt")
    draw.line([place(0, top), place(0, 0), place(last_s, 0)], fill=_INK)
    draw.text((_LEFT, 12), f"area in {unit}", fill=_INK, anchor="lt")
    draw.text((_WIDTH - _RIGHT, _HEIGHT - 8), "seconds", fill=_INK, anchor="rb")
    for time_s, area in zip(times_s, areas, strict=True):
        x, y = place(time_s, area)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_MEASURED)
    if np.count_nonzero(areas) > 1:
        line = smooth(areas, times_s)
        draw.line([place(t, a) for t, a in zip(times_s, line, strict=True)], fill=_SMOOTHED, width=2)
    for beat in beats:
        for name, frame in (("ED", beat.end_diastole), ("ES", beat.end_systole)):
            _mark(draw, place(times_s[frame], areas[frame]), name, frame)
    return picture


def _mark(draw: ImageDraw.ImageDraw, middle: tuple[float, float], name: str, frame: int) -> None:
    x, y = middle
    colour = _DIASTOLE if name == "ED" else _SYSTOLE
    draw.ellipse([x - 5, y - 5, x + 5, y + 5], outline=colour, width=2)
    below = name == "ES"
    anchor = ("l" if x < _WIDTH / 2 else "r") + ("t" if below else "b")
    draw.text((x, y + (8 if below else -8)), f"{name} {frame}", fill=colour, anchor=anchor)


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to at most `top`."""
    rough = top / _NUM_TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in _ROUND_STEPS if factor * power >= rough)
    return [float(step * k) for k in range(int(top / step) + 1)]
