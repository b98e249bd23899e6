"""Intervals, tests and numbers of cases, against answers known by hand and scipy's t-test."""

import numpy as np
import pytest
from scipy import stats

from medsam2.evaluation.comparison import (
    MIN_CLUSTERS,
    cluster_means,
    estimate_mean,
    estimate_saving,
    holm,
    least_pairs,
    pairs_needed,
    wilcoxon,
)


def test_the_interval_of_independent_cases_is_that_of_theory():
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    found = estimate_mean(values.tolist(), range(400))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)
    assert (found.num_cases, found.num_clusters) == (400, 400)


def test_cases_of_one_patient_do_not_count_as_many():
    """Ten copies of each of 20 patients say no more than the 20."""
    values = np.random.default_rng(2).normal(0.7, 0.1, 20)
    once = estimate_mean(values.tolist(), range(20))
    copied = estimate_mean(np.repeat(values, 10).tolist(), np.repeat(np.arange(20), 10).tolist())
    naive = estimate_mean(np.repeat(values, 10).tolist(), range(200))
    assert copied.interval == pytest.approx(once.interval)
    assert (copied.num_cases, copied.num_clusters) == (200, 20)
    assert np.ptp(naive.interval) < np.ptp(copied.interval) / 2


def test_a_patient_with_many_cases_weighs_as_much_as_they_do():
    assert estimate_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).mean == 0.75
    assert cluster_means([1.0, 0.0, 0.5, 0.5], ["b", "a", "b", "a"]).tolist() == [0.75, 0.25]


def test_intervals_of_next_to_nothing():
    assert estimate_mean([0.4, 0.6], ["a", "a"]).interval is None
    assert estimate_mean([0.4] * MIN_CLUSTERS, range(MIN_CLUSTERS)).interval == pytest.approx((0.4, 0.4))
    assert estimate_mean([0.4] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 3]).interval is None  # many cases, few patients


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).uniform(0, 1, 30).tolist()
    assert estimate_mean(values, range(30), seed=3) == estimate_mean(values, range(30), seed=3)
    assert estimate_mean(values, range(30), seed=3) != estimate_mean(values, range(30), seed=4)


def test_a_saving_is_of_the_totals():
    found = estimate_saving([10.0, 90.0] * 3, [100.0] * 6, "abcdef")
    assert found.mean == pytest.approx(0.5)
    low, high = found.interval
    assert 0.1 < low < 0.5 < high < 0.9
    same = estimate_saving([30.0, 60.0, 9.0] * 2, [100.0, 200.0, 30.0] * 2, "abcdef")
    assert (same.mean, *same.interval) == pytest.approx((0.7, 0.7, 0.7))


def test_wilcoxon():
    assert wilcoxon([0.0, 0.0]) == 1.0
    assert wilcoxon([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("tests", "least"), [(1, 6), (2, 7), (100, 12)])
def test_fewer_pairs_than_that_can_show_nothing(tests, least):
    assert least_pairs(tests) == least
    assert wilcoxon(range(1, least + 1)) * tests < 0.05 <= wilcoxon(range(1, least)) * tests


def test_the_number_of_pairs_needed_has_the_power_it_promises():
    differences = np.random.default_rng(0).normal(0, 1, 50)
    differences += 0.5 - differences.mean()
    differences = 0.5 + (differences - 0.5) / differences.std(ddof=1)
    needed = pairs_needed(differences)
    samples = np.random.default_rng(1).normal(0.5, 1, (400, needed))
    power = np.mean([stats.wilcoxon(sample).pvalue < 0.05 for sample in samples])
    assert 0.75 < power < 0.87


def test_pairs_that_tell_nothing():
    assert pairs_needed([0.1]) is None
    assert pairs_needed([0.1, -0.1]) is None
    assert pairs_needed([0.1, 0.1, 0.1]) == 6  # never fewer than the test itself needs
