"""`medsam2 doctor`: one screen of facts, the same as JSON, and a server that does not answer.

One that answers is asked in `tests/client/test_client_example.py`.
"""

from __future__ import annotations

import json
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import medsam2
from medsam2.cli.doctor import FOR_DEVELOPERS, missing_packages, version_of
from medsam2.cli.main import run
from medsam2.inference.predictor import load
from medsam2.weights import SPECS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSAM2_HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_one_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://jane:secret@proxy.example:3128")
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    rows = {line.split(" ")[0]: line[11:] for line in lines if not line.startswith(" ")}
    assert list(rows) == [
        *("medsam2", "packages", "processor", "GPU", "chosen", "extras", "weights", "disk", "proxies"),
    ]
    assert rows["medsam2"].startswith(f"{medsam2.__version__}, Python 3.")
    assert f"torch {version('torch')}" in rows["packages"]
    assert rows["weights"] == "compact"
    assert rows["proxies"] == "the proxy http://proxy.example:3128 of HTTPS_PROXY"
    assert "secret" not in "".join(lines)


def test_json_says_what_load_does(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    copied = home / "weights" / SPECS["medsam2"].filename
    copied.parent.mkdir()
    copied.touch()
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    runtime = load("compact").runtime
    assert facts["device"] == runtime.device.type
    assert facts["precision"].removesuffix("-fast") == str(runtime.precision).removeprefix("torch.")
    assert facts["processor"]["threads"] == torch.get_num_threads()
    assert facts["weights"]["medsam2"] == str(copied)
    assert facts["weights"]["sam2.1-tiny"] is None
    assert Path(facts["weights"]["compact"]).is_file()
    assert all(gib >= 0 for gib in facts["free_gib"].values())
    assert facts["proxies"] == []
    assert facts["server"] is None


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert run(["doctor", "--json", "--server", address]) == 1
    said = json.loads(capsys.readouterr().out)["server"]
    assert (said["url"], said["answers"]) == (address, False)
    assert address in said["says"]
    assert run(["doctor", "--server", "nowhere"]) == 1
    assert "FAILS: 'nowhere' is not a server's URL" in capsys.readouterr().out


def test_extras_are_those_of_the_package() -> None:
    missing = missing_packages()
    assert {"dicom", "video", "serve", "train", "ray"} <= missing.keys()
    assert missing.keys().isdisjoint(FOR_DEVELOPERS)
    for names in missing.values():
        assert all(version_of(name) is None for name in names)
    assert version_of("no-such-package-of-anybody") is None
