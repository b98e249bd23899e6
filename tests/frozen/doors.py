"""The public doors that the frozen runs go through, and the small images that they send in.

Nothing here imports from inside the package: only the command, the server and `medsam2` itself are used.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from io import StringIO
from pathlib import Path
from unittest import mock

import highdicom
import httpx
import nibabel
import numpy as np
import safetensors.numpy
import SimpleITK
from PIL import Image

GOLDEN_INPUTS = Path(__file__).resolve().parents[1] / "parity" / "golden" / "inputs.py"
PATIENCE_S = 300.0  # the machine may be busy with something else

# Left to themselves, these follow the processor: masks would differ between machines.
EXACT = ("--device", "cpu", "--precision", "float32")
SPACING = (0.8, 0.8, 2.5)  # x, y, z in mm
UID = "1.2.826.0.1.3680043.8.498"


def scan(seed: int = 0, *, shift: float = 0.0, scale: int = 1, lean: float = 1.0) -> np.ndarray:
    """Draw two bright objects that lean, in waves and noise: int16 of 16 slices of 64 x 64 pixels.

    Object 1 is large and bright, in slices 2 to 14. Object 2 is smaller and paler, in slices 3 to 11.

    Args:
        seed: Of the noise.
        shift: Moves both objects to the right, in pixels.
        scale: Makes slices and objects so many times larger.
        lean: How far the objects drift from slice to slice.
    """
    z, y, x = np.mgrid[:16, : 64 * scale, : 64 * scale].astype(np.float64)
    y, x = y / scale, x / scale
    # RandomState and not a Generator, since NumPy promises that its numbers stay the same.
    noise = np.random.RandomState(seed).normal(0, 9, z.shape)
    grey = 60 + 10 * np.sin(x / 9) + 8 * np.cos(y / 7) + noise
    first_x, first_y = 24 + shift + 0.6 * lean * (z - 8), 27 - 0.4 * lean * (z - 8)
    second_x, second_y = 46 + shift, 43 + 0.5 * lean * (z - 8)
    first = ((x - first_x) / 9) ** 2 + ((y - first_y) / 11) ** 2 + ((z - 8) / 6.5) ** 2
    second = ((x - second_x) / 7) ** 2 + ((y - second_y) / 6) ** 2 + ((z - 7) / 5) ** 2
    grey += 100 * (first < 1) + 65 * (second < 1)
    return np.clip(np.round(grey), 0, 255).astype(np.int16)


def write_nifti(path: Path, *frames: np.ndarray) -> Path:
    """Write arrays (z, y, x) as one oblique NIfTI file, several as frames of a 4D file."""
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-SPACING[0], *SPACING[1:]])
    affine[:3, 3] = 7, -3, 11
    voxels = np.stack([frame.T for frame in frames], axis=3) if len(frames) > 1 else frames[0].T
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def write_series(folder: Path, grey: np.ndarray) -> list[str]:
    """Write a DICOM series, its file names in disorder; return its instance UIDs from slice 0 on."""
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    instances = [f"{UID}.1.{z + 1}" for z in range(len(grey))]
    for z, plane in enumerate(grey):
        image = SimpleITK.GetImageFromArray(plane)
        image.SetSpacing(SPACING[:2])
        for tag, value in {
            "0008|0060": "MR", "0008|0018": instances[z], "0020|000d": f"{UID}.2", "0020|000e": f"{UID}.3",
            "0020|0052": f"{UID}.4", "0020|0032": f"-20\\-10\\{30 + z * SPACING[2]:g}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0018|0050": f"{SPACING[2]:g}", "0020|0013": str(z + 1),
            "0010|0010": "Nobody", "0010|0020": "7",
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(z * 5) % len(grey):02d}.dcm"))
        writer.Execute(image)
    return instances


def read_segmentation(path: Path, instances: list[str]) -> np.ndarray:
    """Read a DICOM segmentation of one object on the grid of its source images, whose UIDs are given."""
    segmentation = highdicom.seg.segread(path)
    # Slices without the object have no frame.
    pixels = segmentation.get_pixels_by_source_instance(
        instances, combine_segments=True, assert_missing_frames_are_empty=True
    )
    return pixels.astype(np.uint8)


def write_frames(folder: Path) -> Path:
    """Write 10 colour frames as PNG, which loses nothing: a pale disc that drifts and shrinks."""
    folder.mkdir()
    y, x = np.mgrid[:64, :96]
    noise = np.random.RandomState(5)
    for k in range(10):
        frame = np.full((64, 96, 3), (16, 24, 80), dtype=np.int16) + noise.randint(-8, 9, (64, 96, 3))
        frame[(x - 40 - 2 * k) ** 2 + (y - 30) ** 2 <= (18 - k) ** 2] += (160, 140, 70)
        Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8)).save(folder / f"frame_{k:03d}.png")
    return folder


def golden_slices(count: int) -> np.ndarray:
    """Draw the slices that the reference's outputs were recorded with, uint8 (count, 512, 512)."""
    return _golden_inputs().slices(count, 512, seed=7)


def write_golden_weights(path: Path) -> Path:
    """Write the known weights of the official network as a checkpoint."""
    safetensors.numpy.save_file(_golden_inputs().weights(), path)
    return path


def _golden_inputs():
    spec = importlib.util.spec_from_file_location("frozen_golden_inputs", GOLDEN_INPUTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*words: object) -> str:
    """Run `medsam2 ...` as it is installed, in this process, and return what it prints."""
    (script,) = entry_points(group="console_scripts", name="medsam2")
    printed, code = StringIO(), None
    with mock.patch.object(sys, "argv", ["medsam2", *map(str, words)]), redirect_stdout(printed):
        try:
            script.load()()
        except SystemExit as end:
            code = end.code
    assert not code, f"medsam2 {words[0]} ended with {code}; standard error says why"
    return printed.getvalue()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, here and in processes that are started: sums then have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
        # Settings of the person who runs the tests must not change a mask.
        for name in [name for name in os.environ if name.startswith("MEDSAM2_")]:
            del os.environ[name]
        try:
            yield
        finally:
            torch.set_num_threads(before)


class Server:
    """`medsam2 serve` in a process of its own; it starts when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    @property
    def client(self) -> httpx.Client:
        """A client for the server, whose folder of studies holds `scan.nii.gz`."""
        if self._client is None:
            self._client = self._start()
        return self._client

    def close(self) -> None:
        """End the server, if it was started."""
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)

    def _start(self) -> httpx.Client:
        studies = self._folder / "studies"
        studies.mkdir()
        write_nifti(studies / "scan.nii.gz", scan())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "medsam2", "serve", "--port", port, "--studies", studies, *EXACT]
        log = self._folder / "server.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(list(map(str, words)), stdout=file, stderr=file)
        # trust_env: a proxy of the person who runs the tests must not stand between.
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if client.get("/readyz").status_code == 200:
                    return client
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        client.close()
        raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
