"""Masks and their connected parts: the page's engine and Python agree to the pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from medsam2.imaging.labels import ConnectedParts
from medsam2.inference import zoom
from medsam2.inference.carried_track import CLICKED_LOGIT, OUT_OF_REACH_LOGIT, keep_reaching, merge_clicks
from medsam2.inference.masks import fill_logit_holes, prompted_parts, to_slice, to_view
from medsam2.model.network import ABSENT_LOGIT
from medsam2.prompts.types import Prompt, prompt_from

SIDE = 32


def _blobs(rng: np.random.Generator, shape: tuple[int, ...], share: float = 0.4) -> np.ndarray:
    smooth = ndimage.uniform_filter(rng.normal(0, 1, shape), 3)
    return smooth > np.quantile(smooth, 1 - share)


def _logits(rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    smooth = ndimage.uniform_filter(rng.normal(0, 20, (side, side)), 3)
    return smooth.astype(np.float32)


def _patch(mask: np.ndarray) -> dict[str, Any]:
    return {"left": 0, "top": 0, "width": mask.shape[1], "height": mask.shape[0], "inside": mask}


def _tensor(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits)[None, None]


def _assert_close(found: list[float], expected: np.ndarray) -> None:
    """Processors that multiply and add at once place pixels 1e-5 elsewhere, which absent logits enlarge."""
    logits, known = np.array(found), expected.ravel()
    np.testing.assert_allclose(logits, known, rtol=1e-4, atol=2e-3)
    is_sure = np.abs(known) > 2e-3
    assert ((logits > 0) == (known > 0))[is_sure].all()


def test_parts_are_numbered_like_scipys(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(0)
    masks = [_blobs(rng, (23, 31), share) for share in (0.1, 0.3, 0.5, 0.6)]
    masks += [np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool), rng.random((40, 40)) < 0.35]
    calls = [
        make_call(module="postprocess.js", name="numberParts", given=[mask, mask.shape[1], mask.shape[0]])
        for mask in masks
    ]
    for mask, found in zip(masks, in_node(calls), strict=True):
        expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
        assert found["count"] == count
        np.testing.assert_array_equal(found["labels"], expected.ravel())


def test_logits_go_to_the_slice_and_to_other_views(in_node: Any, make_call: Any, chain: Any) -> None:
    rng, shape, size = np.random.default_rng(1), (150, 130), 192
    calls = []
    for side, x, y in [(48, 10, 20), (192, -31, -21), (100, 30, 50), (150, -10, 0), (333, -100, -90)]:
        view = zoom.View(x=x, y=y, width=side, height=side, is_zoomed=True)
        other = zoom.View(x=x + 5, y=y - 7, width=side + 13, height=side + 13, is_zoomed=True)
        logits = _logits(rng, size)
        plane = to_slice(_tensor(logits), view, shape)
        top, bottom, left, right = view.bounds(shape)
        part = {"left": left, "top": top, "width": right - left, "height": bottom - top}
        names = {"x": view.x, "y": view.y, "width": side, "height": side}
        wider = {"x": other.x, "y": other.y, "width": side + 13, "height": side + 13}
        bounds = {"top": top, "bottom": bottom, "left": left, "right": right}
        calls += [
            make_call(
                module="view.js", name="Views", construct=[chain, *shape], method="bounds", given=[names],
                about=bounds,
            ),
            make_call(
                module="postprocess.js", name="toSlice", given=[logits, size, names, bounds],
                about=(part, plane[top:bottom, left:right]),
            ),
            make_call(
                module="postprocess.js", name="toView", about=to_view(plane, other, size).numpy(),
                given=[{**part, "logits": plane[top:bottom, left:right]}, wider, size, ABSENT_LOGIT],
            ),
        ]  # fmt: skip
    found = in_node(calls)
    for one, call in zip(found[::3], calls[::3], strict=True):
        assert one == call.about
    for one, call in zip(found[1::3], calls[1::3], strict=True):
        part, expected = call.about
        assert {name: one[name] for name in part} == part
        _assert_close(one["logits"], expected)
    for one, call in zip(found[2::3], calls[2::3], strict=True):
        _assert_close(one, call.about)


def test_corrections_change_what_was_pointed_at(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(2)
    calls = []
    for _ in range(20):
        before, after = _logits(rng), _logits(rng)
        clicks = [(*rng.uniform(-1, SIDE, 2).tolist(), bool(rng.integers(2))) for _ in range(3)]
        clicks.append((5.0, 6.0, True))
        expected = merge_clicks(_tensor(before), _tensor(after), clicks, stride=1)
        calls.append(
            make_call(
                module="postprocess.js", name="mergeClicks", about=expected.numpy().ravel(),
                given=[before, after, clicks, SIDE, CLICKED_LOGIT],
            )
        )  # fmt: skip
    for found, call in zip(in_node(calls), calls, strict=True):
        np.testing.assert_array_equal(np.array(found, dtype=np.float32), call.about)


def test_parts_out_of_reach_and_holes(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(3)
    calls = []
    for share in (0.0, 0.01, 0.1, 0.5):
        logits, before = _logits(rng), (rng.random((SIDE, SIDE)) < share).astype(np.float32)
        kept = keep_reaching(_tensor(logits), torch.from_numpy(before)[None] > 0.5)
        calls.append(
            make_call(
                module="postprocess.js", name="keepReaching", about=kept.numpy().ravel(),
                given=[logits, before, SIDE, OUT_OF_REACH_LOGIT],
            )
        )  # fmt: skip
        filled = fill_logit_holes(_tensor(logits), 6).numpy().ravel()
        calls.append(
            make_call(module="postprocess.js", name="fillHoles", about=filled, given=[logits, SIDE, 6])
        )
    for found, call in zip(in_node(calls), calls, strict=True):
        np.testing.assert_array_equal(np.array(found, dtype=np.float32), call.about)


def _as_prompt(prompt: Prompt) -> dict[str, Any]:
    return {
        "box": None if prompt.box is None else list(prompt.box.xyxy),
        "points": [{"x": one.x, "y": one.y, "isInside": one.is_positive} for one in prompt.points],
        "mask": None if prompt.mask is None else _patch(prompt.mask.array),
    }


def test_what_a_prompt_points_at(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(4)
    calls = []
    for _ in range(10):
        mask = _blobs(rng, (40, 50))
        prompts = [
            prompt_from(0, box=[3.5, 4.5, 30, 31.2]),
            prompt_from(0, box=[10, 10, 20, 30], points=[[33, 20], [2, 3]], labels=[1, 0]),
            prompt_from(0, points=[[10.5, 11.5], [20, 21]]),
            prompt_from(0, points=[[10, 11]], labels=[0]),
            prompt_from(0, mask=mask),
        ]
        for prompt in prompts:
            expected = prompted_parts(lambda _, mask=mask: mask, [prompt])[0]  # type: ignore[misc]
            calls.append(
                make_call(
                    module="postprocess.js", name="promptedPart", given=[_patch(mask), _as_prompt(prompt)],
                    about=expected.ravel(),
                )
            )  # fmt: skip
    for found, call in zip(in_node(calls), calls, strict=True):
        np.testing.assert_array_equal(np.array(found), call.about)


@pytest.mark.parametrize("seed", range(4))
def test_parts_in_space(in_node: Any, make_call: Any, seed: int) -> None:
    """Slices in any order, each in a patch of its own; the seeds are in one or two of them."""
    rng = np.random.default_rng(seed)
    stack = _blobs(rng, (9, 24, 30), 0.25)
    order = rng.permutation(9).tolist()
    seeds = {order[2]: stack[order[2]] & (rng.random((24, 30)) < 0.05)}
    if seed % 2:
        seeds[order[6]] = stack[order[6]] & (rng.random((24, 30)) < 0.05)
    parts = ConnectedParts(lambda z: stack[z])
    changes = [sorted(parts.add(z, seeds.get(z))) for z in order]
    kept = [parts.kept(z) for z in range(9)]
    patches = []
    for z in range(9):
        rows, columns = stack[z].any(axis=1).nonzero()[0], stack[z].any(axis=0).nonzero()[0]
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        patches.append((int(top), int(bottom), int(left), int(right)))
    given = [
        {
            "slice": z,
            "patch": {"left": left, "top": top, "width": right - left, "height": bottom - top,
                      "inside": stack[z, top:bottom, left:right]},
            "seed": seeds[z][top:bottom, left:right] if z in seeds else None,
        }
        for z in order
        for top, bottom, left, right in [patches[z]]
    ]  # fmt: skip
    (found,) = in_node(
        [
            make_call(
                module="../../../../../tests/browser_engine/follow_parts.mjs",
                name="followParts",
                given=[given],
            )
        ]
    )
    assert found["changes"] == changes
    for z, (top, bottom, left, right) in enumerate(patches):
        np.testing.assert_array_equal(
            np.array(found["kept"][z]), kept[z][top:bottom, left:right].astype(int).ravel(), err_msg=str(z)
        )


def test_memories_are_rounded_like_pytorchs(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate(
        [rng.normal(0, 1, 4000), rng.normal(0, 1e-6, 500), [0, -0.0, 1, 1 + 2**-8, 1 + 3 * 2**-8, 3e38]]
    ).astype(np.float32)
    (found,) = in_node([make_call(module="memory.js", name="roundToBfloat16", given=[values])])
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), expected)
