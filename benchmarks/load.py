"""Load on `medsam2 serve`: many requests, several at a time, on the shipped weights.

    python benchmarks/load.py [--requests 200] [--at-once 8] [--queue 8]

Starts a server process of its own and sends it the same generated scan, 16 slices of 256 x 256 with a bright
ball, as base64 of a NIfTI file, and asks for run lengths. A caller that gets a 503 comes again when it is
told to. Memory is what the server's process holds, its readers left out, after one request that warms up
and after the last.
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import httpx
import nibabel
import numpy as np

SHAPE_XYZ = (256, 256, 16)
RADIUS = 30
TIMEOUT_S = 600
FIRST_RETRY_S = 1


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of one request."""

    status: int
    seconds: float
    """From the first attempt to the answer."""
    num_turned_away: int


def make_table() -> dict[str, list[object]]:
    """A scan and a box around what is in it, as the contract has them."""
    x, y, z = np.ogrid[: SHAPE_XYZ[0], : SHAPE_XYZ[1], : SHAPE_XYZ[2]]
    middle = SHAPE_XYZ[0] // 2
    ball = (x - middle) ** 2 + (y - middle) ** 2 + (6 * (z - SHAPE_XYZ[2] // 2)) ** 2 < RADIUS**2
    grey = np.random.default_rng(0).normal(40, 12, SHAPE_XYZ) + 120 * ball
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nibabel.Nifti1Image(grey.astype(np.int16), np.diag([0.8, 0.8, 2.5, 1.0])).to_filename(path)
        encoded = base64.b64encode(path.read_bytes()).decode()
    return {
        "nii_image": [encoded],
        "bbox": [[middle - RADIUS, middle - RADIUS, middle + RADIUS, middle + RADIUS]],
        "key_slice_idx": [SHAPE_XYZ[2] // 2],
        "dicom_window": [[-160.0, 240.0]],
        "mask_format": ["rle"],
    }


def ask(client: httpx.Client, table: dict[str, list[object]]) -> Asked:
    """Send one request until it is taken."""
    started = time.perf_counter()
    num_turned_away = 0
    while True:
        response = client.post("/score", json={"input_data": table})
        if response.status_code != 503:
            return Asked(
                status=response.status_code,
                seconds=time.perf_counter() - started,
                num_turned_away=num_turned_away,
            )
        num_turned_away += 1
        time.sleep(float(response.headers.get("retry-after", FIRST_RETRY_S)))


def resident_mib(client: httpx.Client) -> float:
    """Memory of the server's process, as it says itself."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1]) / 2**20


def start(queue: int) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port and return its address."""
    command = [sys.executable, "-m", "medsam2", "serve", "--port", "0", "--queue", str(queue)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:  # libraries may have something to say before it
        said += line
        if found := re.search(r"http://\S+:\d+", line):
            return process, found[0]
    process.wait()
    raise SystemExit(said)


def measure(client: httpx.Client, num_requests: int, at_once: int) -> None:
    """Send all requests and print what came of them."""
    table = make_table()
    ask(client, table)
    before = resident_mib(client)
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as callers:
        asked = list(callers.map(lambda _: ask(client, table), range(num_requests)))
    took = time.perf_counter() - started
    seconds = quantiles([one.seconds for one in asked], n=100)
    print(f"{num_requests} requests, {at_once} at a time: {took:.1f} s, {num_requests / took:.2f} a second")
    print(f"p50 {seconds[49]:.2f} s, p95 {seconds[94]:.2f} s")
    print(f"statuses {dict(Counter(one.status for one in asked))}")
    print(f"turned away and come again {sum(one.num_turned_away for one in asked)}")
    print(f"memory before {before:.0f} MiB, after {resident_mib(client):.0f} MiB")


def main() -> None:
    """Start a server, load it, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--queue", type=int, default=8)
    arguments = parser.parse_args()
    process, address = start(arguments.queue)
    transport = httpx.HTTPTransport(retries=5)
    with ThreadPoolExecutor(1) as drain:
        drain.submit(lambda stream: [None for _ in stream], process.stderr)  # or the pipe fills and all stops
        try:
            with httpx.Client(base_url=address, timeout=TIMEOUT_S, transport=transport) as client:
                measure(client, arguments.requests, arguments.at_once)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
