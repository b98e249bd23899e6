"""Write masks as the text of an answer, slice by slice."""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from medsam2.errors import MedSAM2Error
from medsam2.imaging.io import write
from medsam2.imaging.labels import bounding_box, coco_counts
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import error_answer
from medsam2.serving.rows import MaskMetadata, ScoreRow

_PART_SIZE = 1 << 18
_GZIP_LEVEL = 1  # masks are so regular that more effort gains little
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The mask of a row, cut to the part that contains the object."""

    row: ScoreRow
    grid: Volume
    """The image's grid; its voxels take no memory."""
    corner: tuple[int, int, int]
    """(z, y, x) of the first voxel of `part`."""
    part: np.ndarray
    """Boolean, (z, y, x)."""

    @classmethod
    def of(cls, mask: Volume, row: ScoreRow) -> Found:
        """Keep what is needed of a uint8 mask (z, y, x) of 0 and 1."""
        inside = mask.array.view(bool)
        box = bounding_box(inside) or (slice(0, 0),) * 3
        z, y, x = (side.start for side in box)
        grid = mask.with_array(np.broadcast_to(np.uint8(0), mask.shape))
        return cls(row=row, grid=grid, corner=(z, y, x), part=inside[box].copy())

    def plane(self, z: int) -> np.ndarray | None:
        """The object in a slice, boolean (y, x) of the slice's size, or None where it is not."""
        within = z - self.corner[0]
        if not 0 <= within < len(self.part) or not self.part[within].any():
            return None
        plane = np.zeros(self.grid.shape[1:], bool)
        _, y, x = self.corner
        height, width = self.part.shape[1:]
        plane[y : y + height, x : x + width] = self.part[within]
        return plane

    @property
    def metadata(self) -> MaskMetadata:
        """What the answer says about the mask."""
        row, grid = self.row, self.grid
        return MaskMetadata(
            shape=list(grid.shape[::-1]),
            key_slice_index=row.key_slice_idx,
            adjusted_key_slice_index=row.slice_index,
            bbox=row.bbox,
            dicom_window=row.dicom_window,
            spacing=list(grid.spacing),
            origin=list(grid.origin),
            mask_axes="zyx",
            direction=list(grid.direction),
        )


def answer_text(outcomes: Sequence[Found | MedSAM2Error]) -> Iterator[bytes]:
    """Write the answer: an object for one row, a list for several."""
    if len(outcomes) == 1:
        yield from _in_parts(_row_text(outcomes[0]))
        return
    yield from _in_parts(_joined(_row_text(outcome) for outcome in outcomes))


def compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Pack an answer with gzip as it is written."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    for part in parts:
        if packed := packer.compress(part):
            yield packed
    yield packer.flush()


def wants_gzip(accept_encoding: str) -> bool:
    """Whether an `Accept-Encoding` header asks for gzip."""
    for choice in accept_encoding.lower().split(","):
        name, _, quality = choice.replace(" ", "").partition(";q=")
        if name in ("gzip", "x-gzip"):
            return quality.strip("0.") != "" or not quality
    return False


def _row_text(outcome: Found | MedSAM2Error) -> Iterator[bytes]:
    if isinstance(outcome, MedSAM2Error):
        yield orjson.dumps(error_answer(outcome))
        return
    yield b'{"mask":'
    yield from _FORMATS[outcome.row.mask_format](outcome)
    yield b',"metadata":' + outcome.metadata.model_dump_json().encode() + b"}"


def _nested(found: Found) -> Iterator[bytes]:
    """The mask as nested lists (z, y, x) of 0 and 1."""
    num_z, height, width = found.grid.shape
    # Every line of voxels has the same length, "[0,...,0],", so only the digits are written.
    line = b"[" + b",".join([b"0"] * width) + b"],"
    empty = np.frombuffer(line * height, np.uint8).reshape(height, len(line))
    empty_text = _plane_text(empty)
    for z in range(num_z):
        yield b"[" if z == 0 else b","
        plane = found.plane(z)
        if plane is None:
            yield empty_text
            continue
        text = empty.copy()
        text[:, 1 : 2 * width : 2] += plane
        yield _plane_text(text)
    yield b"]"


def _plane_text(lines: np.ndarray) -> bytes:
    return b"[" + lines.tobytes()[:-1] + b"]"


def _run_lengths(found: Found) -> Iterator[bytes]:
    """A list with an entry for each slice that is not empty: its index and its COCO run lengths."""
    size = found.grid.shape[1:]
    planes = ((z, found.plane(z)) for z in range(found.grid.shape[0]))
    entries = (
        {"slice": z, "size": size, "counts": coco_counts(plane)} for z, plane in planes if plane is not None
    )
    yield from _joined([orjson.dumps(entry)] for entry in entries)


def _nifti(found: Found) -> Iterator[bytes]:
    """Base64 of a .nii.gz file on the image's grid."""
    mask = np.zeros(found.grid.shape, np.uint8)
    place = tuple(
        slice(start, start + size) for start, size in zip(found.corner, found.part.shape, strict=True)
    )
    mask[place] = found.part
    with tempfile.TemporaryDirectory(prefix="medsam2-") as folder:
        path = Path(folder) / "mask.nii.gz"
        write(found.grid.with_array(mask), path)
        yield b'"' + base64.b64encode(path.read_bytes()) + b'"'


_FORMATS = {"nested": _nested, "rle": _run_lengths, "nifti": _nifti}


def _joined(texts: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    yield b"["
    for number, text in enumerate(texts):
        if number:
            yield b","
        yield from text
    yield b"]"


def _in_parts(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small texts, since each part costs a change of threads."""
    gathered: list[bytes] = []
    size = 0
    for text in texts:
        gathered.append(text)
        size += len(text)
        if size >= _PART_SIZE:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
