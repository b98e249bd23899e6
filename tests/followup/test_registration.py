"""Two generated scans whose motion is known: places, masks and similarity."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from medsam2.errors import InputError
from medsam2.followup.contrast import contrast
from medsam2.followup.registration import Alignment, carry_all, register, resampled
from medsam2.imaging.formats.itk import as_itk
from medsam2.imaging.intensity import Window
from medsam2.imaging.volume import Volume

WINDOWS = (Window(0, 255, "caller"), Window(0, 255, "caller"))
SHIFT_MM = (6.0, -4.0, 3.0)  # x y z, LPS


def pattern(shape: tuple[int, int, int]) -> np.ndarray:
    """A body with a pattern that has no period within it."""
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(float)
    middle = [(n - 1) / 2 for n in shape]
    inside = ((y - middle[1]) / (0.42 * shape[1])) ** 2 + ((x - middle[2]) / (0.4 * shape[2])) ** 2 < 1
    waves = 40 * np.sin(x / 5 + z / 6) * np.cos(y / 6) + 30 * np.sin(y / 11 + x * y / 300)
    return np.where(inside, 120 + waves, 10)


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    """A scan, and the same one moved, on a grid of its own and oblique."""
    first = Volume.from_array(pattern((18, 56, 52)).astype(np.float32), (1.5, 1.5, 3.0), (-40, -40, 10))
    c, s = np.cos(0.06), np.sin(0.06)
    direction = (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)
    empty = Volume.from_array(np.zeros((16, 50, 50), np.float32), (1.6, 1.6, 3.2), (-40, -42, 10), direction)
    transform = SimpleITK.TranslationTransform(3, SHIFT_MM)
    return first, empty.with_array(resampled(first, empty, transform, 10.0))


@pytest.fixture(scope="module")
def alignment(pair: tuple[Volume, Volume]) -> Alignment:
    return register(*pair, WINDOWS, is_rigid=True)


def test_a_known_motion_is_found(pair: tuple[Volume, Volume], alignment: Alignment) -> None:
    assert not alignment.is_bent
    assert alignment.turn_deg < 1
    assert alignment.shift_mm == pytest.approx(np.linalg.norm(SHIFT_MM), abs=1.0)
    size = [n - 1 for n in pair[1].shape[::-1]]
    for corner in ((0.2, 0.2, 0.3), (0.8, 0.3, 0.7), (0.5, 0.8, 0.5)):
        place = as_itk(pair[1]).TransformContinuousIndexToPhysicalPoint(
            [share * n for share, n in zip(corner, size, strict=True)]
        )
        found = np.subtract(alignment.transform.TransformPoint(place), place)
        assert np.linalg.norm(found - SHIFT_MM) < 1.5
    assert alignment.after.correlation > 0.95 > alignment.before.correlation
    assert alignment.after.information > 2 * alignment.before.information


def test_masks_are_carried_alike_one_by_one_and_where_they_lie(
    pair: tuple[Volume, Volume], alignment: Alignment
) -> None:
    first, second = pair
    masks = {number: np.zeros(first.shape, bool) for number in (2, 5, 9, 11)}
    masks[2][5:11, 20:32, 18:30] = True
    masks[5][7:9, 22:25, 20:24] = True  # within the other one
    masks[9][8, 40, 30] = True  # a single voxel
    masks[11][0, 0, 0] = True  # outside of the second scan
    found = carry_all(alignment, masks, first, second)
    for number, mask in masks.items():
        np.testing.assert_array_equal(found[number], alignment.carry(mask, first, second))
    sizes = {number: int(mask.sum()) for number, mask in found.items()}
    voxel = np.prod(first.spacing) / np.prod(second.spacing)
    assert sizes[2] == pytest.approx(masks[2].sum() * voxel, rel=0.15)
    assert sizes[9] >= 1
    assert sizes[11] == 0


def test_a_thin_stack_is_refused(pair: tuple[Volume, Volume]) -> None:
    thin = Volume.from_array(pair[0].array[:3], (1.5, 1.5, 3.0))
    with pytest.raises(InputError, match=r"the baseline has \(3, 56, 52\) voxels .* at least 4"):
        register(thin, pair[1], WINDOWS)


def test_contrast_is_signed_and_in_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    grey = rng.normal(100, 5, (20, 40, 40))
    mask = np.zeros(grey.shape, bool)
    mask[6:14, 14:26, 14:26] = True
    grey[mask] -= 20
    volume = Volume.from_array(grey.astype(np.float32), (1.0, 1.0, 1.0))
    assert contrast(volume, WINDOWS[0], mask) == pytest.approx(-4, abs=0.3)
    assert contrast(volume, WINDOWS[0], np.roll(mask, 12, axis=1)) == pytest.approx(0, abs=0.6)
    assert contrast(volume, WINDOWS[0], np.ones(grey.shape, bool)) == 0
