"""Sessions over a small scan with a tiny network of chance: what is computed, kept, forgotten, refused.

The masks mean nothing; that two ways to the same mask give the same bits does.
"""

from __future__ import annotations

import re
from itertools import chain, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from scipy import ndimage
from torch import nn

from medsam2.errors import GeometryError, InputError, PromptError, SessionError
from medsam2.imaging.volume import Volume
from medsam2.inference.features import normalise
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, Runtime, start_runtime
from medsam2.inference.session import Session
from medsam2.model.network import Network
from medsam2.prompts.types import prompt_from
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import recent
from medsam2.tracking.step import PromptTensors, remember, track_frame

EVERYWHERE = InferenceOptions(zoom=False, keep_component=False, stop_after=0)
BOX = (18, 12, 37, 25)
KEY, NUM_SLICES = 4, 9


@pytest.fixture(scope="session")
def predictor(runtime: Runtime) -> Predictor:
    return Predictor(runtime)


@pytest.fixture
def session(predictor: Predictor, scan: Volume) -> Session:
    """A session that follows objects through all slices, whatever it sees."""
    return predictor.session(scan, options=EVERYWHERE)


def _visit(session: Session) -> list[tuple[int, dict[int, np.ndarray]]]:
    return list(session.propagate())


def _frames(session: Session, number: int = 1) -> dict[int, object]:
    return {z: session.frame(number, z) for z in session.scores(number)}


