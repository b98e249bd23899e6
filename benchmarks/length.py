"""Seconds and peak memory of `medsam2 segment` against the number of slices, with an object that ends or not.

    python benchmarks/length.py [--slices 100 2000] [--side 512]

Each row is a process of its own on a generated NIfTI file, uncompressed. "14 slices" is a cylinder that ends,
so that a direction stops there; "all" is one through the whole scan. Memory is what the process held for
itself at most, pages mapped from files left out; the mask, one byte a voxel where the object is, included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

OBJECTS = ("14 slices", "all")
RADIUS = 40
POLL_S = 0.05


def write_scan(path: Path, num_slices: int, side: int, kind: str) -> None:
    """Write noise with a bright cylinder in the middle."""
    noise = np.random.default_rng(0).normal(40, 12, (side, side)).astype(np.int16)
    y, x = np.mgrid[:side, :side] - side // 2
    disc = np.where(x * x + y * y < RADIUS**2, 120, 0).astype(np.int16)
    array = np.empty((side, side, num_slices), np.int16, order="F")
    for z in range(num_slices):
        has_object = kind == "all" or abs(z - num_slices // 2) < 7
        array[:, :, z] = np.roll(noise, 37 * z) + disc * has_object
    nib.Nifti1Image(array, np.diag([0.7, 0.7, 2.0, 1.0])).to_filename(path)


def measure(scan: Path, num_slices: int, side: int) -> tuple[float, float]:
    """Segment the cylinder and return seconds and MiB."""
    middle = side // 2
    box = [str(middle + sign * RADIUS) for sign in (-1, -1, 1, 1)]
    command = [sys.executable, "-m", "medsam2", "segment", str(scan), "--slice", str(num_slices // 2)]
    command += ["--box", *box, "--window", "-160", "240", "-o", str(scan.with_name("mask.nii.gz"))]
    started, peak_kib = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak_kib = max(peak_kib, _own_kib(process.pid))
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, peak_kib / 1024


def _own_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def main() -> None:
    """Measure every length with both objects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--side", type=int, default=512)
    arguments = parser.parse_args()
    for kind in OBJECTS:
        for num_slices in arguments.slices:
            with tempfile.TemporaryDirectory() as folder:
                scan = Path(folder) / "scan.nii"
                write_scan(scan, num_slices, arguments.side, kind)
                seconds, mib = measure(scan, num_slices, arguments.side)
            print(f"{num_slices:5d} slices, object in {kind:9s} {seconds:7.1f} s {mib:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
