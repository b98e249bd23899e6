"""The weights and slices that the recordings were made with, of names, shapes and a seed alone."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

ENTRIES = Path(__file__).with_name("entries.tsv")
# Slices: a bright disc over waves, in grey values and in parts of the slice's side.
BACKGROUND, WAVES, DISC = 70, 12, 95
NUM_WAVES, EDGE = 4, 120


def entries() -> dict[str, tuple[int, ...]]:
    """Name -> shape of each entry of an official checkpoint, in its order."""
    rows = [line.split("\t") for line in ENTRIES.read_text(encoding="utf-8").splitlines() if line]
    return {name: tuple(int(size) for size in shape.split(",") if size) for name, shape in rows}


def weights() -> dict[str, np.ndarray]:
    """A tensor for each entry, float32."""
    return {name: weight(name, shape) for name, shape in entries().items()}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one entry: normal noise from its name's checksum, of a size that keeps activations in range.

    RandomState and not a Generator, since NumPy promises that its numbers stay the same.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    is_matrix = len(shape) >= 2 and name.endswith(".weight") and "embed" not in name.split(".")[-2]
    if name.endswith("positional_encoding_gaussian_matrix"):
        drawn = noise
    elif name.endswith(".gamma"):
        drawn = 0.3 + 0.05 * noise
    elif len(shape) == 1 and ".weight" in name:  # a normalisation's
        drawn = 1.0 + 0.1 * noise
    elif name.endswith(".bias"):
        drawn = 0.05 * noise
    elif is_matrix:
        drawn = 1.2 * noise / np.sqrt(np.prod(shape[1:]))
    else:  # tokens and positions that are learnt
        drawn = 0.5 * noise
    return drawn.astype(np.float32)


def slices(count: int, side: int, seed: int) -> np.ndarray:
    """Draw slices with a disc that drifts and shrinks.

    Returns:
        uint8 of shape (count, side, side).
    """
    noise = np.random.RandomState(seed)
    y, x = np.mgrid[:side, :side].astype(np.float64) / side
    drawn = []
    for index in range(count):
        waves = sum(
            np.sin(2 * np.pi * (a * x + b * y) + phase) for a, b, phase in noise.uniform(1, 6, (NUM_WAVES, 3))
        )
        share = index / max(count - 1, 1)
        centre_x, centre_y, radius = 0.40 + 0.12 * share, 0.52 - 0.08 * share, 0.13 - 0.05 * share
        disc = 1 / (1 + np.exp((np.hypot(x - centre_x, y - centre_y) - radius) * EDGE))
        drawn.append(BACKGROUND + WAVES * waves + DISC * disc)
    return np.clip(np.round(np.stack(drawn)), 0, 255).astype(np.uint8)
