"""The simulated user: first prompts, corrections, the area under the curve."""

from dataclasses import replace

import numpy as np
import pytest

from medsam2.evaluation.baseline import EllipsoidSegmenter
from medsam2.evaluation.cases import read_task
from medsam2.evaluation.runner import run_cases
from medsam2.evaluation.simulated_user import RunOptions, auc, first_prompt, prompt_case
from medsam2.imaging.geometry import slices_along
from medsam2.inference.predictor import Predictor

INTERACTIVE = RunOptions(protocol="interactive", clicks=3)


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_first_prompts(ball_case):
    task = read_task(ball_case)
    disc = task.truth[8]
    drawn = first_prompt(task, RunOptions(protocol="mask"), 0)
    np.testing.assert_array_equal(drawn.mask.array, disc)
    (point,) = first_prompt(task, RunOptions(protocol="clicks"), 0).points
    assert (point.x, point.y, point.is_positive) == (12.0, 9.0, True)
    assert first_prompt(task, INTERACTIVE, 0).box.xyxy == ball_case.box_xyxy
    # 19 mm along x: a diameter that says nothing of y gets 0.7 of its length there, in pixels of 1.5 mm.
    box = first_prompt(task, RunOptions(protocol="recist"), 0).box
    assert (box.x_min, box.x_max) == (3.0, 21.0)
    assert (box.y_min + box.y_max) / 2 == 9.0
    assert box.y_max - box.y_min == pytest.approx(0.7 * 18 / 1.5)


def test_noise_on_the_first_box_is_that_of_the_box_protocol(ball_case, scripted):
    noisy = scripted()
    options = RunOptions(box_noise=0.2, repeats=2)
    list(run_cases([ball_case], noisy, options))
    list(run_cases([ball_case], noisy, replace(options, protocol="interactive", clicks=1)))
    boxes = [dialogue.prompts[0].box for dialogue in noisy.dialogues]
    assert boxes[:2] == boxes[2:]
    assert len(set(boxes)) == 2


@pytest.mark.parametrize("axis", [2, 0])
def test_each_click_lands_in_the_largest_error_and_is_answered(
    ball_case, scripted, without_slices, repeated_slice, axis
):
    case = replace(ball_case, axis=axis, key_slice=8 if axis == 2 else 12)
    if axis == 0:
        case = replace(case, box_xyxy=(3, 4, 15, 12))
    # The ball fills slices 4 to 12 along z, 3 to 21 along x.
    lost, middle = ((9, 12), 8) if axis == 2 else ((15, 21), 12)
    segmenter = scripted([without_slices(*lost), repeated_slice(middle, 0, 1)])
    task = read_task(case)
    truth = slices_along(task.truth, axis)
    answers = list(prompt_case(task, segmenter, INTERACTIVE, 0))
    assert [one.interactions for one in answers] == [1, 2, 3, 4]
    first, second, third = segmenter.dialogues[0].prompts
    assert first.box.xyxy == case.box_xyxy
    assert lost[0] <= second.slice_index <= lost[1]
    (point,) = second.points
    assert point.is_positive
    assert truth[second.slice_index, int(point.y), int(point.x)]
    assert third.slice_index in (0, 1)
    assert [point.is_positive for point in third.points] == [False]
    # The second click has corrected all: there is no third click, it takes no time and the mask stays.
    np.testing.assert_array_equal(answers[2].mask, task.truth)
    assert answers[3].mask is answers[2].mask
    assert answers[3].seconds == 0


def test_scores_after_each_click(ball_case, scripted, without_slices):
    segmenter = scripted([without_slices(9, 12), without_slices(12, 12)])
    (result,) = run_cases([ball_case], segmenter, INTERACTIVE)
    truth = read_task(ball_case).truth
    spoilt, better = truth.copy(), truth.copy()
    spoilt[9:], better[12:] = False, False
    dices = [dice(spoilt, truth), dice(better, truth), 1.0, 1.0]
    assert [step.dice for step in result.steps] == pytest.approx(dices)
    assert [step.poor_slices for step in result.steps] == [4, 1, 0, 0]
    # Trapezoids over the three masks after a click; that after the box does not count.
    assert result.scores.dice_auc == pytest.approx((dices[1] + 1) / 2 + 1)
    assert result.scores.dice == 1.0
    assert result.scores.seconds == pytest.approx(sum(step.seconds for step in result.steps))


def test_clicks_alone_are_counted_from_the_first(ball_case, scripted):
    segmenter = scripted()
    (result,) = run_cases([ball_case], segmenter, RunOptions(protocol="clicks", clicks=5))
    assert len(result.steps) == 5
    assert (result.scores.dice_auc, result.scores.surface_dice_auc) == (4.0, 4.0)
    assert len(segmenter.dialogues[0].prompts) == 1  # nothing is wrong after the first


@pytest.mark.parametrize("protocol", ["mask", "recist"])
def test_protocols_of_one_prompt(ball_case, disc_case, scripted, protocol):
    for result in run_cases([ball_case, disc_case], scripted(), RunOptions(protocol=protocol)):
        assert (len(result.steps), result.scores.dice, result.scores.dice_auc) == (1, 1.0, None)


def test_a_method_that_takes_boxes_only(ball_case):
    (result,) = run_cases([ball_case], EllipsoidSegmenter(), RunOptions(protocol="clicks"))
    assert "clicks needs the network" in result.error


def test_areas():
    assert auc([1.0] * 5) == 4.0  # the most that the challenge gives
    assert auc([0.0, 1.0]) == 0.5
    assert auc([0.7]) is None


def test_a_real_session_is_corrected(ball_case, runtime):
    """Weights of chance: what they find is worth nothing, but every click has to be taken."""
    (result,) = run_cases([ball_case], Predictor(runtime), RunOptions(protocol="interactive", clicks=2))
    assert result.error is None
    assert len(result.steps) == 3
    assert all(step.seconds > 0 for step in result.steps)
    assert result.scores.peak_mib is None or result.scores.peak_mib > 50
