"""`medsam2 demo` ends with a mask, a picture and a Dice worth showing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.cli.main import run
from medsam2.synthesis.scan import STRUCTURES, generate_scan


def test_the_demo_segments_its_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path / "demo"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    scan = nibabel.load(facts["scan"])
    mask = np.asarray(nibabel.load(facts["mask"]).dataobj).T > 0
    assert mask.shape == scan.shape[::-1]
    truth = generate_scan(7).labels == STRUCTURES.index("right kidney") + 1
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert facts["dice"] == pytest.approx(dice, abs=1e-4)
    assert dice >= 0.85
    with Image.open(facts["picture"]) as picture:
        assert picture.size[0] >= 512


def test_a_structure_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path), "--structure", "brain"]) == 2
    assert "liver" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["demo", "-o", str(tmp_path / "file" / "demo")]) == 2
    assert "cannot be made" in capsys.readouterr().err
