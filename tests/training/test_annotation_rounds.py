"""Rounds of annotation: what waits, what says where its objects are, proposals, their order, the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.imaging import io
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.training.config import PhaseConfig, TrainConfig
from medsam2.training.rounds.proposals import (
    Proposal,
    WaitingScan,
    prompts_at,
    propose,
    read_folder,
    round_folder,
    usual_places,
)
from medsam2.training.rounds.work import (
    RoundOptions,
    begin_from,
    in_order,
    look_at,
    put_forward,
    start_training,
)

SHAPE = (6, 48, 56)
CONFIG = TrainConfig(
    preset="compact",
    phases=(
        PhaseConfig(
            name="p", steps=1, image_size=64, batch=1, clip_length=2, learning_rate=1e-3, warmup_steps=1
        ),
    ),
)


def _labels(shift: int = 0) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 12 + shift : 30 + shift, 16:36] = 1
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scans: one corrected, one with prompts, one with a rough mask, one with nothing."""
    root = tmp_path / "scans"
    for part in ("labels/final", "labels/original", "prompts"):
        (root / part).mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 60, SHAPE)
    for number, name in enumerate("abcd"):
        io.write(Volume.from_array((grey + 150 * _labels(number)).astype(np.int16)), root / f"{name}.nii.gz")
    io.write(Volume.from_array(_labels()), root / "labels" / "final" / "a.nii.gz")
    (root / "prompts" / "b.json").write_text('[{"slice": 2, "box": [16, 13, 35, 30]}]')
    io.write(Volume.from_array(3 * _labels(2)), root / "labels" / "original" / "c.nii.gz")
    return root


def test_a_folder_says_what_waits(folder: Path) -> None:
    scans = read_folder(folder)
    assert [scan.name for scan in scans.corrected] == ["a"]
    assert [(scan.name, scan.prompts is not None, scan.rough is not None) for scan in scans.waiting] == [
        ("b", True, False), ("c", False, True), ("d", False, False),
    ]  # fmt: skip


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no scan; .* labels/final"):
        read_folder(tmp_path)


def test_rounds_are_counted_by_their_records(folder: Path) -> None:
    assert round_folder(folder) == (1, folder / "rounds" / "001")
    (folder / "rounds" / "001").mkdir(parents=True)
    assert round_folder(folder)[0] == 1, "a round without a record is taken up again"
    (folder / "rounds" / "001" / "round.json").write_text("{}")
    assert round_folder(folder) == (2, folder / "rounds" / "002")


def test_usual_places_are_parts_of_a_scan(folder: Path) -> None:
    places = usual_places(read_folder(folder).corrected, None)
    assert places == {1: pytest.approx((1 / 5, 16 / 55, 12 / 47, 35 / 55, 29 / 47))}
    (prompt,) = prompts_at(places, SHAPE)[1]
    assert prompt.slice_index == 1
    assert prompt.box.xyxy == (16.0, 12.0, 35.0, 29.0)
    (prompt,) = prompts_at(places, (11, 2 * 48 - 1, 2 * 56 - 1))[1]
    assert prompt.slice_index == 2
    assert prompt.box.xyxy == (32.0, 24.0, 70.0, 58.0)


def test_proposals_come_from_what_is_said(folder: Path, runtime: Runtime) -> None:
    predictor, scans = Predictor(runtime), read_folder(folder)
    places = usual_places(scans.corrected, None)
    found = {scan.name: propose(predictor, scan, places) for scan in scans.waiting}
    assert {name: one.source for name, one in found.items()} == {
        "b": "prompts", "c": "rough mask", "d": "usual place",
    }  # fmt: skip
    assert set(found["c"].confidences) == {3}, "labels keep their numbers"
    for one in found.values():
        assert one.labels.shape == SHAPE
        assert set(np.unique(one.labels.array)) <= {0, *one.confidences}
        assert 0 <= one.confidence <= 1
        assert np.linalg.norm(one.looks) == pytest.approx(1, abs=1e-4)


def test_a_scan_about_which_nothing_is_known_is_refused(folder: Path, runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"nothing says where its objects are; give prompts/d\.json"):
        propose(Predictor(runtime), WaitingScan(name="d", image=folder / "d.nii.gz"), {})


def _proposal(name: str, confidence: float, degrees: float) -> Proposal:
    radians = np.radians(degrees)
    return Proposal(
        name=name,
        labels=Volume.from_array(np.zeros(SHAPE, np.uint8)),
        confidence=confidence,
        confidences={1: confidence},
        looks=np.array([np.cos(radians), np.sin(radians)], np.float32),
        source="prompts",
    )


def test_orders() -> None:
    proposals = [
        _proposal("p", 0.9, 0),
        _proposal("q", 0.2, 5),
        _proposal("r", 0.3, 10),
        _proposal("s", 0.8, 90),
    ]
    assert [one.name for one in in_order(proposals, "uncertain")] == ["q", "r", "s", "p"]
    assert [one.name for one in in_order(proposals, "diverse")] == ["q", "s", "r", "p"]
    assert in_order([], "diverse") == []
    with pytest.raises(InputError, match="an order is one of uncertain, diverse, not 'best'"):
        in_order(proposals, "best")


def test_a_round_leaves_masks_and_a_record(
    folder: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "prompts" / "b.json").write_text('[{"slice": 99, "box": [16, 13, 35, 30]}]')
    scans = read_folder(folder)
    options = RoundOptions(number=1, folder=folder / "rounds" / "001", num_next=1)
    assert start_training(scans, CONFIG, options) is None, "one patient is too few to train and validate on"
    proposals = list(look_at(scans, Predictor(runtime), options))
    assert [one.name for one in proposals] == ["c", "d"]
    assert "b is left out: " in caplog.text
    chosen = put_forward(scans, proposals, options, None)
    record = json.loads((options.folder / "round.json").read_text())
    assert record["round"] == 1
    assert record["corrected"] == ["a"]
    assert [one["name"] for one in record["next"]] == [one.name for one in chosen]
    assert len(record["next"]) == len(record["later"]) == 1
    assert record["next"][0]["confidence"] <= record["later"][0]["confidence"]
    written = list((folder / "labels" / "proposed").iterdir())
    assert [path.name for path in written] == [f"{chosen[0].name}.nii.gz"]
    np.testing.assert_array_equal(io.read(written[0]).array, chosen[0].labels.array)
    assert round_folder(folder)[0] == 2


def test_a_pool_is_drawn_anew_each_round(folder: Path, runtime: Runtime) -> None:
    scans, predictor = read_folder(folder), Predictor(runtime)
    drawn = [
        tuple(
            one.name
            for one in look_at(
                scans, predictor, RoundOptions(number=number, folder=folder, num_next=1, pool=1)
            )
        )
        for number in range(1, 6)
    ]
    assert {len(names) for names in drawn} == {1}
    assert len(set(drawn)) > 1


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="a round proposes at least 1 scan, out of a pool of at least as many, not 3 of 2"
    ):
        RoundOptions(number=1, folder=tmp_path, num_next=3, pool=2)
    with pytest.raises(InputError, match="rounds begin from weights: give --weights"):
        begin_from(CONFIG, None)
    assert begin_from(CONFIG, "compact").initial_weights == "compact"
