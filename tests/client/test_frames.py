"""Files of several volumes: each door takes a frame, and says how where none is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import SimpleITK

import medsam2
from medsam2.client.client import ScoredMask
from medsam2.errors import InputError
from medsam2.imaging.volume import Volume

BOX = (4.0, 4.0, 23.0, 17.0)
ROW = {"key_slice_idx": 4, "dicom_window": [0, 255], "bbox": BOX}


@pytest.fixture(params=["beats.nii.gz", "beats.nrrd", "beats.mha"])
def beats(request: pytest.FixtureRequest, scan: Volume, folder: Path) -> Path:
    """The scan upside down, and the scan."""
    path = folder / request.param
    frames = np.stack([scan.array[:, ::-1], scan.array])
    image = SimpleITK.GetImageFromArray(frames.astype(np.int16), isVector=False)
    image.SetSpacing((*scan.spacing, 1.0))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[medsam2.Client]:
    with medsam2.Client(url) as client:
        yield client


def test_a_session_of_a_frame(client: medsam2.Client, beats: Path, scan: Volume) -> None:
    expected = client.segment(scan, slice=4, box=BOX, window=(0, 255)).array
    assert expected.any()
    assert np.array_equal(client.segment(beats, slice=4, box=BOX, window=(0, 255), frame=1).array, expected)
    with client.session(beats, window=(0, 255), frame=1) as session:
        assert np.array_equal(session.volume.array, scan.array)
    with client.open(beats.name, window=(0, 255), frame=1) as session:
        assert np.array_equal(session.volume.array, scan.array)
    for wrong, words in ((None, "name it by frame=0"), (2, "has no frame 2; it holds 2")):
        with pytest.raises(InputError, match=words):
            client.session(beats, frame=wrong)
        with pytest.raises(InputError, match=words):
            client.open(beats.name, frame=wrong)
    with pytest.raises(InputError, match=r"frame is .*-1"):
        client.session(beats, frame=-1)
    with pytest.raises(InputError, match="read the file by this frame"):
        client.session(scan, frame=0)


def test_a_row_of_a_frame(client: medsam2.Client, beats: Path, scan: Volume) -> None:
    (expected,) = client.score([{**ROW, "nii_image": scan}])
    first, second = client.score([{**ROW, "nii_image": beats, "frame": frame} for frame in (0, 1)])
    assert isinstance(expected, ScoredMask)
    assert isinstance(first, ScoredMask)
    assert isinstance(second, ScoredMask)
    assert np.array_equal(second.mask, expected.mask)
    assert not np.array_equal(first.mask, expected.mask)
    with pytest.raises(InputError, match="has no frame 2"):
        client.score([{**ROW, "nii_image": beats, "frame": 2}])
    with pytest.raises(InputError, match="whole number from 0, not 'x'"):
        client.score([{**ROW, "nii_image": beats, "frame": "x"}])
    if beats.name.endswith(".nii.gz"):  # others are read here
        words = (
            "row 0, column nii_image: holds 2 frames; a volume is one of them, column frame takes a number"
        )
        with pytest.raises(InputError, match=words):
            client.score([{**ROW, "nii_image": beats}])


def test_what_a_frame_can_be_is_said(url: str, beats: Path) -> None:
    for frame in ("x", "-1", "1.5"):
        answer = httpx.post(f"{url}/v1/sessions?frame={frame}", content=beats.read_bytes())
        assert answer.status_code == 422
        assert "frame is" in answer.json()["error"]
    for value in (-1, 1.5, "1", True):
        answer = httpx.post(f"{url}/v1/sessions", json={"path": beats.name, "frame": value})
        assert answer.status_code == 422
        row = {**ROW, "nii_image": "x", "frame": value}
        answer = httpx.post(f"{url}/score", json={"dataframe_records": [row]})
        assert answer.status_code == 422
        assert "column frame" in answer.json()["error"]
