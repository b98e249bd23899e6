"""The MLflow model: its answers in this process, and the folder behind MLflow's own server."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest

from medsam2.inference.predictor import Predictor
from medsam2.serving.platforms.embedded import Embedded
from medsam2.serving.platforms.mlflow_model import TableModel
from medsam2.serving.settings import load_settings

PATIENCE_S = 180.0

Table = dict[str, list[object]]


class Rows:
    """Rows as a data frame gives them, for machines without pandas."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self.rows = rows

    def to_dict(self, orient: str) -> list[dict[str, object]]:
        assert orient == "records"
        return self.rows


@pytest.fixture
def model(predictor: Predictor) -> Iterator[TableModel]:
    with closing(Embedded(predictor, load_settings({"readers": 1}))) as embedded:
        yield TableModel(embedded)


def row_of(table: Table) -> dict[str, object]:
    return {name: entries[0] for name, entries in table.items()}


def test_rows_get_the_server_s_answers(server, model: TableModel, table: Table) -> None:
    row = row_of(table)
    as_pandas_has_it = {
        **row,
        "key_slice_idx": np.int64(5),
        "bbox": np.array(row["bbox"]),
        "points": np.array([np.array([31.0, 27.0])], dtype=object),
        "mask_format": None,
        "slice_offset": float("nan"),
    }
    first, second = model.predict(Rows([row, as_pandas_has_it]))
    assert first == server.score(table).json()
    assert second == server.score({**table, "points": [[[31, 27]]]}).json()
    (alone,) = model.predict(Rows([row]), params={})
    assert alone == first


def test_what_is_wrong_stands_in_the_row(model: TableModel, table: Table) -> None:
    row = row_of(table)
    good, bad = model.predict(Rows([row, {**row, "key_slice_idx": 12}]))
    assert good.keys() == {"mask", "metadata"}
    assert bad["status"] == 422
    (alone,) = model.predict(Rows([{**row, "memory": "no"}]))
    assert alone["status"] == 422
    all_of_them = model.predict(Rows([row, {**row, "colour": "red"}]))
    assert [answer["status"] for answer in all_of_them] == [400, 400]


def started(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False,
        env=os.environ | environment, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as `medsam2 export mlflow` writes it."""
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: pip install 'medsam2[mlflow]'")
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    result = started("-m", "medsam2", "export", "mlflow", "-o", folder, "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["folder"] == str(folder)
    assert {"torch", "orjson", "fastapi"} <= {line.split("==")[0] for line in facts["requirements"]}
    return folder


@pytest.mark.slow
def test_the_folder_has_code_weights_and_signature(folder: Path) -> None:
    assert (folder / "data" / "compact.safetensors").is_file()
    assert (folder / "code" / "medsam2" / "serving" / "platforms" / "mlflow_model.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt")]
    script = (
        "import sys, mlflow; model = mlflow.pyfunc.load_model(sys.argv[1]); import medsam2;"
        "print(medsam2.__file__); print(model.metadata.signature.inputs.to_json())"
    )
    result = started("-c", script, folder)
    assert result.returncode == 0, result.stderr
    where, signature = result.stdout.splitlines()
    assert where == str(folder / "code" / "medsam2" / "__init__.py")
    columns = {column["name"]: column for column in json.loads(signature)}
    assert columns["nii_image"]["type"] == "string"
    assert {name for name, column in columns.items() if column["required"]} == {
        "nii_image", "key_slice_idx", "dicom_window"
    }  # fmt: skip


@pytest.fixture(scope="module")
def mlflow_server(folder: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The code is in the folder; MLflow finds uvicorn on the path, as in an environment that is activated.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "-h", "127.0.0.1"]
    command += ["-p", str(port), "--env-manager", "local"]
    with (folder.parent / "log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder.parent, start_new_session=True
        )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        try:
            end = time.monotonic() + PATIENCE_S
            while not is_up(client):
                assert process.poll() is None, (folder.parent / "log").read_text()
                assert time.monotonic() < end, (folder.parent / "log").read_text()
                time.sleep(0.3)
            yield client
        finally:
            client.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # the server is a process of its own
            process.wait(60)


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["dataframe_split", "dataframe_records", "inputs"])
def test_mlflow_s_server_answers_the_contract(
    mlflow_server: httpx.Client, server, table: Table, wrapping: str
) -> None:
    rows = [row_of(table), {**row_of(table), "points": [[31, 27], [30, 26]], "point_labels": [1, 1]}]
    columns = {name: [row.get(name) for row in rows] for name in rows[1]}
    wrapped = {
        "dataframe_split": {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))},
        "dataframe_records": rows,
        "inputs": columns,
    }[wrapping]
    response = mlflow_server.post("/invocations", json={wrapping: wrapped})
    assert response.status_code == 200, response.text
    for answer, row in zip(response.json()["predictions"], rows, strict=True):
        mask = np.array(answer["mask"])
        ours = np.array(server.score({name: [value] for name, value in row.items()}).json()["mask"])
        print(f"mlflow {wrapping}: {response.status_code}, {mask.shape}, {mask.sum()}, {answer['metadata']}")
        assert mask.shape == ours.shape
        assert 2 * (mask & ours).sum() / (mask.sum() + ours.sum()) > 0.995


@pytest.mark.slow
def test_mlflow_s_server_says_what_is_wrong(mlflow_server: httpx.Client, table: Table) -> None:
    row = row_of(table)
    rows = [{**row, "mask_format": "rle"}, {**row, "mask_format": "rle", "key_slice_idx": 12}]
    good, bad = mlflow_server.post("/invocations", json={"dataframe_records": rows}).json()["predictions"]
    assert good["mask"][0]["size"] == [56, 64]
    print(f"mlflow: {bad}")
    assert bad["status"] == 422
    del row["dicom_window"]
    refused = mlflow_server.post("/invocations", json={"dataframe_records": [row]})
    assert refused.status_code == 400
    assert "dicom_window" in refused.text
