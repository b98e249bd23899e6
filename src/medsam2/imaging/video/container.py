"""Videos in MP4, MOV, AVI, Matroska and GIF files, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.video.frames import FrameReader, VideoFacts, check_size, evenly

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

# FFmpeg also reads playlists, which open other files and addresses; a video must not.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,mpegvideo,h264,hevc"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_NUM_PROBED = 18  # frames decoded to see whether time stamps can be trusted; H.264 reorders 16 at most
_GIF_TRAILER = b";"
_GIF_PADDING = 1024  # bytes; zeros that some writers add
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")  # Matroska's tag of a track, 00:00:02.666000000
_SHORTEST_GAP_S = 0.5  # between the end in a Matroska header and the last frame


def open_container(path: Path, *, content: BinaryIO | None = None) -> tuple[VideoFacts, FrameReader]:
    """Open a video: list its time stamps without decoding, and decode its first frames to check them.

    Args:
        path: Of the file, also for messages.
        content: To read the video from instead; closed with the reader.

    Raises:
        UnsupportedFormat: It is no video, holds no frames, or is damaged or truncated.
        InputError: Its header claims more than is safe to decode.
    """
    with _explained(path):
        container = _opened(path, content)
        try:
            stream = _only_video(container, path)
            check_size(path, 1, stream.codec_context.height, stream.codec_context.width)
            stamps, keys = _list_packets(container, stream, path)
            check_size(path, len(stamps), stream.codec_context.height, stream.codec_context.width)
            container.seek(0)
            reader = _ContainerReader(path, container, stream, stamps, keys, content)
            height, width, _ = reader.probe()
        except BaseException:
            container.close()
            raise
    rate = stream.average_rate or stream.guessed_rate
    times_s = _times_s(reader, stamps, stream.time_base, rate)
    span_s = float(times_s[-1])
    fps = float(rate) if rate else (len(stamps) - 1) / span_s if span_s > 0 else None
    return VideoFacts(shape=(len(stamps), height, width, 3), times_s=times_s, fps=fps), reader


class _ContainerReader:
    """Decodes forwards, from the last key frame before a frame or from the current position.

    Frames are identified by their time stamps. If these do not rise in the order of decoding (AVI has none),
    frames are counted from the start of the file instead.
    """

    def __init__(
        self,
        path: Path,
        container: InputContainer,
        stream: VideoStream,
        stamps: np.ndarray,
        keys: np.ndarray,
        content: BinaryIO | None,
    ) -> None:
        self._path = path
        self._content = content
        self._container = container
        self._stream = stream
        self._stamps = stamps
        self._keys = np.flatnonzero(keys)
        self._size: tuple[int, int] | None = None
        self.is_stamped = bool((np.diff(stamps) > 0).all())
        self._position = 0  # the frame that is decoded next
        self._decoding = container.decode(stream)

    def probe(self) -> tuple[int, ...]:
        """Decode the first frames, check their time stamps, and return a frame's shape."""
        first = None
        seen = []
        for frame in self._decoding:
            first = first or frame
            seen.append(frame.pts)
            if len(seen) == _NUM_PROBED:
                break
        if first is None:
            raise UnsupportedFormat(f"{self._path}: holds no frames that can be decoded")
        self.is_stamped = self.is_stamped and seen == self._stamps[: len(seen)].tolist()
        shape = self._upright(first).shape
        self._size = first.height, first.width
        self._go_to(0)
        return shape

    def frames_up_to(self, index: int, room: int) -> Iterator[tuple[int, np.ndarray]]:
        with _explained(self._path, index):
            start = self._key_before(index)
            if not start <= self._position <= index:
                self._go_to(start)
            while self._position <= index:
                number, frame = self._decode_next()
                if start and number > index:  # FFmpeg has gone too far
                    start = self._key_before(start - 1)
                    self._go_to(start)
                elif number > index - room:
                    yield number, self._upright(frame)

    def close(self) -> None:
        self._container.close()
        if self._content is not None:
            self._content.close()

    def _key_before(self, index: int) -> int:
        """The last key frame up to a frame; the start of the file if time stamps cannot be trusted."""
        if not self.is_stamped:
            return 0
        place = int(np.searchsorted(self._keys, index, side="right")) - 1
        return int(self._keys[place]) if place >= 0 else 0

    def _go_to(self, key: int) -> None:
        self._container.seek(int(self._stamps[key]) if key else int(self._stamps.min()), stream=self._stream)
        self._decoding = self._container.decode(self._stream)
        self._position = key

    def _decode_next(self) -> tuple[int, VideoFrame]:
        frame = next(self._decoding, None)
        if frame is None:
            raise UnsupportedFormat(
                f"{self._path}: ends before frame {self._position} of {len(self._stamps)}; it is truncated"
            )
        number = self._position
        if self.is_stamped:
            number = int(np.searchsorted(self._stamps, frame.pts or 0))
            if number == len(self._stamps) or self._stamps[number] != frame.pts:
                raise UnsupportedFormat(
                    f"{self._path}: a frame after {self._position} has a false time stamp"
                )
        self._position = number + 1
        return number, frame

    def _upright(self, frame: VideoFrame) -> np.ndarray:
        if self._size not in (None, (frame.height, frame.width)):
            raise UnsupportedFormat(
                f"{self._path}: the size of its frames changes to {frame.width} x {frame.height} pixels"
            )
        turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy turns
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _opened(path: Path, content: BinaryIO | None) -> InputContainer:
    import av

    if content is not None:
        return av.open(content, "r", options=_OPTIONS)
    # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
    return av.open(str(path.absolute()), "r", options=_OPTIONS)


