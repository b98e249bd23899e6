"""The tables of a report, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from medsam2.evaluation.comparison import (
    METRICS,
    TESTED,
    Difference,
    cluster_of,
    estimate_mean,
    unit_of,
)
from medsam2.evaluation.cost import CostSummary
from medsam2.evaluation.experiment import Experiment
from medsam2.evaluation.runner import CaseResult
from medsam2.evaluation.summary import stratify
from medsam2.reports.tables import NOTHING, Table, number, percent

SIGNIFICANT = 0.05

# Columns that hold words, beside the first.
_WORDS = frozenset({"metric", "modality", "target", "reference", "remark"})


def strata_tables(results: Sequence[CaseResult], seed: int = 0) -> list[Table]:
    """Return means with 95 % intervals, a row a stratum: a table of scans and one of pictures."""
    parts = stratify(results)
    kinds = ({name: part for name, part in parts.items() if part[0].dimensions == n} for n in (3, 2))
    return [_strata_table(kind, seed) for kind in kinds if kind]


def _strata_table(parts: Mapping[str, Sequence[CaseResult]], seed: int) -> Table:
    every = [result for part in parts.values() for result in part]
    shown, unit = _measured(every), unit_of(every)
    rows = []
    for stratum, part in parts.items():
        cases = len({result.name for result in part})
        patients = len({cluster_of(result) for result in part})
        cells = [_estimated(part, name, seed) for name in shown]
        rows.append((stratum, f"{cases} / {patients}", *cells))
    header = ("cases", "n / patients", *(METRICS[name].titled(unit) for name in shown))
    return Table(header=header, rows=tuple(rows), words=_WORDS)


def comparison_table(found: Experiment, *, primary: bool) -> Table:
    """Return paired differences.

    Args:
        found: With two arms.
        primary: The rows that are tested first; otherwise all others.
    """
    first, second = found.arms
    rows = [_difference_row(row) for row in found.differences if row.is_primary == primary]
    return Table(
        header=(
            "cases", "metric", "n / patients", first, second, "difference", "95 % interval", "p", "p, Holm",
            "remark",
        ),
        rows=tuple(rows),
        words=_WORDS,
    )  # fmt: skip


def cases_tables(results: Sequence[CaseResult]) -> list[Table]:
    """Return every run: a table of scans and one of pictures."""
    kinds = ([result for result in results if result.dimensions == n] for n in (3, 2))
    return [_cases_table(kind) for kind in kinds if kind]


def _cases_table(results: Sequence[CaseResult]) -> Table:
    # The volume error stands there with its sign.
    shown = [name for name in _measured(results) if name != "absolute_volume_error_percent"]
    unit = unit_of(results)
    rows = []
    for result in results:
        name = result.name if result.repeat == 0 else f"{result.name} #{result.repeat + 1}"
        if result.scores is None:
            rows.append((name, result.modality, "failed", *[NOTHING] * (len(shown) + 3)))
            continue
        s = result.scores
        ends = (
            NOTHING
            if s.over_above_slices is None or result.dimensions == 2
            else f"{s.over_below_slices} / {s.over_above_slices}"
        )
        volume = NOTHING if s.volume_error_percent is None else f"{s.volume_error_percent:+.1f}"
        rows.append(
            (
                name, result.modality, result.target, result.reference or NOTHING, ends, volume,
                *(number(METRICS[m].take(s), METRICS[m].digits) for m in shown),
            )
        )  # fmt: skip
    header = (
        "case", "modality", "target", "reference", "slices beyond, below / above", "volume error, %",
        *(METRICS[name].titled(unit) for name in shown),
    )  # fmt: skip
    return Table(header=header, rows=tuple(rows), words=_WORDS)


def alike_in_words(found: Experiment) -> str:
    """Return a sentence on how far the masks of the two methods are the same."""
    shares = found.masks.alike
    if not shares:
        return "No case has a mask of both methods."
    same = sum(share == 1 for share in shares.values())
    text = f"The two masks of a case are the same to the voxel in {same} of {len(shares)} runs"
    if same == len(shares):
        return f"{text}."
    (name, _), lowest = min(shares.items(), key=lambda pair: pair[1])
    mean = sum(shares.values()) / len(shares)
    return (
        f"{text}; their Dice with one another is {mean:.4f} in the mean, {lowest:.4f} at the least ({name})."
    )


def cost_table(arms: Sequence[str], costs: Sequence[CostSummary | None]) -> Table:
    """Return the simulated cost of annotation, a row an arm."""
    rows = []
    for arm, cost in zip(arms, costs, strict=True):
        if cost is None:
            continue
        num = len(cost.cases)
        rows.append(
            (
                arm,
                str(num),
                f"{cost.num_reached} ({100 * cost.num_reached / num:.0f} %)",
                f"{sum(case.interactions for case in cost.cases) / num:.1f}",
                f"{sum(case.drawn_slices for case in cost.cases) / num:.1f}",
                f"{sum(case.seconds for case in cost.cases) / num:.0f}",
                f"{sum(case.by_hand_seconds for case in cost.cases) / num:.0f}",
                percent(cost.saving.mean, cost.saving.interval),
            )
        )
    return Table(
        header=(
            "method", "scans", "reach Dice 0.9", "interactions", "slices drawn", "seconds a case",
            "by hand, s", "saved (95 %)",
        ),
        rows=tuple(rows),
        words=_WORDS,
    )  # fmt: skip


def _estimated(part: Sequence[CaseResult], metric: str, seed: int) -> str:
    found = [
        (value, cluster_of(result))
        for result, value in zip(part, _values(part, metric), strict=True)
        if value is not None and math.isfinite(value)
    ]
    if not found:
        return NOTHING
    estimate = estimate_mean([value for value, _ in found], [owner for _, owner in found], seed=seed)
    digits = METRICS[metric].digits
    text = number(estimate.mean, digits)
    if estimate.interval is None or metric not in TESTED:
        return text
    low, high = estimate.interval
    return f"{text}\n[{low:.{digits}f}, {high:.{digits}f}]"


def _values(results: Sequence[CaseResult], metric: str) -> list[float | None]:
    return [None if result.scores is None else METRICS[metric].take(result.scores) for result in results]


def _measured(results: Sequence[CaseResult]) -> list[str]:
    """The metrics that at least one of some runs has."""
    return [name for name in METRICS if any(value is not None for value in _values(results, name))]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _difference_row(row: Difference) -> tuple[str, ...]:
    digits = METRICS[row.metric].digits + 1
    interval = row.difference.interval
    left_out = f"{row.num_left_out} without a finite value left out" if row.num_left_out else ""
    return (
        row.stratum,
        METRICS[row.metric].titled(row.unit),
        f"{row.difference.num_cases} / {row.difference.num_clusters}",
        number(row.first, digits),
        number(row.second, digits),
        f"{row.difference.mean:+.{digits}f}",
        NOTHING if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}",
        _p(row.p_value),
        _p(row.p_holm) + (" *" if row.p_holm < SIGNIFICANT else ""),
        "; ".join(text for text in (row.note, left_out) if text),
    )
