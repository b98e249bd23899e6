"""The compact network's simulated user: boxes, discs of clicks and drawn masks, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN, LABEL_NEGATIVE, LABEL_POSITIVE
from medsam2.prompts.types import Point
from medsam2.tracking.planes import PromptPlanes, click_radius, draw_prompt
from medsam2.tracking.step import PromptTensors
from medsam2.training.config import PromptConfig
from medsam2.training.user import correct, prompt_clips, stamp

SIZE = 64
COUNT = 120
BOX = (12.0, 20.0, 35.0, 39.0)
"""First and last column and row of the object below, both inside: (x_min, y_min, x_max, y_max)."""


def _target(count: int = COUNT) -> Tensor:
    target = torch.zeros(count, SIZE, SIZE)
    target[:, 20:40, 12:36] = 1
    return target


def _sources(count: int = COUNT) -> list[np.random.Generator]:
    return [np.random.default_rng((3, clip)) for clip in range(count)]


def _nothing(count: int) -> PromptPlanes:
    nothing = torch.zeros(count, SIZE, SIZE)
    return PromptPlanes(box=nothing, inside=nothing, outside=nothing)


def _as_used(points: list[tuple[float, float]], labels: list[int]) -> PromptPlanes:
    """The maps that a user's prompt is drawn as."""
    prompt = PromptTensors(points=torch.tensor([points]), labels=torch.tensor([labels]))
    return draw_prompt(prompt, 1, SIZE)


def test_a_box_covers_the_objects_rows_and_columns() -> None:
    first = prompt_clips(_target(), PromptConfig(point_share=0, mask_share=0, box_noise=0), _sources())
    filled = _target()  # the object is a rectangle itself
    assert torch.equal(first.planes.box, filled)
    assert not first.planes.inside.any()
    assert not first.planes.outside.any()
    assert not first.is_drawn.any()
    x_min, y_min, x_max, y_max = BOX
    used = _as_used([(x_min, y_min), (x_max, y_max)], [LABEL_BOX_MIN, LABEL_BOX_MAX])
    assert torch.equal(used.box[0], filled[0]), "as in use"


def test_boxes_are_exact_or_noisy() -> None:
    first = prompt_clips(_target(), PromptConfig(point_share=0, mask_share=0, box_noise=0.1), _sources())
    is_exact = (first.planes.box == _target()).flatten(1).all(dim=1)
    assert 0.25 < float(is_exact.float().mean()) < 0.6
    for box in first.planes.box:
        rows, columns = box.any(dim=1).nonzero()[:, 0], box.any(dim=0).nonzero()[:, 0]
        assert torch.equal(box.any(dim=1)[:, None] & box.any(dim=0), box > 0), "it is a rectangle"
        # By a tenth of 24 columns and of 20 rows at most, rounded.
        assert abs(int(columns[0]) - 12) <= 2
        assert abs(int(columns[-1]) - 35) <= 2
        assert abs(int(rows[0]) - 20) <= 2
        assert abs(int(rows[-1]) - 39) <= 2


def test_a_first_click_is_a_disc_in_the_object() -> None:
    first = prompt_clips(_target(), PromptConfig(point_share=1, mask_share=0), _sources())
    assert not first.planes.box.any()
    middles = []
    for disc in first.planes.inside:
        rows, columns = disc.nonzero().float().mean(dim=0).tolist()
        x, y = round(columns), round(rows)
        assert bool(_target(1)[0, y, x])
        assert torch.equal(disc, _as_used([(x, y)], [LABEL_POSITIVE]).inside[0]), "as in use"
        middles.append(abs(y - 29.5) < 1)
    assert 0.4 < np.mean(middles) < 0.8, "about every other one is in the middle"


def test_a_drawn_mask_comes_alone() -> None:
    first = prompt_clips(_target(), PromptConfig(point_share=0, mask_share=1), _sources())
    assert first.is_drawn.all()
    assert torch.equal(first.drawn, _target())
    assert not any(plane.any() for plane in (first.planes.box, first.planes.inside, first.planes.outside))


def test_each_clip_has_a_prompt_of_its_own_kind() -> None:
    first = prompt_clips(_target(), PromptConfig(point_share=0.3, mask_share=0.3), _sources())
    has_box, has_click = (plane.flatten(1).any(dim=1) for plane in (first.planes.box, first.planes.inside))
    kinds = torch.stack((has_box, has_click, first.is_drawn))
    assert (kinds.sum(dim=0) == 1).all()
    assert all(abs(share - expected) < 0.15 for share, expected in zip(
        kinds.float().mean(dim=1).tolist(), (0.4, 0.3, 0.3), strict=True
    ))  # fmt: skip
    part = prompt_clips(_target(20), PromptConfig(point_share=0.3, mask_share=0.3), _sources()[100:])
    assert torch.equal(part.planes.box, first.planes.box[100:])


@pytest.mark.parametrize(("missing", "excess"), [(True, False), (False, True)])
def test_corrections_point_at_what_is_wrong(missing: bool, excess: bool) -> None:
    target, found = _target(20), _target(20) > 0
    wrong = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    wrong[22:30, (14 if missing else 40) : (20 if missing else 50)] = True
    found[:, wrong] = excess
    before = _nothing(20)
    planes = correct(before, found, target, _sources(20))
    drawn, empty = (planes.inside, planes.outside) if missing else (planes.outside, planes.inside)
    assert not empty.any()
    for disc in drawn:
        rows, columns = disc.nonzero().float().mean(dim=0).tolist()
        x, y = round(columns), round(rows)
        assert bool(wrong[y, x])
        label = LABEL_POSITIVE if missing else LABEL_NEGATIVE
        used = _as_used([(x, y)], [label])
        assert torch.equal(disc, (used.inside if missing else used.outside)[0])
    assert not before.inside.any()
    assert not before.outside.any()


def test_corrections_are_added_to_what_was_drawn() -> None:
    target = _target(1)
    box = torch.zeros(1, SIZE, SIZE)
    box[:, 18:42, 10:38] = 1
    first = PromptPlanes(box=box, inside=torch.zeros_like(box), outside=torch.zeros_like(box))
    second = correct(first, torch.zeros(1, SIZE, SIZE) > 0, target, _sources(1))
    third = correct(second, torch.zeros(1, SIZE, SIZE) > 0, target, [np.random.default_rng(5)])
    assert torch.equal(third.box, box)
    assert bool((third.inside >= second.inside).all())
    assert float(third.inside.sum()) > float(second.inside.sum()) > 0


@pytest.mark.parametrize(("size", "radius"), [(32, 1.5), (64, 1.6), (192, 4.8)])
def test_discs_grow_with_the_view(size: int, radius: float) -> None:
    assert click_radius(size) == pytest.approx(radius)
    plane = torch.zeros(size, size)
    stamp(plane, Point(x=10.0, y=20.0, is_positive=True))
    expected = [
        (y, x) for y in range(size) for x in range(size) if (x - 10) ** 2 + (y - 20) ** 2 <= radius**2
    ]
    assert [tuple(place) for place in plane.nonzero().tolist()] == expected
