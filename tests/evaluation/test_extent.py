"""Ends, volumes and poor slices, where the answer is known."""

import math

import numpy as np
import pytest

from medsam2.errors import GeometryError
from medsam2.measure.overlap import Overreach, measure_overreach, poor_slices, volume_error_percent


def tower(*filled, depth=12):
    mask = np.zeros((depth, 6, 6), bool)
    mask[list(filled), 1:5, 1:5] = True
    return mask


def test_overreach_counts_from_end_to_end():
    found, truth = tower(1, 3, 4, 5, 9), tower(3, 4, 5, 6)
    ends = measure_overreach(found, truth, 2.5)
    assert ends == Overreach(above_slices=3, below_slices=2, above_mm=7.5, below_mm=5.0)


@pytest.mark.parametrize("found", [tower(), tower(4), tower(3, 4, 5, 6)])
def test_stopping_in_time_is_no_overreach(found):
    ends = measure_overreach(found, tower(3, 4, 5, 6), 2.5)
    assert ends == Overreach(above_slices=0, below_slices=0, above_mm=0.0, below_mm=0.0)


def test_a_picture_has_no_millimetres():
    ends = measure_overreach(tower(0, depth=1), tower(0, depth=1), math.nan)
    assert ends.above_slices == 0
    assert math.isnan(ends.above_mm)


@pytest.mark.parametrize(
    ("found", "percent"), [(tower(1, 2), 0), (tower(1), -50), (tower(1, 2, 3), 50), (tower(), -100)]
)
def test_volume_error(found, percent):
    assert volume_error_percent(found, tower(1, 2)) == percent


def test_poor_slices():
    truth, found = tower(2, 3, 4, 5), tower(3, 4, 5, 6)
    assert poor_slices(found, truth) == 2  # 2 is missed, 6 is too much
    found[4, 1, 1:3] = False  # 14 of 16 pixels: a Dice of 28 / 30
    assert poor_slices(found, truth) == 2
    found[4, 1, 3:5] = False  # 12 of 16: 24 / 28
    assert poor_slices(found, truth) == 3
    assert poor_slices(found, truth, 0.8) == 2


def test_what_cannot_be_measured():
    with pytest.raises(GeometryError, match="cannot be compared"):
        measure_overreach(tower(1), tower(1, depth=9), 1.0)
    with pytest.raises(GeometryError, match="no ends"):
        measure_overreach(tower(1), tower(), 1.0)
    with pytest.raises(GeometryError, match="not empty"):
        volume_error_percent(tower(1), tower())
