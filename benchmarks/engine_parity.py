"""How far the page's engine and Python are apart in their masks, and how long both take.

    python benchmarks/engine_parity.py [--cases FILE] [--only NAME ...] [--ways WAY ...] [--in node|chromium]
        [--threads N] [--size Z Y X] [--runtime FOLDER] [--keep FOLDER]

Each case is prompted in five ways: by its box, by a click in the middle, by its mask drawn on the key slice,
by its box and that of a second object beside it, and by its box and then two clicks two slices further on. A
line has the least Dice of the masks of the engine and of Python, and milliseconds a slice, measured one after
another: by the clock, and of the processor on all cores, which other programs do not disturb as much.

Without cases, the scans of the demo are used. `--size 100 512 512` adds a generated scan of this size, and
times how long it takes from an open page to the first outline and to the whole mask.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from engine_runs import (
    BrowserEngine,
    NodeEngine,
    Outcome,
    Run,
    export_parts,
    fetch_runtime,
    run_in_python,
    serving,
)

from medsam2.checkpoints import resolve
from medsam2.evaluation.cases import read_cases, read_task
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.measure.overlap import dice
from medsam2.prompts.simulate import center_point, tight_box
from medsam2.synthesis.scan import STRUCTURES, generate_scan

SHIPPED = Path(resolve("compact")).parent
SEED = 7
WAYS = ("box", "click", "mask", "two objects", "correction")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def plain_volume(array: np.ndarray, modality: str | None) -> Volume:
    """A volume whose slices are those of an array `(z, y, x)`."""
    return Volume.from_array(np.ascontiguousarray(array), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), modality=modality)


def runs_of(volume: Volume, truth: np.ndarray, window: tuple[float, float] | None) -> dict[str, Run]:
    """The five ways to prompt an object of which the mask `(z, y, x)` is known."""
    z = int(truth.sum(axis=(1, 2)).argmax())
    box = [float(end) for end in tight_box(truth[z]).xyxy]
    middle = center_point(truth[z], is_positive=True)
    x, y = middle.x, middle.y
    width = truth.shape[2]
    side = min(box[2] - box[0], width / 4)
    left = box[0] - side - 3 if box[0] > side + 3 else min(box[2] + 3, width - 1 - side)
    beside = [left, box[1], left + side, box[3]]
    further = min(z + 2, len(truth) - 1) if z + 2 < len(truth) else max(z - 2, 0)
    clicks: dict[str, Any] = {
        "points": [[x, y], [max(box[0] - 3, 0.0), max(box[1] - 3, 0.0)]], "labels": [1, 0], "slice": further
    }  # fmt: skip
    follow: list[Mapping[str, Any]] = [{"do": "propagate"}, {"do": "masks", "object": 1}]

    def add(number: int = 1, /, **prompt: Any) -> Mapping[str, Any]:
        return {"do": "add", "object": number, "prompt": {"slice": z, **prompt}}

    everything: list[Mapping[str, Any]] = [*follow, {"do": "masks", "object": 2}, {"do": "labels"}]
    steps: dict[str, Sequence[Mapping[str, Any]]] = {
        "box": [add(box=box), *follow],
        "click": [add(points=[[x, y]]), *follow],
        "mask": [add(mask=truth[z]), *follow],
        "two objects": [add(box=box), add(2, box=beside), *everything],
        "correction": [add(box=box), *follow, add(**clicks), *follow],
    }
    return {name: Run(volume=volume, steps=each, window=window) for name, each in steps.items()}


def compare(predictor: Predictor, engine: NodeEngine | BrowserEngine, run: Run) -> dict[str, float]:
    """Do a run in both; give the least Dice of its masks, voxels that differ, and milliseconds a slice."""
    started, started_cpu = time.perf_counter(), time.process_time()
    ours = run_in_python(predictor, run)
    python_s, python_cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    return scores_of(ours, engine.run(run)) | {
        "python_ms": 1000 * python_s, "python_cpu_ms": 1000 * python_cpu_s, "engine_cpu_ms": engine.cpu_ms
    }  # fmt: skip


def scores_of(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, float]:
    """Compare what the steps of a run gave in Python and in the engine."""
    worst, num_different = 1.0, 0
    for one, other in zip(ours, theirs, strict=True):
        for number in one.masks.keys() | other.masks.keys():
            known = one.masks.get(number, other.masks.get(number))
            assert known is not None
            nothing = np.zeros_like(known)
            first, second = one.masks.get(number, nothing), other.masks.get(number, nothing)
            worst = min(worst, dice(first, second))
            num_different += int((first != second).sum())
    num_slices = sum(len(other.facts.get("order", ())) for other in theirs)
    engine_ms = sum(one.ms for one in theirs[1:])
    return {"dice": worst, "different": num_different, "slices": num_slices, "engine_ms": engine_ms}


@contextmanager
def engine_in(
    place: str, predictor: Predictor, keep: Path, runtime: Path | None, threads: int
) -> Iterator[Any]:
    """Start the engine in Node or in Chromium."""
    parts = export_parts(predictor, resolve("compact"), keep)
    runtime = runtime or fetch_runtime(keep)
    with ExitStack() as stack:
        if place == "node":
            engine: NodeEngine | BrowserEngine = NodeEngine(runtime, parts, threads)
            stack.callback(engine.close)  # type: ignore[union-attr]
        else:
            from playwright.sync_api import sync_playwright

            scans = Path(stack.enter_context(TemporaryDirectory()))
            address = stack.enter_context(serving(runtime, parts, scans))
            chromium = stack.enter_context(sync_playwright()).chromium
            browser = chromium.launch(channel=None, executable_path="/usr/bin/chromium", args=FLAGS)
            stack.callback(browser.close)
            page = browser.new_page()
            page.set_default_timeout(600_000)
            engine = BrowserEngine(page, address, scans, threads)
        print(f"open: {engine.open_ms / 1000:.1f} s", flush=True)
        yield engine


def scans_of(cases: Path | None, only: Sequence[str]) -> Iterator[tuple[str, dict[str, Run]]]:
    """Cases of a list, or the demo's scan and a generated one."""
    if cases is None:
        volume, truth = read(SHIPPED / "demo.nii.gz"), read(SHIPPED / "demo-mask.nii.gz").array > 0
        yield "demo", runs_of(volume, truth, None)
        made = generate_scan(SEED)
        liver = made.labels == STRUCTURES.index("liver") + 1
        yield "generated CT", runs_of(plain_volume(made.image, "CT"), liver, WINDOW_PRESETS["abdomen"])
        return
    for case in read_cases(cases):
        if only and case.name not in only:
            continue
        task = read_task(case)
        axis = 2 if task.axis is None else task.axis
        volume = plain_volume(slices_along(task.volume.array, axis), task.volume.modality)
        window = case.window if isinstance(case.window, tuple) else None
        yield case.name, runs_of(volume, slices_along(task.truth, axis) > 0, window)


