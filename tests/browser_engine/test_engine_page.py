"""The page's engine in a worker of Chromium, with two threads, against Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_parity import compare, runs_of, scans_of
from engine_runs import BrowserEngine

import medsam2
from medsam2.inference.predictor import Predictor

LEAST_DICE = 0.995


def test_two_objects_in_a_worker(shipped: Predictor, browser_engine: BrowserEngine) -> None:
    folder = Path(medsam2.__file__).parent / "shipped"
    scan, truth = medsam2.read(folder / "demo.nii.gz"), medsam2.read(folder / "demo-mask.nii.gz").array > 0
    assert browser_engine.is_isolated, "without it, WebAssembly has one thread"
    scores = compare(shipped, browser_engine, runs_of(scan, truth, None)["two objects"])
    assert scores["dice"] >= LEAST_DICE
    assert scores["slices"] >= len(scan.array)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["box", "click", "mask", "correction"])
def test_the_other_ways_in_a_worker(shipped: Predictor, browser_engine: BrowserEngine, way: str) -> None:
    ((_, runs), *_) = scans_of(None, [])
    assert compare(shipped, browser_engine, runs[way])["dice"] >= LEAST_DICE
