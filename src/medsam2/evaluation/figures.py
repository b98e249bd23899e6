"""The figures of a report, as SVG: curves over interactions, box plots, volumes against the truth."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import InputError
from medsam2.evaluation.comparison import METRICS, PRIMARY, cluster_of, estimate_mean, unit_of
from medsam2.evaluation.runner import CaseResult, Step
from medsam2.evaluation.summary import PICTURES, SCANS, stratify

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8561b")  # of the arms; told apart in grey as well
_HEIGHT = 3.2  # inches
_Z = 1.96  # standard deviations that hold 95 % of a normal distribution


def check_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise InputError("a report needs matplotlib: pip install 'medsam2[evaluate]'") from error


def draw_curves(arms: Sequence[str], results: Sequence[Sequence[CaseResult]], seed: int = 0) -> str:
    """Draw the mean Dice and surface Dice after each interaction, with their 95 % intervals.

    Scans have solid lines, pictures dashed ones.

    Args:
        arms: Names.
        results: Of each arm; runs of one protocol.
        seed: Of the intervals.

    Returns:
        SVG.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(2)
    fields: tuple[tuple[str, Callable[[Step], float]], ...] = (
        ("Dice", lambda step: step.dice),
        ("NSD, 2 mm", lambda step: step.surface_dice),
    )
    for axes, (title, take) in zip(panels, fields, strict=True):
        for arm, runs, colour in zip(arms, results, COLOURS, strict=False):
            for dimensions, kind, line in ((3, SCANS, "-"), (2, PICTURES, "--")):
                ran = [run for run in runs if run.steps and run.dimensions == dimensions]
                if ran:
                    _draw_curve(axes, f"{arm}, {kind}", ran, take, (colour, line), seed)
        axes.set(xlabel="interactions", ylabel=title, ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8)
    return _as_svg(figure)


