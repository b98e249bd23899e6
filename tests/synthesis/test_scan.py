"""The demo's scan."""

import numpy as np
import pytest
from scipy import ndimage

from medsam2.synthesis.scan import SHAPE, STRUCTURES, SyntheticScan, generate_scan


@pytest.fixture(scope="module", params=[0, 1])
def scan(request: pytest.FixtureRequest) -> SyntheticScan:
    return generate_scan(request.param)


def test_grid_and_types(scan: SyntheticScan) -> None:
    assert scan.image.shape == scan.labels.shape == SHAPE
    assert scan.image.dtype == np.int16
    assert scan.labels.dtype == np.uint8
    assert scan.image.min() >= -1024


def test_every_structure_is_there_in_one_piece(scan: SyntheticScan) -> None:
    for number in range(1, len(STRUCTURES) + 1):
        _, pieces = ndimage.label(scan.labels == number)
        assert pieces == 1, STRUCTURES[number - 1]


def test_the_lesion_is_dark_and_inside_of_the_liver(scan: SyntheticScan) -> None:
    lesion = scan.labels == STRUCTURES.index("lesion") + 1
    liver = scan.labels == STRUCTURES.index("liver") + 1
    slices = np.flatnonzero(lesion.any(axis=(1, 2)))
    assert slices[0] > 0
    assert slices[-1] < SHAPE[0] - 1
    shell = ndimage.binary_dilation(lesion) & ~lesion
    assert liver[shell].mean() > 0.95
    assert 35 < float(scan.image[lesion].mean()) < 70
    assert float(scan.image[liver].mean()) > float(scan.image[lesion].mean()) + 25


def test_hounsfield_units(scan: SyntheticScan) -> None:
    assert float(scan.image[:, 0, 0].mean()) == pytest.approx(-1000, abs=15)
    assert float(scan.image[scan.labels == STRUCTURES.index("vertebra") + 1].mean()) > 200


def test_the_seed_decides() -> None:
    first, second = generate_scan(0), generate_scan(0)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert not np.array_equal(first.labels, generate_scan(1).labels)
