"""Sessions that go back: undo, redo, prompts taken back, memories and masks of slices long passed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2.errors import PromptError, SessionError
from medsam2.imaging.volume import Volume
from medsam2.inference import sam_track
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, Runtime
from medsam2.inference.session import Session

EVERYWHERE = InferenceOptions(zoom=False, keep_component=False, stop_after=0)
BOX = (18, 12, 37, 25)
NUM_SLICES = 24


@pytest.fixture
def long_scan() -> Volume:
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 60, (NUM_SLICES, 40, 56)).astype(np.int16)
    grey[:, 12:26, 18:38] += 150
    return Volume.from_array(grey, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), modality="MR")


@pytest.fixture
def session(runtime: Runtime, long_scan: Volume) -> Session:
    return Predictor(runtime).session(long_scan, options=EVERYWHERE)


def _run(session: Session) -> None:
    for _ in session.propagate():
        pass


def _logits(session: Session, number: int = 1) -> list[torch.Tensor]:
    return [session.frame(number, z).low_res_logits for z in sorted(session.scores(number))]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_undo_brings_back_every_slice_and_redo_the_correction(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    _run(session)
    first = _logits(session)
    session.add(1, slice=9, points=[(20, 20)], labels=[0])
    corrected = session.frame(1, 9)
    assert len(session.scores(1)) < NUM_SLICES, "what lies beyond the correction is stale"
    assert session.undo()
    assert _same(_logits(session), first), "with nothing to compute again"
    assert session.redo()
    assert session.frame(1, 9) is corrected
    assert not session.redo()


def test_undo_of_the_first_prompt_leaves_no_object(session: Session) -> None:
    assert not session.undo()
    session.add(3, slice=4, box=BOX)
    session.add(5, slice=4, box=BOX)
    session.remove(3)
    assert session.objects == [5]
    assert session.undo()
    assert session.objects == [3, 5]
    assert session.undo()
    assert session.undo()
    assert session.objects == []
    assert session.redo()
    assert session.objects == [3]


def test_a_new_prompt_ends_what_could_be_redone(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    session.undo()
    session.add(2, slice=5, box=BOX)
    assert not session.redo()


def test_a_refused_prompt_is_no_step(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    before = session.frame(1, 4)
    with pytest.raises(PromptError):
        session.add(1, slice=99, box=BOX)
    assert session.frame(1, 4) is before
    session.undo()
    assert session.objects == []


def test_a_correction_is_taken_back(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    _run(session)
    first = _logits(session)
    session.add(1, slice=9, points=[(20, 20)], labels=[0])
    _run(session)
    assert not _same(_logits(session), first)
    session.remove(1, slice=9)
    _run(session)
    for found, expected in zip(_logits(session), first, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_one_of_two_first_prompts_is_taken_back(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    _run(session)
    first = _logits(session)
    session.remove(1)
    session.add(1, slice=4, box=BOX)
    session.add(1, slice=15, box=BOX)
    session.remove(1, slice=15)
    _run(session)
    assert _same(_logits(session), first)


def test_prompts_that_cannot_be_taken_back(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    with pytest.raises(SessionError, match=r"there is no prompt on slice 5; prompts are on \[4\]"):
        session.remove(1, slice=5)
    with pytest.raises(SessionError, match="slice 4 has the object's only prompt; remove the object instead"):
        session.remove(1, slice=4)
    assert session.objects == [1]


def test_a_correction_far_back_remakes_the_memories_that_were_let_go(
    session: Session, runtime: Runtime, long_scan: Volume
) -> None:
    """As if the walk had stopped there: the fresh session never went on and let nothing go."""
    session.add(1, slice=0, box=BOX)
    _run(session)
    session.add(1, slice=8, points=[(20, 20)], labels=[0])
    fresh = Predictor(runtime).session(long_scan, options=EVERYWHERE)
    fresh.add(1, slice=0, box=BOX)
    for z, _ in fresh.propagate():
        if z == 8:
            break
    fresh.add(1, slice=8, points=[(20, 20)], labels=[0])
    assert torch.equal(session.frame(1, 8).low_res_logits, fresh.frame(1, 8).low_res_logits)


def test_masks_of_slices_long_passed_stay_what_they_were(
    session: Session, runtime: Runtime, long_scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add(1, slice=4, box=BOX)
    _run(session)
    monkeypatch.setattr(sam_track, "ARCHIVE_DISTANCE", 3)
    frugal = Predictor(runtime).session(long_scan, options=EVERYWHERE)
    frugal.add(1, slice=4, box=BOX)
    _run(frugal)
    assert frugal.frame(1, 12).low_res_logits.dtype == torch.float16
    assert frugal.frame(1, 4).low_res_logits.dtype == torch.float32, "a prompted slice is kept as it is"
    np.testing.assert_array_equal(frugal.mask(1), session.mask(1))
    assert 0 < frugal.mask(1).mean() < 1
    frugal.add(1, slice=12, points=[(20, 20)], labels=[0])
    _run(frugal)
