"""Write what was found in a video as it is found: overlay, masks, areas."""

import csv
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from medsam2.errors import InputError
from medsam2.imaging import nifti
from medsam2.imaging.video import Video
from medsam2.imaging.video_folder import ASSUMED_FPS
from medsam2.imaging.video_overlay import colour_table, draw_overlay
from medsam2.imaging.video_writer import VideoWriter
from medsam2.imaging.volume import Volume

OVERLAY, MASK, AREAS, STACK, PICTURES = "overlay.mp4", "mask.mp4", "areas.csv", "masks.nii.gz", "masks"
MAX_STACK = 32_767
"""Frames of a NIfTI-1 file along one axis."""
_COLUMNS = ("frame", "seconds", "object", "area_px", "area_mm2", "score")
_RAW_STACK = ".stack"


class VideoOutputs:
    """Files in a folder that grow with each frame; complete once left without an error.

    Args:
        folder: An empty folder.
        video: Whose frames are drawn on.
        pictures: Also write a PNG of each frame's labels; its palette gives the labels their colours.
        stack: Also write the labels as one NIfTI volume, frames along its third axis.

    Raises:
        InputError: The video has more frames than a stack can hold.
    """

    def __init__(self, folder: Path, video: Video, *, pictures: bool, stack: bool) -> None:
        check_stack(len(video), stack)
        self._folder = folder
        self._video = video
        self._pictures = pictures
        self._areas: dict[int, np.ndarray] = {}
        self._open = ExitStack()
        shape_yx = video.shape[1:3]
        fps = video.fps or ASSUMED_FPS
        with ExitStack() as opened:
            self._overlay = opened.enter_context(VideoWriter(folder / OVERLAY, shape_yx, fps))
            self._mask = opened.enter_context(VideoWriter(folder / MASK, shape_yx, fps))
            table = opened.enter_context((folder / AREAS).open("w", newline="", encoding="utf-8"))
            self._table = csv.writer(table, lineterminator="\n")
            self._table.writerow(_COLUMNS)
            self._stack = opened.enter_context((folder / _RAW_STACK).open("wb")) if stack else None
            self._open = opened.pop_all()
        if pictures:
            (folder / PICTURES).mkdir()

    def __enter__(self) -> "VideoOutputs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if self._stack is not None and error is None:
            self._write_stack()

    @property
    def areas_px(self) -> Mapping[int, np.ndarray]:
        """Object number to its area in each frame, (frame,) int64."""
        return self._areas

    def write(self, index: int, labels: np.ndarray, scores: Mapping[int, float]) -> None:
        """Write a frame.

        Args:
            index: Its number; frames come in order.
            labels: uint8 (y, x), 0 outside.
            scores: Of each object that was followed into the frame.
        """
        time_s = float(self._video.times_s[index])
        self._overlay.write(draw_overlay(self._video[index], labels), time_s)
        self._mask.write(colour_table()[labels], time_s)
        counts = np.bincount(labels.ravel(), minlength=256)
        for number, score in scores.items():
            area = int(counts[number])
            self._areas.setdefault(number, np.zeros(len(self._video), np.int64))[index] = area
            self._table.writerow((index, f"{time_s:.6g}", number, area, self._area_mm2(area), f"{score:.4f}"))
        if self._pictures:
            picture = Image.fromarray(labels)
            picture.putpalette(colour_table().ravel().tolist())
            picture.save(self._folder / PICTURES / f"frame_{index:06d}.png", format="PNG")
        if self._stack is not None:
            self._stack.write(np.ascontiguousarray(labels).data)

    def _area_mm2(self, area_px: int) -> str:
        if self._video.pixel_mm is None:
            return ""
        width_mm, height_mm = self._video.pixel_mm
        return f"{area_px * width_mm * height_mm:.6g}"

    def _write_stack(self) -> None:
        raw = self._folder / _RAW_STACK
        labels = np.memmap(raw, np.uint8, mode="r", shape=self._video.shape[:3])
        width_mm, height_mm = self._video.pixel_mm or (1.0, 1.0)
        nifti.write(Volume.from_array(labels, (width_mm, height_mm, 1.0)), self._folder / STACK)
        raw.unlink()


def check_stack(num_frames: int, wanted: bool) -> None:
    """Refuse a stack that NIfTI cannot hold, before the work.

    Raises:
        InputError: There are too many frames.
    """
    if wanted and num_frames > MAX_STACK:
        raise InputError(f"a NIfTI file holds at most {MAX_STACK:,} frames, the video has {num_frames:,}")
