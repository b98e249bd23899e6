"""Masks as text: the same as `json` writes, fast, and without holding all of it."""

from __future__ import annotations

import json
import time
import zlib

import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.serving.answers import Found, answer_text, compressed, wants_gzip
from medsam2.serving.rows import ScoreRow, read_row


def row(mask_format: str = "nested") -> ScoreRow:
    cells = {"nii_image": "x", "key_slice_idx": 0, "dicom_window": [0, 1], "bbox": [0, 0, 1, 1]}
    return read_row(0, {**cells, "mask_format": mask_format})


def found(mask: np.ndarray, mask_format: str = "nested") -> Found:
    return Found.of(Volume.from_array(mask.astype(np.uint8)), row(mask_format))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (2, 4, 1), (5, 6, 7)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_nested_lists_are_the_mask(shape: tuple[int, int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    text = b"".join(answer_text([found(mask)]))
    assert json.loads(text)["mask"] == mask.astype(int).tolist()
    assert len(json.dumps(mask.astype(int).tolist(), separators=(",", ":"))) < len(text)


def test_an_empty_mask_has_no_run_lengths() -> None:
    mask = np.zeros((3, 4, 5), bool)
    assert json.loads(b"".join(answer_text([found(mask, "rle")])))["mask"] == []


def test_a_list_holds_masks_and_errors() -> None:
    mask = np.ones((1, 2, 2), bool)
    text = b"".join(answer_text([found(mask), InputError("no"), found(mask, "rle")]))
    first, second, third = json.loads(text)
    assert first["mask"] == [[[1, 1], [1, 1]]]
    assert second == {"error": "no", "status": 422}
    assert third["mask"] == [{"slice": 0, "size": [2, 2], "counts": "04"}]


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_mask_is_written_in_less_than_a_second_and_in_parts(packed: bool) -> None:
    z, y, x = np.ogrid[:100, :512, :512]
    mask = ((z - 50) / 40) ** 2 + ((y - 250) / 150) ** 2 + ((x - 260) / 150) ** 2 < 1
    answer = found(mask)
    started = time.process_time()
    parts = compressed(answer_text([answer])) if packed else answer_text([answer])
    sizes = [len(part) for part in parts]
    assert time.process_time() - started < 1.0
    assert max(sizes) < 2 * 2**20
    if packed:
        assert sum(sizes) < 2 * 2**20
    else:
        # A digit and a comma per voxel, brackets of rows, slices and the whole.
        assert sum(sizes) > 2 * mask.size


def test_what_is_packed_comes_back() -> None:
    parts = [b"a" * 1000, b"", b"bc"]
    assert zlib.decompress(b"".join(compressed(parts)), 16 + zlib.MAX_WBITS) == b"".join(parts)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("br, x-gzip", True),
        ("gzip; q=0", False),
        ("gzip;q=0.0, deflate", False),
    ],
)
def test_gzip_is_given_to_who_asks(header: str, wanted: bool) -> None:
    assert wants_gzip(header) == wanted
