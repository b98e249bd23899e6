"""Draw the area of an object over time, with the beats that were found in it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from medsam2.imaging.video_beats import Beat, smooth

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
