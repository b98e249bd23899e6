"""Two methods on the same cases: means, intervals and paired tests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import stats

from medsam2.evaluation.runner import CaseResult, Scores
from medsam2.evaluation.summary import PICTURES, SCANS, stratify
from medsam2.measure.intervals import LEVEL, bootstrap_interval

POWER = 0.8
MIN_CLUSTERS = 5
"""Of fewer patients a bootstrap has so few different means that its interval is no 95 %: none is given."""
# Wilcoxon's test needs this many times fewer pairs than the t-test needs for normal data (Pitman's asymptotic
# relative efficiency, 3 / pi), so the t-test's number is divided by it.
_EFFICIENCY = 3 / math.pi


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and how well it is known."""

    mean: float
    interval: tuple[float, float] | None
    """95 % of bootstrap means, drawn patient by patient; None with fewer than `MIN_CLUSTERS`."""
    num_cases: int
    num_clusters: int
    """Patients, or images where no patient is named."""


def estimate_mean(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Estimate:
    """Estimate a mean over cases with a percentile bootstrap of whole patients.

    Args:
        values: Finite, at least one.
        clusters: Of each value, the patient it belongs to.
        seed: Of the bootstrap.
    """
    sums, counts = _by_cluster(values, clusters)
    interval = bootstrap_interval(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
        seed,
        at_least=MIN_CLUSTERS,
    )
    return Estimate(
        mean=float(sums.sum() / counts.sum()),
        interval=interval,
        num_cases=len(values),
        num_clusters=len(sums),
    )


def estimate_saving(
    spent: Sequence[float], instead: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> Estimate:
    """Estimate the part that is saved of a total, 1 - sum(spent) / sum(instead), patient by patient.

    Args:
        spent: Of each case, not negative.
        instead: What it would have taken otherwise, positive.
        clusters: Of each case, the patient it belongs to.
        seed: Of the bootstrap.
    """
    ours, _ = _by_cluster(spent, clusters)
    theirs, _ = _by_cluster(instead, clusters)
    interval = bootstrap_interval(
        (ours, theirs),
        lambda o, t, axis=-1: 1 - o.sum(axis=axis) / t.sum(axis=axis),
        seed,
        at_least=MIN_CLUSTERS,
    )
    return Estimate(
        mean=float(1 - ours.sum() / theirs.sum()),
        interval=interval,
        num_cases=len(spent),
        num_clusters=len(ours),
    )


def wilcoxon(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where nothing differs."""
    values = np.asarray(differences, dtype=np.float64)
    return float(stats.wilcoxon(values).pvalue) if np.any(values) else 1.0


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> np.ndarray:
    """Average the values of each patient, in the order in which patients first come."""
    sums, counts = _by_cluster(values, clusters)
    return sums / counts


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted.tolist()


def least_pairs(num_tests: int, *, alpha: float = 1 - LEVEL) -> int:
    """Return how many pairs the signed-rank test needs before any p-value can be significant.

    With n pairs its smallest two-sided p-value is 2 / 2**n, and the smallest of all tests counts times their
    number.
    """
    return math.ceil(math.log2(2 * num_tests / alpha))


def pairs_needed(differences: Sequence[float] | np.ndarray, *, alpha: float = 1 - LEVEL) -> int | None:
    """Return about how many pairs show a mean difference like this one in four experiments of five.

    The usual number for a paired t-test at the standardised difference seen, divided by Pitman's efficiency
    of the signed-rank test. It is an extrapolation from a few pairs: an order of magnitude, not a plan.

    Returns:
        None where it cannot be told: fewer than two pairs, or a mean difference of 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.mean():
        return None
    effect = abs(float(values.mean())) / float(values.std(ddof=1)) if values.std(ddof=1) else math.inf
    quantiles = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER))
    return max(math.ceil((quantiles / effect) ** 2 / _EFFICIENCY), least_pairs(1, alpha=alpha))


def _by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum the values of each patient and count them."""
    rows = {cluster: row for row, cluster in enumerate(dict.fromkeys(clusters))}
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for value, cluster in zip(values, clusters, strict=True):
        sums[rows[cluster]] += value
        counts[rows[cluster]] += 1
    return sums, counts


@dataclass(frozen=True)
class Metric:
    """A number of each run that is compared."""

    title: str
    take: Callable[[Scores], float | None]
    """None or an infinite value leaves the case out."""
    digits: int = 3

    def titled(self, unit: str) -> str:
        """Return the title for lengths in a unit, "mm", "px" or both."""
        return self.title.replace("mm", unit)


def _either(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "dice": Metric("Dice", lambda s: s.dice),
        "surface_dice": Metric("NSD, 2 mm", lambda s: s.surface_dice),
        "strict_surface_dice": Metric("NSD, 1 mm", lambda s: s.strict_surface_dice),
        "hd95": Metric("HD95, mm", lambda s: _either(s.hd95_mm, s.hd95_px), 2),
        "assd": Metric("ASSD, mm", lambda s: _either(s.assd_mm, s.assd_px), 2),
        "absolute_volume_error_percent": Metric(
            "|volume error|, %",
            lambda s: None if s.volume_error_percent is None else abs(s.volume_error_percent),
            1,
        ),
        "overreach_mm": Metric(
            "over-propagation, mm",
            lambda s: (
                None
                if s.over_above_mm is None or s.over_below_mm is None
                else s.over_above_mm + s.over_below_mm
            ),
            2,
        ),
        "missed_mm": Metric(
            "slices missed, mm", lambda s: None if s.slice_mm is None else s.under_slices * s.slice_mm, 2
        ),
        "dice_auc": Metric("Dice AUC", lambda s: s.dice_auc),
        "surface_dice_auc": Metric("NSD AUC", lambda s: s.surface_dice_auc),
        "seconds": Metric("seconds", lambda s: s.seconds, 2),
        "peak_mib": Metric("peak memory, MiB", lambda s: s.peak_mib, 0),
    }
)
"""Columns of the tables; the titles are for cases with a spacing, see `Metric.titled` and `unit_of`."""

TESTED = tuple(name for name in METRICS if name not in ("seconds", "peak_mib"))
"""Measures that are tested for differences; time and memory depend on the machine's other work."""

PRIMARY = ("dice", "surface_dice")
"""Tested first, on all scans and on all pictures; every other test is a search."""

MANY = 1000
"""Patients. A difference that takes more of them to show is too small to matter."""

EQUAL = "no pair differs"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second method minus the first, over the same cases and prompts."""

    stratum: str
    metric: str
    is_primary: bool
    """One of `PRIMARY` over all scans or all pictures."""
    unit: str
    """Of lengths: "mm", "px", or "mm or px" where pictures with and without a spacing are mixed."""
    first: float
    """Mean of the first method over the pairs."""
    second: float
    difference: Estimate
    """Mean of the paired differences; repeats of a case are averaged first."""
    num_left_out: int
    """Pairs in which one of the two has no finite value: a mask that is empty has no distance."""
    p_value: float
    """Wilcoxon's signed-rank test of patients' mean differences."""
    p_holm: float
    """The same, corrected by Holm's method: primary tests for one another, the others for one another."""
    pairs_needed: int | None
    """About how many patients would show such a difference; see `pairs_needed`."""
    note: str
    """Why no conclusion can be drawn; empty if one can."""


def compare_runs(
    first: Sequence[CaseResult], second: Sequence[CaseResult], *, seed: int = 0
) -> list[Difference]:
    """Compare two methods over the runs that both have.

    Args:
        first: One result for each case and repeat.
        second: The same cases with the same prompts, in any order.
        seed: Of the bootstrap.
    """
    others = {(result.name, result.repeat): result for result in second}
    rows: list[Difference] = []
    for stratum, part in stratify(first).items():
        for metric in TESTED:
            row = _difference(stratum, metric, part, others, seed)
            if row is not None:
                rows.append(row)
    corrected: dict[int, Difference] = {}
    for is_primary in (True, False):
        family = [row for row in rows if row.is_primary == is_primary]
        least = least_pairs(len(family)) if family else 0
        for row, p_holm in zip(family, holm([row.p_value for row in family]), strict=True):
            corrected[id(row)] = _concluded(row, p_holm, least)
    return [corrected[id(row)] for row in rows]


def cluster_of(result: CaseResult) -> Hashable:
    """Return the number of a result's patient or image, or its name where the list has none."""
    return result.name if result.scan is None else result.scan


def unit_of(results: Sequence[CaseResult]) -> str:
    """Return the unit of lengths of some runs: "mm", "px", or "mm or px" for a mixture."""
    found = [result.scores for result in results if result.scores is not None]
    units = {"mm": any(s.hd95_px is None for s in found), "px": any(s.hd95_px is not None for s in found)}
    return " or ".join(unit for unit, is_there in units.items() if is_there) or "mm"


def _difference(
    stratum: str,
    metric: str,
    part: Sequence[CaseResult],
    others: Mapping[tuple[str, int], CaseResult],
    seed: int,
) -> Difference | None:
    take = METRICS[metric].take
    pairs: dict[str, list[tuple[float, float]]] = {}
    clusters: dict[str, Hashable] = {}
    num_left_out = 0
    for result in part:
        other = others.get((result.name, result.repeat))
        before, after = (
            None if one is None or one.scores is None else take(one.scores) for one in (result, other)
        )
        if before is None and after is None:
            continue  # the metric is not one of this kind of case
        if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
            num_left_out += 1
            continue
        pairs.setdefault(result.name, []).append((before, after))
        clusters[result.name] = cluster_of(result)
    if not pairs:
        return None
    means = np.array([np.mean(of_case, axis=0) for of_case in pairs.values()])
    owners = [clusters[name] for name in pairs]
    differences = (means[:, 1] - means[:, 0]).tolist()
    by_patient = cluster_means(differences, owners)
    return Difference(
        stratum=stratum,
        metric=metric,
        is_primary=metric in PRIMARY and stratum in (SCANS, PICTURES),
        unit=unit_of(part),
        first=float(means[:, 0].mean()),
        second=float(means[:, 1].mean()),
        difference=estimate_mean(differences, owners, seed=seed),
        num_left_out=num_left_out,
        p_value=wilcoxon(by_patient),
        p_holm=1.0,
        pairs_needed=pairs_needed(by_patient),
        note="" if any(differences) else EQUAL,
    )


def _concluded(row: Difference, p_holm: float, least: int) -> Difference:
    num = row.difference.num_clusters
    notes = [row.note] if row.note else []
    if num < least and not row.note:
        notes.append(
            f"too few: with {num} {'patient' if num == 1 else 'patients'} no difference can be significant "
            f"here, at least {least} are needed"
        )
    if p_holm >= 0.05 and row.pairs_needed is not None and row.pairs_needed > num:
        about = f"about {row.pairs_needed}" if row.pairs_needed <= MANY else f"more than {MANY}"
        notes.append(f"a difference of this size takes {about} patients to show")
    return dataclasses.replace(row, p_holm=p_holm, note="; ".join(notes))