def _only_video(container: InputContainer, path: Path) -> VideoStream:
    """The first stream of moving pictures; the cover of a sound file does not count."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = " and ".join(sorted({other.type for other in container.streams if other.type != "video"}))
    raise UnsupportedFormat(f"{path}: holds no video, only {kinds or 'a still picture'}")


def _list_packets(
    container: InputContainer, stream: VideoStream, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Time stamps of all frames in the order they are shown, int64, and which are key frames, boolean."""
    stamps: list[int] = []
    keys: list[bool] = []
    num_packets = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        num_packets += 1
        check_size(path, num_packets, 1, 1)
        if packet.is_corrupt:
            raise UnsupportedFormat(f"{path}: frame {num_packets - 1} is not whole; the file is truncated")
        if packet.is_discard:  # cut away by an edit list; the decoder drops it as well
            continue
        stamps.append(len(stamps) if packet.pts is None else packet.pts)
        keys.append(packet.is_keyframe)
    if num_packets < stream.frames:
        raise UnsupportedFormat(f"{path}: holds {num_packets} of {stream.frames} frames; it is truncated")
    if stamps and _ends_early(container, stream, max(stamps), path):
        raise UnsupportedFormat(f"{path}: ends before its header says; it is truncated")
    order = np.argsort(stamps, kind="stable")
    return np.array(stamps, np.int64)[order], np.array(keys, bool)[order]


def _ends_early(container: InputContainer, stream: VideoStream, last: int, path: Path) -> bool:
    if container.format.name == "gif" and path.is_file():
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, _GIF_PADDING), os.SEEK_END)
            return not file.read().rstrip(b"\0").endswith(_GIF_TRAILER)
    claimed = _DURATION.match(stream.metadata.get("DURATION", ""))
    if claimed is None or stream.time_base is None:
        return False
    hours, minutes, seconds = (float(part) for part in claimed.groups())
    end_s = 3600 * hours + 60 * minutes + seconds
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    return float(last * stream.time_base) + frame_s < end_s - _SHORTEST_GAP_S


def _times_s(
    reader: _ContainerReader, stamps: np.ndarray, time_base: Fraction | None, rate: Fraction | None
) -> np.ndarray:
    if reader.is_stamped and time_base is not None:
        return (stamps - stamps[0]) * float(time_base)
    return evenly(len(stamps), float(rate or 1))


@contextmanager
def _explained(path: Path, index: int | None = None) -> Iterator[None]:
    """Turn FFmpeg's errors into ours."""
    import av

    try:
        yield
    # FFmpeg reports a format that is not in our list as a wrong argument.
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        what = (
            "not a video, or damaged or truncated" if index is None else f"damaged at or before frame {index}"
        )
        raise UnsupportedFormat(f"{path}: {what}") from error
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
