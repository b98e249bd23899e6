"""The figures of a report, as SVG: few marks, no library, and the same numbers give the same file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

WITH_MODEL = "#1f5fa8"
WITHOUT = "#c8561b"
_KINDS = ("#1f5fa8", "#5aa0d8", "#c8561b", "#e6a23c", "#4f9a5b", "#8b63b5", "#7a7a7a", "#b3b3b3")
_WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 46
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
_LARGEST_JITTER = 26


def draw_times(groups: Sequence[tuple[str, bool, Sequence[float]]]) -> str:
    """Draw each case's minutes as a dot, and the mean of each group as a line.

    Args:
        groups: Name, whether it was done without the model, and seconds of each case.

    Returns:
        SVG.
    """
    height = 300
    top = _nice(max((value for _, _, values in groups for value in values), default=60.0) / 60)
    plot = height - _TOP - _BOTTOM

    def y(seconds: float) -> float:
        return _TOP + plot * (1 - seconds / 60 / top)

    parts = list(_grid(top, y, "minutes a case"))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    for index, (name, is_baseline, values) in enumerate(groups):
        middle = _LEFT + step * (index + 0.5)
        colour = WITHOUT if is_baseline else WITH_MODEL
        for place, value in zip(_spread(len(values)), values, strict=True):
            parts.append(
                f'<circle cx="{middle + place:.1f}" cy="{y(value):.1f}" r="4" fill="{colour}" '
                f'fill-opacity="0.55"/>'
            )
        if values:
            mean = sum(values) / len(values)
            parts.append(_line(middle - 34, y(mean), middle + 34, y(mean), colour, 3))
        parts.append(_text(middle, height - 26, name, "middle"))
        parts.append(_text(middle, height - 10, f"n = {len(values)}", "middle", "#666"))
    return _svg(height, parts)


def draw_pairs(pairs: Sequence[tuple[str, float, float]]) -> str:
    """Draw, for each case that was done both ways, the minutes without the model and with it.

    Args:
        pairs: Case, seconds without, seconds with.

    Returns:
        SVG.
    """
    row, left = 24, 190
    height = _TOP + row * len(pairs) + 56
    right = _nice(max((max(a, b) for _, a, b in pairs), default=60.0) / 60)
    scale = (_WIDTH - left - _RIGHT) / right
    parts = []
    bottom = _TOP + row * len(pairs)
    for tick in _ticks(right):
        x = left + tick * scale
        parts += [_line(x, _TOP, x, bottom, "#ddd", 1), _text(x, bottom + 16, f"{tick:g}", "middle", "#666")]
    for index, (case, without, with_model) in enumerate(pairs):
        y = _TOP + row * (index + 0.5)
        places = [left + seconds / 60 * scale for seconds in (without, with_model)]
        parts += [
            _text(left - 10, y + 4, _cut(case, 26), "end"),
            _line(places[0], y, places[1], y, "#999", 2),
            f'<circle cx="{places[0]:.1f}" cy="{y:.1f}" r="5" fill="{WITHOUT}"/>',
            f'<circle cx="{places[1]:.1f}" cy="{y:.1f}" r="5" fill="{WITH_MODEL}"/>',
        ]
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, bottom + 34, "minutes a case", "middle", "#666"))
    parts += _legend(left, bottom + 52, (("without the model", WITHOUT), ("with the model", WITH_MODEL)))
    return _svg(height + 8, parts)


def draw_acts(groups: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Draw how many interactions of each kind a case took, as bars side by side.

    Args:
        groups: Name, and kind -> mean number a case.

    Returns:
        SVG.
    """
    row, left = 30, 190
    totals: dict[str, float] = {}
    for _, acts in groups:
        for kind, count in acts.items():
            totals[kind] = totals.get(kind, 0.0) + count
    kinds = sorted(totals, key=lambda kind: (-totals[kind], kind))
    shown, rest = kinds[: len(_KINDS) - 1], kinds[len(_KINDS) - 1 :]
    right = _nice(max((sum(acts.values()) for _, acts in groups), default=1.0))
    scale = (_WIDTH - left - _RIGHT) / right
    bottom = _TOP + row * len(groups)
    parts = []
    for tick in _ticks(right):
        x = left + tick * scale
        parts += [_line(x, _TOP, x, bottom, "#ddd", 1), _text(x, bottom + 16, f"{tick:g}", "middle", "#666")]
    for index, (name, acts) in enumerate(groups):
        y, x = _TOP + row * index, float(left)
        parts.append(_text(left - 10, y + row / 2 + 4, _cut(name, 28), "end"))
        counts = [*(acts.get(kind, 0.0) for kind in shown), sum(acts.get(kind, 0.0) for kind in rest)]
        for count, colour in zip(counts, _KINDS, strict=False):
            if count:
                parts.append(
                    f'<rect x="{x:.1f}" y="{y + 5}" width="{count * scale:.1f}" height="{row - 10}" '
                    f'fill="{colour}"/>'
                )
                x += count * scale
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, bottom + 34, "interactions a case", "middle", "#666"))
    names = [*shown, "others"] if rest else shown
    parts += _legend(_LEFT, bottom + 54, list(zip(names, _KINDS, strict=False)))
    return _svg(bottom + 66, parts)


def _grid(top: float, y: object, title: str) -> Iterator[str]:
    assert callable(y)
    for tick in _ticks(top):
        height = y(tick * 60)
        yield _line(_LEFT, height, _WIDTH - _RIGHT, height, "#ddd", 1)
        yield _text(_LEFT - 8, height + 4, f"{tick:g}", "end", "#666")
    middle = (y(0) + y(top * 60)) / 2
    yield (
        f'<text x="18" y="{middle:.1f}" {_FONT} fill="#666" text-anchor="middle" '
        f'transform="rotate(-90 18 {middle:.1f})">{escape(title)}</text>'
    )


def _nice(value: float) -> float:
    """The end of an axis: the next of 1, 2, 5, 10, ... that has room for a value."""
    if value <= 0:
        return 1.0
    unit = 10 ** math.floor(math.log10(value))
    return float(
        next(
            step * unit
            for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
            if step * unit >= value * 1.02 or step == 10
        )
    )


def _ticks(end: float) -> list[float]:
    unit = 10 ** math.floor(math.log10(end))
    step = next(part * unit for part in (0.1, 0.2, 0.25, 0.5, 1, 2) if end / (part * unit) <= 6)
    return [round(step * index, 10) for index in range(int(end / step + 1e-9) + 1)]


def _spread(count: int) -> list[float]:
    """Places beside each other for dots, so that equal values are seen as many."""
    golden = (math.sqrt(5) - 1) / 2
    return [
        (2 * ((index * golden) % 1) - 1) * _LARGEST_JITTER * min(1.0, (count - 1) / 4)
        for index in range(count)
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, colour in entries:
        yield f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 15, y, name, "start")
        x += 34 + 6.6 * len(name)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )
