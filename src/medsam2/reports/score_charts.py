"""The charts of an evaluation: scores after each interaction, box plots, pairs, volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsam2.reports.charts import BLUE, ORANGE, draw_svg, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

        every = panels(figure, len(measures))
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

    return draw_svg(paint, 4.5 * len(measures), _HEIGHT)


def draw_boxes(methods: Sequence[str], measures: Sequence[Boxes]) -> str:
    """Draw box plots: quartiles, whiskers to the last run within 1.5 box lengths, a dot for every run.

    Args:
        methods: Names.
        measures: A panel each.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        every = panels(figure, len(measures))
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

    return draw_svg(paint, 4.5 * len(measures), _HEIGHT)


def draw_pairs(methods: Sequence[str], measures: Sequence[tuple[str, Sequence[Dots]]]) -> str:
    """Draw the second method's scores against the first's, a dot for each run that both have.

    Args:
        methods: Two names.
        measures: Title of a measure, and its dots by kind of image.

    Returns:
        SVG.
    """

    def paint(figure: Figure) -> None:
        every = panels(figure, len(measures))
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

    return draw_svg(paint, 4.5 * len(measures), _HEIGHT)


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

        every = panels(figure, len(methods), shares_y=True)
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

    return draw_svg(paint, max(4.5 * len(methods), 5.5), _HEIGHT)
