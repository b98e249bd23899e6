"""To the network's pixels and back: Pillow's own filter, and a paste that lands where the cut was made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medsam2.imaging.labels import connected_through
from medsam2.inference.features import cut, normalise, resample_mask, resample_slice
from medsam2.inference.masks import fill_logit_holes, prompted_parts, to_slice, to_view
from medsam2.inference.zoom import View, whole_slice
from medsam2.model.network import ABSENT_LOGIT
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (50, 70)).astype(np.uint8)
VIEWS = (
    View(x=5, y=8, width=24, height=24, is_zoomed=True),
    View(x=0, y=-10, width=70, height=70, is_zoomed=True),
    View(x=-3, y=20, width=40, height=40, is_zoomed=True),
)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_grey_slice_is_resized_as_pillow_resizes_its_colour_image(size: int) -> None:
    colours = Image.fromarray(np.stack([GREY] * 3, axis=-1)).resize((size, size))
    resampled = resample_slice(GREY, whole_slice(GREY.shape), size)
    assert resampled.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(resampled, np.asarray(colours)[..., channel])


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_its_pixels_and_black_beyond_the_slice(view: View) -> None:
    part = cut(GREY, view)
    for y in range(view.height):
        for x in range(view.width):
            row, column = view.y + y, view.x + x
            inside = 0 <= row < 50 and 0 <= column < 70
            assert part[y, x] == (GREY[row, column] if inside else 0)
    expected = np.asarray(Image.fromarray(part).resize((48, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resample_slice(GREY, view, 48), expected)


def test_a_view_of_the_networks_size_is_not_resampled() -> None:
    np.testing.assert_array_equal(resample_slice(GREY, VIEWS[0], 24), GREY[8:32, 5:29])


def test_masks_stay_binary_and_keep_their_place() -> None:
    mask = np.zeros((50, 70), bool)
    mask[10:20, 9:25] = True
    resampled = resample_mask(mask, VIEWS[0], 96)
    assert set(resampled.unique().tolist()) == {0.0, 1.0}
    expected = mask[8:32, 5:29].repeat(4, axis=0).repeat(4, axis=1)
    for y, x in ((8, 16), (8, 79), (47, 16), (47, 79)):
        expected[y, x] = False  # interpolation rounds a rectangle's four corners off
    np.testing.assert_array_equal(resampled.numpy().astype(bool), expected)
    assert torch.equal(resample_mask(mask, VIEWS[0], 24).bool(), torch.from_numpy(mask[8:32, 5:29]))


def test_normalisation_is_imagenets() -> None:
    normalised = normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert normalised.shape == (1, 3, 1, 2)
    means, deviations = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalised[0, :, 0, 0], -means / deviations, rtol=1e-6)
    np.testing.assert_allclose(normalised[0, :, 0, 1], (1 - means) / deviations, rtol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_a_paste_lands_where_the_cut_took_it(view: View) -> None:
    """Logits of the view's own size: no resampling blurs where they land."""
    logits = torch.randn(1, 1, view.height, view.width)
    plane = to_slice(logits, view, GREY.shape)
    assert plane.shape == GREY.shape
    inside = cut(np.ones(GREY.shape, bool), view)
    np.testing.assert_array_equal(cut(plane, view)[inside], logits[0, 0].numpy()[inside])
    covered = np.zeros(GREY.shape, bool)
    covered[max(view.y, 0) : view.y + view.height, max(view.x, 0) : view.x + view.width] = True
    assert (plane[~covered] == ABSENT_LOGIT).all()
    assert not (plane[covered] == ABSENT_LOGIT).any()
    back = to_view(plane, view, view.width)[0, 0].numpy()
    np.testing.assert_array_equal(back[inside], logits[0, 0].numpy()[inside])
    assert (back[~inside] == ABSENT_LOGIT).all()


@pytest.mark.parametrize("view", [*VIEWS, whole_slice(GREY.shape)])
def test_a_blob_keeps_its_place_through_both_ways(view: View) -> None:
    """A disc in the slice, seen by the network, decoded as it is, pasted: within half a logit pixel."""
    y, x = np.ogrid[:50, :70]
    disc = (x - 18) ** 2 + (y - 26) ** 2 <= 5**2
    seen = resample_mask(disc, view, 128)
    logits = torch.nn.functional.avg_pool2d(seen[None, None], 4) * 20 - 10
    pasted = to_slice(logits, view, GREY.shape) > 0
    for axis in (0, 1):
        middle = np.argwhere(pasted)[:, axis].mean()
        assert abs(middle - (26, 18)[axis]) < 0.5
    assert 0.8 < pasted.sum() / disc.sum() < 1.2


def test_a_whole_slice_is_resized_as_the_reference_does() -> None:
    logits = torch.randn(1, 1, 16, 16)
    expected = torch.nn.functional.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(to_slice(logits, whole_slice(GREY.shape), GREY.shape), expected[0, 0])


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    logits = torch.full((1, 1, 12, 12), 5.0)
    logits[0, 0, 1, 1] = logits[0, 0, 2, 2] = -3.0  # one hole of two pixels: they touch at a corner
    logits[0, 0, 6:9, 6:9] = 0.0  # 9 pixels, and 0 is background
    logits[0, 0, 11, 11] = -1.0  # a hole at the edge is a hole
    filled = fill_logit_holes(logits, 8)
    expected = logits.clone()
    expected[0, 0, 1, 1] = expected[0, 0, 2, 2] = expected[0, 0, 11, 11] = 0.1
    assert torch.equal(filled, expected)
    assert torch.equal(fill_logit_holes(logits, 1)[0, 0, 1:3, 1:3], logits[0, 0, 1:3, 1:3])
    assert (fill_logit_holes(logits, 9) > 0).all()


def _kept(mask: np.ndarray, prompt: Prompt) -> np.ndarray:
    kept = connected_through(lambda z: mask[z], range(len(mask)), prompted_parts(lambda z: mask[z], [prompt]))
    return np.stack([kept(z) for z in range(len(mask))])


def test_only_parts_that_reach_the_prompt_are_kept() -> None:
    mask = np.zeros((4, 20, 20), bool)
    mask[1, 2:6, 2:6] = True
    mask[2, 6:9, 6:9] = True  # touches the first at a corner, across slices
    mask[1, 12:15, 12:15] = True  # in the prompted slice, outside the box
    mask[3, 0, 19] = True
    mask[1, 4:6, 2:4] = False
    mask[1, 6, 1:3] = True  # a crumb in the box; the object is the larger part
    kept = mask.copy()
    kept[1, 12:15, 12:15] = kept[3, 0, 19] = kept[1, 6, 1:3] = False
    box = Prompt(slice_index=1, box=Box(x_min=1, y_min=1, x_max=6, y_max=6))
    np.testing.assert_array_equal(_kept(mask, box), kept)
    click = Prompt(slice_index=1, points=(Point(x=3, y=3), Point(x=13, y=13, is_positive=False)))
    np.testing.assert_array_equal(_kept(mask, click), kept)
    drawn = Prompt(slice_index=1, mask=MaskPrompt(array=mask[1]))  # of several parts, if the user likes
    kept[1, 12:15, 12:15] = kept[1, 6, 1:3] = True
    np.testing.assert_array_equal(_kept(mask, drawn), kept)
    assert not _kept(np.zeros_like(mask), box).any()
