"""Which labels stay."""

import numpy as np

from medsam2.synthesis.stack import tidy_labels


def test_what_cannot_be_seen_or_prompted_is_dropped_and_the_rest_renumbered() -> None:
    grey = np.zeros((4, 40, 40), dtype=np.float32)
    labels = np.zeros(grey.shape, dtype=np.uint8)
    labels[1:3, 5:12, 5:12] = 1  # as dark as its surroundings
    labels[1:3, 20:21, 5:7] = 3  # two pixels
    labels[1:3, 20:30, 20:30] = 5
    labels[0, 1:3, 30:33] = 5  # a stray piece
    grey[labels >= 3] = 0.5
    tidy = tidy_labels(grey, labels, 0.02)
    assert np.array_equal(np.unique(tidy), [0, 1])
    assert np.array_equal(tidy == 1, (labels == 5) & (np.arange(4)[:, None, None] > 0))


def test_an_object_may_touch_something_alike_on_one_side() -> None:
    grey = np.zeros((1, 40, 40), dtype=np.float32)
    labels = np.zeros(grey.shape, dtype=np.uint8)
    labels[0, 10:20, 10:20] = 1
    grey[0, 10:20, 10:30] = 0.5
    assert tidy_labels(grey, labels, 0.2).any()
    grey[0, 10:20, :] = 0.5
    assert not tidy_labels(grey, labels, 0.2).any()


def test_an_object_at_the_edge_of_the_picture_counts() -> None:
    grey = np.zeros((1, 40, 40), dtype=np.float32)
    labels = np.zeros(grey.shape, dtype=np.uint8)
    labels[0, 0:10, 10:20] = 1
    grey[labels == 1] = 0.5
    assert tidy_labels(grey, labels, 0.02).any()
