"""Sessions over video: what a session over a volume finds, in the order of the frames and in flat memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medsam2.errors import InputError, PromptError, SessionError
from medsam2.imaging.intensity import Window
from medsam2.imaging.volume import Volume
from medsam2.inference.batching import work_together
from medsam2.inference.features import PIXEL_MEAN, PIXEL_STD, SliceFeatures
from medsam2.inference.predictor import Predictor
from medsam2.inference.propagate import start_track, visit
from medsam2.inference.runtime import InferenceOptions, Runtime, start_runtime
from medsam2.inference.track import ARCHIVE_DISTANCE
from medsam2.inference.video import FrameMasks
from medsam2.inference.zoom import View, whole_slice
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.prompts.types import prompt_from

WHOLE = InferenceOptions(zoom=False)
BOX, OTHER_BOX = (18, 12, 37, 25), (10, 8, 30, 30)


class CountedFrames:
    """Frames that can only be had one by one, and are counted."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.read: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> np.ndarray:
        assert isinstance(index, int), "one frame at a time"
        self.read.append(index)
        return self.array[index]


@pytest.fixture
def greys() -> np.ndarray:
    grey = np.random.default_rng(3).integers(0, 60, (12, 40, 56)).astype(np.uint8)
    grey[2:9, 12:26, 18:38] += 150
    return grey


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (7, 40, 56, 3)).astype(np.uint8)


def _labels_of_volume(runtime: Runtime, greys: np.ndarray, prompts: list[tuple[int, int]]) -> np.ndarray:
    options = dataclasses.replace(WHOLE, keep_component=False, stop_after=0)
    volume = Volume.from_array(greys)
    session = Predictor(runtime).session(volume, window=(0.0, 255.0), options=options)
    for number, (key, box) in enumerate(zip(*_split(prompts), strict=True), start=1):
        session.add(number, slice=key, box=box)
    for _ in session.propagate():
        pass
    return session.result().array


def _split(prompts: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, ...]]]:
    return [key for key, _ in prompts], [(BOX, OTHER_BOX)[which] for _, which in prompts]


@pytest.mark.parametrize(
    "prompts", [[(0, 0)], [(11, 0)], [(5, 0)], [(7, 0), (3, 1)], [(2, 1), (9, 0), (9, 1)]]
)
def test_masks_are_those_of_a_volume_in_the_order_of_frames(
    runtime: Runtime, greys: np.ndarray, prompts: list[tuple[int, int]]
) -> None:
    expected = _labels_of_volume(runtime, greys, prompts)
    session = Predictor(runtime).video(greys, options=WHOLE)
    for number, (key, box) in enumerate(zip(*_split(prompts), strict=True), start=1):
        session.add(number, frame=key, box=box)
    found: list[FrameMasks] = list(session.propagate())
    assert [one.index for one in found] == list(range(12))
    np.testing.assert_array_equal(np.stack([one.labels for one in found]), expected)
    assert expected.any(), "masks of chance, but masks"
    assert all(one.scores.keys() == set(range(1, len(prompts) + 1)) for one in found)
    again = list(session.propagate())
    assert all((a.labels == b.labels).all() for a, b in zip(found, again, strict=True))


def test_several_prompts_of_an_object_all_hold(runtime: Runtime, greys: np.ndarray) -> None:
    session = Predictor(runtime).video(greys, options=WHOLE)
    drawn = np.zeros((40, 56), bool)
    drawn[4:20, 6:30] = True
    session.add(1, frame=6, box=BOX)
    shown = session.add(1, frame=2, mask=drawn)
    found = list(session.propagate())
    np.testing.assert_array_equal(found[2].labels > 0, shown)
    assert (shown == drawn).mean() > 0.95
    alone = Predictor(runtime).video(greys, options=WHOLE)
    alone.add(1, frame=6, box=BOX)
    apart = [(a.labels != b.labels).any() for a, b in zip(found, alone.propagate(), strict=True)]
    assert sum(apart) > 3, "the second prompt is looked back at"


