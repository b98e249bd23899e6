"""Objects that move, grow and end, followed by a compact network that marks bright pixels; long walks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from medsam2.imaging.volume import Volume
from medsam2.inference import zoom
from medsam2.inference.batching import work_together
from medsam2.inference.carried_track import CarriedTrack
from medsam2.inference.features import SliceFeatures
from medsam2.inference.predictor import Predictor
from medsam2.inference.propagate import start_track, visit
from medsam2.inference.runtime import InferenceOptions, Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.inference.track import ARCHIVE_DISTANCE
from medsam2.model.compact.network import CompactNetwork
from medsam2.prompts.types import Prompt, prompt_from


@pytest.fixture(autouse=True)
def _known_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of two and a half boxes, whatever suits the weights: their numbers are written out here."""
    monkeypatch.setattr(zoom, "CLOSE_ZOOM", 2.5)


EVERYWHERE = InferenceOptions(zoom=False, keep_component=False, stop_after=0)
ZOOMED = InferenceOptions(zoom=True)
BOX = (10, 8, 21, 16)
MOVING = (160, 220)  # height and width of slices in which a square moves


@pytest.fixture
def runtime(compact_network: CompactNetwork) -> Runtime:
    """Weights of chance, in float32."""
    return start_runtime(compact_network, device="cpu", precision="float32")


@pytest.fixture
def bright(bright_network: CompactNetwork) -> Runtime:
    """Weights that mark what is brighter than half."""
    return start_runtime(bright_network, device="cpu", precision="float32")


@pytest.fixture
def long_grey() -> np.ndarray:
    grey = np.random.default_rng(7).integers(0, 60, (44, 24, 32)).astype(np.uint8)
    grey[:, 8:17, 10:22] += 150
    return grey


def _session(runtime: Runtime, grey: np.ndarray, options: InferenceOptions = EVERYWHERE) -> Session:
    return Predictor(runtime).session(Volume.from_array(grey), window=(0, 255), options=options)


def _run(session: Session) -> None:
    for _ in session.propagate():
        pass


def _followed(runtime: Runtime, grey: np.ndarray, prompt: Prompt, options: InferenceOptions) -> CarriedTrack:
    """A track after all slices, to look at its views."""
    track = start_track(SliceFeatures(runtime, grey, None), options)
    assert isinstance(track, CarriedTrack)
    with runtime.computing():
        work_together([track.add(prompt)])
        for _ in visit({1: track}):
            pass
    return track


def _painted(truth: np.ndarray) -> np.ndarray:
    """Bright where the truth is, dark noise elsewhere."""
    grey = np.random.default_rng(6).integers(0, 60, truth.shape).astype(np.uint8)
    grey[truth] = 220
    return grey


@pytest.mark.parametrize("key", [0, 20, 39])
def test_the_view_follows_an_object_that_moves(bright: Runtime, key: int) -> None:
    truth = np.zeros((40, *MOVING), bool)
    for z in range(40):
        truth[z, 60:76, 20 + 3 * z : 36 + 3 * z] = True
    grey = _painted(truth)
    grey[:, 120:140, 10:210] = 220  # something else as bright, which stays where it is
    left = 20 + 3 * key
    track = _followed(bright, grey, prompt_from(key, box=(left, 60, left + 15, 75)), ZOOMED)
    assert sorted(track.results) == list(range(40))
    for z, result in track.results.items():
        np.testing.assert_array_equal(track.mask(z), truth[z], err_msg=f"slice {z}")
        assert result.view.width == result.view.height == 48
        middle = result.view.x + (result.view.width - 1) / 2
        is_at_edge = result.view.x in (0, MOVING[1] - 48)
        assert abs(middle - (27.5 + 3 * z)) <= 0.1 * 48 + 3.5 or is_at_edge, f"slice {z}"
    assert len({result.view.x for result in track.results.values()}) > 10


