"""`medsam2 export`: what it refuses before any work; what it writes is tested with MLflow's own server."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2.cli.main import run


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["export", "mlflow", *map(str, arguments)]) == 2
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
