"""Beats in curves whose beats are known, and the picture of them."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.measure.cardiac import draw_curve, find_beats

FPS = 30
TIMES = np.arange(90) / FPS


def _curve(period_s: float = 0.9, *, swing: float = 0.25, noise: float = 15.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 2000 * (1 - swing + swing * np.cos(2 * np.pi * TIMES / period_s)) + rng.normal(
        0, noise, len(TIMES)
    )


def test_each_beat_is_found_where_it_is() -> None:
    areas = _curve()
    beats = find_beats(areas, TIMES)
    assert len(beats) == 3
    for number, beat in enumerate(beats):
        assert beat.end_diastole == pytest.approx(27 * number, abs=2)
        assert beat.end_systole == pytest.approx(27 * number + 13.5, abs=2)
        assert beat.area_end_diastole == areas[beat.end_diastole]
        assert beat.area_end_systole == areas[beat.end_systole]
        assert beat.fractional_area_change == pytest.approx(0.5, abs=0.03)


def test_a_fast_heart_is_counted_to_the_beat_and_noise_is_not() -> None:
    assert len(find_beats(_curve(0.4), TIMES)) == 7
    flat = np.full(90, 2000.0) + np.random.default_rng(1).normal(0, 20, 90)
    assert find_beats(flat, TIMES) == []


def test_uneven_frames_are_placed_by_their_times() -> None:
    times = np.sort(np.random.default_rng(2).uniform(0, 3, 90))
    areas = 1500 + 500 * np.cos(2 * np.pi * times / 0.9)
    seconds = [times[beat.end_systole] for beat in find_beats(areas, times)]
    np.testing.assert_allclose(seconds, [0.45, 1.35, 2.25], atol=0.08)


def test_half_a_beat_is_one_and_a_cut_one_among_others_is_not() -> None:
    systole = _curve()[:12]
    (only,) = find_beats(systole, TIMES[:12])
    assert only.end_diastole <= 1
    assert only.end_systole >= 10
    cut = find_beats(_curve()[: 27 + 8], TIMES[: 27 + 8])
    assert [beat.end_systole for beat in cut] == [pytest.approx(13, abs=2)]


def test_frames_without_the_ventricle_are_not_its_smallest() -> None:
    areas = _curve()
    gap = areas.copy()
    gap[[3, 30]] = 0
    found = find_beats(gap, TIMES)
    assert all(gap[beat.end_systole] > 0 and gap[beat.end_diastole] > 0 for beat in found)
    assert [beat.end_systole for beat in found] == [pytest.approx(68, abs=2)], "beats with gaps are left out"
    lost = np.concatenate([np.linspace(2000, 100, 20), np.zeros(10)])
    assert find_beats(lost, TIMES[:30]) == [], "an outline that is being lost is no systole"
    assert find_beats(np.zeros(90), TIMES) == []
    assert find_beats(areas[:1], TIMES[:1]) == []


def test_the_curve_is_drawn_with_its_marks() -> None:
    areas = _curve()
    plain = np.asarray(draw_curve(areas, TIMES, "mm2", []))
    marked = np.asarray(draw_curve(areas, TIMES, "mm2", find_beats(areas, TIMES)))
    assert plain.shape == marked.shape == (420, 960, 3)
    green = (marked == (0, 140, 70)).all(axis=-1)
    assert green.any()
    assert not (plain == (0, 140, 70)).all(axis=-1).any()
    draw_curve(np.zeros(4), TIMES[:4], "pixels", [])  # a structure that was never found
