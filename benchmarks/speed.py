"""Seconds and memory of the networks against the Sam2Video model of `transformers` with the same weights.

    python benchmarks/speed.py [parts] [walk] [span] [objects] [correction] [compact] [--slices 16 100 500]

Weights are of chance: the work does not depend on them. Slices are 512 x 512; a box is on the middle one.

parts       milliseconds of each part for one slice that looks back at seven memories
walk        every slice visited, one object
span        an object that spans 14 slices, ended where it is gone, against every slice visited in float32
objects     1, 4 and 8 objects on the same 8 slices
correction  the preview after a first box, and after a correcting click on the same slice
compact     the shipped network: a box on 100 slices, from the array to the mask

Ratios are against the first row of a table. Each row of all but the first table is a process of its own; its
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

from medsam2.imaging.volume import Volume
from medsam2.inference.fast.network import FastNetwork
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.runtime import InferenceOptions, start_runtime
from medsam2.inference.session import Session
from medsam2.model.config import PRESETS
from medsam2.model.network import ImageFeatures, MemoryTokens, Network

SIDE = 512
SPAN = 14
BOX = (200.0, 200.0, 300.0, 300.0)
PEERS = ("transformers float32", "transformers bfloat16")
OURS = ("float32", "float32-fast", "bfloat16")
TABLES = ("parts", "walk", "span", "objects", "correction", "compact")
REPEATS = 7


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


def compact(num_slices: int) -> dict[str, float]:
    """A box in a generated scan enlarged to 512 x 512; seconds from the array to the mask."""
    from medsam2.prompts.simulate import tight_box
    from medsam2.synthesis.scan import STRUCTURES, generate_scan

    scan = generate_scan(7)
    factor = SIDE // scan.image.shape[1] + 1
    rows = np.arange(num_slices) * len(scan.image) // num_slices
    image = np.kron(scan.image[rows], np.ones((1, factor, factor), scan.image.dtype))[:, :SIDE, :SIDE]
    truth = np.kron(scan.labels[rows], np.ones((1, factor, factor), scan.labels.dtype))[:, :SIDE, :SIDE]
    truth = truth == STRUCTURES.index("right kidney") + 1
    key = int(truth.sum(axis=(1, 2)).argmax())
    predictor = load("compact", device="cpu")
    volume = Volume.from_array(np.ascontiguousarray(image), modality="CT")
    started = time.perf_counter()
    mask = predictor.segment(volume, slice=key, box=tight_box(truth[key]).xyxy, window="abdomen", axis=2)
    return {"seconds": time.perf_counter() - started, "slices": int((mask.array > 0).any(axis=(1, 2)).sum())}


def measure_parts() -> dict[str, dict[str, float]]:
    """Milliseconds of each part of one slice, medians taken in turn."""
    network = make_network()
    config = network.config
    torch.manual_seed(1)
    image = torch.randn(1, 3, SIDE, SIDE)
    memory = MemoryTokens(
        spatial=[torch.randn(1, 64, config.grid_size, config.grid_size).bfloat16() for _ in range(7)],
        codes=[6, 0, 1, 2, 3, 4, 5],
        pointers=[torch.randn(1, config.hidden_dim) for _ in range(16)],
        distances=[index / 15 for index in range(16)],
    )
    variants: dict[str, Network] = {"float32": network}
    variants["float32-fast"] = FastNetwork(network, torch.float32)
    variants["bfloat16"] = FastNetwork(network, torch.bfloat16)
    rows: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        features = network.encode_image(image)
        for name, variant in variants.items():
            rows[name] = {part: _median(work) for part, work in _parts(variant, image, features, memory)}
    return rows


def _parts(
    network: Network, image: Tensor, features: ImageFeatures, memory: MemoryTokens
) -> Iterator[tuple[str, Callable[[], object]]]:
    prompts = network.encode_prompts(None, None, batch=1)
    mask, present = torch.randn(1, 1, SIDE, SIDE), torch.ones(1, 1)
    yield "encoder", lambda: network.encode_image(image)
    yield "memory attention", lambda: network.attend_memory(features, memory)
    yield "decoder", lambda: network.decode_masks(features, features.level2, prompts, multimask=True)
    yield "memory encoder", lambda: network.encode_memory(features, mask, present, binarise=False)


def _median(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


WORK: dict[str, Callable[[str, int], dict[str, float]]] = {
    "walk": walk,
    "span": span,
    "objects": objects,
    "compact": lambda _name, num_slices: compact(num_slices),
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

    if "parts" in tables:
        print("milliseconds of one slice of tiny-512")
        for name, row in measure_parts().items():
            print(f"  {name:14s}" + "".join(f"  {part} {ms:.0f}" for part, ms in row.items()), flush=True)
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
        rows = measure("compact", ("compact",), 100)
        _print_rows("compact, a box on 512 x 512 x 100: seconds", rows)


if __name__ == "__main__":
    main()
