"""The report of a run that was made here, read back by json and checked against the files."""

import hashlib
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import medsam2
from medsam2.checkpoints import resolve
from medsam2.cli.messages import messages_on_stderr
from medsam2.errors import InputError
from medsam2.imaging.io import read, write
from medsam2.imaging.outputs.write import write_labels
from medsam2.inference.grid import cut_volume
from medsam2.inference.record import (
    RunReport,
    describe_file,
    describe_weights,
    noting_warnings,
    record_of,
)
from medsam2.inference.runtime import InferenceOptions
from medsam2.inference.session import Session
from medsam2.prompts.types import prompt_from


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def report(runtime, scan, tmp_path):
    """What a run with a box and a mask says of itself."""
    started = time.perf_counter()
    write(scan, tmp_path / "scan.nii.gz")
    session = Session(
        runtime,
        cut_volume(read(tmp_path / "scan.nii.gz")),
        window=(0, 210),
        options=InferenceOptions(zoom=False),
    )
    drawn = np.zeros((40, 56), bool)
    drawn[12:20, 40:50] = True
    prompts = {
        1: [prompt_from(4, box=(18, 12, 37, 25), points=[(20, 14), (2, 3)], labels=[1, 0])],
        2: [prompt_from(5, mask=drawn)],
    }
    session.add_all(prompts)
    session.finish()
    options = InferenceOptions()
    record = record_of(session, runtime, prompts, {1: "block"}, plane=None, options=options, seconds=1.0)
    outputs = write_labels(session.result(), tmp_path / "mask.seg.nrrd", names={1: "block"})
    return RunReport(
        record=record,
        weights=describe_weights("compact"),
        input_files=[describe_file(tmp_path / "scan.nii.gz")],
        output_files=[describe_file(path) for path in outputs],
        runtime_seconds=time.perf_counter() - started,
        warnings=["the window was guessed"],
    )


def test_a_run_is_told_in_json(report, tmp_path):
    report.write(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["versions"]["medsam2"] == medsam2.__version__
    assert told["versions"]["torch"] == torch.__version__
    assert told["versions"]["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert told["versions"]["platform"]
    assert told["weights"] == {"name": "compact", "sha256": digest(resolve("compact"))}
    for kind, path in (("input_files", "scan.nii.gz"), ("output_files", "mask.seg.nrrd")):
        assert told[kind] == [
            {
                "path": str(tmp_path / path),
                "num_files": 1,
                "size_bytes": (tmp_path / path).stat().st_size,
                "sha256": digest(tmp_path / path),
            }
        ]
    box, mask = told["prompts"]
    assert (box["object"], box["name"], box["slice_index"]) == (1, "block", 4)
    assert box["box_xyxy"] == [18, 12, 37, 25]
    assert box["points"] == [[20, 14, 1], [2, 3, 0]]
    assert box["mask_pixels"] is None
    assert (mask["object"], mask["slice_index"], mask["mask_pixels"]) == (2, 5, 80)
    assert told["window"] == {"lower": 0, "upper": 210, "source": "caller"}
    assert (told["device"], told["precision"], told["memory"]) == ("cpu", "float32", "recent")
    assert told["runtime_seconds"] > 0
    assert told["warnings"] == ["the window was guessed"]


def test_a_number_that_json_does_not_have_leaves_no_file(report, tmp_path):
    broken = RunReport(**{**vars(report), "runtime_seconds": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.write(tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


def test_a_folder_is_told_without_the_names_in_it(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for name, content in (("DOE^JOHN.dcm", b"first"), ("b.dcm", b"second")):
        (folder / name).write_bytes(content)
    (folder / "inside").mkdir()
    facts = describe_file(folder)
    assert (facts.num_files, facts.size_bytes) == (2, 11)
    assert "DOE" not in str(facts)
    command = "sha256sum ./*.dcm | cut -c1-64 | sort | sha256sum"
    shell = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    assert facts.sha256 == shell.stdout.split()[0]
    (folder / "DOE^JOHN.dcm").rename(folder / "a.dcm")
    assert describe_file(folder) == facts


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"scan\.nii: cannot be read: No such file"):
        describe_file(tmp_path / "scan.nii")


def test_warnings_are_noted_and_still_shown(capsys):
    with messages_on_stderr(), noting_warnings() as noted:
        warnings.simplefilter("always")
        warnings.warn("slices lean by 12 degrees", UserWarning, stacklevel=1)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=1)
    assert noted == ["slices lean by 12 degrees"]
    assert "medsam2: warning: slices lean by 12 degrees" in capsys.readouterr().err


def test_a_file_whose_name_is_no_utf8(report, tmp_path):
    named = tmp_path / os.fsdecode(b"pati\xe9nt.nii.gz")  # Latin-1, from an old disc
    named.write_bytes(b"x")
    replace(report, input_files=[describe_file(named)]).write(tmp_path / "r.json")
    told = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert told["input_files"][0]["path"] == str(named)
