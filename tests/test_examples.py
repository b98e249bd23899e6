"""Every example runs as it is written there, on a generated scan."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import medsam2
from medsam2.synthesis.scan import STRUCTURES, SyntheticScan, generate_scan

FOLDER = Path(__file__).resolve().parents[1] / "examples"
DEMO_SEED = 7  # the scan that `medsam2 demo` writes, for which the examples' boxes are

Run = Callable[..., str]


@pytest.fixture(scope="module")
def generated() -> SyntheticScan:
    return generate_scan(DEMO_SEED)


@pytest.fixture(scope="module")
def scan(generated: SyntheticScan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "scan.nii.gz"
    medsam2.write(medsam2.Volume.from_array(generated.image, generated.spacing_mm, modality="CT"), path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script with arguments and return what it prints."""

    def run_script(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def dice(mask: np.ndarray, generated: SyntheticScan, structure: str) -> float:
    truth = generated.labels == STRUCTURES.index(structure) + 1
    return 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum())


def test_segment_volume(run: Run, scan: Path, generated: SyntheticScan, tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+\.\d ml\n", run("segment_volume.py", scan, tmp_path / "lesion.nii.gz"))
    mask = medsam2.read(tmp_path / "lesion.nii.gz")
    assert dice(mask.array > 0, generated, "lesion") > 0.85


def test_correct_in_session(run: Run, scan: Path, generated: SyntheticScan, tmp_path: Path) -> None:
    told = run("correct_in_session.py", scan, tmp_path / "labels.nii.gz")
    before, after, undone = re.search(
        r"lesion (\S+) ml, after a click (\S+) ml\nundone: (\S+) ml", told
    ).groups()
    assert float(before) == float(undone) > float(after)
    labels = medsam2.read(tmp_path / "labels.nii.gz").array
    assert dice(labels == 1, generated, "lesion") > 0.8
    assert dice(labels == 2, generated, "left kidney") > 0.9


def test_follow_video(run: Run) -> None:
    areas = [int(area) for area in re.findall(r"frame \d+: (\d+) pixels", run("follow_video.py"))]
    assert len(areas) == 12
    assert min(areas) == areas[6] < 0.7 * areas[0]


@pytest.mark.slow
def test_evaluate_cases(run: Run, tmp_path: Path) -> None:
    told = run("evaluate_cases.py", tmp_path / "cases")
    found = [float(value) for value in re.findall(r"Dice (\S+),", told)]
    assert len(found) == 2
    assert min(found) > 0.7
    assert len((tmp_path / "cases" / "results.csv").read_text().splitlines()) == 3


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server process."""
    command = [sys.executable, "-m", "medsam2", "serve", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://\S+:\d+", process.stderr.readline())
            assert found
            yield found[0]
        finally:
            process.kill()


def test_ask_server(
    run: Run, address: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDSAM2_API_KEY", raising=False)
    assert "'mask_axes': 'zyx'" in run("ask_server.py", address, scan, tmp_path / "served.nii.gz")
    run("segment_volume.py", scan, tmp_path / "lesion.nii.gz")
    served, own = (medsam2.read(tmp_path / name) for name in ("served.nii.gz", "lesion.nii.gz"))
    assert np.array_equal(served.array, own.array)
    nowhere = FOLDER / "README.md"
    with pytest.raises(SystemExit, match="422: row 0, column nii_image: not a NIfTI file"):
        run("ask_server.py", address, nowhere, tmp_path / "none.nii.gz")


def test_every_example_is_run_and_listed() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py")}
    listed = set(re.findall(r"`(\w+\.py)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    tested = {f"{name.removeprefix('test_')}.py" for name in globals() if name.startswith("test_")}
    assert scripts == listed == tested - {"every_example_is_run_and_listed.py"}
