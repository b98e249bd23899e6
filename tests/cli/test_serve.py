"""`medsam2 serve` as a process of its own: what it says, what it refuses, what it logs, how it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import nibabel
import numpy as np
import pytest

from medsam2.cli.main import run
from medsam2.cli.serve import serve

PATIENT = "Roe^Jane"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    grey = np.random.default_rng(0).normal(60, 8, (48, 40, 6))
    grey[16:32, 12:26, 1:5] += 120
    image = nibabel.Nifti1Image(grey.astype(np.int16), np.eye(4))
    image.header["descrip"] = PATIENT.encode()
    path = tmp_path_factory.mktemp("scan") / f"{PATIENT}.nii"
    nibabel.save(image, path)
    return {
        "nii_image": [base64.b64encode(path.read_bytes()).decode()],
        "bbox": [[16, 12, 31, 25]],
        "key_slice_idx": [2],
        "dicom_window": [[0, 255]],
    }


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server on a free port; its first line says which."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
    environment |= {"TMPDIR": str(tmp_path), "MEDSAM2_READERS": "1"}
    command = [sys.executable, "-m", "medsam2", "serve", "--port", "0", "--queue", "2", "--max-body", "3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_real_process_serves_logs_and_ends(
    process: subprocess.Popen[str], table: dict[str, list[object]], tmp_path: Path
) -> None:
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"compact answers POST /score on (http://127\.0\.0\.1:\d+)", said)
    assert found, said
    with httpx.Client(base_url=found[1], timeout=120, transport=httpx.HTTPTransport(retries=5)) as client:
        answer = client.post("/score", json={"input_data": table}).json()
        assert np.array(answer["mask"]).shape == (6, 40, 48)
        assert np.array(answer["mask"])[2, 12:26, 16:32].mean() > 0.5
        too_large = client.post("/score", content=b" " * (4 * 2**20))
        assert too_large.status_code == 413
        assert "3 MiB" in too_large.json()["error"]
        wrong = client.post("/score", json={"input_data": {**table, "memory": [PATIENT]}})
        assert PATIENT in wrong.json()["error"]
        assert client.post(f"/{PATIENT}?name={PATIENT}", headers={"X-Request-ID": PATIENT}).status_code == 404
        scan = base64.b64decode(str(table["nii_image"][0]))
        opened = client.post(f"/v1/sessions?name={PATIENT}.nii", content=scan)
        assert opened.json()["shape"] == [6, 40, 48]
        assert client.get(f"/v1/sessions/{opened.json()['id']}/masks").status_code == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM  # as uvicorn ends, once all is done
    assert out == ""
    assert PATIENT not in err
    assert opened.json()["id"] not in err
    lines = [json.loads(line) for line in err.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"]) for line in requests] == [
        ("/score", 200),
        ("/score", 413),
        ("/score", 422),
        ("other", 404),
        ("/v1/sessions", 201),
        ("/v1/sessions/{session_id}/masks", 200),
    ]
    assert requests[0]["rows"] == 1
    assert requests[0]["seconds"] > 0
    assert requests[0]["bytes"] > 10_000
    assert {line["level"] for line in lines} == {"info"}
    assert list(tmp_path.iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["serve", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


def test_another_address_needs_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDSAM2_API_KEY", raising=False)
    sentence = refused(capsys, "--host", "0.0.0.0", "--port", "0")
    for word in ("0.0.0.0", "MEDSAM2_API_KEY", "--insecure"):
        assert word in sentence


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused(capsys, "--port", port)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--queue", "-1"), ("--queue", "-1")),
        (("--max-body", "0"), ("--max-body", "0")),
        (("--port", "70000"), ("--port", "70000")),
        (("--port", "many"), ("many",)),
        (("--port", "0", "--weights", "nothing"), ("nothing", "compact")),
        (("--port", "0", "--device", "tpu"), ("tpu", "cpu")),
        (("--host", "no.such.host.invalid"), ("no.such.host.invalid",)),
        (("--allow-urls", "*"), ("--allow-urls", "*")),
        (("--allow-urls",), ("--allow-urls", "argument")),
        (("--folder", "no/such"), ("--folder", "no/such")),
        (("--port", "0", "--studies", "no/such/folder"), ("no/such/folder", "DICOMweb")),
        (("here",), ("here",)),
    ],
)
def test_a_choice_that_cannot_be_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words
) -> None:
    monkeypatch.setenv("MEDSAM2_INSECURE", "true")
    sentence = refused(capsys, *arguments)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        (["--allow-urls", "a.org", "b.org:8443", "--port", "7"], ("a.org", "b.org:8443")),
        (["--port", "7", "--allow-urls", "a.org"], ("a.org",)),
        (["--allow-urls", "a.org", "--insecure", "--allow-urls=b.org", "--port", "7"], ("a.org", "b.org")),
        (["--port", "7"], ()),
    ],
)
def test_any_number_of_hosts_follow_their_option(arguments: list[str], hosts: tuple[str, ...]) -> None:
    with click.Context(serve) as context:
        serve.parse_args(context, arguments)
        assert context.params["allow_urls"] == hosts
        assert context.params["port"] == 7


def test_without_its_packages_it_names_the_extra(run_without) -> None:
    result = run_without("uvicorn", "serve")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert "uvicorn" in line
    assert "pip install 'medsam2[serve]'" in line