def draw_boxes(arms: Sequence[str], results: Sequence[Sequence[CaseResult]]) -> str:
    """Draw box plots of Dice, surface Dice and HD95, scans and pictures and modalities apart.

    Boxes are quartiles, whiskers reach to the last run within 1.5 of the box's length, every run is a dot.

    Returns:
        SVG.
    """
    names = ("dice", "surface_dice", "hd95")
    figure, panels = _panels(len(names))
    groups = stratify(results[0])
    strata = [
        name for name in groups if name in (SCANS, PICTURES) or name.endswith((f" {SCANS}", f" {PICTURES}"))
    ]
    unit = unit_of(results[0])
    for axes, metric in zip(panels, names, strict=True):
        # Pixels and millimetres do not share an axis.
        shown = [s for s in strata if metric != "hd95" or PICTURES not in s]
        for number, (arm, runs, colour) in enumerate(zip(arms, results, COLOURS, strict=False)):
            parts = stratify(runs)
            values = [_finite(parts.get(stratum, []), metric) for stratum in shown]
            _draw_boxes_of(axes, values, number, len(arms), colour, arm)
        labels = [name.replace(" ", "\n", 1) + f"\nn = {len(groups[name])}" for name in shown]
        axes.set_xticks(range(len(shown)), labels, fontsize=7)
        axes.set_title(METRICS[metric].titled("mm" if metric == "hd95" else unit), fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        if metric != "hd95":
            axes.set_ylim(0, 1.02)
    if len(arms) > 1:
        panels[0].legend(loc="lower left", fontsize=7)
    return _as_svg(figure)


def draw_pairs(arms: Sequence[str], results: Sequence[Sequence[CaseResult]]) -> str:
    """Draw the second arm's Dice and surface Dice against the first's, a dot a run that both have.

    Returns:
        SVG.
    """
    figure, panels = _panels(2)
    others = {(run.name, run.repeat): run for run in results[1]}
    pairs = [(run, others[run.name, run.repeat]) for run in results[0] if (run.name, run.repeat) in others]
    for axes, metric in zip(panels, PRIMARY, strict=True):
        take = METRICS[metric].take
        for dimensions, kind, shape, colour in ((3, SCANS, "o", COLOURS[0]), (2, PICTURES, "s", COLOURS[1])):
            dots = [
                (take(first.scores), take(second.scores))
                for first, second in pairs
                if first.dimensions == dimensions and first.scores is not None and second.scores is not None
            ]
            if dots:
                axes.plot(*zip(*dots, strict=True), shape, color=colour, alpha=0.7, markersize=4, label=kind)
        axes.plot((0, 1), (0, 1), color="black", linewidth=1)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal", xlabel=arms[0], ylabel=arms[1])
        axes.set_title(METRICS[metric].titled(unit_of(results[0])), fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8)
    return _as_svg(figure)


def draw_volumes(arms: Sequence[str], results: Sequence[Sequence[CaseResult]]) -> str | None:
    """Draw a Bland-Altman plot: the difference of volumes against their mean.

    Differences are in per cent of the mean of mask and truth, on a logarithmic axis of sizes: in ml, errors
    of organs would hide those of lesions. Lines are the bias and the limits of agreement, bias +- 1.96
    standard deviations.

    Returns:
        SVG; None if there is no scan.
    """
    from matplotlib.ticker import FuncFormatter

    figure, panels = _panels(len(arms), shares_y=True)
    is_empty = True
    for axes, arm, runs, colour in zip(panels, arms, results, COLOURS, strict=False):
        means, percents = volume_agreement(runs)
        axes.set_title(arm, fontsize=9)
        axes.set(xlabel="mean of both volumes, ml", ylabel="mask - truth, % of the mean")
        axes.grid(alpha=0.3)
        if not means:
            continue
        is_empty = False
        axes.semilogx(means, percents, "o", color=colour, alpha=0.7, markersize=4)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bias, spread = float(np.mean(percents)), float(np.std(percents, ddof=1)) if len(percents) > 1 else 0.0
        for height, style in ((bias, "-"), (bias - _Z * spread, "--"), (bias + _Z * spread, "--")):
            axes.axhline(height, color="black", linestyle=style, linewidth=1)
            axes.annotate(
                f"{height:+.0f} %", (1.0, height), xycoords=("axes fraction", "data"), fontsize=7, ha="right",
                va="bottom",
            )  # fmt: skip
    return None if is_empty else _as_svg(figure)


def volume_agreement(runs: Sequence[CaseResult]) -> tuple[list[float], list[float]]:
    """Return, for scans, the mean of mask and truth in ml and their difference in per cent of it."""
    means, percents = [], []
    for run in runs:
        scores = run.scores
        if scores is None or scores.volume_ml is None or scores.true_volume_ml is None:
            continue
        mean = (scores.volume_ml + scores.true_volume_ml) / 2
        means.append(mean)
        percents.append(100 * (scores.volume_ml - scores.true_volume_ml) / mean)
    return means, percents


def _draw_curve(
    axes: Axes,
    label: str,
    runs: Sequence[CaseResult],
    take: Callable[[Step], float],
    style: tuple[str, str],
    seed: int,
) -> None:
    last = max(len(run.steps) for run in runs)
    clusters = [cluster_of(run) for run in runs]
    estimates = [
        estimate_mean([take(run.steps[min(i, len(run.steps) - 1)]) for run in runs], clusters, seed=seed)
        for i in range(last)
    ]
    places = list(range(1, last + 1))
    colour, line = style
    axes.plot(places, [one.mean for one in estimates], f"o{line}", color=colour, label=label, markersize=4)
    intervals = [one.interval or (one.mean, one.mean) for one in estimates]
    axes.fill_between(
        places, [low for low, _ in intervals], [high for _, high in intervals], color=colour, alpha=0.2,
        linewidth=0,
    )  # fmt: skip


def _draw_boxes_of(
    axes: Axes, values: Sequence[Sequence[float]], number: int, num_arms: int, colour: str, arm: str
) -> None:
    width = 0.6 / num_arms
    places = [index + (number - (num_arms - 1) / 2) * width for index in range(len(values))]
    rng = np.random.default_rng(0)
    for place, part in zip(places, values, strict=True):
        if not part:
            continue
        axes.boxplot(
            [list(part)], positions=[place], widths=width * 0.8, showfliers=False, manage_ticks=False,
            boxprops={"color": colour}, whiskerprops={"color": colour}, capprops={"color": colour},
            medianprops={"color": colour, "linewidth": 2},
        )  # fmt: skip
        spread = rng.uniform(-0.2, 0.2, len(part)) * width
        axes.plot(place + spread, part, "o", color=colour, alpha=0.5, markersize=2.5)
    axes.plot([], [], "o-", color=colour, label=arm)


def _finite(runs: Sequence[CaseResult], metric: str) -> list[float]:
    values = [None if run.scores is None else METRICS[metric].take(run.scores) for run in runs]
    return [value for value in values if value is not None and math.isfinite(value)]


def _panels(count: int, *, shares_y: bool = False) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.5 * count, 5.5), _HEIGHT), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count, sharey=shares_y)))


def _as_svg(figure: Figure) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # The same numbers give the same file: no date, no chance in the names of its parts.
    with mpl.rc_context({"svg.hashsalt": "medsam2"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
