"""Mirror images of a slice: prompts and priors go along, and what is averaged comes back in place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medsam2.imaging.volume import Volume
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import start_runtime
from medsam2.model.network import ABSENT_LOGIT, Network
from medsam2.tracking.mirror import COUNTS, Mirrors
from medsam2.tracking.prior import PromptTensors, with_prior
from medsam2.tracking.step import FrameResult

SIZE = 64
BOX = (10.0, 22.0, 31.0, 40.0)


def _result(seed: int, present: float = 3.0) -> FrameResult:
    generator = torch.Generator().manual_seed(seed)
    return FrameResult(
        low_res_logits=torch.randn(1, 1, 16, 16, generator=generator),
        iou=torch.rand(1, 1, generator=generator),
        object_logits=torch.full((1, 1), present),
        pointer=torch.randn(1, 8, generator=generator),
        candidate_logits=torch.randn(1, 3, 16, 16, generator=generator),
        candidate_iou=torch.rand(1, 3, generator=generator),
    )


def _prompts() -> dict[str, PromptTensors]:
    corners = torch.tensor(BOX).view(1, 2, 2)
    clicks = torch.tensor([[[20.0, 30.0], [5.0, 60.0]]])
    mask = (torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    return {
        "box": PromptTensors(points=corners, labels=torch.tensor([[2, 3]])),
        "clicks": PromptTensors(points=clicks, labels=torch.tensor([[1, 0]])),
        "box and click": PromptTensors(
            points=torch.cat((corners, clicks[:, :1]), dim=1), labels=torch.tensor([[2, 3, 1]])
        ),
        "mask": PromptTensors(mask=mask),
    }


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", list(_prompts()))
def test_the_prior_of_a_mirrored_prompt_is_the_mirrored_prior(count: int, kind: str) -> None:
    mirrors, prompt = Mirrors(count), _prompts()[kind]
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    expected = mirrors.spread(with_prior(image, prompt=prompt))
    found = with_prior(mirrors.spread(image), prompt=mirrors.spread_prompt(prompt, SIZE))
    assert len(expected) == count
    assert torch.equal(found, expected)


def test_corners_of_a_mirrored_box_keep_their_order() -> None:
    spread = Mirrors(4).spread_prompt(_prompts()["box and click"], SIZE)
    first, last, click = spread.points.unbind(dim=1)
    assert (first < last).all()
    assert click.tolist() == [[20, 30], [43, 30], [20, 33], [43, 33]]


@pytest.mark.parametrize("count", COUNTS)
def test_images_that_agree_give_what_each_of_them_found(count: int) -> None:
    mirrors, result = Mirrors(count), _result(0)
    pointers = torch.randn(count, 8)
    agreed = mirrors.agree(mirrors.spread_result(result, pointers))
    assert torch.equal(agreed.pointer, pointers[: len(agreed.pointer)] if count == 1 else pointers[:1])
    for field in dataclasses.fields(FrameResult):
        if field.name != "pointer":
            torch.testing.assert_close(getattr(agreed, field.name), getattr(result, field.name))


@pytest.mark.parametrize(("second", "is_there"), [(-1.0, True), (-5.0, False)])
def test_an_image_that_found_nothing_votes_but_does_not_draw(second: float, is_there: bool) -> None:
    mirrors, found, lost = Mirrors(2), _result(0), _result(1, present=second)
    both = FrameResult(
        low_res_logits=torch.cat((found.low_res_logits, torch.full((1, 1, 16, 16), ABSENT_LOGIT))),
        **{
            name: torch.cat((getattr(found, name), getattr(lost, name)))
            for name in ("iou", "object_logits", "pointer", "candidate_logits", "candidate_iou")
        },
    )
    agreed = mirrors.agree(both)
    assert bool(agreed.object_logits > 0) == is_there
    expected = found.low_res_logits if is_there else torch.full((1, 1, 16, 16), ABSENT_LOGIT)
    assert torch.equal(agreed.low_res_logits, expected)


@pytest.mark.parametrize("carries_mask", [False, True])
@pytest.mark.parametrize(("count", "axes"), [(2, (2,)), (4, (1, 2))])
def test_a_mirrored_scan_gives_the_mirrored_mask(
    network: Network, carries_mask: bool, count: int, axes: tuple[int, ...]
) -> None:
    carrier = Network(dataclasses.replace(network.config, carries_mask=carries_mask)).eval()
    carrier.load_state_dict(network.state_dict())
    predictor = Predictor(start_runtime(carrier, device="cpu", precision="float32"))
    grey = np.random.default_rng(3).integers(0, 90, (7, SIZE, SIZE)).astype(np.int16)
    grey[1:6, 20:44, 12:30] += 120
    options = InferenceOptions(zoom=False, keep_component=False, stop_after=0, mirrors=count)

    def logits(array: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
        session = predictor.session(Volume.from_array(array.copy()), window=(0, 255), options=options)
        session.add(1, slice=3, box=box)
        for _ in session.propagate():
            pass
        return np.stack([session.frame(1, z).low_res_logits[0, 0].numpy() for z in range(7)])

    box = np.array([12, 20, 29, 43])
    last = SIZE - 1
    mirrored = np.array([last - box[2], box[1], last - box[0], box[3]])
    if 1 in axes:
        mirrored[[1, 3]] = last - mirrored[[3, 1]]
    expected = np.flip(logits(grey, tuple(box.tolist())), axes)
    found = logits(np.flip(grey, axes), tuple(mirrored.tolist()))
    assert expected.std() > 0.01
    # A single image would be off by far more: chance weights do not know left from right.
    np.testing.assert_allclose(found, expected, atol=2e-2 * expected.std())
