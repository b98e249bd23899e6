"""The page's engine in a worker of Chromium, with two threads, against Python."""

from __future__ import annotations

from pathlib import Path

from engine_parity import compare, runs_of
from engine_runs import BrowserEngine

import medsam2
from medsam2.inference.predictor import Predictor

LEAST_DICE = 0.995


def test_a_box_and_a_correction_in_a_worker(shipped: Predictor, browser_engine: BrowserEngine) -> None:
    folder = Path(medsam2.__file__).parent / "shipped"
    scan, truth = medsam2.read(folder / "demo.nii.gz"), medsam2.read(folder / "demo-mask.nii.gz").array > 0
    assert browser_engine.is_isolated, "without it, WebAssembly has one thread"
    runs = runs_of(scan, truth, None)
    for way in ("correction", "two objects"):
        scores = compare(shipped, browser_engine, runs[way])
        assert scores["dice"] >= LEAST_DICE, way
        assert scores["slices"] >= len(scan.array)