def test_the_view_grows_and_shrinks_with_the_object(bright: Runtime) -> None:
    sides = [20, 20, 24, 40, 70, 100, 100, 60, 30, 16, 10, 10]
    truth = np.zeros((len(sides), 300, 320), bool)
    for z, side in enumerate(sides):
        truth[z, 150 - side // 2 : 150 + side // 2, 160 - side // 2 : 160 + side // 2] = True
    track = _followed(bright, _painted(truth), prompt_from(0, box=(150, 140, 169, 159)), ZOOMED)
    widths = [track.results[z].view.width for z in range(len(sides))]
    for z in range(len(sides)):
        found = track.mask(z)
        assert (found & truth[z]).sum() / (found | truth[z]).sum() > 0.85, f"slice {z}"
    assert widths[0] == 50
    assert max(widths) > 200
    assert widths[-1] < 75
    assert all(a / 1.5 - 1 <= b <= a * 1.5**4 + 1 for a, b in itertools.pairwise(widths))


def test_a_part_that_does_not_touch_the_mask_before_is_dropped(bright: Runtime) -> None:
    truth = np.zeros((6, 100, 100), bool)
    truth[:, 40:60, 40:52] = True
    grey = _painted(truth)
    grey[3:, 44:56, 62:68] = 220  # appears beside it, within the view
    prompt = prompt_from(0, box=(40, 40, 51, 59))
    kept = _followed(bright, grey, prompt, ZOOMED)
    for z in range(6):
        np.testing.assert_array_equal(kept.mask(z), truth[z])
    everything = _followed(bright, grey, prompt, dataclasses.replace(ZOOMED, keep_component=False))
    np.testing.assert_array_equal(everything.mask(4), grey[4] > 128)


@pytest.mark.parametrize(("stop_after", "last"), [(None, 5), (3, 7), (0, 11)])
def test_a_direction_ends_where_a_compact_network_finds_nothing(
    bright: Runtime, stop_after: int | None, last: int
) -> None:
    truth = np.zeros((12, 80, 80), bool)
    truth[:5, 30:50, 30:50] = True
    truth[9:, 30:50, 30:50] = True  # comes back
    session = _session(bright, _painted(truth), dataclasses.replace(ZOOMED, stop_after=stop_after))
    session.add(1, slice=2, box=(30, 30, 49, 49))
    _run(session)
    assert sorted(session.scores(1)) == list(range(last + 1))
    expected = truth.copy()
    expected[5:] = False  # the part that holds the prompt
    np.testing.assert_array_equal(session.mask(1), expected)


def test_small_holes_are_filled_if_that_is_wanted(bright: Runtime) -> None:
    truth = np.zeros((4, 64, 64), bool)
    truth[:, 20:44, 20:44] = True
    truth[:, 30:32, 30:32] = False
    for area in (0, 4):
        options = InferenceOptions(zoom=False, fill_hole_area=area)
        session = _session(bright, _painted(truth), options)
        session.add(1, slice=1, box=(20, 20, 43, 43))
        _run(session)
        assert session.mask(1)[:, 31, 31].tolist() == [area > 0] * 4
        assert session.mask(1)[:, 30:32, 30:32].all() == (area > 0)
        assert session.mask(1)[:, 20:44, 20:44].sum() == 4 * (576 if area else 572)


def test_results_far_behind_are_archived_and_their_masks_stay(
    runtime: Runtime, long_grey: np.ndarray
) -> None:
    session = _session(runtime, long_grey)
    session.add(1, slice=0, box=BOX)
    seen = {z: masks[1] for z, masks in session.propagate()}
    dtypes = {z: session.frame(1, z).low_res_logits.dtype for z in range(44)}
    archived = range(1, 44 - ARCHIVE_DISTANCE)
    assert [z for z in dtypes if dtypes[z] == torch.float16] == list(archived)
    assert dtypes[0] == torch.float32, "a prompted slice is kept as it is"
    mask = session.mask(1)
    for z, found in seen.items():
        np.testing.assert_array_equal(mask[z], found, err_msg=f"slice {z}")
    assert 0.05 < mask.mean() < 0.95
    session.add(1, slice=6, points=[(30, 20)], labels=[0])
    _run(session)
    assert sorted(session.scores(1)) == list(range(44))


@pytest.mark.parametrize("memory", ["recent", "self-sorting"])
def test_releasing_what_lies_far_behind_changes_nothing_that_is_found(
    runtime: Runtime, long_grey: np.ndarray, memory: str
) -> None:
    options = dataclasses.replace(EVERYWHERE, memory=memory)
    found: list[dict[int, torch.Tensor]] = []
    for releases in (False, True):
        track = start_track(SliceFeatures(runtime, long_grey, None), options)
        logits = {}
        with runtime.computing():
            work_together([track.add(prompt_from(0, box=BOX))])
            for z, _ in visit({1: track}, (1,)):
                logits[z] = track.results[z].frame.low_res_logits
                if releases:
                    track.release(z, 1)
                    limit = ARCHIVE_DISTANCE + len(track.banks.of(z, 1).pool)
                    assert len(track.results) <= limit
                    assert len(track.banks.of(z, 1).tracked) <= limit
        found.append(logits)
    assert all(torch.equal(found[0][z], found[1][z]) for z in range(44))
    assert 0 in track.results, "a prompted frame stays"


def test_each_memory_policy_chooses_what_is_looked_back_at(runtime: Runtime, long_grey: np.ndarray) -> None:
    found: dict[str, list[torch.Tensor]] = {}
    for memory in ("recent", "self-sorting"):
        session = _session(runtime, long_grey[:24], dataclasses.replace(EVERYWHERE, memory=memory))
        session.add(1, slice=0, box=BOX)
        _run(session)
        session.add(1, slice=6, points=[(20, 12)])
        _run(session)
        assert sorted(session.scores(1)) == list(range(24))
        found[memory] = [session.frame(1, z).low_res_logits for z in (3, 23)]
    (near, far), (near_sorting, far_sorting) = found["recent"], found["self-sorting"]
    assert torch.equal(near, near_sorting), "of up to six slices both take all"
    assert (far - far_sorting).abs().max() > 1e-4


def test_bfloat16_finds_nearly_the_same(compact_network: CompactNetwork, long_grey: np.ndarray) -> None:
    masks = []
    for precision in ("float32", "bfloat16"):
        runtime = start_runtime(compact_network, device="cpu", precision=precision)
        session = _session(runtime, long_grey[:6])
        session.add(1, slice=1, box=BOX)
        _run(session)
        masks.append(session.mask(1))
        assert session.frame(1, 3).low_res_logits.dtype == torch.float32
    assert (masks[0] == masks[1]).mean() > 0.97


def test_several_prompts_in_a_video_hold_as_in_a_volume(runtime: Runtime, long_grey: np.ndarray) -> None:
    frames = long_grey[:14]
    session = _session(runtime, frames)
    video = Predictor(runtime).video(frames, options=InferenceOptions(zoom=False))
    for z, box in ((3, BOX), (10, (4, 4, 20, 20))):
        session.add(1, slice=z, box=box)
        video.add(1, frame=z, box=box)
    _run(session)
    found = np.stack([one.labels for one in video.propagate()])
    np.testing.assert_array_equal(found, session.result().array)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_prompt_works_on_a_graphics_card(compact_network: CompactNetwork) -> None:
    grey = np.random.default_rng(8).integers(0, 255, (6, 200, 200)).astype(np.uint8)
    runtime = start_runtime(compact_network, device="cuda", precision="float32")
    drawn = np.zeros((200, 200), bool)
    drawn[80:120, 90:130] = True
    prompts = ({"box": (80, 80, 120, 120)}, {"points": [(100, 100)]}, {"mask": drawn})
    for memory in ("recent", "self-sorting"):
        for number, prompt in enumerate(prompts, start=1):
            session = _session(runtime, grey, InferenceOptions(zoom=True, memory=memory, stop_after=0))
            session.add(number, slice=2, **prompt)
            _run(session)
            session.add(number, slice=4, points=[(100, 100), (10, 10)], labels=[1, 0])
            _run(session)
            assert sorted(session.scores(number)) == list(range(6))
