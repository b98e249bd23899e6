"""Seconds and memory of the networks against the Sam2Video model of `transformers` with the same weights.

    python benchmarks/speed.py [walk] [span] [objects] [correction] [compact] [--slices 16 100 500]

Weights are of chance: the work does not depend on them. Slices are 512 x 512; a box is on the middle one.

walk        every slice visited, one object
span        an object that spans 14 slices, ended where it is gone, against every slice visited in float32
objects     1, 4 and 8 objects on the same 8 slices
correction  the preview after a first box, and after a correcting click on the same slice
compact     the shipped network on 100 slices: a generated kidney, and one and eight ellipsoids in noise,
            of 14 and of 60 slices

The parts of a slice are measured by `benchmarks/parts.py`.

Ratios are against the first row of a table. Each row but those of correction is a process of its own; its
memory is the peak, the interpreter and PyTorch included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.runtime import InferenceOptions, start_runtime
from medsam2.inference.session import Session
from medsam2.model.config import PRESETS
from medsam2.model.network import Network
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import prompt_from
from medsam2.synthesis.scan import STRUCTURES, generate_scan

SIDE = 512
SPAN = 14
BOX = (200.0, 200.0, 300.0, 300.0)
PEERS = ("transformers float32", "transformers bfloat16")
OURS = ("float32", "float32-fast", "bfloat16")
TABLES = ("walk", "span", "objects", "correction", "compact")
SCENES = ("kidney", "lesion", "organ", "8 lesions", "8 organs")


class Presence(nn.Module):
    """A head for object scores that says when the object is gone: at the given calls, counted from 0."""

    def __init__(self, absent_at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.absent_at = absent_at
        self.num_calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        is_absent = self.num_calls in self.absent_at
        self.num_calls += 1
        return tokens.new_full((len(tokens), 1), -5.0 if is_absent else 5.0)


def make_network(absent_at: tuple[int, ...] = ()) -> Network:
    """The official network with seeded weights of chance."""
    torch.manual_seed(0)
    network = Network(PRESETS["tiny-512"]).eval()
    network.sam_mask_decoder.pred_obj_score_head = Presence(absent_at)
    return network


def make_volume(num_slices: int) -> Volume:
    """Noise."""
    rng = np.random.default_rng(0)
    return Volume.from_array(rng.integers(0, 255, (num_slices, SIDE, SIDE), dtype=np.uint8).astype(np.int16))


def make_session(name: str, num_slices: int, *, stops: bool, absent_at: tuple[int, ...] = ()) -> Session:
    """A session with our network in a precision."""
    runtime = start_runtime(make_network(absent_at), device="cpu", precision=name)
    options = InferenceOptions(keep_component=stops, stop_after=None if stops else 0)
    return Predictor(runtime).session(make_volume(num_slices), window=(0, 255), options=options)


def walk(name: str, num_slices: int) -> dict[str, float]:
    """Visit all slices; seconds per slice."""
    if name in PEERS:
        return _walk_peer(num_slices, reduced=name == PEERS[1])
    session = make_session(name, num_slices, stops=False)
    started = time.perf_counter()
    session.add(1, slice=num_slices // 2, box=BOX)
    visited = sum(1 for _ in session.propagate())
    return {"seconds": (time.perf_counter() - started) / visited}


def _walk_peer(num_slices: int, *, reduced: bool) -> dict[str, float]:
    from peer import build_peer
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    network = Network(PRESETS["tiny-512"])
    torch.manual_seed(0)
    nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 5.0)
    model = build_peer(network)
    grey = torch.from_numpy(make_volume(num_slices).array)
    frames = (grey[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)
    session = Sam2VideoInferenceSession(
        video=frames, video_height=SIDE, video_width=SIDE, dtype=torch.float32
    )
    key = num_slices // 2
    context = torch.autocast("cpu", torch.bfloat16) if reduced else nullcontext()
    started = time.perf_counter()
    with torch.inference_mode(), context:
        inputs = {
            "point_coords": torch.tensor(BOX).view(1, 1, 2, 2),
            "point_labels": torch.tensor([[[2, 3]]]),
        }
        session.add_point_inputs(session.obj_id_to_idx(1), key, inputs)
        session.obj_with_new_inputs = [1]
        model(session, frame_idx=key)
        for reverse in (False, True):
            for _ in model.propagate_in_video_iterator(session, key, reverse=reverse):
                pass
    return {"seconds": (time.perf_counter() - started) / num_slices}


def span(name: str, num_slices: int) -> dict[str, float]:
    """Follow an object that spans 14 slices; seconds from the box to the mask."""
    if name == "float32 all":
        return {"seconds": walk("float32", num_slices)["seconds"] * num_slices}
    above = SPAN // 2 - 1  # one call for the key slice, then upwards, then downwards
    session = make_session(name, num_slices, stops=True, absent_at=(above + 1, SPAN + 1))
    started = time.perf_counter()
    session.add(1, slice=num_slices // 2, box=BOX)
    visited = sum(1 for _ in session.propagate())
    session.result()
    seconds = time.perf_counter() - started
    assert visited == SPAN + 2, f"{visited} slices were visited"
    return {"seconds": seconds}


def objects(name: str, count: int) -> dict[str, float]:
    """Follow several objects through the same slices; seconds in all."""
    session = make_session(name, 8, stops=False)
    started = time.perf_counter()
    for number in range(1, count + 1):
        session.add(number, slice=4, box=tuple(value + 8 * number for value in BOX))
    for _ in session.propagate():
        pass
    return {"seconds": time.perf_counter() - started}


def correct(name: str) -> Iterator[tuple[str, float]]:
    """Seconds until the first mask of a slice, and until the next after a click."""
    for repeat in range(3):
        session = make_session(name, 5, stops=False)
        started = time.perf_counter()
        session.add(1, slice=2, box=BOX)
        first = time.perf_counter() - started
        started = time.perf_counter()
        session.add(1, slice=2, points=[(250 + repeat, 250)], labels=[1])
        yield f"{name}, run {repeat + 1}", (time.perf_counter() - started) / first


def compact(name: str, num_slices: int) -> dict[str, float]:
    """Boxes in 512 x 512 slices; seconds from the array to the masks of one or several objects."""
    predictor = load("compact", device="cpu")
    image, keys, boxes, window = _kidney(num_slices) if name == "kidney" else _ellipsoids(name, num_slices)
    started = time.perf_counter()
    session = predictor.session(Volume.from_array(image), window=window, axis=2)
    session.add_all(
        {n: [prompt_from(z, box=box)] for n, (z, box) in enumerate(zip(keys, boxes, strict=True), start=1)}
    )
    session.finish()
    mask = session.result().array
    return {"seconds": time.perf_counter() - started, "slices": int((mask > 0).any(axis=(1, 2)).sum())}


Scene = tuple[np.ndarray, list[int], list[tuple[float, ...]], tuple[float, float]]
"""Greys (z, y, x), a key slice and a box of each object, and the window."""


def _kidney(num_slices: int) -> Scene:
    """A kidney in a generated scan that is enlarged to 512 x 512."""
    scan = generate_scan(7)
    factor = SIDE // scan.image.shape[1] + 1
    rows = np.arange(num_slices) * len(scan.image) // num_slices
    image = np.kron(scan.image[rows], np.ones((1, factor, factor), scan.image.dtype))[:, :SIDE, :SIDE]
    truth = np.kron(scan.labels[rows], np.ones((1, factor, factor), scan.labels.dtype))[:, :SIDE, :SIDE]
    truth = truth == STRUCTURES.index("right kidney") + 1
    key = int(truth.sum(axis=(1, 2)).argmax())
    return np.ascontiguousarray(image), [key], [tight_box(truth[key]).xyxy], WINDOW_PRESETS["abdomen"]


def _ellipsoids(name: str, num_slices: int) -> Scene:
    """Evenly grey ellipsoids in noise: one or eight, as long as a lesion or as an organ."""
    count = 8 if name.startswith("8") else 1
    length, radius = (14, 14) if "lesion" in name else (60, 55)
    rng = np.random.default_rng(0)
    image = rng.normal(80, 12, (num_slices, SIDE, SIDE))
    middle = (num_slices - 1) / 2
    z, y, x = np.ogrid[:num_slices, :SIDE, :SIDE]
    boxes: list[tuple[float, ...]] = []
    for number in range(count):
        cx, cy = (64 + 128 * (number % 4), 128 + 256 * (number // 4)) if count > 1 else (256, 256)
        inside = ((z - middle) * 2 / length) ** 2 + ((y - cy) / radius) ** 2 + ((x - cx) / radius) ** 2 < 1
        image[inside] += 60
        boxes.append((cx - radius, cy - radius, cx + radius, cy + radius))
    return image.clip(0, 255).astype(np.int16), [num_slices // 2] * count, boxes, (0, 255)


WORK: dict[str, Callable[[str, int], dict[str, float]]] = {
    "walk": walk,
    "span": span,
    "objects": objects,
    "compact": compact,
}


def _in_own_process(threads: int, table: str, name: str, number: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--one", table, name, str(number)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


def _run_one(table: str, name: str, number: int) -> None:
    measured = WORK[table](name, number)
    measured["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured))


def _print_rows(title: str, rows: list[tuple[str, dict[str, float]]]) -> None:
    print(f"\n{title}")
    first = rows[0][1]["seconds"]
    for name, row in rows:
        seconds, peak = row["seconds"], row["peak_mb"]
        print(f"  {name:24s} {seconds:8.3f} s  {first / seconds:6.2f} x  {peak:6.0f} MB", flush=True)


def main() -> None:
    """Measure the tables that are asked for, all of them if none is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help=", ".join(TABLES))
    parser.add_argument("--slices", type=int, nargs="+", default=[16, 100])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        table, name, number = arguments.one
        _run_one(table, name, int(number))
        return
    tables = arguments.tables or TABLES
    if not set(tables) <= set(TABLES):
        parser.error(f"tables are {', '.join(TABLES)}")

    def measure(table: str, names: tuple[str, ...], number: int) -> list[tuple[str, dict[str, float]]]:
        return [(name, _in_own_process(arguments.threads, table, name, number)) for name in names]

    if "walk" in tables:
        for number in arguments.slices:
            rows = measure("walk", (*PEERS, *OURS), number)
            _print_rows(f"tiny-512, {number} slices, all visited: seconds per slice", rows)
    if "span" in tables:
        for number in arguments.slices:
            rows = measure("span", ("float32 all", *OURS), number)
            _print_rows(f"tiny-512, {number} slices, object in {SPAN}: seconds", rows)
    if "objects" in tables:
        for name in OURS:
            rows = [(f"{n} objects", measure("objects", (name,), n)[0][1]) for n in (1, 4, 8)]
            _print_rows(f"tiny-512 {name}, 8 slices: seconds", rows)
    if "correction" in tables:
        print("\ntiny-512, a click on a slice that was seen: its part of the first preview's time")
        for name in OURS:
            for run, part in correct(name):
                print(f"  {run:24s} {part:.3f}", flush=True)
    if "compact" in tables:
        rows = measure("compact", SCENES, 100)
        _print_rows("compact, boxes on 512 x 512 x 100, from the array to the masks: seconds", rows)
        print("  slices with a mask: " + ", ".join(f"{name} {row['slices']:.0f}" for name, row in rows))


if __name__ == "__main__":
    main()