def test_a_frame_is_prompted_and_given_as_a_slice_of_a_session(runtime: Runtime, greys: np.ndarray) -> None:
    """The same calls on a volume and on a video: the same masks, in another order."""
    options = dataclasses.replace(WHOLE, keep_component=False, stop_after=0)
    volume = Predictor(runtime).session(Volume.from_array(greys), window=(0.0, 255.0), options=options)
    video = Predictor(runtime).video(greys, options=WHOLE)
    for session in (volume, video):
        session.add(1, slice=5, box=BOX)
        session.add(2, slice=5, box=OTHER_BOX)
        session.add(1, slice=5, points=[(30, 20)], labels=[0])
        session.add(1, prompt_from(5, points=[(20, 15)]))
        session.add(2, slice=3, box=BOX)
        session.remove(2, slice=3)
    volume.finish()
    seen = []
    for index, masks in video.propagate():
        seen.append(index)
        assert masks.keys() == {1, 2}
        for number, mask in masks.items():
            np.testing.assert_array_equal(mask, volume.mask(number)[index])
    assert seen == list(range(12))
    assert repr(video) == "VideoSession(12 frames of 40 x 56 pixels, objects [1, 2])"
    video.remove(2)
    assert video.objects == [1]
    with pytest.raises(SessionError, match="there is no object 2; objects are"):
        video.remove(2)
    with pytest.raises(SessionError, match="frame 5 has the object's only prompt"):
        video.remove(1, frame=5)
    with pytest.raises(SessionError, match=r"no prompt on frame 4; prompts are on \[5\]"):
        video.remove(1, frame=4)
    with pytest.raises(PromptError, match="two names of one number, and not 3 and 4"):
        video.add(1, slice=3, frame=4, box=BOX)


def test_points_join_and_a_box_begins_anew(runtime: Runtime, greys: np.ndarray) -> None:
    volume = Predictor(runtime).session(
        Volume.from_array(greys),
        window=(0.0, 255.0),
        options=dataclasses.replace(WHOLE, keep_component=False),
    )
    video = Predictor(runtime).video(greys, options=WHOLE)
    click = {"points": [(30, 20)], "labels": [0]}
    for given in ({"mask": np.eye(40, 56)}, {"box": BOX}, click, {"points": [(20, 15)]}, {"box": OTHER_BOX}):
        np.testing.assert_array_equal(video.add(1, frame=4, **given), volume.add(1, slice=4, **given))


def test_frames_are_read_as_they_are_reached(runtime: Runtime, greys: np.ndarray) -> None:
    frames = CountedFrames(greys)
    session = Predictor(runtime).video(frames, options=WHOLE)
    assert session.shape == (12, 40, 56)
    session.add(1, frame=3, box=BOX)
    assert frames.read == [0, 3]
    run = session.propagate()
    next(run)
    assert set(frames.read) == {0, 1, 2, 3}
    next(run)
    run.close()
    assert max(frames.read) == 3


@pytest.mark.parametrize("memory", ["recent", "self-sorting"])
def test_what_lies_far_behind_is_released_and_changes_nothing(runtime: Runtime, memory: str) -> None:
    grey = np.random.default_rng(0).integers(0, 200, (55, 24, 32)).astype(np.uint8)
    options = InferenceOptions(zoom=False, keep_component=False, stop_after=0, memory=memory)
    masks: list[dict[int, np.ndarray]] = []
    for releases in (False, True):
        track = start_track(SliceFeatures(runtime, grey, None), options)
        found = {}
        with runtime.computing():
            work_together([track.add(prompt_from(0, box=(4, 4, 20, 16)))])
            for z, _ in visit({1: track}, (1,)):
                found[z] = track.mask(z)
                if releases:
                    track.release(z, 1)
                    limit = ARCHIVE_DISTANCE + len(track.banks.of(z, 1).pool)
                    assert len(track.results) <= limit
                    assert len(track.banks.of(z, 1).tracked) <= limit
                    assert len(track.memory_views) <= limit
        masks.append(found)
    assert all((masks[0][z] == masks[1][z]).all() for z in range(55))
    assert 0 in track.results, "a prompted frame stays"


def test_an_absent_object_is_followed_to_the_end(network: Network, greys: np.ndarray) -> None:
    nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, -50.0)
    runtime = start_runtime(network, device="cpu", precision="float32")
    session = Predictor(runtime).video(greys, options=WHOLE)
    session.add(1, frame=0, box=BOX)
    found = list(session.propagate())
    assert len(found) == 12
    assert not any(one.labels.any() for one in found)
    assert {score for one in found for score in one.scores.values()} == {0.0}


