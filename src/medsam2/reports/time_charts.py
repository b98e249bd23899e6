"""The charts of an annotation report: time per case, the same cases both ways, interactions by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medsam2.reports.charts import BLUE, ORANGE, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITH_MODEL, WITHOUT = BLUE, ORANGE
_KINDS = (BLUE, "#5aa0d8", ORANGE, "#e6a23c", "#4f9a5b", "#8b63b5", "#7a7a7a", "#b3b3b3")
_WIDTH = 7.5  # inches
_ROW = 0.27
_LARGEST_SPREAD = 0.3  # of the distance between two groups
_LONGEST_NAME = 28


def draw_times(groups: Sequence[tuple[str, bool, Sequence[float]]]) -> str:
    """Draw each case's minutes as a dot, and the mean of each group as a line.

    Args:
        groups: Name, whether the cases were done without the model, and the seconds of each case.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (_, is_baseline, values) in enumerate(groups):
            colour = WITHOUT if is_baseline else WITH_MODEL
            minutes = [value / 60 for value in values]
            places = [place + shift for shift in _spread(len(minutes))]
            axes.plot(places, minutes, "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
            if minutes:
                axes.hlines(sum(minutes) / len(minutes), place - 0.25, place + 0.25, colour, linewidth=3)
        names = [f"{_shortened(name)}\nn = {len(values)}" for name, _, values in groups]
        axes.set_xticks(range(len(groups)), names)
        axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("minutes a case")
        axes.grid(visible=False, axis="x")

    return draw_svg(paint, _WIDTH, 3.2)


def draw_pairs(pairs: Sequence[tuple[str, float, float]]) -> str:
    """Draw, for each case that was done both ways, the minutes without the model and with it.

    Args:
        pairs: Case, seconds without, seconds with.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(pairs))
        without = [seconds / 60 for _, seconds, _ in pairs]
        helped = [seconds / 60 for _, _, seconds in pairs]
        axes.hlines(places, without, helped, "#999999", linewidth=2)
        axes.plot(without, places, "o", color=WITHOUT, label="without the model")
        axes.plot(helped, places, "o", color=WITH_MODEL, label="with the model")
        axes.set_yticks(places, [_shortened(case) for case, _, _ in pairs])
        axes.set_ylim(max(1, len(pairs)) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("minutes a case")
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    return draw_svg(paint, _WIDTH, 1.2 + _ROW * len(pairs))


def draw_acts(groups: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Draw how many interactions of each kind a case took, as bars side by side.

    Args:
        groups: Name, and kind -> mean number a case.

    Returns:
        SVG.
    """
    totals: dict[str, float] = {}
    for _, acts in groups:
        for kind, count in acts.items():
            totals[kind] = totals.get(kind, 0.0) + count
    kinds = sorted(totals, key=lambda kind: (-totals[kind], kind))
    shown, rest = kinds[: len(_KINDS) - 1], kinds[len(_KINDS) - 1 :]
    bars = {kind: [acts.get(kind, 0.0) for _, acts in groups] for kind in shown}
    if rest:
        bars["others"] = [sum(acts.get(kind, 0.0) for kind in rest) for _, acts in groups]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        ends = [0.0] * len(groups)
        for (kind, counts), colour in zip(bars.items(), _KINDS, strict=False):
            axes.barh(range(len(groups)), counts, left=ends, height=0.65, color=colour, label=kind)
            ends = [end + count for end, count in zip(ends, counts, strict=True)]
        axes.set_yticks(range(len(groups)), [_shortened(name) for name, _ in groups])
        axes.set_ylim(max(1, len(groups)) - 0.5, -0.5)
        axes.set_xlabel("interactions a case")
        axes.grid(visible=False, axis="y")
        if bars:
            figure.legend(loc="outside lower center", ncols=4, frameon=False)

    return draw_svg(paint, _WIDTH, 1.4 + 0.33 * len(groups))


def _spread(count: int) -> list[float]:
    """Places beside each other for dots, so that equal values are seen as many."""
    golden = (math.sqrt(5) - 1) / 2
    widest = _LARGEST_SPREAD * min(1.0, (count - 1) / 4)
    return [(2 * ((index * golden) % 1) - 1) * widest for index in range(count)]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
