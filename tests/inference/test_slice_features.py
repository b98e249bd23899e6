"""Slices are read when they are asked for, encoded once, and forgotten when there is no room."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2.imaging.intensity import Window
from medsam2.inference.features import SliceFeatures
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.inference.zoom import View, whole_slice
from medsam2.model.network import Network

SHAPE = (6, 40, 56)
WHOLE = whole_slice(SHAPE[1:])
WINDOW = Window(0.0, 255.0, source="caller")


class CountedSlices:
    """An array that notes which slices are read, and cannot be read as a whole."""

    shape = SHAPE

    def __init__(self) -> None:
        self.array = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.int16)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> np.ndarray:
        assert isinstance(index, int), "one slice at a time"
        self.read.append(index)
        return self.array[index]

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise AssertionError("the whole volume was read")


@pytest.fixture
def slices() -> CountedSlices:
    return CountedSlices()


def _bytes_of_one(runtime: Runtime) -> int:
    features = SliceFeatures(runtime, CountedSlices(), WINDOW)
    with runtime.computing():
        levels = features.encode(WHOLE, 0)
    return sum(t.numel() * t.element_size() for t in (levels.level0, levels.level1, levels.level2))


def test_only_the_slices_asked_for_are_read(runtime: Runtime, slices: CountedSlices) -> None:
    features = SliceFeatures(runtime, slices, WINDOW)
    assert (features.num_slices, features.shape_yx) == (6, (40, 56))
    assert slices.read == []
    with runtime.computing():
        first = features.encode(WHOLE, 4)
        features.encode(WHOLE, 1)
        assert torch.equal(features.encode(WHOLE, 4).level2, first.level2)
    assert slices.read == [4, 1]


def test_another_view_is_encoded_anew(runtime: Runtime, slices: CountedSlices) -> None:
    features = SliceFeatures(runtime, slices, WINDOW)
    zoomed = View(x=4, y=4, width=32, height=32, is_zoomed=True)
    with runtime.computing():
        whole, part = features.encode(WHOLE, 2), features.encode(zoomed, 2)
    assert not torch.equal(whole.level2, part.level2)
    assert slices.read == [2, 2]


def test_the_least_recently_used_slice_goes_first(runtime: Runtime, slices: CountedSlices) -> None:
    features = SliceFeatures(runtime, slices, WINDOW, cache_bytes=2 * _bytes_of_one(runtime))
    with runtime.computing():
        for z in (0, 1, 0, 2, 0, 1):
            features.encode(WHOLE, z)
    # 2 pushes 1 out, not 0, which was used since; 1 is read again.
    assert slices.read == [0, 1, 2, 1]


def test_a_cache_without_room_still_holds_the_current_slice(runtime: Runtime, slices: CountedSlices) -> None:
    features = SliceFeatures(runtime, slices, WINDOW, cache_bytes=1)
    with runtime.computing():
        for z in (0, 0, 1, 1, 0):
            features.encode(WHOLE, z)
    assert slices.read == [0, 1, 0]


def test_a_slice_found_again_is_the_same_in_half_the_bytes(network: Network, slices: CountedSlices) -> None:
    runtime = start_runtime(network, device="cpu", precision="bfloat16")
    features = SliceFeatures(runtime, slices, WINDOW, cache_bytes=_bytes_of_one(runtime))  # two at half size
    with runtime.computing():
        first = features.encode(WHOLE, 4)
        features.encode(WHOLE, 1)
        again = features.encode(WHOLE, 4)
    assert slices.read == [4, 1]
    assert first.level0.dtype == torch.float32
    for name in ("level0", "level1", "level2"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_the_window_decides_what_is_black_and_white(runtime: Runtime, slices: CountedSlices) -> None:
    features = SliceFeatures(runtime, slices, Window(50.0, 100.0, source="caller"))
    grey = features.grey(3)
    raw = slices.array[3]
    assert grey.dtype == np.uint8
    assert (grey[raw <= 50] == 0).all()
    assert (grey[raw >= 100] == 255).all()
    np.testing.assert_array_equal(grey[raw == 75], 127)
