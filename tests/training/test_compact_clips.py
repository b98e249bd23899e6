"""Clips to follow: which slices they show, how far they go, and that masks lie on what they outline."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2.errors import InputError
from medsam2.training.compact_clips import CompactClips, Mixture, draw_compact_clips
from medsam2.training.config import DataConfig

GREY_STEP = 5  # between slices of a stack whose greys are the slices' numbers
LARGE = DataConfig(zoom=(2.0, 2.0), min_side=(1, 1), center_shift=0.0)

WriteStacks = Callable[..., Path]


def _draw(
    stacks: Path, config: DataConfig, count: int, *, clip_length: int = 4, size: int = 16,
    augment: bool = False, num_stacks: int = 1, seed: int = 0,
) -> CompactClips:  # fmt: skip
    sources = [np.random.default_rng((seed, clip)) for clip in range(count)]
    mixture = Mixture(stacks, range(num_stacks), config)
    return draw_compact_clips(
        stacks, mixture, config, sources, clip_length=clip_length, image_size=size, augment=augment
    )


def _numbered(num_slices: int, first: int, last: int) -> dict[str, object]:
    """A stack whose greys tell the slice, with a square object from one slice to another."""
    labels = np.zeros((num_slices, 40, 40), np.uint8)
    labels[first : last + 1, 14:26, 14:26] = 1
    image = np.broadcast_to(np.arange(num_slices, dtype=np.uint8)[:, None, None] * GREY_STEP, labels.shape)
    return {"image": image, "labels": labels}


def _slices(clips: CompactClips) -> np.ndarray:
    """Numbers of the slices that the clips show, `(B, T + 2)`."""
    middle = clips.images.shape[-1] // 2
    numbers: np.ndarray = (clips.images[:, :, middle, middle] * 255 / GREY_STEP).round().int().numpy()
    return numbers


def test_the_state_of_chance_gives_the_clip(stacks: Path) -> None:
    first, again, other = (
        _draw(stacks, DataConfig(), 3, size=64, augment=True, num_stacks=3, seed=seed) for seed in (1, 1, 2)
    )
    assert first.images.shape == (3, 6, 64, 64)
    assert first.targets.shape == (3, 4, 64, 64)
    assert first.counts.shape == (3, 4)
    for part in ("images", "targets", "counts"):
        ours, theirs = getattr(first, part), getattr(again, part)
        assert ours.dtype == torch.float32
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert not torch.equal(first.images, other.images)
    assert 0 <= float(first.images.min()) < float(first.images.max()) <= 1
    assert set(first.targets.unique().tolist()) == {0.0, 1.0}


def test_a_clip_does_not_depend_on_those_beside_it(stacks: Path) -> None:
    many = _draw(stacks, DataConfig(), 3, size=32, augment=True, num_stacks=3)
    sources = [np.random.default_rng((0, 2))]
    mixture = Mixture(stacks, range(3), DataConfig())
    alone = draw_compact_clips(
        stacks, mixture, DataConfig(), sources, clip_length=4, image_size=32, augment=True
    )
    assert torch.equal(many.images[2], alone.images[0])


def test_the_prompted_slice_is_the_second(write_stacks: WriteStacks) -> None:
    stack = _numbered(40, 10, 29)
    clips = _draw(write_stacks([stack]), LARGE, 60)
    slices = _slices(clips)
    steps = np.diff(slices, axis=1)
    assert ((slices[:, 1] >= 10) & (slices[:, 1] <= 29)).all(), "the object is there"
    assert (np.sign(steps) == np.sign(steps[:, :1])).all(), "a clip does not turn round"
    assert {-1, 1} <= set(np.sign(steps[:, 0])), "it goes either way"
    assert set(np.abs(steps[:, 0])) == {1, 2}, "of a long stack, every other slice may be left out"
    assert np.abs(steps).max() > 2, "now and then more"
    is_there = clips.targets.flatten(2).any(dim=2).numpy()
    tracked = slices[:, 1:-1]
    np.testing.assert_array_equal(is_there, (tracked >= 10) & (tracked <= 29))


def test_what_lies_beyond_the_end_does_not_count(write_stacks: WriteStacks) -> None:
    clips = _draw(write_stacks([_numbered(3, 0, 2)]), LARGE, 20, clip_length=6)
    slices, counts = _slices(clips), clips.counts.numpy()
    assert (counts[:, 0] == 1).all()
    # Beyond the end the last slice is shown again.
    np.testing.assert_array_equal(counts[:, 1:] == 0, slices[:, 2:-1] == slices[:, 1:-2])
    assert (counts.sum(axis=1) <= 3).all()
    assert len(set(counts.sum(axis=1))) == 3, "it begins at any of the three"


def test_stills_are_clips_of_which_one_slice_counts(write_stacks: WriteStacks) -> None:
    clips = _draw(write_stacks([_numbered(1, 0, 0)]), LARGE, 3, clip_length=3)
    assert clips.counts.tolist() == [[1.0, 0.0, 0.0]] * 3


def test_objects_end_in_a_share_of_the_clips(write_stacks: WriteStacks) -> None:
    clips = _draw(write_stacks([_numbered(60, 20, 39)]), LARGE, 200, clip_length=5)
    ends = ~clips.targets[:, -1].flatten(1).any(dim=1)
    # By 0.45 of the clips that look for an end; the others come to one where they begin near it.
    assert 0.45 < float(ends.float().mean()) < 0.75


def test_small_slices_of_an_object_are_not_prompted(write_stacks: WriteStacks) -> None:
    stack = _numbered(9, 3, 5)
    stack["labels"][[2, 6], 20:22, 20:22] = 1  # type: ignore[index]
    slices = _slices(_draw(write_stacks([stack]), LARGE, 60))
    assert set(slices[:, 1]) == {3, 4, 5}


def _disc(side: int, radius: float) -> dict[str, object]:
    """A cylinder in the middle of a few slices; the image is the mask."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    labels = np.repeat(((x**2 + y**2) <= radius**2)[None], 4, axis=0).astype(np.uint8)
    return {"image": labels * np.uint8(255), "labels": labels}


