"""Charts as SVG, of scores and of times: matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam2.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#1f5fa8", "#c8561b"
"""The two things that a chart compares. They differ in grey as well."""

_STYLE: dict[Any, Any] = {
    # The same numbers give the same file.
    "svg.hashsalt": "medsam2",
    # Letters stay letters: the browser's fonts have those of every language.
    "svg.fonttype": "none",
    # A case may be called "a$b$".
    "text.parse_math": False,
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# The style is set for the whole process while a chart is drawn, and a server draws in several threads.
_ONE_AT_A_TIME = Lock()


def check_matplotlib() -> None:
    """Make sure that charts can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise InputError(
            "a report with charts needs matplotlib: pip install 'medsam2[evaluate]' or 'medsam2[annotate]'"
        ) from error


def _draw_svg(paint: Callable[[Figure], None], width: float, height: float) -> str:
    """Draw a chart.

    Args:
        paint: Fills an empty figure.
        width: In inches.
        height: In inches.

    Returns:
        SVG; the same for the same numbers.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with _ONE_AT_A_TIME, mpl.rc_context(_STYLE), warnings.catch_warnings():
        # It measures letters with its own font, which lacks some that the browser will have.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panels(figure: Figure, count: int, *, shares_y: bool = False) -> list[Axes]:
    """Divide a figure into panels side by side."""
    return list(figure.subplots(1, count, sharey=shares_y, squeeze=False)[0])


COLOURS = (BLUE, ORANGE)
"""Of the first and the second method."""

_HEIGHT = 3.2  # inches
_Z = 1.96  # standard deviations that hold 95 % of a normal distribution
_SCORE_LIMITS = (0, 1.02)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A mean score after each interaction."""

    name: str
    is_second: bool
    """Of the second method."""
    is_dashed: bool
    means: Sequence[float]
    intervals: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Box plots of one measure."""

    title: str
    is_score: bool
    """Whether the measure lies between 0 and 1."""
    groups: Sequence[str]
    values: Sequence[Sequence[Sequence[float]]]
    """Of each method, of each group, its runs."""


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Pairs of scores of one kind of image."""

    name: str
    pairs: Sequence[tuple[float, float]]