def time_large(predictor: Predictor, engine: NodeEngine | BrowserEngine, shape: Sequence[int]) -> None:
    """Time a generated scan of a size from the open page to the outline and to the mask."""
    radii = (shape[0] / 2.2, 55, 70)
    grid = np.ogrid[tuple(slice(side) for side in shape)]
    places = zip(grid, shape, radii, strict=True)
    ball = np.asarray(sum(((axis - (side - 1) / 2) / radius) ** 2 for axis, side, radius in places)) < 1
    noise = np.random.default_rng(0).normal(0, 12, shape)
    grey = (-20 + noise + 90 * ball).astype(np.int16)
    run = runs_of(plain_volume(grey, "CT"), ball, None)["box"]
    found = engine.run(run)
    opened, shown, followed = (one.ms / 1000 for one in found[:3])
    num = len(found[2].facts["order"])
    print(f"{' x '.join(map(str, shape))}: window {opened:.2f} s, outline {opened + shown:.2f} s, "
          f"mask of {num} slices {opened + shown + followed:.1f} s")  # fmt: skip
    started = time.perf_counter()
    ours = run_in_python(predictor, run)
    facts = scores_of(ours, found) | {"python_ms": 1000 * (time.perf_counter() - started)}
    print(f"  {_told(facts | {'python_cpu_ms': 0, 'engine_cpu_ms': engine.cpu_ms})}", flush=True)


def _told(scores: Mapping[str, float]) -> str:
    ms = {
        name: f"{scores[f'{name}_ms'] / max(1, scores['slices']):.0f}"
        for name in ("python", "python_cpu", "engine", "engine_cpu")
    }
    return (
        f"Dice {scores['dice']:.4f}, {scores['different']:.0f} voxels differ, {scores['slices']:.0f} slices, "
        f"Python {ms['python']} ms (processor {ms['python_cpu']}), "
        f"engine {ms['engine']} ms (processor {ms['engine_cpu']})"
    )


def main() -> None:
    """Compare, and print a line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of cases")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--in", dest="place", choices=("node", "chromium"), default="node")
    parser.add_argument("--threads", type=int, default=1, help="of the engine; Python has one")
    parser.add_argument("--size", type=int, nargs=3)
    parser.add_argument("--runtime", type=Path, help="the folder of the package onnxruntime-web")
    parser.add_argument(
        "--keep", type=Path, default=Path("engine-parts"), help="where parts and the runtime lie"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load("compact", device="cpu", precision="float32")
    with engine_in(options.place, predictor, options.keep, options.runtime, options.threads) as engine:
        for name, runs in scans_of(options.cases, options.only):
            for way in options.ways:
                print(f"{name:24} {way:12} {_told(compare(predictor, engine, runs[way]))}", flush=True)
        if options.size:
            time_large(predictor, engine, options.size)
        print(f"memory of the process: {engine.num_bytes / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
