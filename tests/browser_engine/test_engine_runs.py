"""Whole runs of the page's engine in Node, slice by slice, against the same runs in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_parity import compare, runs_of, scans_of
from engine_runs import NodeEngine, Outcome, Run, run_in_python

import medsam2
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.measure.overlap import dice
from medsam2.prompts.simulate import tight_box

LIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cases.json"
LEAST_DICE = 0.995
FOLLOW = ({"do": "propagate"}, {"do": "masks", "object": 1})


@pytest.fixture(scope="module")
def heart() -> tuple[Volume, np.ndarray]:
    """The scan of the demo and its reference."""
    shipped = Path(medsam2.__file__).parent / "shipped"
    return medsam2.read(shipped / "demo.nii.gz"), medsam2.read(shipped / "demo-mask.nii.gz").array > 0


@pytest.fixture(scope="module")
def box(heart: tuple[Volume, np.ndarray]) -> dict[str, Any]:
    """The heart's box on its largest slice."""
    truth = heart[1]
    z = int(truth.sum(axis=(1, 2)).argmax())
    return {"slice": z, "box": list(tight_box(truth[z]).xyxy)}


def _add(number: int, /, **prompt: Any) -> dict[str, Any]:
    return {"do": "add", "object": number, "prompt": prompt}


def _assert_agree(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], steps: Sequence[Mapping[str, Any]]
) -> None:
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        what = dict(steps[number - 1]) if number else "open"
        assert "error" not in other.facts, what
        found = {key: mask for key, mask in other.masks.items() if mask.any()}
        expected = {key: mask for key, mask in one.masks.items() if mask.any()}
        assert found.keys() == expected.keys(), what
        assert all(dice(found[key], expected[key]) >= LEAST_DICE for key in found), what
        if "order" in one.facts:
            assert [z for z, _, _ in other.facts["order"]] == one.facts["order"], what
        if "score" in one.facts:
            assert other.facts["score"] == pytest.approx(one.facts["score"], abs=2e-3), what
        if "scores" in one.facts:
            assert dict(other.facts["scores"]) == pytest.approx(one.facts["scores"], abs=5e-3), what
        if "isDone" in one.facts:
            assert other.facts["isDone"] == one.facts["isDone"], what


def _run(predictor: Predictor, engine: NodeEngine, run: Run) -> list[Outcome]:
    found = engine.run(run)
    _assert_agree(run_in_python(predictor, run), found, run.steps)
    return found


@pytest.mark.parametrize("way", ["box", "click", "mask", pytest.param("two objects", marks=pytest.mark.slow)])
def test_a_prompt_and_what_follows(
    shipped: Predictor, node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], way: str
) -> None:
    found = _run(shipped, node_engine, runs_of(*heart, None)[way])
    assert found[0].facts["source"] == "percentiles"
    shown, kept = found[-3 if way == "two objects" else -1].masks[1], found[-1].facts["status"]
    assert shown.sum() > 8000
    assert kept["isPropagated"]


def test_corrections_and_taking_them_back(
    shipped: Predictor, node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], box: dict[str, Any]
) -> None:
    z, (left, top, right, bottom) = box["slice"], box["box"]
    further = {"slice": z + 2, "points": [[left + 3, top + 3], [right + 5, bottom + 5]], "labels": [1, 0]}
    here = {"slice": z, "points": [[right - 1, bottom - 1]]}
    steps = [
        _add(1, **box), *FOLLOW, _add(1, **further), {"do": "propagate", "slices": 2}, _add(1, **here),
        *FOLLOW, {"do": "remove", "object": 1, "slice": z + 2}, *FOLLOW, {"do": "undo"}, {"do": "undo"},
        *FOLLOW, {"do": "redo"}, *FOLLOW, {"do": "remove", "object": 1, "slice": z}, *FOLLOW,
    ]  # fmt: skip
    found = _run(shipped, node_engine, Run(volume=heart[0], steps=steps))
    assert found[4].masks[1].sum() != found[3].masks[1][z + 2].sum()
    assert found[-1].facts["status"] == {
        "objects": [1], "canUndo": True, "canRedo": False, "isPropagated": True
    }  # fmt: skip


