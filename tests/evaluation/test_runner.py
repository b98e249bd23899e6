"""Runs over cases: what is measured, what fails, what is averaged."""

import logging
import math
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.evaluation.cases import read_task
from medsam2.evaluation.runner import CaseResult, Scores, run_cases
from medsam2.evaluation.simulated_user import RunOptions
from medsam2.evaluation.summary import summarise
from medsam2.imaging.geometry import restore_axes, slices_along
from medsam2.prompts.simulate import tight_box


@dataclass
class Threshold:
    """Takes what is bright, on slices `first` to `last`."""

    level: int = 120
    first: int = 0
    last: int = 10**6

    def segment(self, job):
        slices = slices_along(job.image.array, job.axis) > self.level
        assert slices[job.objects[1][0].slice_index].any()
        index = np.arange(len(slices))[:, None, None]
        kept = slices & (index >= self.first) & (index <= self.last)
        return job.image.with_array(restore_axes(kept, job.axis).astype(np.uint8))


class _Copying(Threshold):
    """Goes on with slice 8 in 3 and 13 to 15."""

    def segment(self, job):
        mask = super().segment(job)
        mask.array[[3, 13, 14, 15]] = mask.array[8]
        return mask


class OutOfMemory:
    def segment(self, job):
        raise RuntimeError("CUDA out of memory")


class WrongGrid:
    def segment(self, job):
        return type(job.image).from_array(np.zeros((2, 3, 4), np.uint8))


class Recorder(Threshold):
    def __init__(self):
        super().__init__()
        self.jobs = []

    def segment(self, job):
        self.jobs.append(job)
        return super().segment(job)

    @property
    def prompts(self):
        return [job.objects[1][0] for job in self.jobs]


def test_a_perfect_answer(ball_case, disc_case):
    ball, disc = run_cases([ball_case, disc_case], Threshold())
    assert (ball.name, ball.modality, ball.target, ball.dimensions) == ("ball", "MR", "ball", 3)
    assert (disc.name, disc.dimensions) == ("disc", 2)
    assert ball.error is disc.error is None
    for scores in (ball.scores, disc.scores):
        assert (scores.dice, scores.surface_dice, scores.key_slice_dice) == (1.0, 1.0, 1.0)
        assert (scores.over_slices, scores.under_slices) == (0, 0)
        assert scores.seconds >= 0
    assert (ball.scores.hd95_mm, ball.scores.hd95_px, ball.scores.num_slices) == (0.0, None, 16)
    assert (disc.scores.hd95_mm, disc.scores.hd95_px, disc.scores.num_slices) == (None, 0.0, 1)


def test_a_picture_with_a_spacing_is_measured_in_mm(disc_case):
    (result,) = run_cases([replace(disc_case, spacing=(0.1, 0.1))], Threshold())
    assert (result.scores.hd95_mm, result.scores.hd95_px) == (0.0, None)


def test_propagation_that_ends_too_early(ball_case):
    (result,) = run_cases([ball_case], Threshold(first=6, last=10))
    assert (result.scores.over_slices, result.scores.under_slices) == (0, 4)
    assert result.scores.key_slice_dice == 1.0
    assert 0.5 < result.scores.dice < 1
    assert result.scores.hd95_mm == pytest.approx(4.0, abs=1)


def test_propagation_that_goes_on(ball_case):
    (result,) = run_cases([ball_case], Threshold(level=-100))
    assert (result.scores.over_slices, result.scores.under_slices) == (7, 0)


def test_the_answer_is_compared_along_the_axis_of_the_case(ball_case):
    case = replace(ball_case, axis=0, key_slice=12, box_xyxy=(3, 4, 15, 12))
    (result,) = run_cases([case], Threshold(first=10, last=14))
    assert result.scores.num_slices == 24
    assert (result.scores.over_slices, result.scores.under_slices) == (0, 14)


def test_what_is_measured_beside_the_overlap(ball_case):
    """Slices 4 to 12 hold the ball; slice 8's disc goes on in 13 to 15 and 3, 2 mm apart each."""
    (result,) = run_cases([ball_case], _Copying())
    scores = result.scores
    assert (scores.over_above_slices, scores.over_below_slices) == (3, 1)
    assert (scores.over_above_mm, scores.over_below_mm) == (6.0, 2.0)
    truth = read_task(ball_case).truth
    disc, ball = int(truth[8].sum()), int(truth.sum())
    assert scores.true_volume_ml == pytest.approx(ball * 3 / 1000)
    assert scores.volume_error_ml == pytest.approx(4 * disc * 3 / 1000)
    assert scores.volume_ml == pytest.approx(scores.true_volume_ml + scores.volume_error_ml)
    assert scores.volume_error_percent == pytest.approx(100 * 4 * disc / ball)
    assert (scores.slice_mm, scores.object_slices) == (2.0, 9)
    assert scores.strict_surface_dice <= scores.surface_dice < 1
    assert 0 < scores.assd_mm < scores.hd95_mm
    (missed,) = run_cases([ball_case], Threshold(first=99))
    assert (missed.scores.volume_error_percent, missed.scores.assd_mm) == (-100.0, math.inf)
    assert (missed.scores.over_above_slices, missed.scores.over_below_slices) == (0, 0)


def test_a_picture_has_no_volume_and_no_slices_beyond(disc_case):
    (result,) = run_cases([disc_case], Threshold())
    scores = result.scores
    assert (scores.volume_ml, scores.volume_error_ml, scores.over_above_mm) == (None, None, None)
    assert (scores.volume_error_percent, scores.assd_px, scores.assd_mm) == (0.0, 0.0, None)


