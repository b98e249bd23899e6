"""Greys changed as each modality changes them: by chance, the same from the same chance, masks untouched."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.training.augment import change_as_modality

CLIP = np.random.default_rng(0).integers(40, 200, (3, 48, 48)).astype(np.uint8)
MODALITIES = ("CT", "MR", "US", None)


@pytest.mark.parametrize("modality", MODALITIES)
def test_changes_follow_from_the_state_of_chance(modality: str | None) -> None:
    first, again = (
        [change_as_modality(CLIP, modality, np.random.default_rng(seed)) for seed in range(12)]
        for _ in range(2)
    )
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(one.shape == CLIP.shape and one.dtype == np.uint8 for one in first)
    num_changed = sum(not np.array_equal(one, CLIP) for one in first)
    assert 0 < num_changed <= 12
    assert len({one.tobytes() for one in first}) > 2


def test_modalities_change_differently() -> None:
    def changed(modality: str | None) -> bytes:
        return b"".join(
            change_as_modality(CLIP, modality, np.random.default_rng(seed)).tobytes() for seed in range(8)
        )

    assert len({changed(modality) for modality in ("CT", "MR", "US")}) == 3
    assert changed("CT") == changed(None), "what is not known is treated as CT"


def test_slices_are_not_smoothed_into_each_other() -> None:
    clip = np.zeros((3, 32, 32), np.uint8)
    clip[1] = 200
    for seed in range(20):
        changed = change_as_modality(clip, "US", np.random.default_rng(seed))
        assert changed[0].mean() < 25
