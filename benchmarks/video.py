"""Seconds and peak memory of `medsam2 video` against the number of frames.

    python benchmarks/video.py [--frames 30 3000] [--source cine.mp4 --box X0 Y0 X1 Y1] [--weights compact]

Each row is a process of its own on a video made by repeating the source, forwards and backwards in turn,
so that nothing jumps; without one it is a disc that grows and shrinks, 640 x 480. Memory is what the process
held for itself at most, pages mapped from files left out; the most in the first tenth of the time stands
beside it, to show whether it grows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medsam2.imaging.video.outputs import VideoWriter
from medsam2.imaging.video.read import open_video

FPS = 30.0
DISC_BOX = (230.0, 150.0, 410.0, 330.0)
POLL_S = 0.1


def disc_frames(num_frames: int) -> Iterator[np.ndarray]:
    """Speckle with a dark disc that beats once in 30 frames."""
    y, x = np.mgrid[:480, :640]
    distance = np.hypot(x - 320, y - 240)
    speckle = np.random.default_rng(0).rayleigh(60, distance.shape).clip(0, 255)
    for k in range(num_frames):
        inside = distance < 80 + 8 * np.cos(2 * np.pi * k / 30)
        grey = np.where(inside, 0.15, 1) * np.roll(speckle, k, axis=1)
        yield np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def repeated(source: Path, num_frames: int) -> Iterator[np.ndarray]:
    """The frames of a video there and back, again and again."""
    with open_video(source) as video:
        period = max(1, 2 * (len(video) - 1))
        for k in range(num_frames):
            yield video[min(k % period, period - k % period)]


def write(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode frames at the benchmark's rate."""
    first = next(frames)
    with VideoWriter(path, (first.shape[0], first.shape[1]), FPS) as writer:
        writer.write(first, 0)
        for k, frame in enumerate(frames, start=1):
            writer.write(frame, k / FPS)


def measure(path: Path, box: tuple[float, ...], weights: str) -> tuple[float, float, float, float]:
    """Follow the object and return frames per second, seconds of processor time, early and peak MiB."""
    command = [sys.executable, "-m", "medsam2", "video", str(path), "-o", str(path.with_name("out"))]
    command += ["--frame", "0", "--box", *(str(end) for end in box), "--weights", weights, "--json"]
    samples: list[int] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        samples.append(_own_kib(process.pid))
        time.sleep(POLL_S)
    assert process.stdout is not None
    output = process.stdout.read()
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    facts = json.loads(output)
    early = max(samples[: max(1, len(samples) // 10)])
    busy_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return facts["frames_per_second"], busy_s, early / 1024, max(samples) / 1024


def _own_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def main() -> None:
    """Measure every length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[30, 3000])
    parser.add_argument("--source", type=Path)
    parser.add_argument("--box", type=float, nargs=4, default=DISC_BOX)
    parser.add_argument("--weights", default="compact")
    arguments = parser.parse_args()
    for num_frames in arguments.frames:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            made = repeated(arguments.source, num_frames) if arguments.source else disc_frames(num_frames)
            write(path, made)
            fps, busy_s, early, peak = measure(path, tuple(arguments.box), arguments.weights)
        print(
            f"{num_frames:5d} frames {fps:7.2f} frames/s {busy_s:7.1f} s of a core "
            f"{peak:6.0f} MiB at most, {early:6.0f} MiB early on",
            flush=True,
        )


if __name__ == "__main__":
    main()
