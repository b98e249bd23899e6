"""The classical methods, where their answer is known."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from medsam2.errors import InputError, PromptError
from medsam2.evaluation.baseline import EllipsoidSegmenter, RandomWalkerSegmenter
from medsam2.evaluation.runner import RunOptions, run_cases
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.inference.job import Job
from medsam2.prompts.types import prompt_from

BOTH = [EllipsoidSegmenter, RandomWalkerSegmenter]


def scan(inside, spacing=(1.0, 1.0, 1.0), *, noise=6.0):
    grey = np.where(inside, 180.0, 60.0) + np.random.default_rng(0).normal(0, noise, inside.shape)
    return Volume.from_array(grey.astype(np.float32), spacing)


def segment(segmenter, volume, slice_index, box, *, window=None, axis=2):
    prompt = prompt_from(slice_index, box=box)
    return segmenter.segment(Job(image=volume, objects={1: [prompt]}, window=window, axis=axis))


def dice(first, second):
    return 2 * np.sum(first & second) / (np.sum(first) + np.sum(second))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_ellipsoid_of_a_balls_box_is_the_ball(axis):
    spacing = (0.5, 1.0, 2.0)
    z, y, x = np.ogrid[:31, :61, :121]
    inside = ((x - 60) * 0.5) ** 2 + ((y - 30) * 1.0) ** 2 + ((z - 15) * 2.0) ** 2 <= 25**2
    slices = slices_along(inside, axis)
    index = len(slices) // 2
    rows, columns = (np.flatnonzero(slices[index].any(axis=other)) for other in (1, 0))
    box = (columns[0], rows[0], columns[-1], rows[-1])
    mask = segment(EllipsoidSegmenter(), scan(inside, spacing), index, box, axis=axis)
    assert mask.array.dtype == np.uint8
    assert mask.shape == inside.shape
    assert dice(mask.array > 0, inside) > 0.95


def test_the_ellipse_fills_the_box_of_a_picture():
    picture = scan(np.zeros((1, 40, 60), bool))
    mask = segment(EllipsoidSegmenter(), picture, 0, (10, 5, 49, 34)).array[0] > 0
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    assert (columns[0], rows[0], columns[-1], rows[-1]) == (10, 5, 49, 34)
    assert mask.sum() == pytest.approx(np.pi * 20 * 15, rel=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_random_walker_follows_a_tube_that_bends_and_ends(axis):
    z, y, x = np.ogrid[:24, :60, :60]
    tube = ((x - 25 - 0.6 * z) ** 2 + (y - 30) ** 2 <= 64) & (z >= 4) & (z < 20)
    inside = np.moveaxis(tube, 0, 2 - axis)
    slices = slices_along(inside, axis)
    rows, columns = (np.flatnonzero(slices[12].any(axis=other)) for other in (1, 0))
    box = (columns[0], rows[0], columns[-1], rows[-1])
    found = segment(RandomWalkerSegmenter(), scan(inside), 12, box, window=(0, 255), axis=axis)
    filled = slices_along(found.array, axis).any(axis=(1, 2))
    assert np.flatnonzero(filled).tolist() == list(range(4, 20))
    assert dice(found.array > 0, inside) > 0.95


def test_the_random_walker_does_not_need_an_ellipse():
    picture = np.zeros((1, 50, 50), bool)
    picture[0, 12:38, 15:20] = picture[0, 12:18, 15:35] = picture[0, 28:38, 15:35] = True  # the letter C
    by_ellipse, by_walk = (
        segment(segmenter(), scan(picture), 0, (15, 12, 34, 37), window=(0, 255)) for segmenter in BOTH
    )
    assert dice(by_walk.array > 0, picture) > dice(by_ellipse.array > 0, picture) + 0.05


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((3, 20, 20), (0, 0, 19, 19)),  # nothing but corners lies outside
        ((3, 2, 2), (0, 0, 1, 1)),
        ((3, 20, 20), (5, 5, 6, 6)),
        ((3, 20, 20), (5.4, 5.2, 6.4, 6.3)),
        ((1, 1, 2), None),
    ],
)
def test_boxes_that_leave_little(shape, box):
    volume = scan(np.zeros(shape, bool))
    for segmenter in BOTH:
        if box is None:
            with pytest.raises(PromptError):
                segment(segmenter(), volume, 0, (0, 0, 1, 0))
        else:
            assert segment(segmenter(), volume, 1, box).array.max() <= 1


def test_the_random_walker_on_a_slice_without_edges():
    volume = scan(np.zeros((3, 20, 20), bool), noise=0.0)
    volume.array[0, 0, 0] = 0
    found = segment(RandomWalkerSegmenter(), volume, 1, (5, 5, 14, 14), window=(0, 255)).array
    assert found[1].any()
    assert not found[1, 0].any()


@pytest.mark.parametrize("segmenter", BOTH)
def test_prompts_that_do_not_fit(segmenter):
    volume = scan(np.zeros((3, 20, 20), bool))
    with pytest.raises(PromptError, match="outside the slice"):
        segment(segmenter(), volume, 0, (0, 0, 20, 5))
    with pytest.raises(PromptError, match="slice 3 is outside"):
        segment(segmenter(), volume, 3, (0, 0, 5, 5))


@pytest.mark.parametrize("segmenter", BOTH)
def test_they_can_be_evaluated(segmenter, ball_case, disc_case):
    results = list(run_cases([ball_case, disc_case], segmenter(), RunOptions(box_noise=0.05, repeats=2)))
    assert [result.error for result in results] == [None] * 4
    assert all(result.scores.dice > 0.75 for result in results)
    (tight,) = run_cases([replace(ball_case, name="tight")], segmenter())
    assert tight.scores.dice > 0.85


def test_without_scikit_image_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(InputError, match="pip install scikit-image"):
        RandomWalkerSegmenter()
