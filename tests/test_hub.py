"""Weights in a folder, and in repositories of the Hugging Face hub, which a server on this machine plays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from medsam2.checkpoints import describe, load_network, resolve
from medsam2.cli.main import run
from medsam2.errors import CheckpointError
from medsam2.hub import shipped_path
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.inference.runtime import Runtime, start_runtime
from medsam2.model.network import Network

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, saved as a folder of the hub."""
    folder = tmp_path_factory.mktemp("saved") / "compact"
    load("compact").save_pretrained(folder)
    return folder


def test_a_saved_folder_holds_the_same_weights_and_their_card(saved: Path, scan: Volume) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    before, after = (load_file(path) for path in (shipped_path(), saved / "model.safetensors"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name])
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: medsam2\npipeline_tag: image-segm")
    assert card.endswith(shipped_path().with_suffix(".md").read_text(encoding="utf-8"))
    assert describe(saved / "model.safetensors").card == card
    predictor = load(saved)
    assert repr(predictor).startswith(f"Predictor({str(saved)!r}, 192 pixels, ")
    prompt = {"slice": 4, "box": (18, 12, 37, 25)}
    expected = load("compact").segment(scan, **prompt)
    np.testing.assert_array_equal(predictor.segment(scan, **prompt).array, expected.array)


def test_a_card_goes_with_fine_tuned_weights(saved: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "weights.safetensors"
    shutil.copy(saved / "model.safetensors", tuned)
    tuned.with_suffix(".md").write_text("# Livers of our hospital\n", encoding="utf-8")
    load(tuned).save_pretrained(tmp_path / "first")
    load(tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("first", "second"):
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert card.endswith("---\n\n# Livers of our hospital\n")
        assert card.count("library_name") == 1
        assert "license" not in card
    load(tuned).save_pretrained(tmp_path / "first", card="---\nlicense: mit\n---\nOther words\n")
    assert (tmp_path / "first" / "README.md").read_text() == "---\nlicense: mit\n---\nOther words\n"
    tuned.with_suffix(".md").unlink()
    load(tuned).save_pretrained(tmp_path / "third")
    assert f"# {tuned}" in (tmp_path / "third" / "README.md").read_text()


def test_a_network_of_full_precision_stays_so(network: Network, tmp_path: Path) -> None:
    made = Predictor(start_runtime(network, device="cpu", precision="float32"))
    made.save_pretrained(tmp_path / "tiny")
    again = load_network(resolve(tmp_path / "tiny"))
    assert again.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert repr(made) == "Predictor(weights without a name, 64 pixels, cpu, float32)"
    fast = Predictor(start_runtime(network, device="cpu", precision="float32-fast"))
    with pytest.raises(CheckpointError, match="load it by name or file to save it"):
        fast.save_pretrained(tmp_path / "fast")


def test_what_cannot_be_written(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: cannot be written: "):
        Predictor(runtime).save_pretrained(tmp_path / "file")


def test_the_configuration_may_lie_beside_the_weights(saved: Path, tmp_path: Path) -> None:
    """Some converters drop the header of a file."""
    shutil.copy(saved / "config.json", tmp_path)
    save_file(load_file(saved / "model.safetensors"), tmp_path / "model.safetensors")
    assert load_network(resolve(tmp_path)).config == load_network(shipped_path()).config
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="carries a configuration this version does not know"):
        load(tmp_path)


def test_other_folders_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors"):
        load(tmp_path)
    save_file({"vision_encoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Sam2VideoModel"]}))
    with pytest.raises(CheckpointError, match=r"a model of the library transformers \(Sam2VideoModel\)"):
        load(tmp_path)


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b@", "hf://a b/c", "hf://a/b/"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(CheckpointError, match=r"no address on the hub; hf://OWNER/NAME is expected"):
        load(address)


def test_only_weights_are_fetched() -> None:
    with pytest.raises(CheckpointError, match=r"weights end in .safetensors, .pt, .pth, and run.sh does not"):
        load("hf://a/b/run.sh")


def in_cache(hub: Path, files: Path, revision: str = "main") -> Path:
    """Lay a folder into the hub's cache, as its client does."""
    repository = hub / "models--clinic--livers"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in files.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


def test_the_cache_of_the_hub(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = in_cache(tmp_path, saved)
    path = snapshot / "model.safetensors"
    assert run(["weights", "fetch", "hf://clinic/livers"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    for address in ("hf://clinic/livers", f"hf://clinic/livers@{COMMIT}", f"hf://clinic/livers/{path.name}"):
        assert resolve(address) == path
    assert describe(path).card == (saved / "README.md").read_text(encoding="utf-8")
    path.resolve().write_bytes(b"spoilt")
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 is"):
        load("hf://clinic/livers")


class Hub(ThreadingHTTPServer):
    """The hub with one repository, in the few answers that its client needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.requests: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        prefix = "/clinic/livers/resolve/main/"
        path = self.server.folder / self.path.removeprefix(prefix)
        if not self.path.startswith(prefix) or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hub(saved: Path) -> Iterator[Hub]:
    server = Hub(saved)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import sys
import medsam2
try:
    print(repr(medsam2.load(sys.argv[1])))
except medsam2.MedSAM2Error as error:
    print(error)
"""


def test_a_repository_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

    def loaded(address: str, **more: str) -> tuple[str, str]:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, address],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, **more},
        )
        return result.stdout, result.stderr

    out, err = loaded("hf://clinic/livers")
    assert out.startswith("Predictor('hf://clinic/livers', 192 pixels, ")
    assert "fetching the weights hf://clinic/livers (licence: apache-2.0)" in err
    assert "GET /clinic/livers/resolve/main/model.safetensors" in hub.requests
    hub.requests.clear()
    assert loaded("hf://clinic/livers") == (out, "")
    assert loaded("hf://clinic/livers", HF_HUB_OFFLINE="1") == (out, "")
    assert hub.requests == []
    gone, _ = loaded("hf://clinic/hearts")
    assert gone.startswith("the weights hf://clinic/hearts are not on this machine and cannot be fetched (")
    gone, _ = loaded("hf://clinic/hearts", HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set); copy model.safetensors and the files beside it from" in gone
