"""The page of an evaluation: its charts, its pictures, and the values that fill the template."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.cases import Case, read_task
from medsam2.evaluation.comparison import (
    EQUAL,
    METRICS,
    MIN_CLUSTERS,
    PRIMARY,
    cluster_of,
    estimate_mean,
    unit_of,
)
from medsam2.evaluation.cost import SIMULATED
from medsam2.evaluation.experiment import Experiment, list_limits
from medsam2.evaluation.runner import CaseResult, Step
from medsam2.evaluation.simulated_user import RunOptions, first_prompt
from medsam2.evaluation.summary import PICTURES, SCANS, stratify
from medsam2.evaluation.tables import (
    alike_in_words,
    cases_tables,
    comparison_table,
    cost_table,
    strata_tables,
)
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.measure.preview import draw_preview
from medsam2.reports.charts import (
    Boxes,
    Curve,
    Dots,
    draw_agreement,
    draw_boxes,
    draw_curves,
    draw_pairs,
)
from medsam2.reports.page import Picture, jpeg_picture, render, svg_picture

_KINDS = ((3, SCANS), (2, PICTURES))
_DRAWN = ("dice", "surface_dice", "hd95")


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A case and what it looks like."""

    title: str
    is_scan: bool
    mask: Picture
    """The prompted slice with the box, if there was one, and slices through the object; the mask outlined."""
    reference: Picture
    """The same for the reference, without the box."""


def render_page(found: Experiment, exhibits: Sequence[Exhibit]) -> str:
    """Write an experiment as HTML.

    Args:
        found: The results.
        exhibits: The cases to show, from `show_cases`.

    Raises:
        InputError: matplotlib is not installed.
    """
    costs = [cost for cost in found.costs if cost is not None]
    seconds = (
        {name: f"{value:g}" for name, value in dataclasses.asdict(costs[0].model).items()} if costs else {}
    )
    return render(
        "evaluation",
        methods=found.arms,
        counts=_counts(found.results[0]),
        protocol=_protocol(found.options),
        min_clusters=MIN_CLUSTERS,
        means=[
            (arm, strata_tables(results, found.options.seed))
            for arm, results in zip(found.arms, found.results, strict=True)
        ],
        differences=_differences(found),
        figures=list(_figures(found)),
        exhibits=exhibits,
        exhibited=SCANS if exhibits and exhibits[0].is_scan else PICTURES,
        costs=cost_table(found.arms, found.costs) if costs else None,
        simulated=SIMULATED,
        seconds=seconds,
        limits=list_limits(found),
        command=None if found.provenance is None else found.provenance.command,
        facts=_facts(found),
        cases=[
            (
                arm,
                cases_tables(results),
                [f"{one.name}: {one.error}" for one in results if one.error is not None],
            )
            for arm, results in zip(found.arms, found.results, strict=True)
        ],
    )


def _counts(results: Sequence[CaseResult]) -> str:
    """Say how many scans and pictures there are, and of how many patients."""
    counts = []
    for dimensions, name in _KINDS:
        kind = [result for result in results if result.dimensions == dimensions]
        if kind:
            owners = len({cluster_of(result) for result in kind})
            counts.append(f"{len({result.name for result in kind})} {name} ({owners} patients or images)")
    return " and ".join(counts)


def _protocol(options: RunOptions) -> str:
    clicks = f", {options.clicks} clicks" if options.has_clicks else ""
    noise = f", boxes moved by up to {options.box_noise:g} of their side" if options.box_noise else ""
    repeats = f", {options.repeats} repeats" if options.repeats > 1 else ""
    return f"{options.protocol}{clicks}{noise}{repeats}"


def _differences(found: Experiment) -> dict[str, object] | None:
    if not found.differences:
        return None
    alike = alike_in_words(found)
    if all(row.note == EQUAL for row in found.differences):
        return {"alike": alike, "primary": None}
    others = {(run.name, run.repeat): run for run in found.results[1]}
    pairs = [(run, others[key]) for run in found.results[0] if (key := (run.name, run.repeat)) in others]
    chart = draw_pairs(
        found.arms,
        [
            (
                METRICS[metric].titled(unit_of(found.results[0])),
                [_dots(pairs, metric, *kind) for kind in _KINDS],
            )
            for metric in PRIMARY
        ],
    )
    return {
        "alike": alike,
        "primary": comparison_table(found, primary=True),
        "others": comparison_table(found, primary=False),
        "chart": svg_picture(
            chart, f"Each case with both methods; above the line {found.arms[1]} is better."
        ),
    }


def _dots(pairs: Sequence[tuple[CaseResult, CaseResult]], metric: str, dimensions: int, name: str) -> Dots:
    values = [
        (_value(first, metric), _value(second, metric))
        for first, second in pairs
        if first.dimensions == dimensions
    ]
    return Dots(name=name, pairs=[(a, b) for a, b in values if a is not None and b is not None])


def _figures(found: Experiment) -> Iterator[Picture]:
    if found.options.has_clicks:
        is_box = found.options.protocol == "interactive"
        which = "The first is the box, the others are clicks." if is_box else "All interactions are clicks."
        yield svg_picture(
            _curves(found),
            f"Mean Dice and NSD after each interaction, with 95 % intervals over patients. {which}",
        )
    yield svg_picture(
        _boxes(found),
        "Quartiles, whiskers to the last run within 1.5 of the box's length, and every run as a dot. HD95 of "
        "scans, empty masks left out.",
    )
    volumes = [volume_agreement(runs) for runs in found.results]
    if any(means for means, _ in volumes):
        yield svg_picture(
            draw_agreement([(arm, *both) for arm, both in zip(found.arms, volumes, strict=True)]),
            "Bland-Altman plot of the volumes of scans, a dot a run: bias (solid) and limits of agreement "
            "(dashed, bias \u00b1 1.96 standard deviations, as if no two runs were of one patient). An empty "
            "mask lies at -200 %.",
        )


