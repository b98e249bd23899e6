"""How far ONNX Runtime and PyTorch are apart, in each part and in the masks of whole runs, and their times.

    python benchmarks/onnx_parity.py [--weights NAME|FILE] [--parts FOLDER] [--slices N] [--threads N]

parts   the largest difference of each output on inputs of chance, in units of the output's own spread, and
        the shortest of several times for one slice that looks back at seven memories
runs    a box, a box with a click, and a drawn mask, each followed through a generated scan: Dice of the two
        masks, the largest difference of mask logits, and seconds a slice

Both compute in float32 on the CPU. PyTorch's is the published order of operations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.checkpoints import load_network, resolve
from medsam2.imaging.volume import Volume
from medsam2.inference.onnx import compact_parts, official_parts
from medsam2.inference.onnx.chain import Value
from medsam2.inference.onnx.export import chain_of
from medsam2.inference.onnx.networks import OnnxCompactNetwork, OnnxNetwork
from medsam2.inference.onnx.sessions import Parts
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.session import Session
from medsam2.measure.overlap import dice
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.prompts.simulate import center_point, tight_box
from medsam2.prompts.types import MaskPrompt, Prompt
from medsam2.synthesis.stack import generate_stack

SEED = 900_000
SIDE = 256
REPEATS = 5
SIZES = {"batch": 1, "points": 2, "tokens": 3, "memories": 7, "pointers": 7, "rows": 512, "columns": 512}
UNIT = ("inside", "probability", "shares", "planes", "mask")  # inputs between 0 and 1
GREYS = ("reference", "current")


@dataclass(frozen=True, kw_only=True)
class PartScore:
    """One part in both runtimes."""

    name: str
    differences: Sequence[float]
    """Largest difference of each output, over the output's standard deviation where it has one."""
    torch_ms: float
    onnx_ms: float


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """One run in both runtimes."""

    name: str
    dice: float
    voxels: int
    """That the object has."""
    differing: int
    """Voxels that only one of the masks has."""
    largest: float
    """Difference of two mask logits of the same pixel."""
    torch_s: float
    """Seconds a slice."""
    onnx_s: float


def example(value: Value, sizes: dict[str, int], generator: torch.Generator) -> Tensor:
    """Draw an input of a part by chance: smooth greys and masks, labels and codes that there are."""
    shape = [sizes[size] if isinstance(size, str) else size for size in value.shape]
    if value.dtype == "bool":
        return torch.rand(shape, generator=generator) > 0.5
    if value.dtype == "int32":
        return torch.randint(0, 4, shape, generator=generator)
    if value.name in GREYS or value.name in UNIT:
        coarse = torch.rand(*shape[:-2], 12, 12, generator=generator).flatten(0, -3)[None]
        smooth = F.interpolate(coarse, size=shape[-2:], mode="bicubic", align_corners=False)
        smooth = smooth.reshape(shape).clamp(0, 1)
        return smooth if value.name in GREYS else (smooth > 0.5).float()
    drawn = torch.randn(shape, generator=generator)
    return drawn * 100 + 200 if value.name == "points" else drawn


def compare_parts(
    network: Network | CompactNetwork, parts: Parts, sizes: dict[str, int] = SIZES, repeats: int = REPEATS
) -> Iterator[PartScore]:
    """Run each part in both runtimes on the same inputs."""
    generator = torch.Generator().manual_seed(SEED)
    computes = compact_parts.COMPUTES if isinstance(network, CompactNetwork) else official_parts.COMPUTES
    for part in chain_of(network).parts:
        inputs = [example(value, sizes, generator) for value in part.inputs]
        with torch.inference_mode():
            ours, torch_ms = _timed(lambda p=part, i=inputs: computes[p.name](network, *i), repeats)
        theirs, onnx_ms = _timed(lambda p=part, i=inputs: parts.run(p.name, *i), repeats)
        ours = ours if isinstance(ours, tuple) else (ours,)
        yield PartScore(
            name=part.name,
            differences=[_difference(a, b) for a, b in zip(ours, theirs, strict=True)],
            torch_ms=torch_ms,
            onnx_ms=onnx_ms,
        )


