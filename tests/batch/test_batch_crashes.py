"""A batch that is killed again and again, and one that loses a node: the masks are those of a quiet run."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

NUM_CASES = 24
BOX = "18 12 37 25"

pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path: Path, scans: Callable[[int], list[Path]]) -> Path:
    path = tmp_path / "table.csv"
    lines = [f"{scan.relative_to(tmp_path)},4,{BOX}" for scan in scans(NUM_CASES)]
    path.write_text("\n".join(["image,slice,box", *lines]))
    return path


def command(table: Path, folder: Path, weights: Path, *more: str) -> list[str]:
    words = ["batch", table, "-o", folder, "--weights", weights, *more]
    return [sys.executable, "-m", "medsam2", *map(str, words)]


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").glob("*.nii.gz")}


def num_done(folder: Path) -> int:
    return len(list((folder / "masks").glob("*.json"))) if folder.exists() else 0


def kept(folder: Path) -> int:
    with (folder / "results.csv").open() as file:
        return sum(row["status"] == "kept" for row in csv.DictReader(file))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_three_times(table: Path, weights: Path, tmp_path: Path, workers: str) -> None:
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    subprocess.run(command(table, quiet, weights, "--workers", workers), check=True, capture_output=True)
    for target in (5, 11, 17):
        process = subprocess.Popen(
            command(table, disturbed, weights, "--workers", workers), stderr=subprocess.DEVNULL
        )
        while num_done(disturbed) < target:
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = num_done(disturbed)
    subprocess.run(command(table, disturbed, weights, "--workers", workers), check=True, capture_output=True)
    assert kept(disturbed) >= before
    assert masks(disturbed) == masks(quiet)
    assert len(masks(quiet)) == NUM_CASES


def test_a_node_of_a_ray_cluster_is_killed(table: Path, weights: Path, tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    quiet, shared = tmp_path / "quiet", tmp_path / "shared"
    subprocess.run(command(table, quiet, weights), check=True, capture_output=True)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        more = ("--engine", "ray", "--address", cluster.address)
        process = subprocess.Popen(command(table, shared, weights, *more))
        while num_done(shared) < 6:
            assert process.poll() is None
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(300) == 0
    finally:
        cluster.shutdown()
    assert masks(shared) == masks(quiet)
    with (shared / "results.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done"] * NUM_CASES