def _curves(found: Experiment) -> str:
    measures: tuple[tuple[str, Callable[[Step], float]], ...] = (
        ("Dice", lambda step: step.dice),
        ("NSD, 2 mm", lambda step: step.surface_dice),
    )
    return draw_curves([(title, list(_curves_of(found, take))) for title, take in measures])


def _curves_of(found: Experiment, take: Callable[[Step], float]) -> Iterator[Curve]:
    """Give each method's curve of scans, solid, and of pictures, dashed."""
    for number, (arm, runs) in enumerate(zip(found.arms, found.results, strict=True)):
        for dimensions, kind in _KINDS:
            ran = [run for run in runs if run.steps and run.dimensions == dimensions]
            if not ran:
                continue
            owners = [cluster_of(run) for run in ran]
            estimates = [
                estimate_mean(
                    [take(run.steps[min(i, len(run.steps) - 1)]) for run in ran],
                    owners,
                    seed=found.options.seed,
                )
                for i in range(max(len(run.steps) for run in ran))
            ]
            yield Curve(
                name=f"{arm}, {kind}",
                is_second=number > 0,
                is_dashed=kind == PICTURES,
                means=[one.mean for one in estimates],
                intervals=[one.interval or (one.mean, one.mean) for one in estimates],
            )


def _boxes(found: Experiment) -> str:
    groups = stratify(found.results[0])
    strata = [name for name in groups if name.rpartition(" ")[2] in (SCANS, PICTURES)]
    unit = unit_of(found.results[0])
    measures = []
    for metric in _DRAWN:
        is_score = metric != "hd95"
        # Pixels and millimetres do not share an axis.
        shown = [name for name in strata if is_score or PICTURES not in name]
        parts = [stratify(runs) for runs in found.results]
        measures.append(
            Boxes(
                title=METRICS[metric].titled(unit if is_score else "mm"),
                is_score=is_score,
                groups=[name.replace(" ", "\n", 1) + f"\nn = {len(groups[name])}" for name in shown],
                values=[[_finite(part.get(name, []), metric) for name in shown] for part in parts],
            )
        )
    return draw_boxes(found.arms, measures)


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


def _value(run: CaseResult, metric: str) -> float | None:
    return None if run.scores is None else METRICS[metric].take(run.scores)


def _finite(runs: Sequence[CaseResult], metric: str) -> list[float]:
    values = [_value(run, metric) for run in runs]
    return [value for value in values if value is not None and math.isfinite(value)]


def _facts(found: Experiment) -> dict[str, str]:
    facts = found.provenance
    if facts is None:
        return {}
    return {
        "started (UTC)": facts.started,
        "source of the program": f"SHA-256 {facts.code}",
        "list of cases": f"SHA-256 {facts.cases}",
        "seed": str(found.options.seed),
        **{f"weights {name}": f"SHA-256 {digest}" for name, digest in facts.weights.items()},
        **facts.machine,
        **facts.versions,
    }


def show_cases(found: Experiment) -> list[Exhibit]:
    """Draw the best, the median and the worst run of the first arm by Dice, first repeats only.

    Raises:
        InputError: A case's files can no longer be read.
    """
    cases = {case.name: case for case in found.cases}
    return [
        _draw(rank, result, cases[result.name], found.masks.get(result), found.options)
        for rank, result in choose_cases(found.results[0])
    ]


def choose_cases(results: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Choose up to three runs by Dice, of the scans where there are any, or else of the pictures.

    Of an even number the lower one is the median.
    """
    ran = [result for result in results if result.scores is not None and result.repeat == 0]
    ranked = sorted(
        [result for result in ran if result.dimensions == 3] or ran,
        key=lambda result: -1.0 if result.scores is None else result.scores.dice,
    )
    if not ranked:
        return []
    chosen = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    # Of fewer than three runs one has several ranks; it is shown once.
    ranks: dict[str, list[str]] = {}
    for rank, result in chosen.items():
        ranks.setdefault(result.name, []).append(rank)
    named = {result.name: result for result in chosen.values()}
    return [(" and ".join(of_case), named[name]) for name, of_case in ranks.items()]


def _draw(rank: str, result: CaseResult, case: Case, mask: np.ndarray, options: RunOptions) -> Exhibit:
    task = read_task(case)
    slices = slices_along(task.volume.array, task.axis)
    limits = resolve_window(task.volume, case.window)
    width_mm, height_mm = (step for axis, step in enumerate(task.spacing) if axis != task.axis)
    box = first_prompt(task, options, result.repeat).box

    def picture(
        shown: np.ndarray, caption: str, box_xyxy: tuple[float, float, float, float] | None
    ) -> Picture:
        drawn = draw_preview(
            lambda z: to_uint8(slices[z], limits),
            slices_along(shown, task.axis),
            case.key_slice,
            box_xyxy=box_xyxy,
            aspect=height_mm / width_mm,
        )
        return jpeg_picture(drawn, caption)

    dice = "" if result.scores is None else f", Dice {result.scores.dice:.3f}"
    return Exhibit(
        title=f"{rank}: {result.name} ({result.target}){dice}",
        is_scan=result.dimensions == 3,
        mask=picture(mask, "mask", None if box is None else box.xyxy),
        reference=picture(task.truth, "reference", None),
    )