@pytest.mark.parametrize("prompts", [[(5, 0)], [(7, 0), (3, 1)]])
def test_the_compact_network_follows_frames_as_slices(
    compact_network: CompactNetwork, greys: np.ndarray, prompts: list[tuple[int, int]]
) -> None:
    runtime = start_runtime(compact_network, device="cpu", precision="float32")
    expected = _labels_of_volume(runtime, greys, prompts)
    session = Predictor(runtime).video(greys, options=WHOLE)
    for number, (key, box) in enumerate(zip(*_split(prompts), strict=True), start=1):
        session.add(number, frame=key, box=box)
    found = np.stack([one.labels for one in session.propagate()])
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.astype(bool).mean() < 1, "masks of chance, but masks"


def test_the_official_network_sees_colour(runtime: Runtime, colours: np.ndarray) -> None:
    features = SliceFeatures(runtime, colours, None)
    size = runtime.network.config.image_size
    seen = features.pixels(whole_slice((40, 56)), 2)[0].numpy()
    for channel in range(3):  # each channel resized alone, by the filter that is used for greys
        alone = Image.fromarray(colours[2, :, :, channel]).resize((size, size), Image.Resampling.BICUBIC)
        expected = (np.asarray(alone) / 255 - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
        np.testing.assert_allclose(seen[channel], expected, atol=1e-5)
    view = View(x=-6, y=-14, width=size, height=size, is_zoomed=True)
    cut = features.pixels(view, 2)[0].numpy() * np.array(PIXEL_STD)[:, None, None]
    restored = np.round((cut + np.array(PIXEL_MEAN)[:, None, None]) * 255)
    np.testing.assert_array_equal(restored[:, 14:54, 6:62], np.moveaxis(colours[2], 2, 0))
    assert not restored[:, :14].any()
    np.testing.assert_array_equal(features.grey(2), np.asarray(Image.fromarray(colours[2]).convert("L")))


def test_grey_frames_in_colour_are_grey_frames(runtime: Runtime, greys: np.ndarray) -> None:
    view = whole_slice((40, 56))
    plain = SliceFeatures(runtime, greys, Window(0.0, 255.0, source="caller"))
    coloured = SliceFeatures(runtime, np.repeat(greys[..., None], 3, axis=3), None)
    assert torch.equal(plain.pixels(view, 4), coloured.pixels(view, 4))


def test_the_compact_network_sees_luminance(compact_network: CompactNetwork, colours: np.ndarray) -> None:
    runtime = start_runtime(compact_network, device="cpu", precision="float32")
    grey = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in colours])
    view = whole_slice((40, 56))
    features = SliceFeatures(runtime, colours, None)
    seen = features.greys(view, 5)
    assert torch.equal(seen, SliceFeatures(runtime, grey, None).greys(view, 5))
    resized = Image.fromarray(grey[5]).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(seen[0].numpy(), np.asarray(resized) / 255, atol=1e-6)
    assert torch.equal(features.greys(view, -1), features.greys(view, 0)), "beyond the end, the last there is"
    assert torch.equal(features.greys(view, 7), features.greys(view, 6))
    session = Predictor(runtime).video(colours)
    session.add(1, frame=3, box=BOX)
    assert len(list(session.propagate())) == 7


def test_what_cannot_be_is_refused(runtime: Runtime, greys: np.ndarray) -> None:
    predictor = Predictor(runtime)
    session = predictor.video(greys)
    with pytest.raises(SessionError, match="add a box"):
        next(session.propagate())
    with pytest.raises(PromptError, match="frame 12 is outside the video: it has frames 0 to 11"):
        session.add(1, frame=12, box=BOX)
    with pytest.raises(PromptError, match="numbered 1 to 255, not 0"):
        session.add(0, frame=1, box=BOX)
    with pytest.raises(PromptError, match="0 to 55"):
        session.add(1, frame=1, box=(10, 10, 60, 20))
    assert session.objects == []
    with pytest.raises(InputError, match="keep_component"):
        predictor.video(greys, options=InferenceOptions(keep_component=True))
    with pytest.raises(InputError, match="uint8"):
        predictor.video(greys.astype(np.int16))
