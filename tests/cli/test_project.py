"""`medsam2 project` as a user types it: made, filled by a model, looked at, reported."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.annotation.cases import open_case
from medsam2.annotation.project import open_project
from medsam2.annotation.versions import save_version
from medsam2.cli.main import run
from medsam2.imaging.io import read

AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])
PROMPTS = {"objects": [{"name": "ball", "slice": 3, "box": [12, 8, 27, 23]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans of a ball in noise."""
    scans = tmp_path / "scans"
    scans.mkdir()
    z, y, x = np.mgrid[:8, :32, :40]
    ball = ((x - 19.5) / 8) ** 2 + ((y - 15.5) / 8) ** 2 + ((z - 3.5) / 3) ** 2 < 1
    for number, name in enumerate(("one", "two")):
        grey = np.random.default_rng(number).normal(60, 8, ball.shape) + 120 * ball
        nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), AFFINE), scans / f"{name}.nii.gz")
    return scans


def project(*arguments: object) -> int:
    return run(["project", *(str(argument) for argument in arguments)])


def answer(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, object]:
    assert project(*arguments, "--json") == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_project_from_scans_to_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project("create", folder, "--name", "study 7") == 0
    assert capsys.readouterr().out == "study 7: added 2, left out 0\n"
    (folder / "three.nii.gz").write_bytes(b"nothing")
    again = answer(capsys, "create", folder)
    assert (again["added"], list(again["left_out"])) == ([], ["three.nii.gz"])

    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "one.json").write_text(json.dumps(PROMPTS))
    (prompts / "two.json").write_text(json.dumps({"objects": [{"slice": 99, "box": [1, 1, 5, 5]}]}))
    found = answer(capsys, "import", folder, "--prompts", prompts, "--device", "cpu", code=1)
    assert found["proposed"] == ["one"]
    assert "99" in found["failed"]["two"]
    proposal = read(folder / "labels" / "original" / "one.nii.gz")
    assert proposal.array[3, 12:20, 16:24].mean() == 1

    masks = tmp_path / "masks"
    masks.mkdir()
    nibabel.save(nibabel.Nifti1Image(proposal.array.T, AFFINE), masks / "two.nii")
    assert project("import", folder, "--masks", masks, "--model", "other net") == 0
    assert capsys.readouterr().out == "proposed 1, left out 1, failed 0\n"

    opened = open_project(folder)
    open_case(opened, 1, "anna")
    save_version(opened, 1, "anna", proposal, objects={"1": {"name": "ball"}})
    opened.close()
    cases = answer(capsys, "list", folder)["cases"]
    assert [(one["name"], one["state"], one["versions"]) for one in cases] == [
        ("one", "done", 2),
        ("two", "proposed", 1),
    ]
    assert (cases[0]["owner"], cases[0]["open_by"], cases[0]["objects"]) == ("anna", "anna", ["ball"])
    assert project("list", folder) == 0
    assert capsys.readouterr().out.startswith("one: done, anna, open by anna, versions: 2, active: 0 s\n")

    assert project("status", folder) == 0
    assert capsys.readouterr().out == "study 7: 2 cases: 1 proposed, 1 done\n"
    assert project("report", folder, "-o", tmp_path / "report") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report' / 'report.html'}\n"
    assert "No saving is stated" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")

    next((folder / "versions" / "one").iterdir()).unlink()
    found = answer(capsys, "status", folder, code=1)
    assert "is missing or was changed" in found["findings"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "nowhere"), ("nowhere", "a project is a folder of scans")),
        (("list", "scans"), ("is not a project", "medsam2 project create scans")),
        (("status", "scans"), ("is not a project",)),
        (("report", "scans", "-o", "out"), ("is not a project",)),
        (("import", "scans"), ("either --masks or --prompts",)),
        (("import", "scans", "--masks", "a", "--prompts", "b"), ("either --masks or --prompts",)),
        (("create", "scans", "--database", "mysql://h/d"), ("mysql", "postgresql://HOST/NAME")),
        (("create", "scans", "--database", "postgresql://u:p4ss@h/d"), ("PGPASSWORD",)),
        (("create", "scans", "--name", "a\nb"), ("printable characters",)),
    ],
    ids=range(9),
)
def test_what_cannot_be_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(folder.parent)
    assert project(*arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    for word in words:
        assert word in line
    assert "p4ss" not in line
    assert captured.out == ""
    assert not (folder / "medsam2.json").exists()
