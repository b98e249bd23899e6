"""Windows, views and resampling of the page's engine give the numbers that Python's give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medsam2.imaging.intensity import Window, resolve_window, to_uint8
from medsam2.imaging.volume import Volume
from medsam2.inference import zoom
from medsam2.inference.features import prompt_tensors, resample_mask, resample_slice
from medsam2.model.compact.config import COMPACT
from medsam2.prompts.types import Prompt, prompt_from
from medsam2.tracking.planes import draw_prompt

SIZE = COMPACT.image_size
BILINEAR = 2  # Pillow's number
TIES = 3  # of 36864 pixels


def _as_view(view: zoom.View) -> dict[str, Any]:
    return {"x": view.x, "y": view.y, "width": view.width, "height": view.height, "isZoomed": view.is_zoomed}


def _as_prompt(prompt: Prompt) -> dict[str, Any]:
    mask = None if prompt.mask is None else _as_patch(prompt.mask.array)
    points = [{"x": one.x, "y": one.y, "isInside": one.is_positive} for one in prompt.points]
    box = None if prompt.box is None else list(prompt.box.xyxy)
    return {"slice": prompt.slice_index, "box": box, "points": points, "mask": mask}


def _as_patch(mask: np.ndarray) -> dict[str, Any]:
    return {"left": 0, "top": 0, "width": mask.shape[1], "height": mask.shape[0], "inside": mask}


def _prompts(rng: np.random.Generator, height: int, width: int) -> list[Prompt]:
    ends = np.sort(rng.uniform(0, 1, (2, 2)), axis=1) * [[width - 1], [height - 1]]
    places = rng.uniform(0, 1, (int(rng.integers(1, 4)), 2)) * (width - 1, height - 1)
    mask = np.zeros((height, width), dtype=bool)
    top, left = rng.integers(0, height - 6), rng.integers(0, width - 8)
    mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = True
    return [
        prompt_from(0, box=[*ends[:, 0], *ends[:, 1]]),
        prompt_from(0, box=np.round([*ends[:, 0], *(ends[:, 1] + 0.5)]).tolist()),
        prompt_from(0, points=np.round(places).tolist()),
        prompt_from(0, points=places.tolist(), labels=[1] * len(places)),
        prompt_from(0, mask=mask),
    ]


@pytest.mark.parametrize("shape", [(96, 120), (300, 210), (40, 41), (512, 512)])
def test_views(in_node: Any, make_call: Any, chain: dict[str, Any], shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    calls = []

    def ask(method: str, *given: Any, expected: Any) -> None:
        calls.append(
            make_call(
                module="view.js", name="Views", construct=[chain, *shape], method=method, given=given,
                about=expected,
            )
        )  # fmt: skip

    for _ in range(12):
        for prompt in _prompts(rng, *shape):
            view = zoom.view_of_prompt(prompt, shape, zooms=True)
            ask("ofPrompt", _as_prompt(prompt), expected=_as_view(view))
            if prompt.points:
                looks = zoom.views_of_clicks(prompt, shape)
                ask("ofClicks", _as_prompt(prompt), expected=[_as_view(look) for look in looks])
            small = zoom.square_view((rng.uniform(0, shape[1]), rng.uniform(0, shape[0])), 30, shape)
            ask("grow", _as_view(small), expected=_as_view(zoom.grow(small, shape)))
            wide = zoom.grow_to(small, prompt, shape)
            ask("growTo", _as_view(small), _as_prompt(prompt), expected=_as_view(wide))
            if prompt.mask is not None:
                mask = prompt.mask.array
                rolled = np.roll(mask, rng.integers(-9, 9), 1)
                moved = zoom.follow(view, rolled, shape)
                ask("follow", _as_view(view), _as_patch(rolled), expected=_as_view(moved))
                far = zoom.follow(small, mask, shape)
                ask("follow", _as_view(small), _as_patch(mask), expected=_as_view(far))
                near = zoom.view_of_mask(mask, small, shape)
                ask("ofMask", _as_patch(mask), _as_view(small), expected=_as_view(near))
    assert in_node(calls) == [one.about for one in calls]


def test_masks_that_reach_the_edge_of_a_view(in_node: Any, make_call: Any, chain: dict[str, Any]) -> None:
    shape, calls = (60, 80), []
    for x, y in [(0, 0), (20, 0), (0, 12), (32, 12), (50, 30), (25, 20)]:
        view = zoom.View(x=x, y=y, width=30, height=30, is_zoomed=True)
        for row, column in [(0, 9), (29, 9), (9, 0), (9, 29), (9, 9)]:
            mask = np.zeros(shape, dtype=bool)
            mask[y + row, x + column] = True
            part = {"left": x, "top": y, "width": 30, "height": 30, "inside": mask[y : y + 30, x : x + 30]}
            expected = zoom.touches_border(mask, view, shape)
            calls.append(
                make_call(
                    module="view.js", name="Views", construct=[chain, *shape], method="touchesBorder",
                    given=[part], about=expected,
                )
            )  # fmt: skip
    assert in_node(calls) == [one.about for one in calls]


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", "uint16"])
def test_greys(in_node: Any, make_call: Any, dtype: str) -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(100, 60, (3, 70, 90))
    array = np.clip(values, 0, 255).astype(dtype) if dtype.startswith("u") else values.astype(dtype)
    if dtype == "float32":
        array[1, 20:30, 20:30] = np.nan
    lower, upper = 13.5, 201.25
    calls = []
    for width in (48, 70, 90, 192, 191, 33):
        x, y = int(rng.integers(-width // 3, 60)), int(rng.integers(-width // 3, 50))
        view = zoom.View(x=x, y=y, width=width, height=width, is_zoomed=True)
        grey = to_uint8(array[1], Window(lower, upper, "caller"))
        expected = resample_slice(grey, view, SIZE, filter=BILINEAR).astype(np.float32) / 255
        volume = {"voxels": array, "shape": list(array.shape), "window": [lower, upper]}
        calls.append(
            make_call(
                module="preprocess.js", name="Slices", construct=[volume, SIZE], method="greys",
                given=[_as_view(view), 1], about=expected,
            )
        )  # fmt: skip
    for found, one in zip(in_node(calls), calls, strict=True):
        np.testing.assert_array_equal(np.array(found, dtype=np.float32), one.about.ravel())


def test_stored_numbers_that_the_file_scales(in_node: Any, make_call: Any) -> None:
    stored = np.random.default_rng(2).integers(-900, 900, (2, 40, 50)).astype(np.int16)
    slope, shift = 0.30000001192092896, -11.5
    values = (stored.astype(np.float64) * slope + shift).astype(np.float32)
    view = zoom.View(x=-3, y=5, width=48, height=48, is_zoomed=True)
    window = resolve_window(Volume.from_array(values, (1, 1, 1), modality="MR"))
    expected = resample_slice(to_uint8(values[0], window), view, SIZE, filter=BILINEAR) / np.float32(255)
    volume = {
        "voxels": stored, "shape": list(stored.shape), "slope": slope, "shift": shift, "modality": "MR"
    }  # fmt: skip
    found, opened = in_node(
        [
            make_call(
                module="preprocess.js", name="Slices", construct=[volume, SIZE], method="greys",
                given=[_as_view(view), 0],
            ),
            make_call(module="window.js", name="findWindow", given=[volume]),
        ]
    )  # fmt: skip
    assert opened["window"] == [window.lower, window.upper]
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), expected.ravel())


def _scans() -> dict[str, Volume]:
    rng = np.random.default_rng(11)
    belly = np.where(rng.random((20, 64, 64)) < 0.3, -1000, rng.normal(40, 60, (20, 64, 64)))
    head = np.where(rng.random((30, 192, 192)) < 0.4, 0, rng.gamma(4, 60, (30, 192, 192)))
    picture = rng.integers(0, 256, (1, 90, 80)).astype(np.uint8)
    spacing = (1.0, 1.0, 1.0)
    return {
        "CT": Volume.from_array(belly.astype(np.int16), spacing, modality="CT"),
        "a window in the file": Volume(
            belly.astype(np.int16), np.eye(4), modality="CT", window=(-700.0, 300.0)
        ),
        "Hounsfield units": Volume.from_array(belly.astype(np.int16), spacing),
        "Hounsfield units between": Volume.from_array((belly + 0.25).astype(np.float32), spacing),
        "no Hounsfield units": Volume.from_array((belly * 3).astype(np.int16), spacing),
        "more than a million": Volume.from_array(head.astype(np.int16), spacing, modality="MR"),
        "more than a million with fractions": Volume.from_array(
            head.astype(np.float32), spacing, modality="MR"
        ),
        "8 bits": Volume.from_array(picture.repeat(3, axis=0), spacing, modality="MR"),
        "a picture": Volume.from_array(picture, spacing),
        "a dark picture": Volume.from_array(picture // 3, spacing),
        "an ultrasound": Volume.from_array(picture.repeat(3, axis=0), spacing, modality="US"),
        "nearly constant": Volume.from_array(
            np.eye(60)[None].repeat(4, 0).astype(np.int16) * 0
            + np.eye(4, 3600).reshape(4, 60, 60).astype("i2"),
            spacing,
        ),
    }


def test_windows(in_node: Any, make_call: Any) -> None:
    scans = _scans()
    calls = [
        make_call(
            module="window.js",
            name="findWindow",
            given=[
                {
                    "voxels": scan.array,
                    "shape": list(scan.array.shape),
                    "modality": scan.modality,
                    "fileWindow": None if scan.window is None else list(scan.window),
                }
            ],
        )
        for scan in scans.values()
    ]
    sources = set()
    for name, scan, found in zip(scans, scans.values(), in_node(calls), strict=True):
        expected = resolve_window(scan)
        assert found["source"] == expected.source, name
        assert found["window"] == [expected.lower, expected.upper], name
        sources.add(expected.source)
    assert sources == {"soft-tissue", "file", "percentiles", "display", "range"}


def test_the_sample_of_a_large_scan(in_node: Any, make_call: Any) -> None:
    lengths = (1_000_001, 4_194_304, 26_214_400, 2**31 + 11)
    calls = [make_call(module="window.js", name="picksOf", given=[length, 5000]) for length in lengths]
    for length, found in zip(lengths, in_node(calls), strict=True):
        assert found == np.random.default_rng(0).integers(0, length, 5000).tolist()


def test_scans_in_which_nothing_can_be_seen(in_node: Any, make_call: Any) -> None:
    flat = np.full((2, 40, 40), 7, dtype=np.int16)
    odd = np.random.default_rng(0).normal(0, 1, (2, 40, 40)).astype(np.float32)
    hole, burnt = np.full_like(odd, np.nan), odd.copy()
    burnt[0, 0, :3] = np.inf
    cases = [
        (flat, {}, "Every voxel of the scan is 7; there is nothing to segment."),
        (hole, {}, "Every voxel of the scan is NaN; there is nothing to segment."),
        (burnt, {}, "3 voxels of the scan are infinite; a scan needs finite numbers."),
        (odd, {"window": [3, 3]}, "A window is two numbers, the lower one first, not 3 and 3."),
        (odd[:1], {"shape": [2, 40, 40]}, "A scan of 2 x 40 x 40 voxels has 3200, not 1600."),
    ]
    calls = [
        make_call(
            module="preprocess.js", name="Slices",
            construct=[{"voxels": array, "shape": list(array.shape), **facts}, SIZE],
        )
        for array, facts, _ in cases
    ]  # fmt: skip
    assert in_node(calls) == [{"error": sentence} for _, _, sentence in cases]


def test_drawn_masks(in_node: Any, make_call: Any) -> None:
    rng = np.random.default_rng(3)
    calls = []
    for side in (48, 64, 96, 150, 192, 288, 300, 384, 511, 512):
        smooth = rng.normal(0, 1, (512, 400))
        for axis in (0, 1):
            smooth = np.cumsum(smooth, axis=axis) - np.cumsum(np.roll(smooth, 30, axis), axis=axis)
        mask = smooth > 0
        start = max(0, 400 - side) // 2
        view = zoom.View(x=start, y=(512 - side) // 2 - 7, width=side, height=side, is_zoomed=True)
        expected = resample_mask(mask, view, SIZE).numpy()
        calls.append(
            make_call(
                module="preprocess.js", name="resampleMask",
                given=[_as_patch(mask), _as_view(view), SIZE], about=expected,
            )
        )  # fmt: skip
    for found, one in zip(in_node(calls), calls, strict=True):
        # A pixel that is half inside falls to the one side or the other by rounding.
        assert (np.array(found) != one.about.ravel()).sum() <= TIES


def test_prompts_as_planes(in_node: Any, make_call: Any, chain: dict[str, Any]) -> None:
    rng, shape = np.random.default_rng(9), (150, 130)
    calls = []
    for _ in range(8):
        box_and_clicks = [*_prompts(rng, *shape)[:4]]
        joined = prompt_from(
            0, box=box_and_clicks[0].box.xyxy, points=[(3, 9.5), (40, 41), (60.25, 33)], labels=[0, 1, 1]
        )  # fmt: skip
        for prompt in (*box_and_clicks, joined):
            view = zoom.view_of_prompt(prompt, shape, zooms=True)
            drawn = draw_prompt(prompt_tensors(prompt, view, SIZE, torch.device("cpu")), 1, SIZE)
            expected = [plane.numpy().ravel() for plane in (drawn.box, drawn.inside, drawn.outside)]
            calls.append(
                make_call(
                    module="encode.js", name="Network", construct=[None, chain, None], method="draw",
                    given=[_as_prompt(prompt), _as_view(view)], about=expected,
                )
            )  # fmt: skip
    for found, one in zip(in_node(calls), calls, strict=True):
        for name, expected in zip(("box", "inside", "outside"), one.about, strict=True):
            np.testing.assert_array_equal(np.array(found[name]), expected, err_msg=name)


def test_prompts_that_do_not_lie_in_the_scan(in_node: Any, make_call: Any) -> None:
    slices = {"count": 9, "height": 40, "width": 56}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"slice": 9, "box": [1, 1, 4, 4]}, "Slice 9 is outside the scan: it has slices 0 to 8."),
        ({"slice": 1}, "A prompt needs a box, a point or a mask."),
        ({"slice": 1, "box": [4, 1, 1, 4]}, "Box (4, 1, 1, 4) has no area: the smaller ends come first."),
        (
            {"slice": 1, "box": [1, 1, 56, 4]},
            "Box (1, 1, 56, 4) is outside the slice: x is 0 to 55 and y 0 to 39.",
        ),
        ({"slice": 1, "box": [1, 1, 4]}, "A box is x_min, y_min, x_max, y_max, not (1, 1, 4)."),
        (
            {"slice": 1, "points": [[3, 40]]},
            "Point (3, 40) is outside the slice: x is 0 to 55 and y 0 to 39.",
        ),
        (
            {"slice": 1, "points": [[3, 4]], "labels": [2]},
            "Every point needs one label, 1 inside or 0 outside; there are 1 and the labels are 2.",
        ),
        ({"slice": 1, "mask": [1] * 9}, "A mask of a slice has 2240 pixels here, not 9."),
        ({"slice": 1, "mask": [0] * 2240}, "The mask is empty: at least one pixel must be inside."),
        (
            {"slice": 1, "mask": [1] * 2240, "points": [[1, 1]]},
            "A mask replaces box and points: give it alone.",
        ),
    ]
    calls = [make_call(module="prompts.js", name="readPrompt", given=[parts, slices]) for parts, _ in cases]
    assert in_node(calls) == [{"error": sentence} for _, sentence in cases]