def test_masks_are_handed_out(ball_case):
    kept = []
    (result,) = run_cases([ball_case], Threshold(), keep=lambda *one: kept.append(one))
    ((given, mask),) = kept
    assert given is result
    np.testing.assert_array_equal(mask, read_task(ball_case).truth)


def test_nothing_found(ball_case):
    (result,) = run_cases([ball_case], Threshold(first=99))
    assert (result.scores.dice, result.scores.hd95_mm) == (0.0, math.inf)
    means = summarise([result]).volumes
    assert (means.num_runs, means.num_missed, means.num_failed) == (1, 1, 0)
    assert (means.dice, means.hd95_mm) == (0.0, None)


def test_a_case_that_fails_does_not_stop_the_rest(ball_case, disc_case):
    lost = replace(ball_case, name="lost", image=ball_case.image.with_name("none.nii.gz"))
    first, second = run_cases([lost, disc_case], Threshold())
    assert first.scores is None
    assert "no such file" in first.error
    assert second.scores.dice == 1.0


def test_a_predictor_that_breaks(ball_case, caplog):
    with caplog.at_level(logging.ERROR):
        (result,) = run_cases([ball_case], OutOfMemory())
    assert (result.scores, result.error) == (None, "CUDA out of memory")
    assert "case ball failed" in caplog.text
    (result,) = run_cases([ball_case], WrongGrid())
    assert "cannot be compared" in result.error


def test_what_the_predictor_is_asked(ball_case, disc_case):
    recorder = Recorder()
    options = RunOptions(box_noise=0.1, repeats=3, memory="self-sorting")
    results = list(run_cases([ball_case, disc_case], recorder, options))
    assert [(result.name, result.repeat) for result in results] == [
        (name, repeat) for name in ("ball", "disc") for repeat in range(3)
    ]
    boxes = [prompt.box for prompt in recorder.prompts]
    assert len(set(boxes)) == 6
    assert {job.options.memory for job in recorder.jobs} == {"self-sorting"}
    assert [prompt.slice_index for prompt in recorder.prompts] == [8] * 3 + [0] * 3
    assert [job.window for job in recorder.jobs] == [(0.0, 255.0)] * 3 + [None] * 3
    again = Recorder()
    list(run_cases([disc_case, ball_case], again, options))
    assert [prompt.box for prompt in again.prompts] == boxes[3:] + boxes[:3]


def test_a_tight_box_is_asked_as_it_is(ball_case):
    recorder = Recorder()
    list(run_cases([ball_case], recorder))
    assert recorder.prompts[0].box.xyxy == ball_case.box_xyxy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box_noise": -0.1}, "0 to 1, not -0.1"),
        ({"box_noise": float("nan")}, "0 to 1, not nan"),
        ({"repeats": 0, "box_noise": 0.1}, "repeats start at 1"),
        ({"seed": -1}, "seeds at 0"),
        ({"repeats": 3}, "3 repeats without noise"),
        ({"protocol": "scribble"}, "one of box, clicks, mask, recist, interactive, not 'scribble'"),
        ({"protocol": "mask", "box_noise": 0.1}, "mask has no box to put noise on"),
        ({"protocol": "clicks", "clicks": 0}, "clicks are at least 1, not 0"),
    ],
)
def test_options_that_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        RunOptions(**values)


def test_monai_is_asked_for_before_the_first_case(ball_case, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(InputError, match="pip install"):
        next(run_cases([ball_case], OutOfMemory()))


def result(name, dimensions, modality, dice=None, hd95=0.0):
    unit = {"hd95_mm": hd95, "hd95_px": None} if dimensions == 3 else {"hd95_mm": None, "hd95_px": hd95}
    scores = None if dice is None else Scores(
        dice=dice, surface_dice=dice, key_slice_dice=dice, over_slices=2, under_slices=0, seconds=1.0,
        num_slices=5, **unit,
    )  # fmt: skip
    return CaseResult(
        name=name, modality=modality, target="", dimensions=dimensions, scores=scores,
        error=None if scores else "no",
    )  # fmt: skip


def test_means():
    summary = summarise(
        [
            result("a", 3, "CT", 0.9, 2.0),
            result("b", 3, "MR", 0.5, 4.0),
            result("c", 3, "MR", 0.0, math.inf),
            result("d", 3, "MR"),
            result("e", 2, "US", 0.8, 7.0),
        ]
    )
    volumes, stills = summary.volumes, summary.stills
    assert (volumes.num_runs, volumes.num_failed, volumes.num_missed) == (4, 1, 1)
    assert volumes.dice == pytest.approx(1.4 / 3)
    assert (volumes.hd95_mm, volumes.hd95_px) == (3.0, None)
    assert (volumes.over_slices, volumes.under_slices, volumes.seconds) == (2, 0, 1)
    assert (stills.dice, stills.hd95_mm, stills.hd95_px) == (0.8, None, 7.0)
    assert list(summary.by_modality) == ["CT", "MR", "US"]
    assert summary.by_modality["MR"].dice == pytest.approx(0.25)


def test_means_of_nothing():
    means = summarise([]).volumes
    assert (means.num_runs, means.dice, means.hd95_mm) == (0, None, None)


def test_the_boxes_of_the_cases_here_are_tight(disc_case):
    assert tight_box(read_task(disc_case).truth[0]).xyxy == disc_case.box_xyxy
