"""Means with intervals and paired tests, where cases of one patient are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NUM_RESAMPLES = 9_999
LEVEL = 0.95
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
    interval = _bootstrap((sums, counts), lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis), seed)
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
    interval = _bootstrap((ours, theirs), lambda o, t, axis=-1: 1 - o.sum(axis=axis) / t.sum(axis=axis), seed)
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
    """Return how many pairs the signed-rank test needs to be able to say anything after Holm's correction.

    With n pairs its smallest two-sided p-value is 2 / 2**n, and the smallest of all tests counts times their
    number.
    """
    return math.ceil(math.log2(2 * num_tests / alpha))


def pairs_needed(differences: Sequence[float] | np.ndarray, *, alpha: float = 1 - LEVEL) -> int | None:
    """Return about how many pairs would show a mean difference like this one, four times out of five.

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


def _bootstrap(
    data: tuple[np.ndarray, np.ndarray], statistic: Callable[..., np.ndarray], seed: int
) -> tuple[float, float] | None:
    """95 % of a statistic over resampled patients; paired, so that a patient's two numbers stay together."""
    if len(data[0]) < MIN_CLUSTERS:
        return None
    found = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",  # the others divide by a spread that is 0 where all patients agree
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return float(low), float(high)
