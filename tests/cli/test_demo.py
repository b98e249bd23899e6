"""`medsam2 demo` ends with masks, pictures and a Dice worth showing."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.cli.main import run
from medsam2.synthesis.scan import STRUCTURES, generate_scan

SHIPPED = Path(str(resources.files("medsam2") / "shipped"))
LEAST_DICE = 0.5  # weights come and go; this only tells a mask from a wrong one


def _mask(path: str | Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj).T > 0


def _dice(mask: np.ndarray, reference: np.ndarray) -> float:
    return 2 * float((mask & reference).sum()) / float(mask.sum() + reference.sum())


def test_the_demo_segments_both_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path / "demo"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    references = {
        "real": _mask(SHIPPED / "demo-mask.nii.gz"),
        "generated": generate_scan(7).labels == STRUCTURES.index("right kidney") + 1,
    }
    assert list(facts) == list(references)
    for kind, reference in references.items():
        found, scan = facts[kind], nibabel.load(facts[kind]["scan"])
        mask = _mask(found["mask"])
        assert mask.shape == scan.shape[::-1]
        assert found["dice"] == pytest.approx(_dice(mask, reference), abs=1e-4)
        assert found["dice"] >= LEAST_DICE
        assert found["volume_ml"] == pytest.approx(mask.sum() * np.prod(scan.header.get_zooms()) / 1000)
        with Image.open(found["picture"]) as picture:
            assert picture.size[0] >= 512


def test_the_real_scan_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path), "--scan", "real"]) == 0
    text = capsys.readouterr().out
    assert "left ventricle" in text
    assert "Dice against the reference drawn by hand: 0." in text
    assert {path.name for path in tmp_path.iterdir()} == {"heart.nii.gz", "heart-mask.nii.gz", "heart.png"}
    shipped, kept = (nibabel.load(path) for path in (SHIPPED / "demo.nii.gz", tmp_path / "heart.nii.gz"))
    assert np.array_equal(shipped.affine, kept.affine)
    assert np.array_equal(np.asarray(shipped.dataobj), np.asarray(kept.dataobj))


def test_a_structure_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "-o", str(tmp_path), "--structure", "brain"]) == 2
    assert "liver" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["demo", "-o", str(tmp_path / "file" / "demo")]) == 2
    assert "cannot be made" in capsys.readouterr().err
