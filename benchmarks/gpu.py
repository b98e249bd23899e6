"""What a GPU gives: the same masks as the CPU, seconds a slice, memory, and training steps a second.

    python benchmarks/gpu.py [--device cuda] [--slices 300] [--minutes 6] [--json gpu.json]

One run takes eight minutes at most: after six it begins nothing new, and lists that as left out. It measures
in this order.

masks       Dice of the masks against those of the CPU in float32, for float32 and for the precision of `auto`
walk        seconds a slice and peak memory with 1 and 8 objects, and with 1 object on half of the slices:
            memory on the device should be nearly the same for both lengths
training    steps a second of the recipes of both networks, with clips of the recipes' sizes

Without a GPU it says so and ends. `--device cpu --slices 8` measures the same on the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from parts import follow, make_scan, start

from medsam2.imaging.volume import Volume
from medsam2.inference.precision import choose, processor_name, this_machine
from medsam2.inference.record import watched_memory
from medsam2.inference.runtime import Runtime
from medsam2.measure.overlap import dice
from medsam2.prompts.types import Prompt
from medsam2.training.config import DataConfig, TrainConfig, read_recipe
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer
from medsam2.training.stack_files import generate_stacks

NO_GPU = "There is no GPU here; --device cpu --slices 8 measures the same on the processor."
NETWORKS = ("tiny-512", "compact")
RECIPES = {"tiny-512": "medsam2-finetune.toml", "compact": "compact.toml"}
RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"
NUM_STACKS = 6
WARM_STEPS = 2
MIB = 2**20

Scan = tuple[Volume, list[Prompt]]


@dataclass
class Report:
    """What was measured; written as JSON."""

    device: str
    precision: str
    reason: str
    torch: str = torch.__version__
    slices: int = 0
    masks: list[dict[str, object]] = field(default_factory=list)
    walk: list[dict[str, object]] = field(default_factory=list)
    training: list[dict[str, object]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What there was no time for."""
    seconds: float = 0.0


@dataclass
class Spent:
    """Filled after the work is done."""

    seconds: float = 0.0
    peak_mib: float | None = None
    """On the device; on a CPU that of the process, libraries and weights included."""


@contextmanager
def spending(device: torch.device) -> Iterator[Spent]:
    """Measure time and memory of the block, and wait for the device before and after it."""
    spent = Spent()
    with watched_memory() as peak:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        yield spent
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.seconds = time.perf_counter() - started
    spent.peak_mib = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else peak.mib


def compare_masks(network: str, weights: str | None, device: str, scan: Scan) -> Iterator[dict[str, object]]:
    """Dice of each precision on the device against the CPU's float32."""
    volume, prompts = scan
    expected = follow(start(network, "float32", weights, device="cpu"), volume, prompts[:1]) > 0
    for precision in ("float32", "auto"):
        runtime = start(network, precision, weights, device=device)
        found = follow(runtime, volume, prompts[:1]) > 0
        yield {
            "network": network,
            "precision": str(runtime.precision).removeprefix("torch."),
            "slices": len(volume.array),
            "voxels": int(expected.sum()),
            "dice": float(dice(found, expected)),
        }


def walk(runtime: Runtime, network: str, num_objects: int, scan: Scan) -> dict[str, object]:
    """Follow objects through a scan; there are as many boxes as objects, some twice."""
    volume, prompts = scan
    boxes = [prompts[index % len(prompts)] for index in range(num_objects)]
    with spending(runtime.device) as spent:
        follow(runtime, volume, boxes)
    return {
        "network": network,
        "objects": num_objects,
        "slices": len(volume.array),
        "seconds": spent.seconds,
        "seconds_a_slice": spent.seconds / len(volume.array),
        "peak_mib": spent.peak_mib,
    }


def train(network: str, stacks: Path, chosen: argparse.Namespace) -> dict[str, object]:
    """Take some steps of a recipe's last phase, on generated stacks and from weights of chance."""
    recipe = read_recipe(RECIPES_FOLDER / RECIPES[network])
    phase = recipe.phases[-1]
    phase = dataclasses.replace(
        phase,
        steps=WARM_STEPS + chosen.train_steps,
        warmup_steps=1,
        image_size=chosen.train_size or phase.image_size,
        batch=chosen.train_batch or phase.batch,
    )
    config: TrainConfig = dataclasses.replace(
        recipe,
        phases=(phase,),
        initial_weights=None,
        data=DataConfig(stacks=NUM_STACKS - 1, validation_stacks=1, whole_slices=recipe.data.whole_slices),
        accumulate=1 if chosen.train_batch else recipe.accumulate,
        validation_clips=1,
        keep_best=False,
        patience=0,
        report_cases=0,
        log_every=1,
    )
    kind = torch.device(chosen.device)
    with tempfile.TemporaryDirectory() as folder, spending(kind) as spent:
        trainer = Trainer(config, Path(folder) / "run", stacks, devices=Devices(device=kind.type))
        seconds = [progress.seconds_per_step for progress in trainer.run()][WARM_STEPS:]
    return {
        "network": network,
        "recipe": RECIPES[network],
        "image_size": phase.image_size,
        "batch": phase.batch,
        "clip_length": phase.clip_length,
        "steps_a_second": 1 / float(np.median(seconds)),
        "peak_mib": spent.peak_mib,
    }


def measure(chosen: argparse.Namespace) -> Report:
    """Measure all there is time for."""
    began = time.perf_counter()
    device = torch.device(chosen.device)
    choice = choose(this_machine(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    report = Report(device=name, precision=choice.precision, reason=choice.reason, slices=chosen.slices)

    def has_time(what: str) -> bool:
        is_left = time.perf_counter() - began < 60 * chosen.minutes
        if not is_left:
            report.left_out.append(what)
        print(what if is_left else f"left out: {what}", file=sys.stderr, flush=True)
        return is_left

    short, whole = make_scan(min(chosen.check_slices, chosen.slices)), make_scan(chosen.slices)
    half = make_scan(max(3, chosen.slices // 2))
    for network in chosen.networks:
        if has_time(f"masks of {network}"):
            report.masks += compare_masks(network, chosen.weights, chosen.device, short)
    for network in chosen.networks:
        runtime = start(network, "auto", chosen.weights, device=chosen.device)
        follow(runtime, short[0], short[1][:1])  # the first calls allocate memory and choose kernels
        for number, scan in [(1, half), *((number, whole) for number in chosen.objects)]:
            if has_time(f"{network}, {number} objects, {len(scan[0].array)} slices"):
                report.walk.append(walk(runtime, network, number, scan))
    with tempfile.TemporaryDirectory() as folder:
        list(generate_stacks(Path(folder), range(NUM_STACKS), workers=1))
        for network in chosen.networks:
            if has_time(f"training of {network}"):
                report.training.append(train(network, Path(folder), chosen))
    report.seconds = time.perf_counter() - began
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print JSON, and write it to a file if one is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--check-slices", type=int, default=12, help="slices of the masks that are compared")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--weights", help="of tiny-512: a name or a file; weights of chance if not given")
    parser.add_argument("--minutes", type=float, default=6.0, help="begin nothing new after so many minutes")
    parser.add_argument("--train-steps", type=int, default=20)
    parser.add_argument("--train-size", type=int, help="pixels; the recipe's if not given")
    parser.add_argument("--train-batch", type=int, help="clips; the recipe's if not given")
    parser.add_argument("--json", type=Path, help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    if torch.device(chosen.device).type == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return
    text = json.dumps(asdict(measure(chosen)), indent=2)
    print(text)
    if chosen.json is not None:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
