"""RECIST lines: boxes of ellipses whose diameters are known, and ends of drawn lines."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medsam2.errors import PromptError
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.statements import SHORT_OVER_LONG, RecistLine, box_around, line_in_mask, points_along

SHAPE = (200, 240)


def ellipse(angle_deg: float, long: float, short: float, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A filled ellipse in mm around pixel (120, 100)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    x_mm, y_mm = (x - 120) * pixel_mm[0], (y - 100) * pixel_mm[1]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    along, across = c * x_mm + s * y_mm, c * y_mm - s * x_mm
    return (2 * along / long) ** 2 + (2 * across / short) ** 2 <= 1


def ends(angle_deg: float, length: float, pixel_mm: tuple[float, float]) -> list[float]:
    half = length / 2 * np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))]) / pixel_mm
    return [*(np.array([120, 100]) - half), *(np.array([120, 100]) + half)]


@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (0.7, 1.4)])
@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90, 130])
def test_the_box_is_that_of_the_ellipse(angle: float, pixel_mm: tuple[float, float]) -> None:
    long = 60.0
    truth = tight_box(ellipse(angle, long, SHORT_OVER_LONG * long, pixel_mm))
    line = RecistLine.from_numbers(ends(angle, long, pixel_mm))
    box = box_around(line, shape_yx=SHAPE, pixel_mm=pixel_mm)
    # One pixel: the ellipse was drawn on whole pixels, its box was computed.
    np.testing.assert_allclose(box.xyxy, truth.xyxy, atol=1.01)


@pytest.mark.parametrize("angle", [0, 30, 60, 90, 150])
def test_the_box_in_a_grid_with_shear_is_that_of_the_ellipse_in_the_patient(angle: float) -> None:
    to_mm = np.array(((0.8, 0.9), (0.0, 2.0)))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    along, across = np.einsum("ij,jk,kyx->iyx", ((c, s), (-s, c)), to_mm, np.stack((x - 120, y - 100)))
    truth = tight_box((2 * along / 60) ** 2 + (2 * across / (SHORT_OVER_LONG * 60)) ** 2 <= 1)
    half = np.linalg.solve(to_mm, (30 * c, 30 * s))
    middle = np.array((120, 100))
    line = RecistLine.from_numbers([*(middle - half), *(middle + half)])
    box = box_around(line, shape_yx=SHAPE, pixel_mm=to_mm)
    np.testing.assert_allclose(box.xyxy, truth.xyxy, atol=1.01)


def test_the_farthest_pixels_of_a_drawn_line_are_those_in_the_patient() -> None:
    mask = np.zeros((9, 9), bool)
    mask[[0, 8, 0, 8], [0, 8, 8, 0]] = True  # the ends of both diagonals
    for lean, ends in ((1.0, ((0, 0), (8, 8))), (-1.0, ((0, 8), (8, 0)))):
        line = line_in_mask(mask, pixel_mm=np.array(((1.0, lean), (0.0, 1.0))))
        assert set(line.long_ends) == set(ends)


@pytest.mark.parametrize("angle", [10, 45, 80])
def test_a_measured_short_diameter_is_taken_as_it_is(angle: float) -> None:
    numbers = [*ends(angle, 60, (1, 1)), *ends(angle + 90, 20, (1, 1))]
    box = box_around(RecistLine.from_numbers(numbers), shape_yx=SHAPE)
    np.testing.assert_allclose(box.xyxy, tight_box(ellipse(angle, 60, 20, (1, 1))).xyxy, atol=1.01)
    assert box.x_max - box.x_min < 60


def test_the_box_holds_the_ends_and_stays_in_the_slice() -> None:
    line = RecistLine.from_numbers([0, 3, 0, 40])
    box = box_around(line, shape_yx=(50, 60))
    assert box.xyxy == (0, 3, pytest.approx(SHORT_OVER_LONG * 37 / 2), 40)
    flat = box_around(RecistLine.from_numbers([4, 9, 5, 9]), shape_yx=(50, 60))
    assert flat.y_max - flat.y_min >= 0.75


@pytest.mark.parametrize("numbers", [[1, 1, 60, 1], [1, -1, 4, 4], [3, 3, 4, 49.5]])
def test_lines_outside_the_slice(numbers: list[float]) -> None:
    with pytest.raises(PromptError, match=r"outside the slice: x must lie in 0 to 59 and y in 0 to 49"):
        box_around(RecistLine.from_numbers(numbers), shape_yx=(50, 60))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([1, 2, 3], "four finite numbers"), ([1, 2, 3, float("nan")], "finite"), ([5, 6, 5, 6], "differ")],
)
def test_numbers_that_are_no_line(numbers: list[float], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        RecistLine.from_numbers(numbers)


def test_points_lie_on_the_line_away_from_its_ends() -> None:
    points = points_along(RecistLine.from_numbers([10, 20, 50, 40]), 3)
    assert [(point.x, point.y) for point in points] == [(20, 25), (30, 30), (40, 35)]
    assert all(point.is_positive for point in points)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("line", [(10, 12, 70, 44), (10, 12, 10, 60), (5, 30, 50, 30), (20, 60, 60, 20)])
def test_a_drawn_line_is_found_again(line: tuple[int, int, int, int], width: int) -> None:
    picture = Image.new("1", (90, 80))
    ImageDraw.Draw(picture).line(line, fill=1, width=width)
    found = line_in_mask(np.asarray(picture))
    drawn = sorted([line[:2], line[2:]])
    np.testing.assert_allclose(sorted(found.long_ends), drawn, atol=width - 1 + 0.01)


def test_a_dot_is_no_line() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    with pytest.raises(PromptError, match="two pixels or more, not 1"):
        line_in_mask(mask)
