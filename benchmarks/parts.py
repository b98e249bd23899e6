"""What each part of a slice costs on this processor, against the processor's own matrix product.

    python benchmarks/parts.py [--slices 40] [--threads 2] [--networks tiny-512 compact] [--json FILE]

A box on a generated scan of 512 x 512 is followed through all slices. The scan lies in an uncompressed file,
so that reading counts. tiny-512 has weights of chance unless --weights names others: the network's work does
not depend on them, but the work on its masks does. Milliseconds are those of a slice, of the part alone:
parts within a part are not counted twice. PyTorch counts GFLOP in a second run, a multiplication and an
addition as two. "of peak" is the part's GFLOP/s over those of a product of two matrices in the same
precision, measured in the same process. The rest of the time is Python between the parts.

Other work on the machine spoils every number: measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from speed import SIDE, make_network
from torch.utils.flop_counter import FlopCounterMode

from medsam2.checkpoints import load_network, resolve
from medsam2.imaging import intensity, io, labels
from medsam2.imaging.volume import Volume
from medsam2.inference import carried_track, features, masks
from medsam2.inference.options import InferenceOptions
from medsam2.inference.precision import processor_name, this_machine
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import Prompt
from medsam2.synthesis.scan import STRUCTURES, generate_scan
from medsam2.tracking import planes

ORGAN = "right kidney"
SCAN_SEED = 7
WINDOW = (-160.0, 240.0)
ROWS = {"tiny-512": ("float32", "float32-fast", "bfloat16"), "compact": ("float32", "bfloat16")}
PRODUCT_SIDE = 2048
PRODUCT_S = 2.0  # other work may take the processor away for a while
HOLE_AREA = 8  # SAM 2's on CUDA

NETWORK_PARTS: Mapping[str, Sequence[str]] = {
    "encoder": ("encode_image",),
    "memory attention": ("attend_memory",),
    "decoder": ("encode_prompts", "decode_masks", "decode", "point_at"),
    "memory encoder": ("encode_memory",),
}
FUNCTION_PARTS: Mapping[str, Sequence[tuple[object, str]]] = {
    "reading": ((features.SliceFeatures, "frame"),),
    "window": ((intensity, "to_uint8"),),
    "crop": ((features, "cut"),),
    "resample": ((features, "resample_slice"), (features, "normalise"), (features, "upload")),
    "planes and cues": ((planes, "as_planes"),),
    "resample back": ((masks, "to_slice"), (masks, "to_view")),
    "components": (
        (labels.ConnectedParts, "add"),
        (labels.ConnectedParts, "kept"),
        (masks, "prompted_parts"),
        (labels, "run_lengths"),
        (labels, "from_run_lengths"),
        (carried_track, "keep_reaching"),
    ),
    "holes": ((masks, "fill_logit_holes"),),
}
BETWEEN = "Python between"
PARTS = (*NETWORK_PARTS, *FUNCTION_PARTS, BETWEEN)


@dataclass
class Clock:
    """Seconds and floating-point operations of each part."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    counts_flops: bool = False
    _inner: list[float] = field(default_factory=list)

    def around(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function that does the work and notes its time without that of parts within."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.counts_flops and part in NETWORK_PARTS:
                with FlopCounterMode(display=False, custom_mapping=MORE_OPERATIONS) as counter:
                    result = work(*args, **kwargs)
                self.flops[part] += counter.get_total_flops()
                return result
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                whole = time.perf_counter() - started
                self.seconds[part] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        return timed


def _count_linear(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * int(np.prod(x)) * weight[0]


def _count_attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object) -> int:
    return 2 * int(np.prod(q[:3])) * k[2] * (q[3] + v[3])


# Operations of the CPU that PyTorch's counter does not know.
MORE_OPERATIONS: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _count_attention
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    MORE_OPERATIONS[torch.ops.mkldnn._linear_pointwise] = _count_linear


@contextmanager
def watching(network: torch.nn.Module, clock: Clock) -> Iterator[None]:
    """Note the time of every part while the block runs; then everything is as it was."""
    undo: list[Callable[[], None]] = []
    for part, names in NETWORK_PARTS.items():
        for name in names:
            if hasattr(network, name):
                object.__setattr__(network, name, clock.around(part, getattr(network, name)))
                undo.append(lambda name=name: object.__delattr__(network, name))
    for part, places in FUNCTION_PARTS.items():
        for owner, name in places:
            original = getattr(owner, name)
            timed = clock.around(part, original)
            for place in _holders(owner, name, original):
                setattr(place, name, timed)
                undo.append(lambda place=place, name=name, original=original: setattr(place, name, original))
    try:
        yield
    finally:
        for step in undo:
            step()


def _holders(owner: object, name: str, original: object) -> list[object]:
    """The class, or all modules that have imported a function."""
    if not isinstance(owner, ModuleType):
        return [owner]
    ours = [module for title, module in list(sys.modules.items()) if title.startswith("medsam2.")]
    return [module for module in ours if vars(module).get(name) is original]


def make_scan(num_slices: int) -> tuple[Volume, list[Prompt]]:
    """A generated CT enlarged to 512 x 512, and boxes around its structures, the kidney's first."""
    scan = generate_scan(SCAN_SEED)
    factor = SIDE // scan.image.shape[1] + 1
    rows = np.arange(num_slices) * len(scan.image) // num_slices
    larger = np.ones((1, factor, factor))
    image = np.kron(scan.image[rows], larger.astype(np.int16))[:, :SIDE, :SIDE]
    truth = np.kron(scan.labels[rows], larger.astype(np.uint8))[:, :SIDE, :SIDE]
    prompts = []
    for organ in sorted(STRUCTURES, key=lambda one: one != ORGAN):
        inside = truth == STRUCTURES.index(organ) + 1
        key = int(inside.sum(axis=(1, 2)).argmax())
        if inside[key].any():
            prompts.append(Prompt(slice_index=key, box=tight_box(inside[key])))
    return Volume.from_array(np.ascontiguousarray(image), modality="CT"), prompts


def start(network: str, precision: str, weights: str | None, *, device: str = "cpu") -> Runtime:
    """A network on a device; tiny-512 with weights of chance unless others are named."""
    named = "compact" if network == "compact" else weights
    made = make_network() if named is None else load_network(resolve(named))
    made.requires_grad_(False)  # or the counter of operations looks for gradients
    return start_runtime(made, device=device, precision=precision)


def follow(runtime: Runtime, volume: Volume, prompts: Sequence[Prompt]) -> np.ndarray:
    """Follow an object for each prompt through all slices, without an early end."""
    options = InferenceOptions(keep_component=True, stop_after=0, fill_hole_area=HOLE_AREA)
    session = Predictor(runtime).session(volume, window=WINDOW, options=options)
    for number, prompt in enumerate(prompts, start=1):
        session.add(number, prompt)
    session.finish()
    return np.asarray(session.result().array)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of a table."""

    ms: float
    """A slice."""
    gflop: float | None
    """A slice."""
    gflops: float | None
    """A second."""
    of_peak: float | None


def measure(runtime: Runtime, path: Path, prompt: Prompt, peak_gflops: float) -> dict[str, Part]:
    """Follow one object twice: for times, and for operations."""
    network = runtime.network
    assert isinstance(network, (Network, CompactNetwork))
    volume = io.read(path)
    num_slices = volume.array.shape[0]
    follow(runtime, volume, [prompt])  # the first calls allocate memory and choose kernels
    times, operations = Clock(), Clock(counts_flops=True)
    with watching(network, times):
        started = time.perf_counter()
        follow(runtime, io.read(path), [prompt])
        whole = time.perf_counter() - started
    with watching(network, operations):
        follow(runtime, volume, [prompt])
    times.seconds[BETWEEN] = whole - sum(times.seconds.values())
    table = {}
    for part in PARTS:
        seconds, flops = times.seconds[part], operations.flops[part]
        speed = flops / seconds / 1e9 if flops and seconds else None
        table[part] = Part(
            ms=1000 * seconds / num_slices,
            gflop=flops / num_slices / 1e9 if flops else None,
            gflops=speed,
            of_peak=None if speed is None else speed / peak_gflops,
        )
    return table


def product_gflops(dtype: torch.dtype, side: int = PRODUCT_SIDE) -> float:
    """The best GFLOP/s of several products of two square matrices."""
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    seconds: list[float] = []
    began = time.perf_counter()
    while not seconds or time.perf_counter() - began < PRODUCT_S:
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds) / 1e9


def _print(title: str, table: Mapping[str, Part]) -> None:
    print(
        f"\n| {title} | ms a slice | GFLOP a slice | GFLOP/s | of peak |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, part in table.items():
        counted = ("", "", "")
        if part.gflop is not None and part.gflops is not None and part.of_peak is not None:
            counted = (f"{part.gflop:.2f}", f"{part.gflops:.0f}", f"{part.of_peak:.0%}")
        print(f"| {name} | {part.ms:.2f} | " + " | ".join(counted) + " |")
    print(f"| whole | {sum(part.ms for part in table.values()):.1f} | | | |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table for each network and precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=40, help="slices of the scan, 3 at least")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--networks", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--precisions", nargs="+", help="some of those of each network; all if not given")
    parser.add_argument("--weights", help="of tiny-512: a name or a file")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    chosen = parser.parse_args(arguments)
    if chosen.slices < 3:
        parser.error("--slices is 3 or more")
    torch.set_num_threads(chosen.threads)
    machine = this_machine(torch.device("cpu"))
    dtypes = (torch.float32, torch.bfloat16)
    peaks = {str(dtype).removeprefix("torch."): product_gflops(dtype) for dtype in dtypes}
    print(f"{processor_name()}: {', '.join(sorted(machine.features))}.")
    print(
        f"PyTorch {torch.__version__} computes with {machine.level} and {chosen.threads} threads. Products of"
    )
    print(f"matrices of {PRODUCT_SIDE} x {PRODUCT_SIDE}:", end=" ")
    print(", ".join(f"{speed:.0f} GFLOP/s in {name}" for name, speed in peaks.items()), flush=True)
    volume, prompts = make_scan(chosen.slices)
    tables: dict[str, dict[str, Part]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii"
        io.write(volume, path)
        for network in chosen.networks:
            for precision in ROWS[network]:
                if chosen.precisions and precision not in chosen.precisions:
                    continue
                runtime = start(network, precision, chosen.weights)
                peak = peaks[precision.removesuffix("-fast")]
                table = measure(runtime, path, prompts[0], peak)
                tables[f"{network} {precision}"] = table
                _print(f"{network} {precision}", table)
    if chosen.json is not None:
        facts = {
            "processor": processor_name(),
            "features": sorted(machine.features),
            "level": machine.level,
            "threads": chosen.threads,
            "slices": chosen.slices,
            "torch": torch.__version__,
            "product_gflops": peaks,
            "tables": {
                title: {name: asdict(part) for name, part in table.items()} for title, table in tables.items()
            },
        }
        chosen.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
