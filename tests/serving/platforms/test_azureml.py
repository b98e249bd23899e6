"""Azure ML's scoring script: in this process, and behind the inference server that Azure ML runs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest

from medsam2.errors import InputError
from medsam2.hub import shipped_path

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "azureml" / "score.py"
PACKAGE = "azureml_inference_server_http"
PATIENCE_S = 120.0

Table = dict[str, list[object]]


@dataclass
class Answer:
    """What the platform's class is made from; the class itself comes with the platform."""

    message: bytes
    status_code: int
    response_headers: dict[str, str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    platform = ModuleType(f"{PACKAGE}.api.aml_response")
    platform.AMLResponse = Answer  # type: ignore[attr-defined]
    for name in (PACKAGE, f"{PACKAGE}.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, platform.__name__, platform)
    monkeypatch.setenv("MEDSAM2_READERS", "1")
    monkeypatch.delenv("AZUREML_MODEL_DIR", raising=False)
    spec = importlib.util.spec_from_file_location("entry_module", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    if module._embedded is not None:
        module._embedded.close()


def test_init_then_run_answer_the_sample_as_the_server_does(script, server, table: Table) -> None:
    script.init()
    answer = script.run(json.dumps({"input_data": table}))
    assert answer.status_code == 200
    assert answer.response_headers == {"Content-Type": "application/json"}
    assert answer.message == server.score(table).content
    refused = script.run(json.dumps({"input_data": {**table, "key_slice_idx": [12]}}))
    assert refused.status_code == 422
    assert "0 to 11" in json.loads(refused.message)["error"]


def test_the_weights_of_a_registered_model_are_taken(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    with pytest.raises(InputError, match="found: none"):
        script.init()
    (tmp_path / "1").mkdir()
    shutil.copy(shipped_path(), tmp_path / "1" / "ours.safetensors")
    script.init()
    assert script.run("{}").status_code == 400
    script._embedded.close()
    script._embedded = None
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"ours\.safetensors, other\.pt"):
        script.init()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The inference server of Azure ML with the scoring script, started as deploy/azureml/Dockerfile does."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("azureml-inference-server-http is not installed; it needs an environment of its own")
    folder = tmp_path_factory.mktemp("azureml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "GUNICORN_CMD_ARGS": "--threads 8",
        "MEDSAM2_READERS": "1",
        "MEDSAM2_QUEUE": "3",
        "MEDSAM2_ANSWER_TIMEOUT_S": "30",
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", PACKAGE, "--entry_script", str(SCRIPT), "--port", str(port)]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        try:
            end = time.monotonic() + PATIENCE_S
            while not is_up(client):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.2)
            yield client
        finally:
            client.close()
            process.terminate()
            assert process.wait(60) == 0
    assert [path.name for path in folder.iterdir()] == ["log"]


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_the_platform_answers_the_contract(
    platform: httpx.Client, predictor, scan_path, table: Table
) -> None:
    response = platform.post("/score", json={"input_data": table})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    mask = np.array(answer["mask"])
    print(f"azureml: {response.status_code}, mask {mask.shape}, sum {mask.sum()}, {answer['metadata']}")
    import medsam2

    ours = predictor.segment(medsam2.read(scan_path), slice=5, box=(22, 18, 41, 37), window=(0, 255)).array
    assert mask.shape == ours.shape
    assert 2 * (mask & ours).sum() / (mask.sum() + ours.sum()) > 0.995

    two = {name: entries * 2 for name, entries in table.items()} | {"key_slice_idx": [5, 12]}
    first, second = platform.post("/score", json={"input_data": two}).json()
    assert first == answer
    assert second["status"] == 422
    for body, status in (
        (b"{", 400),
        (json.dumps({"input_data": {**table, "memory": ["no"]}}).encode(), 422),
    ):
        refused = platform.post("/score", content=body, headers={"Content-Type": "application/json"})
        print(f"azureml: {refused.status_code}, {refused.text}")
        assert refused.status_code == refused.json()["status"] == status


@pytest.mark.slow
def test_the_platform_s_probe_is_answered_beside_a_request(
    platform: httpx.Client, table: Table, long_table: Table
) -> None:
    with ThreadPoolExecutor(1) as caller:
        long = caller.submit(
            platform.post, "/score", json={"input_data": {**long_table, "mask_format": ["rle"]}}
        )
        time.sleep(0.5)
        started = time.monotonic()
        assert platform.get("/").status_code == 200
        assert time.monotonic() - started < 5
        assert not long.done()
        assert long.result().status_code in (200, 504)  # what a busy machine makes of 400 slices in 30 s
