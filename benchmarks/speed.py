"""Seconds per slice and peak memory of the networks, each in a process of its own.

    python benchmarks/speed.py [--slices 16] [--threads 2] [--precision float32]

Weights are of chance: the work does not depend on them. One object, a box on the middle slice, every slice
visited in both directions. Time is that of the whole propagation divided by the slices; memory is the
process's peak, the interpreter and PyTorch (first row) included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

SIDE = 512
NETWORKS = ("nothing", "compact-256", "tiny-512")


def measure(preset: str, num_slices: int, threads: int, precision: str) -> dict[str, float]:
    """Run one network in this process."""
    import numpy as np
    import torch

    from medsam2.imaging.volume import Volume
    from medsam2.inference.options import InferenceOptions
    from medsam2.inference.predictor import Predictor
    from medsam2.inference.runtime import start_runtime
    from medsam2.model.config import PRESETS
    from medsam2.model.network import Network

    torch.set_num_threads(threads)
    seconds = 0.0
    if preset in PRESETS:
        torch.manual_seed(0)
        network = Network(PRESETS[preset])
        torch.nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 5.0)
        predictor = Predictor(start_runtime(network, device="cpu", precision=precision))
        array = np.random.default_rng(0).integers(0, 255, (num_slices, SIDE, SIDE)).astype(np.int16)
        options = InferenceOptions(keep_component=False, stop_after=0)
        session = predictor.session(Volume.from_array(array), window=(0, 255), options=options)
        started = time.perf_counter()
        session.add(1, slice=num_slices // 2, box=(200, 200, 300, 300))
        visited = sum(1 for _ in session.propagate())
        seconds = (time.perf_counter() - started) / visited
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds_per_slice": seconds, "peak_mb": peak_mb}


def main() -> None:
    """Measure every network and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--only", choices=NETWORKS)
    arguments = parser.parse_args()
    if arguments.only:
        measured = measure(arguments.only, arguments.slices, arguments.threads, arguments.precision)
        print(json.dumps(measured))
        return
    print(f"{arguments.slices} slices of {SIDE} x {SIDE}, {arguments.threads} threads, {arguments.precision}")
    for preset in NETWORKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", preset]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(output)
        print(f"{preset:12s} {row['seconds_per_slice']:.3f} s/slice {row['peak_mb']:7.0f} MB peak")


if __name__ == "__main__":
    main()
