"""The compact network in a session: what it is shown slice by slice, and what is kept and redone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medsam2.imaging.volume import Volume
from medsam2.inference import zoom
from medsam2.inference.batching import work_together
from medsam2.inference.carried_track import CarriedTrack
from medsam2.inference.features import SliceFeatures
from medsam2.inference.masks import to_slice, to_view
from medsam2.inference.predictor import Predictor
from medsam2.inference.propagate import start_track, visit
from medsam2.inference.runtime import InferenceOptions, Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.inference.zoom import View, view_of_mask, views_of_clicks, whole_slice
from medsam2.model.compact.memory import CompactMemories
from medsam2.model.compact.network import CompactNetwork
from medsam2.prompts.types import Prompt, prompt_from
from medsam2.tracking.carried import Answer, answer_slice
from medsam2.tracking.planes import Known, Sight, draw_prompt
from medsam2.tracking.step import PromptTensors


@pytest.fixture(autouse=True)
def _known_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of two and a half boxes, whatever suits the weights: their numbers are written out here."""
    monkeypatch.setattr(zoom, "CLOSE_ZOOM", 2.5)


SIZE = 64
EVERYWHERE = InferenceOptions(zoom=False, keep_component=False, stop_after=0)
ZOOMED = dataclasses.replace(EVERYWHERE, zoom=True)
BOX = (18, 12, 37, 25)


@pytest.fixture
def runtime(compact_network: CompactNetwork) -> Runtime:
    """Weights of chance, in float32."""
    return start_runtime(compact_network, device="cpu", precision="float32")


@pytest.fixture
def bright(bright_network: CompactNetwork) -> Runtime:
    """Weights that mark what is brighter than half."""
    return start_runtime(bright_network, device="cpu", precision="float32")