def test_both_directions_cover_the_stack_once(session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    visits = _visit(session)
    assert [z for z, _ in visits] == [4, 5, 6, 7, 8, 3, 2, 1, 0]
    stack = session.mask(1)
    for z, masks in visits:
        assert masks.keys() == {1}
        assert masks[1].shape == (40, 56)
        assert masks[1].dtype == bool
        np.testing.assert_array_equal(stack[z], masks[1])
    assert 0 < stack.sum() < stack.size, "a mask of chance, but a mask"
    assert all(0 < score <= 1 for score in session.scores(1).values())


@pytest.mark.parametrize("key", [0, NUM_SLICES - 1])
def test_a_prompt_at_the_border_leaves_one_direction(session: Session, key: int) -> None:
    session.add(1, slice=key, box=BOX)
    assert [z for z, _ in _visit(session)] == (list(range(9)) if key == 0 else list(range(8, -1, -1)))


@pytest.mark.parametrize("zoom", [False, True])
def test_the_same_calls_give_the_same_bits(predictor: Predictor, scan: Volume, zoom: bool) -> None:
    options = InferenceOptions(zoom=zoom, keep_component=False, stop_after=0)
    results = []
    for _ in range(2):
        session = predictor.session(scan, options=options)
        session.add(1, slice=KEY, box=BOX)
        _visit(session)
        results.append({z: frame.low_res_logits for z, frame in _frames(session).items()})
    assert results[0].keys() == results[1].keys()
    assert all((results[0][z] == results[1][z]).all() for z in results[0])


def test_closing_early_is_harmless(predictor: Predictor, scan: Volume, session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    run = session.propagate()
    for _ in range(3):
        next(run)
    run.close()
    assert sorted(session.scores(1)) == [4, 5, 6]
    done = _frames(session)
    assert [z for z, _ in _visit(session)] == [4, 5, 6, 7, 8, 3, 2, 1, 0]
    assert all(session.frame(1, z) is frame for z, frame in done.items()), "nothing is computed twice"
    at_once = predictor.session(scan, options=EVERYWHERE)
    at_once.add(1, slice=KEY, box=BOX)
    _visit(at_once)
    np.testing.assert_array_equal(session.mask(1), at_once.mask(1))


def test_a_second_run_computes_nothing(session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    _visit(session)
    before = _frames(session)
    _visit(session)
    assert all(session.frame(1, z) is frame for z, frame in before.items())


@pytest.mark.parametrize("reverses", [False, True])
def test_a_walk_can_be_kept_within_some_slices_and_go_on_later(
    predictor: Predictor, scan: Volume, reverses: bool
) -> None:
    turned = Volume(scan.array, scan.affine @ np.diag([1.0, 1.0, -1.0, 1.0])) if reverses else scan
    whole, parts = (predictor.session(turned, options=EVERYWHERE, plane="axial") for _ in range(2))
    for one in (whole, parts):
        one.add(1, slice=KEY, box=BOX)
    assert {z for z, _ in parts.propagate(within=(3, 6))} == {3, 4, 5, 6}
    assert not parts.is_propagated
    for one in (whole, parts):
        _visit(one)
    np.testing.assert_array_equal(parts.mask(1), whole.mask(1))
    assert parts.is_propagated


def test_a_prompted_slice_is_visited_wherever_the_walk_ends(session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    session.add(1, slice=8, box=BOX)
    assert {z for z, _ in session.propagate(within=(3, 6))} == {3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize(("corrected", "stale"), [(6, {7, 8}), (2, {1, 0})])
def test_a_correction_recomputes_only_what_lies_behind_it(
    session: Session, corrected: int, stale: set[int]
) -> None:
    session.add(1, slice=KEY, box=BOX)
    _visit(session)
    before = _frames(session)
    shown = session.add(1, slice=corrected, points=[(20, 20), (2, 2)], labels=[1, 0])
    assert set(session.scores(1)) == set(range(9)) - stale
    with pytest.raises(SessionError, match=f"object 1 was not followed into slice {min(stale)}"):
        session.frame(1, min(stale))
    _visit(session)
    for z in range(NUM_SLICES):
        is_same = session.frame(1, z) is before[z]
        assert is_same == (z not in stale | {corrected}), z
    np.testing.assert_array_equal(session.mask(1)[corrected], shown)
    assert any((session.frame(1, z).low_res_logits != before[z].low_res_logits).any() for z in stale), (
        "the correction is remembered"
    )


def _many_small_parts(network: Network) -> Predictor:
    """The opposite of every mask: many small parts instead of one large one."""
    with torch.no_grad():
        for layers in network.sam_mask_decoder.output_hypernetworks_mlps:
            layers.layers[-1].weight.neg_()
            layers.layers[-1].bias.neg_()
    return Predictor(start_runtime(network, device="cpu"))


@pytest.mark.parametrize("corrects", [False, True])
def test_the_last_masks_of_a_propagation_are_those_of_the_result(
    network: Network, scan: Volume, corrects: bool
) -> None:
    """With the component filter on, as it is by default."""
    predictor = _many_small_parts(network)
    options = InferenceOptions(zoom=False, keep_component=True, stop_after=0)
    session, whole = (predictor.session(scan, options=chosen) for chosen in (options, EVERYWHERE))
    for one in (session, whole):
        one.add_all({1: [prompt_from(KEY, box=(0, 0, 27, 39))], 2: [prompt_from(KEY + 2, points=[(40, 30)])]})
    last = {number: np.zeros(scan.shape, bool) for number in (1, 2)}
    steps = session.propagate()
    if corrects:  # in the middle of a run: what was found before is found anew
        for z, masks in islice(steps, 3):
            for number, mask in masks.items():
                last[number][z] = mask
        session.add(1, prompt_from(KEY + 1, points=[(30, 20)]))
    for z, masks in chain(steps, session.propagate() if corrects else ()):
        for number, mask in masks.items():
            last[number][z] = mask
    whole.finish()
    for number, stack in last.items():
        np.testing.assert_array_equal(stack, session.result(number).array != 0)
        np.testing.assert_array_equal(stack, session.mask(number))
    if not corrects:
        assert 0 < session.mask(1).sum() < whole.mask(1).sum(), "something is kept and something is not"


def test_a_part_that_will_not_be_kept_is_not_shown_first(predictor: Predictor, scan: Volume) -> None:
    whole, session = (
        predictor.session(scan, options=InferenceOptions(zoom=False, keep_component=keeps))
        for keeps in (False, True)
    )
    for one in (whole, session):
        one.add(1, slice=KEY, box=(2, 2, 12, 12))
    everything, shown = (one.add(1, slice=KEY, points=[(2, 2)], labels=[0]) for one in (whole, session))
    np.testing.assert_array_equal(shown, session.mask(1)[KEY])
    assert 0 < shown.sum() < everything.sum()


def test_a_new_prompt_on_an_unvisited_slice_makes_everything_tracked_stale(
    predictor: Predictor, scan: Volume, session: Session
) -> None:
    session.add(1, slice=2, box=BOX)
    run = session.propagate()
    for _ in range(3):
        next(run)
    run.close()
    session.add(1, slice=7, box=BOX)
    assert sorted(session.scores(1)) == [2, 7]
    _visit(session)
    both = predictor.session(scan, options=EVERYWHERE)
    both.add(1, slice=2, box=BOX)
    both.add(1, slice=7, box=BOX)
    _visit(both)
    np.testing.assert_array_equal(session.mask(1), both.mask(1))


def test_points_join_a_box_and_a_mask_replaces_both(session: Session) -> None:
    alone = session.add(1, slice=KEY, points=[(20, 20)]).copy()
    session.add(2, slice=KEY, box=BOX)
    joined = session.frame(2, KEY)
    session.add(2, slice=KEY, points=[(20, 20)])
    assert (session.frame(2, KEY).low_res_logits != joined.low_res_logits).any()
    assert session.frame(2, KEY).candidate_iou.shape == (1, 1), "three points leave no candidates"
    assert session.frame(1, KEY).candidate_iou.shape == (1, 3)
    drawn = np.zeros((40, 56), bool)
    drawn[12:26, 18:38] = True
    session.add(1, slice=KEY, mask=drawn)
    assert float(session.frame(1, KEY).object_logits) == 10.0
    shown = session.mask(1)[KEY]
    assert (shown & drawn).sum() / (shown | drawn).sum() > 0.85  # 16 x 16 logits on 40 x 56 pixels
    assert not np.array_equal(shown, alone)


def test_a_second_object_changes_nothing_of_the_first(predictor: Predictor, scan: Volume) -> None:
    alone = predictor.session(scan, options=EVERYWHERE)
    alone.add(3, slice=KEY, box=BOX)
    _visit(alone)
    together = predictor.session(scan, options=EVERYWHERE)
    together.add(3, slice=KEY, box=BOX)
    together.add(8, slice=6, points=[(5, 30)])
    visits = _visit(together)
    assert together.objects == [3, 8]
    assert dict(visits)[8].keys() == {3, 8}
    for z in range(NUM_SLICES):
        first, again = alone.frame(3, z), together.frame(3, z)
        # Computed in one batch with the other object: sums run in another order.
        torch.testing.assert_close(first.low_res_logits, again.low_res_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(first.pointer, again.pointer, rtol=1e-4, atol=1e-4)
    together.remove(8)
    assert together.objects == [3]
    np.testing.assert_array_equal(together.mask(3), alone.mask(3))
    np.testing.assert_array_equal(together.result().array, 3 * alone.mask(3))


def test_objects_with_other_starts_are_each_seen_once_a_slice(session: Session) -> None:
    session.add(1, slice=2, box=BOX)
    session.add(2, slice=7, box=(4, 4, 20, 20))
    seen = [(number, z) for z, masks in _visit(session) for number in masks]
    assert sorted(seen) == [(number, z) for number in (1, 2) for z in range(9)]


def test_overlaps_go_to_the_higher_logit(session: Session) -> None:
    session.add(7, slice=KEY, box=BOX)
    session.add(2, slice=KEY, points=[(20, 20)])
    _visit(session)
    labels, contested = session.result().array, session.mask(7) & session.mask(2)
    expected = np.where(session.mask(7), 7, 0) + np.where(session.mask(2), 2, 0)
    for z in range(NUM_SLICES):
        of_seven, of_two = (
            F.interpolate(session.frame(number, z).low_res_logits, size=(40, 56), mode="bilinear")[0, 0]
            for number in (7, 2)
        )
        winner = np.where(of_seven > of_two, 7, 2)
        expected[z][contested[z]] = winner[contested[z]]
    np.testing.assert_array_equal(labels, expected)
    assert set(np.unique(labels[contested])) == {2, 7}, "both win somewhere"


def test_identical_objects_share_no_voxel(session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    session.add(2, slice=KEY, box=BOX)
    labels = session.result().array
    np.testing.assert_array_equal(labels[KEY], session.mask(1)[KEY])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_results_lie_on_the_inputs_grid_along_any_axis(predictor: Predictor, scan: Volume, axis: int) -> None:
    session = predictor.session(scan, axis=axis, options=EVERYWHERE)
    assert session.shape == {0: (56, 9, 40), 1: (40, 9, 56), 2: (9, 40, 56)}[axis]
    drawn = np.zeros(session.shape[1:], bool)
    drawn[2:7, 12:30] = True
    shown = session.add(5, slice=3, mask=drawn)
    result = session.result()
    assert result.array.shape == scan.array.shape
    assert result.array.dtype == np.uint8
    np.testing.assert_array_equal(result.affine, scan.affine)
    assert (result.spacing, result.origin) == (scan.spacing, scan.origin)
    plane = {0: result.array[:, :, 3], 1: result.array[:, 3], 2: result.array[3]}[axis]
    np.testing.assert_array_equal(plane, 5 * shown)
    assert result.array.sum() == plane.sum(), "nothing outside the prompted slice"


def test_planes_by_name_are_axes(predictor: Predictor, scan: Volume) -> None:
    assert predictor.session(scan, plane="sagittal").axis == 0
    assert predictor.session(scan, plane="coronal").axis == 1
    assert predictor.session(scan, plane="axial").axis == 2
    with pytest.raises(GeometryError, match="name a plane or an axis, not both"):
        predictor.session(scan, plane="axial", axis=2)
    with pytest.raises(GeometryError, match="axis 0, 1 or 2 of the file, not 3"):
        predictor.session(scan, axis=3)


def test_a_zoomed_session_looks_around_the_prompt_only(runtime: Runtime) -> None:
    """Far from the box nothing is marked, and the scan there makes no difference."""
    grey = np.random.default_rng(0).integers(0, 200, (5, 300, 300)).astype(np.int16)
    changed = grey.copy()
    changed[:, 150:, 150:] = 199 - changed[:, 150:, 150:]
    options = InferenceOptions(zoom=True, keep_component=False, stop_after=0)
    masks = []
    for array in (grey, changed):
        session = Predictor(runtime).session(Volume.from_array(array), window=(0, 200), options=options)
        masks.append(session.add(1, slice=2, box=(40, 50, 60, 70)))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].any()
    rows, columns = np.nonzero(masks[0])
    assert rows.max() < 108 + 1
    assert columns.max() < 98 + 1


def test_one_call_is_the_same_as_a_session(predictor: Predictor, scan: Volume) -> None:
    session = predictor.session(scan)
    session.add(1, slice=KEY, box=BOX)
    _visit(session)
    mask = predictor.segment(scan, slice=KEY, box=BOX)
    np.testing.assert_array_equal(mask.array, session.result().array)
    assert set(np.unique(mask.array)) <= {0, 1}


def test_an_object_of_one_box_keeps_what_reaches_the_largest_part_in_it(
    network: Network, scan: Volume
) -> None:
    predictor = _many_small_parts(network)
    session = predictor.session(scan, options=InferenceOptions(zoom=False, stop_after=0))
    whole = predictor.session(scan, options=EVERYWHERE)
    for one in (session, whole):
        one.add(1, slice=KEY, box=(0, 0, 27, 39))
        one.finish()
    everything = whole.mask(1)
    parts, _ = ndimage.label(everything, structure=np.ones((3, 3, 3)))
    pieces, _ = ndimage.label(everything[KEY, 0:40, 0:28], structure=np.ones((3, 3)))
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    (part,) = set(parts[KEY, 0:40, 0:28][largest])
    np.testing.assert_array_equal(session.mask(1), parts == part)
    assert 0 < session.mask(1).sum() < everything.sum(), "something is kept and something is not"


@pytest.mark.parametrize(
    ("stop_after", "expected"), [(None, [4, 5, 3]), (1, [4, 5, 3]), (2, [4, 5, 6, 3, 2])]
)
def test_a_direction_ends_where_the_object_has_ended(
    network: Network, scan: Volume, stop_after: int | None, expected: list[int]
) -> None:
    """The network sees no object anywhere; only the drawn slice has one."""
    nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, -50.0)
    predictor = Predictor(start_runtime(network, device="cpu"))
    drawn = np.zeros((40, 56), bool)
    drawn[12:26, 18:38] = True
    options = InferenceOptions(zoom=False, keep_component=True, stop_after=stop_after)
    session = predictor.session(scan, options=options)
    session.add(1, slice=KEY, mask=drawn)
    visits = _visit(session)
    assert [z for z, _ in visits] == expected
    assert not any(masks[1].any() for z, masks in visits if z != KEY)
    assert [session.scores(1)[z] for z in (3, 4, 5)] == [0.0, 1.0, 0.0]
    session.add(1, slice=8, mask=drawn)
    assert [z for z, _ in _visit(session)][:5] == [4, 5, 6, 7, 8], "a prompt ahead is walked up to"


def test_a_session_is_the_recurrence_written_out(network: Network, scan: Volume) -> None:
    predictor = Predictor(start_runtime(network, device="cpu", precision="float32"))
    session = predictor.session(scan, window=(0, 255), options=EVERYWHERE)
    session.add(1, slice=KEY, box=BOX)
    _visit(session)

    scale = np.array([64 / 56, 64 / 40])
    box = PromptTensors(
        points=torch.tensor(np.array(BOX).reshape(1, 2, 2) * scale, dtype=torch.float32),
        labels=torch.tensor([[2, 3]]),
    )
    for step in (1, -1):
        bank = MemoryBank()
        for z in range(KEY, KEY + 4 * step, step):
            grey = Image.fromarray(scan.array[z].astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
            with torch.inference_mode():
                features = network.encode_image(normalise(torch.tensor(np.array(grey))[None]))
                result = track_frame(
                    network,
                    features,
                    prompt=box if z == KEY else None,
                    memory=None if z == KEY else recent(bank, z, step=step, num_slices=NUM_SLICES),
                )
                slot = bank.conditioning if z == KEY else bank.tracked
                slot[z] = remember(network, features, result, slice_index=z, binarise=z == KEY)
            found = session.frame(1, z)
            torch.testing.assert_close(found.low_res_logits, result.low_res_logits, atol=1e-4, rtol=0)
            torch.testing.assert_close(found.pointer, result.pointer, atol=1e-4, rtol=0)


def test_clicks_leave_the_memory_to_the_slice_that_looks_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    encode = Network.encode_memory

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        made.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr(Network, "encode_memory", counted)
    session.add(1, slice=KEY, box=BOX)
    session.add(1, slice=KEY, points=[(30, 20)], labels=[1])
    assert made == []
    next(visits := session.propagate())  # the key slice itself
    assert made == []
    next(visits)
    assert len(made) == 2, "the key slice's, and the next one's own"


def test_measurements_are_of_the_mask_in_millimetres(session: Session) -> None:
    drawn = np.zeros((40, 56), bool)
    drawn[10:30, 10:40] = True
    session.add(1, slice=KEY, mask=drawn)
    measured = session.measurements(1)
    num_voxels = int(session.mask(1).sum())
    assert measured["volume_ml"] == pytest.approx(num_voxels * 0.7 * 0.8 * 2.5 / 1000)
    assert measured["num_slices"] == 1
    assert measured["longest_diameter_mm"] == pytest.approx(np.hypot(30 * 0.7, 20 * 0.8), rel=0.1)


def test_refusals_of_a_session(session: Session) -> None:
    with pytest.raises(SessionError, match="nothing to propagate: add a box, a point or a mask first"):
        next(session.propagate())
    for call in (session.remove, session.mask, session.scores, session.measurements, session.picture):
        with pytest.raises(SessionError, match=re.escape("there is no object 4; objects are []")):
            call(4)
    for number in (0, 256, -1):
        with pytest.raises(PromptError, match=f"objects are numbered 1 to 255, not {number}"):
            session.add(number, slice=KEY, box=BOX)
    with pytest.raises(PromptError, match="slice 9 is outside the stack: it has slices 0 to 8"):
        session.add(1, slice=9, box=BOX)
    with pytest.raises(PromptError, match="x must lie in 0 to 55 and y in 0 to 39"):
        session.add(1, slice=KEY, box=(0, 0, 56, 20))
    assert session.objects == [], "a refused prompt leaves no object"


def test_a_refused_prompt_leaves_an_object_as_it_was(session: Session) -> None:
    session.add(1, slice=KEY, box=BOX)
    _visit(session)
    before = _frames(session)
    with pytest.raises(PromptError):
        session.add(1, slice=KEY, points=[(99, 99)])
    assert _frames(session) == before


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.inf,
            "1 of 960 voxels are infinite; an image needs finite intensities, "
            "and NaN at most outside the patient",
        ),
        (0.0, "every voxel of the image is 0.0; there is nothing to segment"),
    ],
)
def test_scans_in_which_nothing_can_be_seen(predictor: Predictor, value: float, sentence: str) -> None:
    array = np.zeros((6, 10, 16), np.float32)
    array[3, 4, 5] = value
    with pytest.raises(InputError) as refused:
        predictor.session(Volume.from_array(array))
    assert str(refused.value) == sentence
