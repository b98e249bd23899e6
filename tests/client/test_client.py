"""The rest of the client: whole segmentations, the contract, keys, servers that are not there."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

import medsam2
from medsam2.client.client import ScoredMask
from medsam2.client.connection import events_of
from medsam2.errors import InputError, ServerError
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor

BOX = (4.0, 4.0, 23.0, 17.0)


def test_it_segments_as_a_predictor_does(
    url: str, predictor: Predictor, scan: Volume, scan_path: Path
) -> None:
    expected = predictor.segment(
        scan, slice=4, box=BOX, window=(0, 255), plane="axial", memory="self-sorting"
    )
    with medsam2.Client(url) as client:
        for given in (scan, scan_path):
            found = client.segment(
                given, slice=4, box=BOX, window=(0, 255), plane="axial", memory="self-sorting"
            )
            assert np.array_equal(found.array, expected.array)
            assert found.array.dtype == expected.array.dtype
            assert np.allclose(found.affine, expected.affine, atol=1e-9)


def test_it_speaks_the_published_contract(
    url: str, predictor: Predictor, scan: Volume, scan_path: Path
) -> None:
    expected = predictor.segment(scan, slice=4, box=BOX, window=(0, 255))
    row = {
        "nii_image": scan,
        "key_slice_idx": 104,
        "slice_offset": 100,
        "dicom_window": [0, 255],
        "bbox": BOX,
    }
    with medsam2.Client(url) as client:
        (only,) = client.score([row])
        first, wrong, second = client.score(
            [row, {**row, "key_slice_idx": 99}, {**row, "nii_image": scan_path}]
        )
        for found in (only, first, second):
            assert isinstance(found, ScoredMask)
            assert np.array_equal(found.mask, expected.array.astype(bool))
            assert found.metadata["adjusted_key_slice_index"] == 4
        assert isinstance(wrong, InputError)
        assert "slice 99" in str(wrong)
        with pytest.raises(InputError, match="slice 99"):
            client.score([{**row, "key_slice_idx": 99}])
        with pytest.raises(InputError, match="path, a Volume or a URL, not int"):
            client.score([{**row, "nii_image": 5}])


def test_keys(run_server: Callable[..., AbstractContextManager[str]], scan: Volume) -> None:
    with run_server(api_key="k3y") as url:
        for key, words in ((None, "needs a key"), ("other", "not that of this server")):
            with medsam2.Client(url, key) as client, pytest.raises(InputError, match=words):
                client.session(scan)
        with medsam2.Client(url, "k3y") as client, client.session(scan) as session:
            assert session.shape == scan.shape


def test_a_server_that_is_full_says_when_to_come_again(
    run_server: Callable[..., AbstractContextManager[str]], scan: Volume
) -> None:
    with run_server(max_sessions=1) as url, medsam2.Client(url) as client:
        with client.session(scan), pytest.raises(ServerError, match="1 session") as caught:
            client.session(scan)
        assert caught.value.retry_after_s == 60
        with client.session(scan):
            pass


def test_servers_that_are_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        medsam2.Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ServerError, match="cannot be reached"),
    ):
        client.open("scan.nii")
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", ""):
        with pytest.raises(InputError, match="http://HOST:PORT"):
            medsam2.Client(url)


def test_events_are_taken_apart() -> None:
    lines = [": a remark", "event: slice", "data: {", "data:  1}", "", "", "data: x", "", "data: cut off"]
    assert list(events_of(lines)) == [("slice", "{\n 1}"), ("message", "x")]


def test_without_httpx_it_names_the_extra_and_it_never_needs_torch() -> None:
    script = (
        "import sys; sys.modules['httpx'] = None; sys.modules['torch'] = None\n"
        "import medsam2\n"
        "try:\n    medsam2.Client('http://127.0.0.1:1')\n"
        "except medsam2.Client.__init__.__globals__['InputError'] as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'medsam2[client]'" in done.stdout