def _noise(num_slices: int, height: int, width: int) -> np.ndarray:
    grey = np.random.default_rng(5).integers(0, 60, (num_slices, height, width)).astype(np.uint8)
    grey[:, height // 3 : height // 2, width // 3 : width // 2] += 150
    return grey


def _session(runtime: Runtime, grey: np.ndarray, options: InferenceOptions = EVERYWHERE) -> Session:
    return Predictor(runtime).session(Volume.from_array(grey), window=(0, 255), options=options)


def _run(session: Session) -> None:
    for _ in session.propagate():
        pass


def _logits(session: Session) -> dict[int, Tensor]:
    return {z: session.frame(1, z).low_res_logits for z in session.scores(1)}


def _same(first: dict[int, Tensor], second: dict[int, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[z], second[z]) for z in first)


def _followed(runtime: Runtime, grey: np.ndarray, prompt: Prompt, options: InferenceOptions) -> CarriedTrack:
    """A track after all slices, to look at the views."""
    track = start_track(SliceFeatures(runtime, grey, None), options)
    assert isinstance(track, CarriedTrack)
    with runtime.computing():
        work_together([track.add(prompt)])
        for _ in visit({1: track}):
            pass
    return track


def at_half_the_dice(answer: Answer) -> Answer:
    """The answer with logits above 0 where the probability p is above half of the predicted Dice.

    With the overlap J, half of the Dice is J / (1 + J), and p / (1 - p) is above J.
    """
    return answer.with_logits(answer.frame.low_res_logits - answer.frame.iou.log()[..., None, None])


class _Written:
    """The recurrence written out: everything but the network's own step is done by hand."""

    def __init__(self, network: CompactNetwork, grey: np.ndarray, views: dict[int, View]) -> None:
        self.network, self.grey, self.views = network, grey, views
        self.found: dict[int, Answer] = {}

    def greys(self, view: View, z: int) -> Tensor:
        plane = Image.fromarray(self.grey[min(max(z, 0), len(self.grey) - 1)])
        part = plane.crop((view.x, view.y, view.x + view.width, view.y + view.height))
        seen = np.array(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return torch.from_numpy(seen / np.float32(255))[None]

    def known(self, z: int, view: View) -> Known:
        logits = self.found[z].frame.low_res_logits
        if self.views[z] != view:
            logits = to_view(to_slice(logits, self.views[z], self.grey.shape[1:]), view, SIZE)
        return Known(grey=self.greys(view, z), inside=logits.sigmoid()[:, 0])

    def prompted(self, z: int, prompt: PromptTensors) -> None:
        view = self.views[z]
        sight = Sight(
            grey=self.greys(view, z), before=self.greys(view, z - 1), beyond=self.greys(view, z + 1),
            prompt=draw_prompt(prompt, 1, SIZE),
        )  # fmt: skip
        self.found[z] = at_half_the_dice(answer_slice(self.network, sight, None))

    def follow(self, key: int, step: int, last: int) -> None:
        passed: list[int] = []
        for z in range(key + step, last + step, step):
            view = self.views[z]
            before = self.known(z - step, view)
            sight = Sight(
                grey=self.greys(view, z), before=before.grey, beyond=self.greys(view, z + step),
                prior=before.inside, carried=before, key=self.known(key, view),
            )  # fmt: skip
            self.found[z] = answer_slice(self.network, sight, self.memories(z, view, [key, *passed[-6:]]))
            passed.append(z)

    def memories(self, z: int, view: View, slices: list[int]) -> CompactMemories:
        made = [self.found[other].remembered(self.network, other) for other in slices]
        seen_from = [self.views[other] for other in slices]
        return CompactMemories(
            spatial=[memory.spatial for memory in made if memory.spatial is not None],
            codes=[6, *reversed(range(len(slices) - 1))],
            squares=[
                (
                    (other.x - view.x) / view.width,
                    (other.y - view.y) / view.height,
                    other.width / view.width,
                )
                for other in seen_from
            ],
            pointers=[memory.pointer for memory in made],
            distances=[abs(z - other) / 15 for other in slices],
        )

    def compare(self, track: CarriedTrack) -> None:
        assert sorted(self.found) == sorted(track.results)
        for z, answer in self.found.items():
            frame = track.results[z].frame
            torch.testing.assert_close(
                frame.low_res_logits, answer.frame.low_res_logits, atol=1e-4, rtol=0, msg=f"slice {z}"
            )
            torch.testing.assert_close(frame.pointer, answer.frame.pointer, atol=1e-4, rtol=0)
            torch.testing.assert_close(frame.iou, answer.frame.iou, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_track_is_the_recurrence_written_out(runtime: Runtime, compact_network: CompactNetwork) -> None:
    grey, key = _noise(12, 40, 56), 3
    track = _followed(runtime, grey, prompt_from(key, box=BOX), EVERYWHERE)
    whole = whole_slice((40, 56))
    assert {result.view for result in track.results.values()} == {whole}
    written = _Written(compact_network, grey, dict.fromkeys(range(12), whole))
    corners = torch.tensor(np.array(BOX).reshape(1, 2, 2) * (SIZE / 56, SIZE / 40), dtype=torch.float32)
    written.prompted(key, PromptTensors(points=corners, labels=torch.tensor([[2, 3]])))
    written.follow(key, 1, 11)
    written.follow(key, -1, 0)
    written.compare(track)
    areas = [track.mask(z).mean() for z in range(12)]
    assert 0.1 < min(areas) < max(areas) < 0.9, "masks of chance, but masks"


@torch.inference_mode()
def test_a_zoomed_track_is_the_recurrence_in_changing_views(bright_network: CompactNetwork) -> None:
    torch.manual_seed(3)
    decoder = bright_network.decoder
    for weight in (decoder.narrow.weight, decoder.last[0].weight[1:], decoder.last[2].weight[:, 1:]):
        weight.add_(0.3 * torch.randn_like(weight))  # and of what else is seen and remembered, a little
    runtime = start_runtime(bright_network, device="cpu", precision="float32")
    grey, key = np.random.default_rng(5).integers(0, 60, (9, 150, 170)).astype(np.uint8), 4
    for z in range(9):  # moves, and grows towards the end
        grey[z, 60:76, 30 + 8 * z : 50 + 12 * z] = 220
    track = _followed(runtime, grey, prompt_from(key, box=(62, 60, 97, 75)), ZOOMED)
    views = {z: result.view for z, result in track.results.items()}
    assert views[key] == View(x=35, y=23, width=90, height=90, is_zoomed=True)
    assert len(set(views.values())) > 3
    written = _Written(runtime.network, grey, views)
    corners = torch.tensor([[[27, 37], [63, 53]]]) * (SIZE / 90) - torch.tensor([[0], [1]])
    written.prompted(key, PromptTensors(points=corners, labels=torch.tensor([[2, 3]])))
    written.follow(key, 1, 8)
    written.follow(key, -1, 0)
    written.compare(track)


@torch.inference_mode()
def test_without_the_prompted_slice_or_the_memories_it_would_be_another(
    runtime: Runtime, compact_network: CompactNetwork
) -> None:
    """The comparisons above would hold as well if the network looked at neither."""
    grey = _noise(12, 40, 56)
    track = _followed(runtime, grey, prompt_from(3, box=BOX), EVERYWHERE)
    view = whole_slice((40, 56))
    written = _Written(compact_network, grey, dict.fromkeys(range(12), view))
    corners = torch.tensor(np.array(BOX).reshape(1, 2, 2) * (SIZE / 56, SIZE / 40), dtype=torch.float32)
    written.prompted(3, PromptTensors(points=corners, labels=torch.tensor([[2, 3]])))
    written.follow(3, 1, 4)
    before = written.known(4, view)
    sight = Sight(grey=written.greys(view, 5), before=before.grey, beyond=written.greys(view, 6),
                  prior=before.inside, carried=before, key=written.known(3, view))  # fmt: skip
    found = track.results[5].frame.low_res_logits
    others = {
        "no memories": answer_slice(compact_network, sight, None),
        "no tracked memory": answer_slice(compact_network, sight, written.memories(5, view, [3])),
        "no key": answer_slice(
            compact_network, dataclasses.replace(sight, key=None), written.memories(5, view, [3, 4])
        ),
        "no prior": answer_slice(
            compact_network, dataclasses.replace(sight, prior=None), written.memories(5, view, [3, 4])
        ),
    }
    for name, answer in others.items():
        assert (answer.frame.low_res_logits - found).abs().max() > 1e-2, name


def test_undo_and_redo_give_the_same_bytes(runtime: Runtime) -> None:
    session = _session(runtime, _noise(12, 40, 56))
    session.add(1, slice=3, box=BOX)
    _run(session)
    first, first_mask = _logits(session), session.mask(1).tobytes()
    session.add(1, slice=9, points=[(30, 20)], labels=[0])
    _run(session)
    second, second_mask = _logits(session), session.mask(1).tobytes()
    assert not _same(first, second)
    assert session.undo()
    assert (_same(_logits(session), first), session.mask(1).tobytes()) == (True, first_mask)
    _run(session)
    assert _same(_logits(session), first), "there is nothing to compute"
    assert session.redo()
    _run(session)
    assert (_same(_logits(session), second), session.mask(1).tobytes()) == (True, second_mask)


def test_a_third_prompt_changes_what_lies_nearest_to_it_between_two_others(runtime: Runtime) -> None:
    session = _session(runtime, _noise(24, 40, 56))
    session.add(1, slice=2, box=BOX)
    session.add(1, slice=20, box=BOX)
    _run(session)
    first = _logits(session)
    session.add(1, slice=10, box=(20, 14, 40, 30))
    _run(session)
    second = _logits(session)
    changed = [z for z in range(24) if not torch.equal(first[z], second[z])]
    assert changed == list(range(7, 16)), "nearer to 10 than to 2 or 20; of two as near, the lower one"
    session.add(1, slice=20, points=[np.argwhere(session.mask(1)[20])[30][::-1]], labels=[0])
    _run(session)
    third = _logits(session)
    assert [z for z in range(24) if not torch.equal(second[z], third[z])] == list(range(16, 24))


def test_taking_back_either_of_two_prompts_leaves_what_the_other_gives_alone(runtime: Runtime) -> None:
    grey = _noise(16, 40, 56)
    alone = {}
    for key in (3, 11):
        session = _session(runtime, grey)
        session.add(1, slice=key, box=BOX)
        _run(session)
        alone[key] = _logits(session)
    for stays, goes in ((3, 11), (11, 3)):
        session = _session(runtime, grey)
        session.add(1, slice=3, box=BOX)
        session.add(1, slice=11, box=BOX)
        _run(session)
        session.remove(1, slice=goes)
        _run(session)
        assert _same(_logits(session), alone[stays]), (stays, goes)
        assert list(session.prompts(1)) == [stays]


@torch.inference_mode()
def test_a_correction_of_a_followed_slice_is_shown_all_that_is_known(
    runtime: Runtime, compact_network: CompactNetwork
) -> None:
    grey = _noise(9, 40, 56)
    view = whole_slice((40, 56))
    track = _followed(runtime, grey, prompt_from(3, box=BOX), EVERYWHERE)
    written = _Written(compact_network, grey, dict.fromkeys(range(9), view))
    corners = torch.tensor(np.array(BOX).reshape(1, 2, 2) * (SIZE / 56, SIZE / 40), dtype=torch.float32)
    written.prompted(3, PromptTensors(points=corners, labels=torch.tensor([[2, 3]])))
    written.follow(3, 1, 6)
    row, column = np.argwhere(track.mask(6))[50]
    place = torch.tensor([[[column * SIZE / 56, row * SIZE / 40]]], dtype=torch.float32)
    click = PromptTensors(points=place, labels=torch.tensor([[0]]))
    before = written.known(5, view)
    sight = Sight(
        grey=written.greys(view, 6), before=before.grey, beyond=written.greys(view, 7),
        prompt=draw_prompt(click, 1, SIZE), prior=written.known(6, view).inside,
        carried=before, key=written.known(3, view),
    )  # fmt: skip
    expected = answer_slice(compact_network, sight, written.memories(6, view, [3, 4, 5]))
    old = track.results[6].frame.low_res_logits
    with runtime.computing():
        work_together([track.add(prompt_from(6, points=[(column, row)], labels=[0]))])
    frame = track.results[6].frame
    torch.testing.assert_close(frame.pointer, expected.frame.pointer, atol=1e-4, rtol=0)
    new = frame.low_res_logits
    is_answered = (new - expected.frame.low_res_logits).abs() < 1e-4
    is_kept = new == old
    is_held = new == -1
    assert (is_answered | is_kept | is_held).all()
    assert is_kept.any()
    assert not track.mask(6)[row, column]


@torch.inference_mode()
def test_a_click_where_the_object_was_not_followed_to_begins_from_the_nearest_mask(
    runtime: Runtime, compact_network: CompactNetwork
) -> None:
    grey = _noise(9, 40, 56)
    view = whole_slice((40, 56))
    track = start_track(SliceFeatures(runtime, grey, None), EVERYWHERE)
    with runtime.computing():
        work_together([track.add(prompt_from(2, box=BOX))])
        work_together([track.add(prompt_from(6, points=[(30, 20)], labels=[1]))])
    written = _Written(compact_network, grey, dict.fromkeys(range(9), view))
    corners = torch.tensor(np.array(BOX).reshape(1, 2, 2) * (SIZE / 56, SIZE / 40), dtype=torch.float32)
    written.prompted(2, PromptTensors(points=corners, labels=torch.tensor([[2, 3]])))
    key = written.known(2, view)
    sight = Sight(
        grey=written.greys(view, 6), before=key.grey, beyond=written.greys(view, 7),
        prior=key.inside, carried=key, key=key,
    )  # fmt: skip
    guess = answer_slice(compact_network, sight, None)
    clicked = draw_prompt(
        PromptTensors(points=torch.tensor([[[30 * 64 / 56, 32.0]]]), labels=torch.tensor([[1]])), 1, SIZE
    )
    sight = dataclasses.replace(
        sight, before=written.greys(view, 5), prompt=clicked,
        prior=guess.frame.low_res_logits.sigmoid()[:, 0], carried=None,
    )  # fmt: skip
    expected = answer_slice(compact_network, sight, written.memories(6, view, [2]))
    frame = track.results[6].frame
    torch.testing.assert_close(frame.pointer, expected.frame.pointer, atol=1e-4, rtol=0)
    assert track.mask(6)[20, 30]


@torch.inference_mode()
def test_a_click_alone_is_looked_at_from_near_to_far_and_then_closer(
    bright: Runtime, bright_network: CompactNetwork
) -> None:
    grey, shape = _noise(3, 200, 200), (200, 200)
    prompt = prompt_from(1, points=[(90, 80)])
    track = start_track(SliceFeatures(bright, grey, None), ZOOMED)
    with bright.computing():
        work_together([track.add(prompt)])
    looks = views_of_clicks(prompt, shape)
    written = _Written(bright_network, grey, {1: looks[0]})

    def seen(view: View, prior: Tensor | None) -> Answer:
        place = (torch.tensor([[[90.5 - view.x, 80.5 - view.y]]]) * SIZE / view.width) - 0.5
        drawn = draw_prompt(PromptTensors(points=place, labels=torch.tensor([[1]])), 1, SIZE)
        sight = Sight(
            grey=written.greys(view, 1), before=written.greys(view, 0), beyond=written.greys(view, 2),
            prompt=drawn, prior=prior,
        )  # fmt: skip
        return answer_slice(bright_network, sight, None)

    answers = [seen(view, None) for view in looks]
    sureness = [float(a.frame.iou) * bool((a.frame.low_res_logits > 0).any()) for a in answers]
    surest = int(np.argmax(sureness))
    assert sorted(sureness)[-1] - sorted(sureness)[-2] > 1e-6  # else this test would be decided by rounding
    first = to_slice(answers[surest].frame.low_res_logits, looks[surest], shape)
    close = view_of_mask(first > 0, looks[surest], shape)
    assert close != looks[surest]
    result = track.results[1]
    assert result.view == close
    expected = at_half_the_dice(seen(close, to_view(first, close, SIZE).sigmoid()[0]))
    torch.testing.assert_close(result.frame.low_res_logits, expected.frame.low_res_logits, atol=1e-4, rtol=0)


def test_a_click_finds_how_large_the_object_is(bright: Runtime) -> None:
    grey = np.full((1, 300, 300), 20, np.uint8)
    grey[0, 120:140, 150:180] = 220
    track = start_track(SliceFeatures(bright, grey, None), InferenceOptions())
    with bright.computing():
        work_together([track.add(prompt_from(0, points=[(160, 130)]))])
    # Two and a half times the object's 30 pixels, as far as they are told apart from afar.
    assert 70 <= track.results[0].view.width <= 80
    found, truth = track.mask(0), grey[0] > 128
    assert (found & truth).sum() / (found | truth).sum() > 0.93


@pytest.mark.parametrize("zoom", [False, True])
def test_a_drawn_mask_is_kept_as_it_was_drawn(runtime: Runtime, zoom: bool) -> None:
    drawn = np.zeros((60, 60), bool)
    drawn[10:30, 20:34] = True
    drawn[14:20, 40:44] = True  # a second part, drawn as well
    options = InferenceOptions(zoom=zoom)
    session = _session(runtime, _noise(5, 60, 60), options)
    shown = session.add(1, slice=2, mask=drawn)
    np.testing.assert_array_equal(shown, drawn)
    _run(session)
    np.testing.assert_array_equal(session.mask(1)[2], drawn)
    assert session.scores(1)[2] == 1.0
    assert set(session.frame(1, 2).low_res_logits.unique().tolist()) == {-10.0, 10.0}
    row, column = 5, 5
    clicked = session.add(1, slice=2, points=[(column, row)], labels=[1])
    assert clicked[row, column], "a click corrects what was drawn"
    assert (clicked & drawn).sum() > 0.98 * drawn.sum()
