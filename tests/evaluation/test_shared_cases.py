"""The development cases are what their list says; skipped where they are not."""

from pathlib import Path

import pytest

from medsam2.evaluation.baseline import EllipsoidSegmenter
from medsam2.evaluation.protocol import read_cases
from medsam2.evaluation.runner import run_cases
from medsam2.evaluation.task import read_task
from medsam2.imaging.geometry import slices_along
from medsam2.prompts.simulate import tight_box

LIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cases.json"

pytestmark = pytest.mark.skipif(not LIST.is_file(), reason="the development images are not here")


def test_every_box_is_tight_on_the_largest_slice():
    for case in read_cases(LIST):
        task = read_task(case)
        slices = slices_along(task.truth, task.axis)
        assert tight_box(slices[case.key_slice]).xyxy == case.box_xyxy, case.name
        areas = slices.sum(axis=(1, 2))
        assert areas[case.key_slice] == areas.max(), case.name


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("ct_ts_3mm_kidney_left", 0.5, 0.75),
        ("ct_dcmqi_vertebra", 0.7, 0.9),  # a DICOM series with an NRRD mask
        ("mr_sct_t1", 0.2, 0.5),  # sliced along the first axis; a cord is no ball
        ("us_usgra_0027_nerve", 0.9, 1.0),
    ],
)
def test_an_ellipsoid_is_a_fair_guess_at_what_is_round(name, lowest, highest):
    (case,) = (case for case in read_cases(LIST) if case.name == name)
    (result,) = run_cases([case], EllipsoidSegmenter())
    assert result.error is None
    assert lowest < result.scores.dice < highest
