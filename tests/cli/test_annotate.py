"""`medsam2 annotate` as a process of its own: what it says, what it refuses, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import httpx
import nibabel
import numpy as np
import pytest

from medsam2.cli.annotate import STRUCTURE, annotate, make_tour
from medsam2.cli.main import run

PATIENCE_S = 120


def test_the_summary_is_that_of_the_help() -> None:
    from medsam2.cli.main import SUBCOMMANDS

    assert annotate.get_short_help_str(200).startswith(SUBCOMMANDS["annotate"].rstrip("."))
    assert isinstance(annotate, click.Command)


def test_a_folder_is_served_to_this_machine(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 200, (16, 16, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(grey, np.eye(4)), tmp_path / "scan.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
    command = [sys.executable, "-m", "medsam2", "annotate", str(tmp_path), "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment | {"MEDSAM2_READERS": "1"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
                end = time.monotonic() + PATIENCE_S
                while client.get("/readyz").status_code != 200:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                assert "medsam2" in client.get("/").text
                (case,) = client.get("/v1/project").json()["cases"]
                assert case["num_slices"] == 4
                opened = client.post(f"/v1/project/cases/{case['id']}/open", json={"user": "anna"}).json()
                session = client.post("/v1/sessions", json={"path": opened["path"]})
                assert session.json()["shape"] == [4, 16, 16]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert "broken.nii.gz" in said
    assert "1 new case" in said


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["annotate", str(tmp_path / "nowhere"), "--no-browser"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_the_tours_answer_lies_in_its_box(tmp_path: Path) -> None:
    tour = make_tour()
    assert tour.structure == STRUCTURE
    (tmp_path / "answer.nii.gz").write_bytes(tour.answer)
    answer = np.asarray(nibabel.load(tmp_path / "answer.nii.gz").dataobj).T
    rows, columns = np.nonzero(answer[tour.slice])
    assert tour.box == (columns.min(), rows.min(), columns.max(), rows.max())
    (tmp_path / "scan.nii.gz").write_bytes(tour.scan)
    assert nibabel.load(tmp_path / "scan.nii.gz").shape == answer.T.shape