def _timed(run: Callable[[], object], repeats: int) -> tuple[object, float]:
    """The result and the shortest time in milliseconds: other work on the machine makes times longer only."""
    result, times = None, []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
    return result, 1000 * min(times)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    ours, theirs = ours.float(), theirs.float()
    spread = float(ours.std()) if ours.numel() > 1 else 0.0
    return float((ours - theirs).abs().max()) / (spread if spread > 1e-3 else 1.0)


def compare_runs(ours: Predictor, theirs: Predictor, num_slices: int) -> Iterator[RunScore]:
    """Follow the largest object of a generated scan in both runtimes."""
    stack = generate_stack(SEED, shape=(num_slices, SIDE, SIDE))
    z = int((stack.labels > 0).sum(axis=(1, 2)).argmax())
    numbers, counts = np.unique(stack.labels[z][stack.labels[z] > 0], return_counts=True)
    inside = stack.labels[z] == numbers[counts.argmax()]
    volume = Volume.from_array(stack.image)
    box = Prompt(slice_index=z, box=tight_box(inside))
    click = Prompt(slice_index=z, box=tight_box(inside), points=(center_point(inside, is_positive=True),))
    drawn = Prompt(slice_index=z, mask=MaskPrompt(array=inside))
    for name, prompts in (("box", [box]), ("box and click", [box, click]), ("drawn mask", [drawn])):
        found = [_follow(predictor, volume, prompts) for predictor in (ours, theirs)]
        (first, torch_s), (second, onnx_s) = found
        a, b = (session.result().array > 0 for session in (first, second))
        visited = sorted(set(first.object(1).scores()) & set(second.object(1).scores()))
        yield RunScore(
            name=name,
            dice=dice(a, b),
            voxels=int(a.sum()),
            differing=int((a != b).sum()),
            largest=max(_apart(first, second, index) for index in visited),
            torch_s=torch_s / len(visited),
            onnx_s=onnx_s / len(visited),
        )


def _follow(predictor: Predictor, volume: Volume, prompts: Sequence[Prompt]) -> tuple[Session, float]:
    session = predictor.session(volume, window=(0.0, 255.0))
    started = time.perf_counter()
    for prompt in prompts:
        session.add(1, prompt)
    session.finish()
    return session, time.perf_counter() - started


def _apart(first: Session, second: Session, index: int) -> float:
    a, b = (session.frame(1, index).low_res_logits.float() for session in (first, second))
    return float((a - b).abs().max())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="compact", help="name or file")
    parser.add_argument("--parts", type=Path, help="folder that `medsam2 export onnx` made of them")
    parser.add_argument("--slices", type=int, default=24, help="of the generated scan")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    theirs = load(chosen.parts or chosen.weights, runtime="onnx")
    onnx_network = theirs.runtime.network
    assert isinstance(onnx_network, (OnnxNetwork, OnnxCompactNetwork))
    print(
        f"{'part':18} {'PyTorch ms':>10} {'ONNX ms':>8}  largest difference of each output, over its spread"
    )
    for part in compare_parts(load_network(resolve(chosen.weights)), onnx_network.parts):
        told = " ".join(f"{value:.0e}" for value in part.differences)
        print(f"{part.name:18} {part.torch_ms:10.2f} {part.onnx_ms:8.2f}  {told}", flush=True)
    print(
        f"\n{'run':14} {'Dice':>8} {'voxels':>8} {'differ':>6} {'logits':>8}  seconds a slice and their ratio"
    )
    ours = load(chosen.weights, device="cpu", precision="float32")
    for run in compare_runs(ours, theirs, chosen.slices):
        print(
            f"{run.name:14} {run.dice:8.6f} {run.voxels:8} {run.differing:6} {run.largest:8.1e} "
            f"PyTorch {run.torch_s:.3f} ONNX {run.onnx_s:.3f} {run.onnx_s / run.torch_s:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
