"""`medsam2 export`: what it refuses before any work, and ONNX files that `medsam2 segment` runs.

What it writes for MLflow is tested with MLflow's own server.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import medsam2
from medsam2.checkpoints import save_weights
from medsam2.cli.main import run
from medsam2.hub import file_digest
from medsam2.imaging.volume import Volume
from medsam2.measure.overlap import dice
from medsam2.model.compact.network import CompactNetwork


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, target: str = "mlflow") -> str:
    assert run(["export", target, *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


def test_a_folder_that_is_not_empty_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    assert "not empty" in refused(capsys, "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_without_mlflow_it_names_the_extra(run_without, tmp_path: Path) -> None:
    result = run_without("mlflow", "export", "mlflow", "-o", tmp_path / "model")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert "pip install 'medsam2[mlflow]'" in line
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "-o" in refused(capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # MLflow warns as it is imported
def test_weights_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    assert "nothing" in refused(capsys, "-o", tmp_path / "model", "--weights", "nothing")
    assert list(tmp_path.iterdir()) == []


def test_onnx_parts_need_a_new_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    assert "not empty" in refused(capsys, tmp_path, target="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("missing", "words", "use"),
    [
        ("onnxscript", ["export", "onnx", "parts"], "an export to ONNX needs the package"),
        ("onnxruntime", ["bench", "--runtime", "onnx"], "runtime onnx needs the package"),
    ],
)
def test_without_onnx_it_names_the_extra(
    run_without, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, words: list[str], use: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_without(missing, *words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"medsam2: {use} {missing}: pip install 'medsam2[onnx]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_exported_parts_segment_as_the_weights_do(
    capsys: pytest.CaptureFixture[str], compact_network: CompactNetwork, scan: Volume, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    weights, parts, image = tmp_path / "small.safetensors", tmp_path / "parts", tmp_path / "scan.nii.gz"
    save_weights(compact_network.state_dict(), compact_network.config, weights)
    medsam2.write(scan, image)
    assert (
        run(["export", "onnx", str(parts), "--weights", str(weights), "--precision", "float16", "--json"])
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == sum(path.stat().st_size for path in parts.iterdir())
    prompt = [
        "--slice",
        "4",
        "--box",
        "18",
        "12",
        "37",
        "25",
        "--window",
        "0",
        "255",
        "--precision",
        "float32",
    ]
    masks = {}
    for runtime, chosen in (("torch", weights), ("onnx", parts)):
        mask, report = tmp_path / f"{runtime}.nii.gz", tmp_path / f"{runtime}.json"
        words = [
            "segment",
            str(image),
            *prompt,
            "--weights",
            str(chosen),
            "--runtime",
            runtime,
            "-o",
            str(mask),
        ]
        assert run([*words, "--device", "cpu", "--report", str(report)]) == 0
        masks[runtime] = medsam2.read(mask).array
        told = json.loads(report.read_text())
        assert told["runtime"] == runtime
        assert told["weights"]["sha256"] == file_digest(weights)
    assert masks["torch"].any()
    assert dice(masks["torch"], masks["onnx"]) > 0.999, "float16 is what the weights are stored as"