def draw_curves(measures: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    """Draw mean scores over interactions with their 95 % intervals.

    Args:
        measures: Title of a measure and its curves.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        every = _panels(figure, len(measures))
        for axes, (title, curves) in zip(every, measures, strict=True):
            for curve in curves:
                colour = COLOURS[curve.is_second]
                places = range(1, len(curve.means) + 1)
                style = "o--" if curve.is_dashed else "o-"
                axes.plot(places, curve.means, style, color=colour, label=curve.name, markersize=4)
                low, high = zip(*curve.intervals, strict=True)
                axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel="interactions", ylabel=title, ylim=_SCORE_LIMITS)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        every[0].legend(loc="lower right", fontsize=8)

    return _draw_svg(paint, 4.5 * len(measures), _HEIGHT)


def draw_boxes(methods: Sequence[str], measures: Sequence[Boxes]) -> str:
    """Draw box plots: quartiles, whiskers to the last run within 1.5 box lengths, a dot for every run.

    Args:
        methods: Names.
        measures: A panel each.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        every = _panels(figure, len(measures))
        width = 0.6 / len(methods)
        for axes, measure in zip(every, measures, strict=True):
            for number, (method, groups) in enumerate(zip(methods, measure.values, strict=True)):
                colour, rng = COLOURS[number], np.random.default_rng(0)
                line = {"color": colour}
                for index, values in enumerate(groups):
                    if not values:
                        continue
                    place = index + (number - (len(methods) - 1) / 2) * width
                    axes.boxplot(
                        [list(values)], positions=[place], widths=width * 0.8, showfliers=False,
                        manage_ticks=False, boxprops=line, whiskerprops=line, capprops=line,
                        medianprops={**line, "linewidth": 2},
                    )  # fmt: skip
                    spread = rng.uniform(-0.2, 0.2, len(values)) * width
                    axes.plot(place + spread, values, "o", color=colour, alpha=0.5, markersize=2.5)
                axes.plot([], [], "o-", color=colour, label=method)
            axes.set_xticks(range(len(measure.groups)), list(measure.groups), fontsize=7)
            axes.set_title(measure.title, fontsize=9)
            axes.grid(visible=False, axis="x")
            if measure.is_score:
                axes.set_ylim(*_SCORE_LIMITS)
        if len(methods) > 1:
            every[0].legend(loc="lower left", fontsize=7)

    return _draw_svg(paint, 4.5 * len(measures), _HEIGHT)


def draw_pairs(methods: Sequence[str], measures: Sequence[tuple[str, Sequence[Dots]]]) -> str:
    """Draw the second method's scores against the first's, a dot for each run that both have.

    Args:
        methods: Two names.
        measures: Title of a measure, and its dots by kind of image.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        every = _panels(figure, len(measures))
        for axes, (title, kinds) in zip(every, measures, strict=True):
            for dots, shape, colour in zip(kinds, ("o", "s"), COLOURS, strict=False):
                if dots.pairs:
                    x, y = zip(*dots.pairs, strict=True)
                    axes.plot(x, y, shape, color=colour, alpha=0.7, markersize=4, label=dots.name)
            axes.plot((0, 1), (0, 1), color="black", linewidth=1)
            axes.set(xlim=_SCORE_LIMITS, ylim=_SCORE_LIMITS, aspect="equal")
            axes.set(xlabel=methods[0], ylabel=methods[1])
            axes.set_title(title, fontsize=9)
        if any(dots.pairs for dots in measures[0][1]):
            every[0].legend(loc="lower right", fontsize=8)

    return _draw_svg(paint, 4.5 * len(measures), _HEIGHT)


def draw_agreement(methods: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """Draw Bland-Altman plots of volumes: the difference in per cent of the mean, against the mean.

    In ml, errors of organs would hide those of lesions; so differences are in per cent, and sizes are on a
    logarithmic axis. Lines are the bias and the limits of agreement, bias +- 1.96 standard deviations.

    Args:
        methods: Name, means in ml, differences in per cent.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter

        every = _panels(figure, len(methods), shares_y=True)
        for axes, (name, means, percents), colour in zip(every, methods, COLOURS, strict=False):
            axes.set_title(name, fontsize=9)
            axes.set(xlabel="mean of both volumes, ml", ylabel="mask - truth, % of the mean")
            if not means:
                continue
            axes.semilogx(means, percents, "o", color=colour, alpha=0.7, markersize=4)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bias = float(np.mean(percents))
            spread = float(np.std(percents, ddof=1)) if len(percents) > 1 else 0.0
            for height, style in ((bias, "-"), (bias - _Z * spread, "--"), (bias + _Z * spread, "--")):
                axes.axhline(height, color="black", linestyle=style, linewidth=1)
                axes.annotate(
                    f"{height:+.0f} %", (1.0, height), xycoords=("axes fraction", "data"), fontsize=7,
                    ha="right", va="bottom",
                )  # fmt: skip

    return _draw_svg(paint, max(4.5 * len(methods), 5.5), _HEIGHT)


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

    return _draw_svg(paint, _WIDTH, 3.2)


def draw_both_ways(pairs: Sequence[tuple[str, float, float]]) -> str:
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

    return _draw_svg(paint, _WIDTH, 1.2 + _ROW * len(pairs))


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

    return _draw_svg(paint, _WIDTH, 1.4 + 0.33 * len(groups))


def _spread(count: int) -> list[float]:
    """Places beside each other for dots, so that equal values are seen as many."""
    golden = (math.sqrt(5) - 1) / 2
    widest = _LARGEST_SPREAD * min(1.0, (count - 1) / 4)
    return [(2 * ((index * golden) % 1) - 1) * widest for index in range(count)]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
