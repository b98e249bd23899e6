"""`medsam2 data`: checks and prepares real files; exit codes, one JSON object, one sentence for bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2.checkpoints import load_network, resolve
from medsam2.cli.main import run

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SHAPE = (5, 24, 28)  # (z, y, x)


def write_set(root: Path, *, empty: bool = False) -> Path:
    """Pairs of three patients, two of whom have two scans, in two folders."""
    for number, name in enumerate(("p1_a", "p1_b", "p2_a", "p3_a", "p3_b")):
        rng = np.random.default_rng(number)
        image = rng.integers(-1000, 200, SHAPE).astype(np.int16)
        mask = np.zeros(SHAPE, np.uint8)
        if not (empty and name == "p2_a"):
            mask[1:4, 5:15, 6:16] = 1
            mask[2, 20, 20] = 2
        for folder, array in (("images", image), ("labels", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(array.T, np.diag([-1, -1, 2.5, 1.0])), root / folder / f"{name}.nii.gz"
            )
    return root


def medsam2(*arguments: object) -> int:
    return run(["data", *(str(argument) for argument in arguments)])


def test_a_check_prints_what_the_set_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set")
    arguments = ["check", root, "--patient", r"p\d", "--modality", "CT", "--workers", 1]
    assert medsam2(*arguments, "--label", "1=liver", "--label", "2=vein", "-o", tmp_path / "report") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0] == "5 cases of 3 patients, kept as pairs"
    assert "label 1 (liver): 5 cases, 0.75..0.75 ml, median 0.75" in lines
    assert sum(line.startswith("warning [object-tiny] p") for line in lines) == 5
    assert lines[-2:] == ["0 errors, 5 warnings", str(tmp_path / "report" / "report.html")]
    assert (tmp_path / "report" / "contact_sheet.png").stat().st_size > 1000


def test_errors_fail_and_warnings_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", empty=True)
    assert medsam2("check", root, "--json", "--min-area", 1, "--workers", 1) == 1
    content = json.loads(capsys.readouterr().out)
    assert (content["errors"], content["warnings"], content["num_cases"]) == (1, 0, 5)
    assert content["findings"] == [
        {"severity": "error", "code": "mask-empty", "case": "p2_a", "text": "the mask is empty"}
    ]
    assert medsam2("check", root, "--label", "1=liver", "--workers", 1) == 1
    assert (
        "error [label-unknown] p1_a: the mask has 2, the table of labels 1 (liver)" in capsys.readouterr().out
    )


def test_stacks_are_prepared_by_patient_and_only_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, stacks = write_set(tmp_path / "set"), tmp_path / "stacks"
    arguments = ["prepare", root, "-o", stacks, "--patient", r"(p\d)_", "--window", 0, 100, "--workers", 1]
    arguments += ["--shares", 0.4, 0.3, 0.3, "--label", "1=liver"]
    assert medsam2(*arguments, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    listed = json.loads((stacks / "bank.json").read_text(encoding="utf-8"))
    parts = {
        split: {name[:2] for name in names}
        for split, names in {
            "train": [entry["case"] for entry in listed["train"]],
            "validation": [entry["case"] for entry in listed["validation"]],
            "test": listed["test"],
        }.items()
    }
    assert all(len(patients) == 1 for patients in parts.values())
    assert set.union(*parts.values()) == {"p1", "p2", "p3"}
    assert facts["patients"] == {"train": 1, "validation": 1, "test": 1}
    assert facts["objects"] == facts["left_out"] == facts["train_files"] + facts["validation_files"]
    assert listed["train"][0]["objects"] == ["liver"]
    assert listed["train"][0]["window"] == [0.0, 100.0]
    written = {path: path.stat().st_mtime_ns for path in stacks.glob("*.npz")}
    assert medsam2(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in stacks.glob("*.npz")} == written
    captured = capsys.readouterr()
    assert captured.out == f"{stacks}\n"
    assert "left out as too small" in captured.err


def test_a_scan_that_fails_is_named_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set", empty=True)
    assert medsam2("prepare", root, "-o", tmp_path / "stacks", "--workers", 1) == 1
    assert "medsam2: p2_a is left out: the mask is empty" in capsys.readouterr().err
    assert len(list((tmp_path / "stacks").glob("*.npz"))) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "{root}/none"], "no such file or folder"),
        (["check", "{root}/images"], "is no data set that we recognise; looked for nnunet: "),
        (["check", "{root}", "--format", "coco"], "no format is called 'coco'; formats are nnunet, "),
        (
            ["check", "{root}", "--label", "liver"],
            "a label is a number above 0 and a name, for example 1=liver, not 'liver'",
        ),
        (["check", "{root}", "--label", "0=air"], "a label is a number above 0"),
        (["check", "{root}", "--min-area", "0"], "0 is not in the range x>=1"),
        (["check", "{root}", "-o", "{root}/images/p1_a.nii.gz"], "made a folder"),
        (["check", "{root}", "--window", "bright"], "no window is called 'bright'"),
        (["check", "{root}", "--patient", "x"], "the patient 'x' is not found in images/p1_a.nii.gz"),
        (["prepare", "{root}"], "Missing option '-o'"),
        (["prepare", "{root}", "-o", "{root}/b", "--max-mib", "nan"], "a number of MiB above 0, not nan"),
        (["prepare", "{root}", "-o", "{root}/b", "--max-mib", "0.5"], "at least 1048576 bytes"),
        (["prepare", "{root}", "-o", "{root}/b", "--shares", "1", "1", "0"], "are to sum to 1"),
        (["prepare", "{root}", "-o", "{root}/b", "--window", "bright"], "no window is called 'bright'"),
        (
            ["prepare", "{root}", "-o", "{root}/b", "--patient", "p"],
            "1 patients cannot be shared among 2 splits",
        ),
    ],
)
def test_refusals(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set")
    assert medsam2(*(argument.format(root=root) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert sentence in captured.err
    assert not (root / "b" / "bank.json").exists()


RECIPE = """
preset = "compact"
initial_weights = "compact"
precision = "32-true"
ema_decay = 0.5
validate_every = 3
validation_clips = 8
checkpoint_every = 3
log_every = 1

