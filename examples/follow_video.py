"""Propagate an object through a video and print its area in every frame.

python examples/follow_video.py [VIDEO]
"""

from __future__ import annotations

import sys

import numpy as np

import medsam2

FRAME = 0
BOX = (28, 12, 72, 52)  # x_min, y_min, x_max, y_max in pixels of the frame


def pulsing_disc(num_frames: int = 12) -> np.ndarray:
    """Draw a pale disc on blue that shrinks and grows again, uint8 (frame, y, x, 3)."""
    y, x = np.mgrid[:64, :96]
    frames = np.empty((num_frames, 64, 96, 3), np.uint8)
    for k, frame in enumerate(frames):
        radius = 16 + 4 * np.cos(2 * np.pi * k / num_frames)
        frame[...] = np.where(np.hypot(x - 50, y - 32)[..., None] <= radius, (200, 180, 160), (16, 24, 80))
    return frames


def main(path: str | None = None) -> None:
    """Prompt one frame and print each frame, in order of time."""
    # A video is not loaded: each frame is decoded when it is needed.
    frames = pulsing_disc() if path is None else medsam2.open_video(path)
    session = medsam2.load("compact").video(frames)
    session.add(1, frame=FRAME, box=BOX)
    for found in session.propagate():
        print(f"frame {found.index}: {np.count_nonzero(found.labels)} pixels, score {found.scores[1]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