@pytest.mark.slow
def test_clicks_on_a_slice_that_was_not_reached(
    shipped: Predictor, node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], box: dict[str, Any]
) -> None:
    _, top, _, bottom = box["box"]
    middle = {
        "slice": box["slice"] + 3,
        "points": [[(box["box"][0] + box["box"][2]) / 2, (top + bottom) / 2]],
    }
    steps = [_add(1, **box), _add(1, **middle), *FOLLOW]
    _run(shipped, node_engine, Run(volume=heart[0], steps=steps))


@pytest.mark.slow
def test_options(
    shipped: Predictor, node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], box: dict[str, Any]
) -> None:
    for options in ({"keep_component": False, "fill_hole_area": 20}, {"stop_after": 0}):
        run = Run(volume=heart[0], steps=[_add(1, **box), *FOLLOW], window=(10.0, 180.0), options=options)
        found = _run(shipped, node_engine, run)
        assert found[0].facts["window"] == [10, 180]
        assert len(found[2].facts["order"]) >= len(heart[0].array)


def test_requests_that_cannot_be(
    node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], box: dict[str, Any]
) -> None:
    z = box["slice"]
    steps = [
        {"do": "propagate"}, {"do": "masks", "object": 3}, _add(0, **box), _add(1, slice=z, box=[5, 5, 4, 9]),
        {"do": "undo"}, _add(1, **box), {"do": "remove", "object": 1, "slice": z},
        {"do": "remove", "object": 1, "slice": z + 1}, {"do": "remove", "object": 1}, {"do": "undo"},
    ]  # fmt: skip
    found = node_engine.run(Run(volume=heart[0], steps=steps))[1:]
    assert [one.facts.get("error") for one in found] == [
        "There is nothing to follow: add a box, a point or a mask first.",
        "There is no object 3; objects are none.",
        "Objects are numbered 1 to 255, not 0.",
        "Box (5, 5, 4, 9) has no area: the smaller ends come first.",
        None,
        None,
        f"Slice {z} has the object's only prompt; remove the object instead.",
        f"There is no prompt on slice {z + 1}; prompts are on {z}.",
        None,
        None,
    ]
    assert not found[4].facts["isDone"]
    assert [one.facts["status"]["objects"] for one in found[3:]] == [[], [], [1], [1], [1], [], [1]]


def test_a_change_ends_a_walk(
    shipped: Predictor, node_engine: NodeEngine, heart: tuple[Volume, np.ndarray], box: dict[str, Any]
) -> None:
    (left, top, _, _), z = box["box"], box["slice"]
    change = {"slice": z, "points": [[left + 4, top + 4]]}
    steps = [_add(1, **box), {"do": "change_while_following", "object": 1, "prompt": change}, *FOLLOW]
    found = node_engine.run(Run(volume=heart[0], steps=steps))
    assert found[2].facts["count"] <= 3
    assert not found[2].facts["status"]["isPropagated"]
    at_once = [{**_add(2, **box), "do": "add_and_follow_at_once"}]
    hasty = node_engine.run(Run(volume=heart[0], steps=at_once))
    assert hasty[1].facts["status"]["isPropagated"]
    assert hasty[1].facts["shown"] >= len(heart[0].array)
    plain = run_in_python(shipped, Run(volume=heart[0], steps=[_add(1, **box), _add(1, **change), *FOLLOW]))
    assert dice(found[-1].masks[1], plain[-1].masks[1]) >= LEAST_DICE


@pytest.mark.slow
@pytest.mark.skipif(not LIST.is_file(), reason="the development scans (../shared/data) are not here")
@pytest.mark.parametrize(
    "name",
    ["ct_ts_3mm_aorta", "ct_dcmqi_vertebra", "mr_ts_abdomen_spleen", "mr_pyrad_breast1", "mr_sct_t2",
     "mr_sct_t1", "mr_sct_t2s_gm", "us_usgra_0048_nerve"],
)  # fmt: skip
def test_development_cases(shipped: Predictor, node_engine: NodeEngine, name: str) -> None:
    ((_, runs),) = scans_of(LIST, [name])
    for way, run in runs.items():
        assert compare(shipped, node_engine, run)["dice"] >= LEAST_DICE, way