[[phases]]
name = "clips"
steps = 3
image_size = 128
batch = 1
clip_length = 2
learning_rate = 2e-5
warmup_steps = 1
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development scans (../shared/data) are not here")
def test_the_shipped_weights_train_on_a_folder_of_nnunet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, stacks = tmp_path / "Dataset001_Abdomen", tmp_path / "stacks"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(("ct_ts_3mm", "mr_ts_abdomen")):
        shutil.copyfile(SHARED / name / "image.nii.gz", root / "imagesTr" / f"a_{number:03d}_0000.nii.gz")
        shutil.copyfile(SHARED / name / "mask.nii.gz", root / "labelsTr" / f"a_{number:03d}.nii.gz")
    table = {"channel_names": {"0": "scan"}, "labels": {"background": 0, "spleen": 1, "liver": 5}}
    (root / "dataset.json").write_text(json.dumps(table))
    assert medsam2("prepare", root, "-o", stacks, "--shares", 0.5, 0.5, 0, "--workers", 1) == 0
    capsys.readouterr()
    listed = json.loads((stacks / "bank.json").read_text(encoding="utf-8"))
    assert all({"liver", "spleen"} <= set(listed[split][0]["objects"]) for split in ("train", "validation"))

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "medsam2", "train", str(recipe), "-o", str(tmp_path / "run")]
    command += ["--stacks", str(stacks), "--device", "cpu", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stderr
    # The shipped network scores 0.5 on these clips; one that is shown noise, or another's masks, near 0.
    assert float(re.search(r"validation Dice ([\d.]+)", done.stderr).group(1)) > 0.4
    before, after = (
        load_network(path).state_dict()
        for path in (resolve("compact"), tmp_path / "run" / "weights.safetensors")
    )
    assert sum(not before[name].equal(after[name]) for name in before) > len(before) / 2
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (data["stacks"], data["validation_stacks"]) == (1, 1)
    assert len(list(stacks.glob("*.npz"))) == 2, "nothing is generated beside them"
