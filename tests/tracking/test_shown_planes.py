"""What the compact network is shown of a slice: which plane holds what, and how prompts are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medsam2.model.compact.network import PLANES
from medsam2.tracking.cues import context_likeness, grey_likeness, match_patches
from medsam2.tracking.planes import Known, PromptPlanes, Sight, as_planes, click_radius, draw_prompt
from medsam2.tracking.step import PromptTensors

SIZE = 32
PROMPT = {"is_prompted", "box", "clicks_inside", "clicks_outside"}


def _grey(seed: int) -> Tensor:
    return torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def _square(top: int, left: int, value: float = 1.0) -> Tensor:
    inside = torch.zeros(1, SIZE, SIZE)
    inside[:, top : top + 10, left : left + 10] = value
    return inside


def _named(sight: Sight) -> dict[str, Tensor]:
    planes = as_planes(sight)
    assert planes.shape == (1, len(PLANES), SIZE, SIZE)
    return dict(zip(PLANES, planes.unbind(1), strict=True))


def _shown(planes: dict[str, Tensor]) -> set[str]:
    return {name for name, plane in planes.items() if plane.any()}


@pytest.fixture
def box() -> PromptPlanes:
    nothing = torch.zeros(1, SIZE, SIZE)
    return PromptPlanes(box=_square(8, 9), inside=nothing, outside=nothing)


def test_the_order_of_planes_is_a_wire_format() -> None:
    assert PLANES == (
        "slice", "before", "beyond", "prior", "is_prompted", "box", "clicks_inside", "clicks_outside",
        "key_slice", "key_mask", "grey_like_key", "grey_like_before", "context_like_key",
        "context_like_before", "matched", "match_quality",
    )  # fmt: skip


def test_a_slice_with_a_box_is_compared_with_what_lies_in_the_box(box: PromptPlanes) -> None:
    grey = _grey(0)
    planes = _named(Sight(grey=grey, before=_grey(1), beyond=_grey(2), prompt=box))
    assert _shown(planes) == {
        "slice", "before", "beyond", "is_prompted", "box", "grey_like_key", "context_like_key"
    }  # fmt: skip
    assert torch.equal(planes["slice"], grey)
    assert torch.equal(planes["before"], _grey(1))
    assert torch.equal(planes["beyond"], _grey(2))
    assert (planes["is_prompted"] == 1).all()
    assert torch.equal(planes["box"], box.box)
    assert torch.equal(planes["grey_like_key"], grey_likeness(grey, box.box, grey))
    assert torch.equal(planes["context_like_key"], context_likeness(grey, box.box, grey))


def test_a_slice_with_clicks_alone_has_nothing_to_be_compared_with() -> None:
    inside, outside = _square(4, 4), _square(20, 20)
    prompt = PromptPlanes(box=torch.zeros(1, SIZE, SIZE), inside=inside, outside=outside)
    planes = _named(Sight(grey=_grey(0), before=_grey(1), beyond=_grey(2), prompt=prompt))
    assert _shown(planes) == {"slice", "before", "beyond", "is_prompted", "clicks_inside", "clicks_outside"}
    assert torch.equal(planes["clicks_inside"], inside)
    assert torch.equal(planes["clicks_outside"], outside)


def test_a_drawn_or_corrected_mask_is_the_prior_and_what_greys_are_compared_with(box: PromptPlanes) -> None:
    grey, mask = _grey(0), _square(3, 5, 0.9)
    planes = _named(Sight(grey=grey, before=_grey(1), beyond=_grey(2), prompt=box, prior=mask))
    assert _shown(planes) == {
        "slice", "before", "beyond", "prior", "is_prompted", "box", "grey_like_key", "context_like_key"
    }  # fmt: skip
    assert torch.equal(planes["prior"], mask)
    assert torch.equal(planes["grey_like_key"], grey_likeness(grey, mask, grey)), "closer than the box"


def test_a_followed_slice_is_shown_the_slice_before_and_the_prompted_one() -> None:
    grey, before, key = _grey(0), _grey(1), _grey(3)
    carried, key_mask = _square(6, 6, 0.8), _square(10, 10, 0.7)
    sight = Sight(
        grey=grey,
        before=before,
        beyond=_grey(2),
        prior=carried,
        carried=Known(grey=before, inside=carried),
        key=Known(grey=key, inside=key_mask),
    )
    planes = _named(sight)
    assert _shown(planes) == set(PLANES) - PROMPT
    matched, quality = match_patches(before, carried, grey)
    expected = {
        "slice": grey,
        "before": before,
        "beyond": _grey(2),
        "prior": carried,
        "key_slice": key,
        "key_mask": key_mask,
        "grey_like_key": grey_likeness(key, key_mask, grey),
        "grey_like_before": grey_likeness(before, carried, grey),
        "context_like_key": context_likeness(key, key_mask, grey),
        "context_like_before": context_likeness(before, carried, grey),
        "matched": matched,
        "match_quality": quality,
    }
    for name, plane in expected.items():
        assert torch.equal(planes[name], plane), name


def test_a_followed_slice_that_is_corrected_is_shown_everything(box: PromptPlanes) -> None:
    before, found, key = _grey(1), _square(5, 5, 0.6), Known(grey=_grey(3), inside=_square(10, 10))
    sight = Sight(
        grey=_grey(0),
        before=before,
        beyond=_grey(2),
        prompt=PromptPlanes(box=box.box, inside=_square(1, 1), outside=_square(20, 1)),
        prior=found,
        carried=Known(grey=before, inside=_square(6, 6)),
        key=key,
    )
    planes = _named(sight)
    assert _shown(planes) == set(PLANES)
    assert torch.equal(planes["prior"], found), "its own mask, not that of the slice before"
    assert torch.equal(planes["grey_like_key"], grey_likeness(key.grey, key.inside, sight.grey))


def test_a_batch_is_shown_as_its_parts_are(box: PromptPlanes) -> None:
    sights = [
        Sight(grey=_grey(seed), before=_grey(seed + 1), beyond=_grey(seed + 2), prior=_square(seed, 5),
              carried=Known(grey=_grey(seed + 1), inside=_square(seed, 5)))
        for seed in (0, 10)
    ]  # fmt: skip
    carried = Known(
        grey=torch.cat([sight.carried.grey for sight in sights if sight.carried]),
        inside=torch.cat([sight.carried.inside for sight in sights if sight.carried]),
    )
    maps = {
        name: torch.cat([getattr(sight, name) for sight in sights])
        for name in ("grey", "before", "beyond", "prior")
    }
    both = as_planes(Sight(**maps, carried=carried))
    torch.testing.assert_close(both, torch.cat([as_planes(sight) for sight in sights]), atol=1e-5, rtol=0)


def _pixels(plane: Tensor) -> set[tuple[int, int]]:
    return {(x, y) for y, x in plane[0].nonzero().tolist()}


def test_a_box_covers_its_first_and_last_pixel() -> None:
    points = torch.tensor([[[4.0, 7.0], [6.0, 8.0]]])
    drawn = draw_prompt(PromptTensors(points=points, labels=torch.tensor([[2, 3]])), 1, SIZE)
    assert _pixels(drawn.box) == {(x, y) for x in (4, 5, 6) for y in (7, 8)}
    assert not drawn.inside.any()
    assert not drawn.outside.any()
    moved = draw_prompt(PromptTensors(points=points + 0.4, labels=torch.tensor([[2, 3]])), 1, SIZE)
    assert _pixels(moved.box) == _pixels(drawn.box), "the nearest pixels"


def test_a_box_of_less_than_a_pixel_is_a_pixel() -> None:
    points = torch.tensor([[[4.2, 7.2], [4.2, 7.2]]])
    drawn = draw_prompt(PromptTensors(points=points, labels=torch.tensor([[2, 3]])), 1, SIZE)
    assert _pixels(drawn.box) == {(4, 7)}


def test_clicks_are_discs() -> None:
    assert [click_radius(size) for size in (32, 192, 256)] == pytest.approx([1.5, 4.8, 6.4])
    points = torch.tensor([[[4.0, 7.0], [20.0, 30.5], [0.0, 0.0]]])
    drawn = draw_prompt(PromptTensors(points=points, labels=torch.tensor([[1, 0, 1]])), 1, SIZE)
    assert _pixels(drawn.inside) == {
        *((4 + i, 7 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)),
        (0, 0), (1, 0), (0, 1), (1, 1),
    }  # fmt: skip
    assert _pixels(drawn.outside) == {
        (x, y) for x in range(18, 23) for y in range(SIZE) if (x - 20) ** 2 + (y - 30.5) ** 2 <= 1.5**2
    }
    assert not drawn.box.any()


def test_a_box_and_clicks_are_drawn_together_and_each_object_its_own() -> None:
    points = torch.tensor([[[4.0, 4.0], [8.0, 8.0], [6.0, 6.0]], [[20.0, 20.0], [24.0, 25.0], [30.0, 2.0]]])
    drawn = draw_prompt(PromptTensors(points=points, labels=torch.tensor([[2, 3, 1], [2, 3, 0]])), 2, SIZE)
    assert drawn.box.flatten(1).sum(dim=1).tolist() == [25, 30]
    assert drawn.inside.flatten(1).any(dim=1).tolist() == [True, False]
    assert drawn.outside.flatten(1).any(dim=1).tolist() == [False, True]


def test_without_points_nothing_is_drawn() -> None:
    mask = torch.ones(2, 1, SIZE, SIZE)
    drawn = draw_prompt(PromptTensors(mask=mask), 2, SIZE)
    for plane in (drawn.box, drawn.inside, drawn.outside):
        assert plane.shape == (2, SIZE, SIZE)
        assert not plane.any()


def test_planes_lie_on_the_device_of_the_prompt() -> None:
    on_meta = [
        PromptTensors(mask=torch.ones(1, 1, SIZE, SIZE, device="meta")),
        PromptTensors(
            points=torch.zeros(1, 1, 2, device="meta"),
            labels=torch.ones(1, 1, dtype=torch.long, device="meta"),
        ),
    ]
    for prompt in on_meta:
        assert draw_prompt(prompt, 1, SIZE).box.device.type == "meta"
