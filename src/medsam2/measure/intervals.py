"""How sure a mean over cases is: the percentile bootstrap of reports."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

NUM_RESAMPLES = 9_999
LEVEL = 0.95


def bootstrap_interval(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    seed: int,
    *,
    is_paired: bool = True,
    at_least: int = 2,
) -> tuple[float, float] | None:
    """Return the interval that holds 95 % of a statistic, by the percentile bootstrap.

    Args:
        data: One or several samples.
        statistic: Takes the samples and an `axis`.
        seed: Of the random draws.
        is_paired: Whether values at the same place of the samples stay together.
        at_least: A smaller sample gets no interval, since it has too few different means.

    Returns:
        Lower and upper limit; None if a sample is too small.
    """
    if min(len(values) for values in data) < at_least:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.bootstrap(
            data,
            statistic,
            paired=is_paired,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            method="percentile",  # the others divide by a spread that is 0 where all values agree
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    # Draws in which a ratio has no divisor do not count.
    low, high = np.percentile(found[np.isfinite(found)], [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)
