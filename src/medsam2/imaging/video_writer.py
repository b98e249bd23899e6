"""Encode frames to an MP4 file as they come."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

_SUFFIX_FORMAT = "mp4"
# Divides the frame durations of 15, 24, 25, 30, 60 and 30000/1001 a second evenly; MPEG-4 counts to 65535.
_TICKS_PER_S = 60_000
_ENCODERS = (
    ("libx264", {"crf": "18", "preset": "veryfast"}),
    ("mpeg4", {"qscale": "3"}),  # part of every FFmpeg
)


class VideoWriter:
    """Writes frames at their times: H.264 where this FFmpeg encodes it, else MPEG-4.

    Args:
        path: A new .mp4 file.
        shape_yx: Size of the frames; an odd side is written with its last row or column twice.
        fps: Frames per second, for players that do not look at times.
    """

    def __init__(self, path: Path, shape_yx: tuple[int, int], fps: float) -> None:
        import av

        name, options = next((name, options) for name, options in _ENCODERS if name in av.codecs_available)
        self._padding = [(0, side % 2) for side in shape_yx]
        # A file of Python's, since FFmpeg's own does not say whether its last bytes reached the disk.
        self._file = path.open("xb")
        self._container = av.open(self._file, "w", format=_SUFFIX_FORMAT)
        rate = Fraction(fps).limit_denominator(1001)
        stream = self._container.add_stream(name, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        height, width = (side + after for side, (_, after) in zip(shape_yx, self._padding, strict=True))
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        self._last_tick = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._container.mux(self._stream.encode(None))
        finally:
            with self._file:
                self._container.close()

    def write(self, frame: np.ndarray, time_s: float) -> None:
        """Encode the next frame.

        Args:
            frame: uint8 (y, x, 3).
            time_s: When it is shown, later than the one before.
        """
        from av import VideoFrame

        padded = np.pad(frame, [*self._padding, (0, 0)], mode="edge")
        encoded = VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        self._last_tick = max(self._last_tick + 1, round(time_s * _TICKS_PER_S))
        encoded.pts, encoded.time_base = self._last_tick, Fraction(1, _TICKS_PER_S)
        self._container.mux(self._stream.encode(encoded.reformat(format="yuv420p")))
