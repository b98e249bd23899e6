"""Backgrounds."""

import numpy as np
import pytest

from medsam2.synthesis import body as bodies
from medsam2.synthesis.body import Tissue, ct_palette, ct_window_hu, layered_tissue, mr_palette
from medsam2.synthesis.render import Grid

GRID = Grid(shape=(8, 96, 96), spacing_mm=(2.0, 2.0, 4.0), thickness_mm=4.0)


def test_windows_have_a_width() -> None:
    windows = [ct_window_hu(np.random.default_rng(seed)) for seed in range(50)]
    widths = np.array([high - low for low, high in windows])
    assert widths.min() > 100
    assert widths.max() > 1200


def test_palettes_name_every_tissue() -> None:
    for seed in range(10):
        for palette in (ct_palette(np.random.default_rng(seed)), mr_palette(np.random.default_rng(seed))):
            assert set(palette) == set(Tissue)


def test_trunks_have_many_tissues() -> None:
    found: set[int] = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        body = bodies.trunk(rng, GRID, ct_palette(rng))
        assert np.isfinite(body.grey).all()
        found |= set(np.unique(body.tissue).tolist())
        assert not body.regions[body.tissue == Tissue.OUTSIDE].any()
    wanted = {Tissue.OUTSIDE, Tissue.LUNG, Tissue.FAT, Tissue.MUSCLE, Tissue.ORGAN, Tissue.BONE}
    assert wanted <= found


@pytest.mark.parametrize("seed", range(3))
def test_heads_have_folds_and_fluid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = bodies.head(rng, GRID, mr_palette(rng))
    assert np.isfinite(body.grey).all()
    assert {Tissue.ORGAN, Tissue.FLUID} <= set(np.unique(body.tissue).tolist())


def test_layers_change_with_depth_more_than_sideways() -> None:
    along, across = [], []
    for seed in range(5):
        grey = layered_tissue(np.random.default_rng(seed), GRID).grey
        along.append(np.abs(np.diff(grey, axis=1)).mean())
        across.append(np.abs(np.diff(grey, axis=2)).mean())
    assert np.mean(along) > 1.5 * np.mean(across)