def _agreement(clips: CompactClips) -> float:
    """Of the worst slice, the share of pixels whose grey is that of their own side of the outline."""
    shares = []
    for image, target in zip(clips.images[:, 1:-1].flatten(0, 1), clips.targets.flatten(0, 1), strict=True):
        mask = target > 0.5
        inside, outside = image[mask].mean(), image[~mask].mean()
        is_inside = (image - inside).abs() < (image - outside).abs()
        shares.append(float((is_inside == mask).float().mean()))
    return min(shares)


# Seen as it is, enlarged, and reduced so that a mean is taken first.
@pytest.mark.parametrize(("side", "radius"), [(96, 30.0), (64, 10.5), (701, 220.0)], ids=str)
@pytest.mark.parametrize("augment", [False, True])
def test_masks_lie_on_the_image(write_stacks: WriteStacks, side: int, radius: float, augment: bool) -> None:
    stacks = write_stacks([_disc(side, radius)])
    size = 48
    clips = _draw(stacks, LARGE, 12, clip_length=2, size=size, augment=augment)
    if augment:
        assert _agreement(clips) > 0.95
    else:
        assert torch.equal(clips.images[:, 1:-1] > 0.5, clips.targets > 0.5)
    pixel = torch.arange(size) - (size - 1) / 2
    for target in clips.targets.flatten(0, 1):
        middle = (target * pixel).sum() / target.sum(), (target * pixel[:, None]).sum() / target.sum()
        assert max(abs(float(offset)) for offset in middle) < 0.5, "the view lies on the object's middle"
        # The view's side is twice the object's, or up to a tenth more or less than that.
        diameter = 2 * math.sqrt(float(target.sum()) / math.pi) / size
        assert diameter == pytest.approx(0.5, rel=0.16 if augment else 0.05)
        columns, rows = (int(target.any(dim=dim).sum()) for dim in (0, 1))
        assert abs(columns - rows) <= 1, "it is neither stretched nor sheared"


def test_clips_are_turned_and_mirrored(write_stacks: WriteStacks) -> None:
    stack = _disc(64, 0.1)
    for part, value in (("image", 255), ("labels", 1)):  # a pointer to the right, longer above
        stack[part][:, 20:44, 26:30] = value  # type: ignore[index]
        stack[part][:, 20:24, 30:40] = value  # type: ignore[index]
    clips = _draw(write_stacks([stack]), LARGE, 24, clip_length=1, size=32, augment=True)
    assert _agreement(clips) > 0.95
    assert len({target.numpy().tobytes() for target in clips.targets}) > 20
    # No turn changes the sign of this product of moments, a mirror does.
    pixel = np.arange(32)
    places = pixel[None, :] + 1j * pixel[:, None]
    hands = set()
    for target in clips.targets[:, 0].numpy():
        z = (places - (places * target).sum() / target.sum()) * target
        hands.add(np.sign(((z**2).sum() * (np.abs(z) ** 2 * z.conj()).sum() ** 2).imag))
    assert hands == {-1, 1}


def test_far_clips_show_the_object_smaller(write_stacks: WriteStacks) -> None:
    stacks = write_stacks([_disc(128, 12.0)])
    far = DataConfig(zoom=(2.0, 2.0), min_side=(1, 1), center_shift=0.0, far_share=0.5, far_zoom=(4.0, 4.0))
    areas = _draw(stacks, far, 30, clip_length=1, size=32).targets.sum(dim=(1, 2, 3))
    near = areas > 1.5 * areas.min()
    assert 5 < int(near.sum()) < 25
    assert float(areas[near].mean() / areas[~near].mean()) == pytest.approx(4, rel=0.1)


def test_beyond_the_edge_is_black_or_goes_on(write_stacks: WriteStacks) -> None:
    labels = np.zeros((3, 16, 16), np.uint8)
    labels[:, 4:12, 4:12] = 1
    stacks = write_stacks([{"image": np.full(labels.shape, 200, np.uint8), "labels": labels}])
    wide = DataConfig(zoom=(4.0, 4.0), min_side=(1, 1), center_shift=0.0)
    corners = _draw(stacks, wide, 20, clip_length=1).images[:, 1, 0, 0].tolist()
    assert {round(grey * 255) for grey in corners} == {0, 200}


def test_objects_that_are_too_small_are_refused(write_stacks: WriteStacks) -> None:
    stack = _numbered(3, 0, 2)
    with pytest.raises(InputError, match=r"no object .* in 60 draws; an object needs 200 pixels in a slice"):
        _draw(write_stacks([stack]), DataConfig(min_area=200), 1)
