"""`medsam2 batch` on generated cases: killed and resumed against undisturbed, and cases a minute.

    python benchmarks/batch.py [--cases 200] [--kills 3] [--ray]

Makes scans of 16 slices of 64 x 64 pixels with a bright ball each, and a table with a box on the ball's
middle slice. Runs the table undisturbed with one process and with two; runs it with two processes again,
killed with SIGKILL after equal parts of the cases, processes and all, and compares every mask's bytes with
those of the undisturbed run. With --ray the table runs once more on a local cluster of two nodes, of which
one is killed half-way. Cases a minute are those of `results.json`: of the whole run, start included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np

SHAPE_XYZ = (64, 64, 16)
RADIUS = (6, 12)
THICKNESS = 2.5  # of a slice, in pixels
POLL_S = 0.005


def make_cases(folder: Path, num_cases: int) -> Path:
    """Write the scans and the table."""
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[: SHAPE_XYZ[0], : SHAPE_XYZ[1], : SHAPE_XYZ[2]]
    lines = ["image,slice,box,window"]
    for number in range(num_cases):
        radius = rng.uniform(*RADIUS)
        middle = [rng.integers(radius + 2, side - radius - 2) for side in SHAPE_XYZ[:2]] + [SHAPE_XYZ[2] // 2]
        apart = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (THICKNESS * (z - middle[2])) ** 2
        grey = rng.normal(40, 12, SHAPE_XYZ) + 120 * (apart < radius**2)
        image = nibabel.Nifti1Image(grey.astype(np.int16), np.diag([0.8, 0.8, 2.0, 1.0]))
        image.to_filename(folder / "scans" / f"case{number:04d}.nii.gz")
        ends = [round(middle[0] - radius), round(middle[1] - radius)]
        ends += [round(middle[0] + radius), round(middle[1] + radius)]
        lines.append(f"scans/case{number:04d}.nii.gz,{middle[2]},{' '.join(map(str, ends))},-160 240")
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def start(table: Path, output: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a batch."""
    command = [sys.executable, "-m", "medsam2", "batch", str(table), "-o", str(output), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def finish(table: Path, output: Path, more: Sequence[str]) -> dict[str, float]:
    """Run a batch to its end and return its summary."""
    if code := start(table, output, more).wait():
        raise SystemExit(f"the batch ended with exit code {code}")
    return json.loads((output / "results.json").read_text())["summary"]


def num_done(output: Path) -> int:
    """How many cases are done."""
    masks = output / "masks"
    return sum(name.endswith(".json") for name in os.listdir(masks)) if masks.is_dir() else 0


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a batch and its processes at once, as a power cut does."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def masks(output: Path) -> dict[str, bytes]:
    """Every mask's bytes."""
    return {path.name: path.read_bytes() for path in (output / "masks").glob("*.nii.gz")}


def report(title: str, summary: dict[str, float]) -> None:
    """Print what a run says of itself."""
    print(
        f"{title}: {summary['cases']} cases, {summary['done']} done, {summary['kept']} done before, "
        f"{summary['failed']} failed, {summary['wall_seconds']:.1f} s, "
        f"{summary['cases_per_minute']} cases a minute; "
        f"a case {summary['mean_seconds']:.3f} s in the mean, peak {summary['max_peak_mib']:.0f} MiB",
        flush=True,
    )


def compare(title: str, found: Path, expected: Path) -> None:
    """Print how many masks are the same to the byte."""
    first, second = masks(found), masks(expected)
    same = sum(first.get(name) == content for name, content in second.items())
    print(f"{title}: {len(first)} masks, {same} of {len(second)} identical to the byte", flush=True)


def run_killed(table: Path, output: Path, num_cases: int, kills: int, more: Sequence[str]) -> None:
    """Kill a batch again and again, then run it to its end."""
    for number in range(1, kills + 1):
        process = start(table, output, more)
        while num_done(output) < number * num_cases // (kills + 1):
            time.sleep(POLL_S)
        kill(process)
        print(f"killed with {num_done(output)} of {num_cases} done", flush=True)
    report("resumed", finish(table, output, more))


def run_on_cluster(table: Path, output: Path, num_cases: int) -> None:
    """Run a batch on two nodes and kill one of them half-way."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    process = start(table, output, ["--engine", "ray", "--address", cluster.address])
    while num_done(output) < num_cases // 2:
        time.sleep(POLL_S)
    cluster.remove_node(second, allow_graceful=False)
    print(f"node killed with {num_done(output)} of {num_cases} done", flush=True)
    if code := process.wait():
        raise SystemExit(f"the batch ended with exit code {code}")
    cluster.shutdown()
    report("on Ray", json.loads((output / "results.json").read_text())["summary"])


def main() -> None:
    """Run what is described above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        table = make_cases(folder, arguments.cases)
        for workers in ("1", "2"):
            report(f"{workers} workers", finish(table, folder / f"quiet{workers}", ["--workers", workers]))
        compare("1 worker against 2", folder / "quiet1", folder / "quiet2")
        more = ["--workers", "2"]
        run_killed(table, folder / "killed", arguments.cases, arguments.kills, more)
        compare("killed against undisturbed", folder / "killed", folder / "quiet2")
        report("run again", finish(table, folder / "killed", more))
        if arguments.ray:
            run_on_cluster(table, folder / "ray", arguments.cases)
            compare("Ray against undisturbed", folder / "ray", folder / "quiet2")


if __name__ == "__main__":
    main()
