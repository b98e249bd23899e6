"""`medsam2 weights`: what people and scripts read of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from medsam2.checkpoints import save_weights
from medsam2.cli.main import run
from medsam2.hub import file_digest
from medsam2.model.config import ModelConfig
from medsam2.model.network import Network
from medsam2.weights import SPECS

CONFIG = ModelConfig(
    image_size=64,
    embed_dim=8,
    num_heads=1,
    stages=(1, 1, 1, 1),
    global_attention_blocks=(),
    window_pos_embed_size=(2, 2),
    window_spec=(4, 2, 4, 2),
    hidden_dim=64,
    memory_attention_layers=1,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MEDSAM2_HOME", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_weights(Network(CONFIG).state_dict(), CONFIG, path)
    return path


def put(home: Path, name: str) -> Path:
    path = home / "weights" / SPECS[name].filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def test_the_list_says_what_is_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(home, "sam2.1-tiny")
    assert run(["weights"]) == 0
    captured = capsys.readouterr()
    rows = [row.rstrip() for row in captured.out.splitlines()]
    assert captured.err == ""
    assert len(rows) == len(SPECS) + 1
    by_name = {row.split()[0]: row for row in rows[1:]}
    assert by_name.keys() == SPECS.keys()
    assert by_name["medsam2"].endswith("no    wanglab/MedSAM2/MedSAM2_latest.pt")
    assert "CC-BY-SA-4.0" in by_name["medsam2"]
    assert "research and education use" in by_name["medsam2"]
    assert "Apache-2.0" in by_name["sam2.1-tiny"]
    assert by_name["sam2.1-tiny"].endswith(f"yes   {path}")


def test_the_list_for_scripts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(home, "medsam2-us-heart")
    assert run(["weights", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert rows.keys() == SPECS.keys()
    assert rows["medsam2-us-heart"]["path"] == str(path)
    assert rows["medsam2"]["path"] is None
    assert rows["medsam2"]["licence"] == SPECS["medsam2"].licence


def test_fetch_shows_the_licence_and_prints_the_path(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(home, "medsam2")
    assert run(["weights", "fetch", "medsam2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{path}\n"
    licence = SPECS["medsam2"].licence
    assert captured.err == f"medsam2: medsam2 from wanglab/MedSAM2/MedSAM2_latest.pt, licence: {licence}\n"
    assert run(["weights", "fetch", "medsam2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)


def test_fetch_knows_names_only(weights_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "fetch", str(weights_file)]) == 2
    assert "there are compact, medsam2, " in capsys.readouterr().err


def test_describe_a_file(weights_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights_file.with_suffix(".md").write_text("# A [card]\n", encoding="utf-8")
    assert run(["weights", "describe", str(weights_file)]) == 0
    text = capsys.readouterr().out
    state = Network(CONFIG).state_dict()
    for fact in (str(weights_file), file_digest(weights_file), "image_size 64", "stages 1-1-1-1"):
        assert fact in text
    assert f"entries        {len(state)}" in text
    assert text.endswith("\n# A [card]\n")
    assert run(["weights", "describe", str(weights_file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["entries"] == len(state)
    assert facts["configuration"]["window_spec"] == [4, 2, 4, 2]
    assert facts["sha256"] == file_digest(weights_file)
    assert facts["card"] == "# A [card]\n"
    assert "licence" not in facts


def test_describe_a_file_of_another_network(
    weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, path)
    assert run(["weights", "describe", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{path} is a checkpoint of another network: it lacks maskmem_tpos_enc" in captured.err


def test_real_processes_without_a_network(home: Path) -> None:
    def medsam2(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "from medsam2.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
        )

    offline = medsam2("weights", "fetch", "medsam2")
    assert offline.returncode == 2
    assert offline.stdout == ""
    assert offline.stderr.startswith("medsam2: the weights 'medsam2' are not on this machine")
    assert offline.stderr.endswith(f"to {home}/weights/MedSAM2_latest.pt\n")
    assert offline.stderr.count("\n") == 1
    missing = medsam2("weights", "describe", "nothing.pt")
    assert (missing.returncode, missing.stderr) == (2, "medsam2: no such weights file: nothing.pt\n")
