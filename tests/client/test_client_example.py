"""The example in the docstring of `Client` does what it shows, against a server on this machine."""

from __future__ import annotations

import doctest
import inspect
import socket
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medsam2
from medsam2.cli.main import run
from medsam2.errors import InputError, ServerError


def test_the_example_runs(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.random.default_rng(0).integers(0, 60, (14, 48, 56)).astype(np.int16)
    grey[8:13, 26:45, 31:50] += 150
    medsam2.write(medsam2.Volume.from_array(grey, (0.8, 0.8, 2.5)), tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    text = (inspect.getdoc(medsam2.Client) or "").replace("http://127.0.0.1:8000", url)
    example = doctest.DocTestParser().get_doctest(text, {"medsam2": medsam2}, "Client", None, None)
    assert len(example.examples) >= 5
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)


def test_images_of_other_libraries_are_sent(url: str, scan: medsam2.Volume, tmp_path: Path) -> None:
    medsam2.write(scan, tmp_path / "scan.nii.gz")
    image = nibabel.load(tmp_path / "scan.nii.gz")
    prompt = {"slice": 4, "box": (4, 4, 23, 17)}
    with medsam2.Client(url) as client:
        expected = client.segment(tmp_path / "scan.nii.gz", **prompt)
        mask = client.segment(image, **prompt).like(image)
        np.testing.assert_array_equal(np.asarray(mask.dataobj).T, expected.array)
        np.testing.assert_array_equal(mask.affine, image.affine)
        of_array = client.segment(scan.array, spacing=scan.spacing, **prompt)
        np.testing.assert_array_equal(of_array.array, expected.array)
        np.testing.assert_allclose(of_array.spacing, scan.spacing)
        with pytest.raises(InputError, match="an image is a Volume"):
            client.segment([1, 2], **prompt)


def test_a_key_is_not_shown_and_silence_is_an_error() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = medsam2.Client(address, key="secret")
        assert repr(client) == f"Client({address!r})"
        with pytest.raises(ServerError, match=address):
            client.check()


def test_doctor_asks_a_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--server", url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"server     {url} answers: ready"
