"""`medsam2 evaluate`: from a list on disk to a table, JSON, CSV and an exit code."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2.cli.main import run
from medsam2.imaging import io
from medsam2.imaging.volume import Volume


def write_list(folder: Path, *changes: dict[str, object]) -> str:
    """Write a scan of a bright ball, a picture of a bright disc and a list of both; more entries on top."""
    z, y, x = np.ogrid[:9, :24, :28]
    ball = (x - 13) ** 2 + (y - 11) ** 2 + (2 * (z - 4)) ** 2 <= 49
    io.write(Volume.from_array(np.where(ball, 180, 50).astype(np.int16), (1, 1, 2)), folder / "ball.nii.gz")
    io.write(Volume.from_array(ball.astype(np.uint8), (1, 1, 2)), folder / "ball_mask.nii.gz")
    disc = ball[4]
    Image.fromarray(np.where(disc, 220, 60).astype(np.uint8)).save(folder / "disc.png")
    Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).save(folder / "disc_mask.png")
    scan = {
        "name": "ball", "image": "ball.nii.gz", "mask": "ball_mask.nii.gz", "label": 1, "modality": "CT",
        "window": [0, 255], "axis": 2, "key_slice": 4, "box": [6, 4, 20, 18], "target": "ball",
    }  # fmt: skip
    picture = scan | {
        "name": "disc", "image": "disc.png", "mask": "disc_mask.png", "label": 255, "modality": "US",
        "window": None, "axis": None, "key_slice": 0, "spacing": None,
    }  # fmt: skip
    path = folder / "cases.json"
    path.write_text(json.dumps([scan, picture, *(scan | change for change in changes)]))
    return str(path)


Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(capfd: pytest.CaptureFixture[str]) -> Evaluate:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["evaluate", *arguments])
        output = capfd.readouterr()
        return code, output.out, output.err

    return call


def test_json(tmp_path: Path, evaluate: Evaluate) -> None:
    code, out, err = evaluate(write_list(tmp_path), "--predictor", "ellipse", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [(case["name"], case["dimensions"]) for case in found["cases"]] == [("ball", 3), ("disc", 2)]
    assert all(case["dice"] > 0.85 for case in found["cases"])
    assert found["cases"][0]["hd95_mm"] <= 2
    assert found["cases"][1]["hd95_mm"] is None
    assert found["means"]["3d"]["dice"] == found["cases"][0]["dice"]
    assert found["means"]["2d"]["dice"] == found["cases"][1]["dice"]
    assert set(found["means"]["by_modality"]) == {"CT", "US"}
    assert found["settings"]["predictor"] == "ellipse"
    assert found["settings"]["weights"] is None


@pytest.mark.parametrize("predictor", ["ellipse", "random-walker"])
def test_the_table(tmp_path: Path, evaluate: Evaluate, predictor: str) -> None:
    code, out, err = evaluate(write_list(tmp_path), "--predictor", predictor)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["case", "Dice", "surface"]
    assert [line.split()[0] for line in lines[1:] if line.strip()] == ["ball", "disc", *["mean"] * 4]
    assert "mean 3D (1 runs)" in out
    assert " px " in next(line for line in lines if line.startswith("disc"))


def test_noise_repeats_and_csv(tmp_path: Path, evaluate: Evaluate) -> None:
    cases, path = write_list(tmp_path), tmp_path / "scores.csv"
    noisy = (cases, "--predictor", "ellipse", "--box-noise", "0.2", "--repeats", "3", "--json")
    code, out, _ = evaluate(*noisy, "--csv", str(path))
    assert code == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["repeat"]) for row in rows] == [
        (name, repeat) for name in ("ball", "disc") for repeat in "012"
    ]
    assert len({row["dice"] for row in rows}) > 2
    dices = [case["dice"] for case in json.loads(out)["cases"]]
    assert [float(row["dice"]) for row in rows] == dices
    assert [case["dice"] for case in json.loads(evaluate(*noisy)[1])["cases"]] == dices
    assert [case["dice"] for case in json.loads(evaluate(*noisy, "--seed", "1")[1])["cases"]] != dices


def test_a_case_that_fails(tmp_path: Path, evaluate: Evaluate) -> None:
    lost = {"name": "lost", "image": "none.nii.gz"}
    cases, path = write_list(tmp_path, lost), tmp_path / "scores.csv"
    code, out, err = evaluate(cases, "--predictor", "ellipse", "--json", "--csv", str(path))
    assert code == 1
    assert err.startswith("medsam2: lost failed: ")
    assert "no such file" in err
    assert len(err.splitlines()) == 1
    found = json.loads(out)
    assert found["cases"][2]["error"] is not None
    assert found["means"]["3d"]["num_failed"] == 1
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box-noise", "2"], "0 to 1, not 2"),
        (["--repeats", "2"], "2 repeats without noise"),
        (["--repeats", "0"], "repeats start at 1"),
        (["--seed", "-1"], "seeds at 0"),
        (["--weights", "compact"], "the predictor ellipse has none"),
        (["--csv", "nowhere/scores.csv"], "there is no folder nowhere"),
        (["--predictor", "magic"], "'magic' is not one of"),
        (["--protocol", "scribble"], "'scribble' is not one of"),
        (["--protocol", "clicks"], "the predictor ellipse takes a box"),
        (["--against", "compact"], "--against is for the network"),
        (["--against", "a", "--against-memory", "b"], "a comparison changes one thing"),
        (["--predictor", "network", "--against-memory", "recent"], "recent itself would show nothing"),
        (["--predictor", "network", "--against-memory", "magic"], "not 'magic'"),
        (["--predictor", "network", "--against-precision", "float8"], "not 'float8'"),
        (["--predictor", "network", "--clicks", "0", "--protocol", "interactive"], "at least 1, not 0"),
        (["--seconds", "click=soon"], "for example click=3.9, not 'click=soon'"),
        (["--seconds", "thought=1"], "one of box, click, line, slice, look"),
        (["--seconds", "slice=0"], "for a drawn slice above 0"),
        (["--predictor", "network", "--memory", "magic"], "'magic' is not one of 'recent', 'self-sorting'"),
        (["--predictor", "network", "--weights", "none.pt"], "none.pt"),
    ],
)
def test_what_cannot_be(tmp_path: Path, evaluate: Evaluate, arguments: list[str], message: str) -> None:
    code, out, err = evaluate(write_list(tmp_path), "--predictor", "ellipse", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_lists_that_cannot_be(tmp_path: Path, evaluate: Evaluate) -> None:
    code, _, err = evaluate(str(tmp_path / "none.json"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "No such file" in err
    code, _, err = evaluate(write_list(tmp_path, {"name": "ball"}))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "two cases are called 'ball'" in err


def test_without_monai(tmp_path: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    code, out, err = evaluate(write_list(tmp_path), "--predictor", "ellipse")
    assert (code, out) == (2, "")
    assert "pip install 'medsam2[evaluate]'" in err


def test_an_unwritable_csv_does_not_lose_the_table(tmp_path: Path, evaluate: Evaluate) -> None:
    (tmp_path / "folder").mkdir()
    code, out, err = evaluate(
        write_list(tmp_path), "--predictor", "ellipse", "--csv", str(tmp_path / "folder")
    )
    assert code == 2
    assert "mean 3D" in out
    assert "cannot be written" in err


def test_a_report(tmp_path: Path, evaluate: Evaluate) -> None:
    folder, lost = tmp_path / "a" / "report", {"name": "lost", "image": "none.nii.gz"}
    cases = write_list(tmp_path, lost)
    code, out, err = evaluate(
        cases, "--predictor", "ellipse", "--report", str(folder), "--seconds", "slice=10", "--json"
    )
    assert code == 1
    assert f"the report is {folder / 'report.html'}" in err
    printed = json.loads(out)
    written = json.loads((folder / "results.json").read_text())
    assert written["cases"] == printed["cases"]
    assert written["costs"][0]["model"]["drawn_slice_s"] == 10
    page = (folder / "report.html").read_text(encoding="utf-8")
    command = written["provenance"]["command"]
    assert command.startswith("medsam2 evaluate ")
    assert command.endswith(f"--predictor ellipse --report {folder} --seconds slice=10 --json")
    assert "--predictor ellipse" in page
    assert "none.nii.gz" in page


def test_a_report_that_has_no_place(tmp_path: Path, evaluate: Evaluate) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = evaluate(
        write_list(tmp_path), "--predictor", "ellipse", "--report", str(tmp_path / "file")
    )
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "cannot be made a folder" in err


@pytest.mark.slow
def test_the_network(tmp_path: Path, evaluate: Evaluate) -> None:
    """Untrained weights find nothing worth the name, but every part has to fit."""
    import torch

    from medsam2.checkpoints import save_weights
    from medsam2.model.compact.config import COMPACT
    from medsam2.model.compact.network import CompactNetwork

    torch.manual_seed(0)
    weights = tmp_path / "untrained.safetensors"
    save_weights(CompactNetwork(COMPACT).state_dict(), COMPACT, weights)
    code, out, _ = evaluate(write_list(tmp_path), "--weights", str(weights), "--device", "cpu", "--json")
    assert code == 0
    found = json.loads(out)
    assert [case["error"] for case in found["cases"]] == [None, None]
    assert all(0 <= case["dice"] <= 1 for case in found["cases"])
    assert found["settings"]["weights"] == str(weights)
