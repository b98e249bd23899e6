"""Labels: components and run lengths, with scikit-image as the second opinion."""

import numpy as np
import pytest
import skimage.measure
from scipy import ndimage

from medsam2.errors import GeometryError
from medsam2.imaging.labels import (
    ConnectedParts,
    bounding_box,
    coco_counts,
    connected_through,
    from_coco_counts,
    from_run_lengths,
    largest_component,
    run_lengths,
)

SHAPES = [(30, 40), (12, 20, 30)]


def components_overlapping(mask, seed):
    """Return the components of a mask that share at least one voxel with another mask."""
    labels = skimage.measure.label(mask, connectivity=mask.ndim)
    return np.isin(labels, np.setdiff1d(labels[seed], 0))


def blobs(shape, seed):
    """Return a random mask with many components and holes, away from some of the borders."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    mask = noise > 0.1
    mask[:2] = False
    mask[..., -3:] = False
    return mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_components_agree_with_skimage(shape, seed):
    mask = blobs(shape, seed)
    labels = skimage.measure.label(mask, connectivity=mask.ndim)
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    assert np.array_equal(largest_component(mask), largest)


def test_corners_connect():
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    mask[2, 3, 4] = True
    assert largest_component(mask).sum() == 2
    assert largest_component(np.eye(4, dtype=bool)).sum() == 4


def test_of_equals_the_first_is_largest():
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], bool)
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_mask_stays_empty(shape):
    empty = np.zeros(shape, bool)
    assert bounding_box(empty) is None
    assert not largest_component(empty).any()


def test_bounding_box_just_holds_the_mask():
    mask = np.zeros((6, 7, 8), bool)
    mask[2:4, 3, 1:8] = True
    assert bounding_box(mask) == (slice(2, 4), slice(3, 4), slice(1, 8))


@pytest.mark.parametrize("seed", range(6))
def test_slice_by_slice_gives_the_components_of_the_whole(seed):
    mask = blobs((14, 20, 30), seed)
    mask[9] &= seed % 2 == 0  # an empty slice parts what lies on its two sides
    seeds = {4: np.zeros((20, 30), bool), 6: np.zeros((20, 30), bool)}
    seeds[4][3:8, 3:8] = True
    seeds[6][15, 20] = True
    whole = np.zeros(mask.shape, bool)
    for z, seed_plane in seeds.items():
        whole[z] = seed_plane
    expected = components_overlapping(mask, whole)
    slices = [z for z in range(14) if z not in (0, 1)]
    kept = connected_through(lambda z: mask[z], slices, seeds)
    for z in slices:
        assert np.array_equal(kept(z), expected[z])
    assert expected.any()
    assert expected.sum() < mask.sum()


@pytest.mark.parametrize("seed", range(4))
def test_parts_that_are_connected_later_are_told_when_they_are(seed):
    mask = blobs((14, 20, 30), seed)
    order = np.random.default_rng(seed).permutation(14).tolist()
    whole = np.zeros(mask.shape, bool)
    whole[order[3], 5:12, 5:20] = True
    parts, kept = ConnectedParts(lambda z: mask[z]), {}
    for z in order:
        changed = parts.add(z, whole[z])
        kept |= {other: parts.kept(other) for other in {z, *changed}}
        assert z not in changed
    expected = components_overlapping(mask, whole & mask)
    assert expected.any()
    assert all(np.array_equal(kept[z], expected[z]) for z in order)


def test_slices_that_were_not_visited_part_what_lies_beyond():
    mask = np.ones((5, 4, 4), bool)
    kept = connected_through(lambda z: mask[z], [0, 1, 3, 4], {0: mask[0]})
    assert [bool(kept(z).any()) for z in (0, 1, 3, 4)] == [True, True, False, False]


def test_a_corner_connects_two_slices():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = mask[1, 0, 3] = True
    kept = connected_through(lambda z: mask[z], [0, 1], {0: mask[0]})
    assert np.argwhere(kept(1)).tolist() == [[2, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_come_back(seed):
    mask = blobs((30, 40), seed)
    lengths = run_lengths(mask)
    assert lengths.sum() == mask.size
    assert np.array_equal(from_run_lengths(lengths, mask.shape), mask)


def test_known_run_lengths():
    assert run_lengths(np.array([[0, 0, 1], [1, 1, 0]], bool)).tolist() == [2, 3, 1]
    assert run_lengths(np.ones((2, 2), bool)).tolist() == [0, 4]
    assert run_lengths(np.zeros((2, 2), bool)).tolist() == [4]
    assert from_run_lengths(np.array([0, 4]), (2, 2)).all()


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        # By hand: runs of the columns, 48 added to each group of five bits; 32 more where a group follows.
        (np.zeros((2, 3), bool), "6"),
        (np.ones((2, 3), bool), "06"),
        (np.array([[0, 1], [1, 1]], bool), "13"),
        (np.zeros((5, 8), bool), "X1"),  # 40 = 8 + 1 * 32
        (np.zeros((4, 4), bool), "`0"),  # 16: bit 4 alone would read as negative, so a group of zeros follows
        (np.array([[0, 1, 0, 1, 1, 0]], bool), "11110"),  # 1 1 1 2 1, the last two less those two before
        (np.array([[0, 0, 0, 1, 1, 0, 1, 0]], bool), "321O0"),  # 3 2 1 1 1: 1 - 2 = -1 is written as O
    ],
)
def test_coco_counts_are_those_of_the_format(mask, counts):
    assert coco_counts(mask) == counts
    assert np.array_equal(from_coco_counts(counts, mask.shape), mask)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (30, 40), (256, 257)])
def test_coco_counts_come_back(shape, seed):
    mask = blobs(shape, seed) if seed else np.random.default_rng(0).random(shape) < 0.5
    assert np.array_equal(from_coco_counts(coco_counts(mask), shape), mask)


@pytest.mark.parametrize(
    "counts", ["", "6", "X", "O6", "\u00e9", "P" * 20 + "9", "o" * 1_000_000], ids=range(7)
)
def test_counts_of_another_mask_are_refused(counts):
    with pytest.raises(GeometryError, match="run lengths"):
        from_coco_counts(counts, (3, 3))
