"""Improving the model for real: a server, a process that trains, weights used, kept and put back."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from medsam2.training.config import read_recipe
from medsam2.training.rounds.learning import RECIPE

pytestmark = pytest.mark.slow
SHAPE = (8, 48, 56)  # (z, y, x)
PATIENCE_S = 180.0
SHORT = """
preset = "compact"
initial_weights = "compact"
keep_best = false
validate_every = 4
validation_clips = 2
checkpoint_every = 1
log_every = 1
[[phases]]
name = "few"
steps = STEPS
image_size = 64
batch = 1
clip_length = 2
learning_rate = 1e-3
warmup_steps = 1
"""


def test_the_packages_recipe_is_that_of_the_documents() -> None:
    import dataclasses

    theirs = read_recipe(Path(__file__).parents[2] / "recipes" / "compact-finetune.toml")
    ours = read_recipe(RECIPE)
    kept = {name: getattr(theirs, name) for name in ("checkpoint_every", "log_every", "report_cases")}
    assert dataclasses.replace(ours, **kept) == theirs


@contextmanager
def annotating(folder: Path, recipe: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """The command, serving; ended as a service manager does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM2_")}
    environment |= {"MEDSAM2_READERS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "medsam2", "annotate", str(folder), "--port", "0", "--no-browser"]
    with (folder.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--recipe", str(recipe)], stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment,
        )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    try:
        with httpx.Client(base_url=f"{address}v1", timeout=PATIENCE_S) as client:
            client.get("/project")  # the listener waits until the server answers
            yield client, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.close()


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def latest(client: httpx.Client) -> dict[str, object]:
    return dict(client.get("/project/rounds").json()["rounds"][-1])


def act(client: httpx.Client, **asked: object) -> Mapping[str, object]:
    answer = client.post("/project/rounds", json={"user": "anna", **asked})
    assert answer.is_success, answer.text
    return dict(answer.json())


def finish_cases(client: httpx.Client, count: int) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 12:30, 16:36] = 1
    image = nibabel.Nifti1Image(mask.T, np.diag([-0.8, 0.8, 2.5, 1.0]))
    for case in client.get("/project").json()["cases"][:count]:
        path = f"/project/cases/{case['id']}"
        client.post(f"{path}/open", json={"user": "anna"})
        body = {"user": "anna", "mask": base64.b64encode(image.to_bytes()).decode(), "prompts": []}
        assert client.post(f"{path}/versions", json={**body, "state": "done"}).status_code == 201
        client.post(f"{path}/release", json={"user": "anna"})


def weights_of_next_mask(client: httpx.Client) -> str:
    """Segment the last case with a box, save it, and say which weights its version tells of."""
    case = client.get("/project").json()["cases"][-1]
    path = f"/project/cases/{case['id']}"
    opened = client.post(f"{path}/open", json={"user": "anna"}).json()
    session = client.post("/sessions", json={"path": opened["path"]}).json()
    box = {"object": 1, "slice": 3, "box": [16, 12, 35, 29]}
    client.post(f"/sessions/{session['id']}/prompts", json=box).raise_for_status()
    mask = np.zeros(SHAPE, np.uint8)
    image = nibabel.Nifti1Image(mask.T, np.diag([-0.8, 0.8, 2.5, 1.0]))
    saved = client.post(
        f"{path}/versions",
        json={
            "user": "anna", "mask": base64.b64encode(image.to_bytes()).decode(), "prompts": [box],
            "state": "in work", "session": session["id"],
        },
    )  # fmt: skip
    client.delete(f"/sessions/{session['id']}")
    client.post(f"{path}/release", json={"user": "anna"})
    return str(saved.json()["weights"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(5):
        grey = np.random.default_rng(number).normal(60, 8, SHAPE)
        grey[2:6, 12:30, 16:36] += 100
        affine = np.diag([-0.8, 0.8, 2.5, 1.0])
        nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), affine), scans / f"scan{number}.nii.gz")
    return scans


def recipe_of(tmp_path: Path, steps: int) -> Path:
    path = tmp_path / f"{steps}.toml"
    path.write_text(SHORT.replace("STEPS", str(steps)))
    return path


def test_a_model_is_improved_used_kept_and_put_back(folder: Path, tmp_path: Path) -> None:
    with annotating(folder, recipe_of(tmp_path, 6)) as (client, _):
        finish_cases(client, 2)
        assert "3 finished cases" in client.get("/project/rounds").json()["obstacle"]
        assert client.post("/project/rounds", json={"user": "anna"}).status_code == 409
        finish_cases(client, 4)
        act(client, action="start")
        seen: set[str] = set()

        def is_over() -> bool:
            one = latest(client)
            seen.add(str(one["message"]))
            return one["state"] != "running"

        until(is_over)
        one = latest(client)
        assert one["state"] == "ready", one
        assert len(seen) > 2
        assert set(one["before"]) == set(one["after"]) == {"Dice"}  # type: ignore[call-overload]
        assert weights_of_next_mask(client) == "compact"
        act(client, action="use", round=2)
        assert weights_of_next_mask(client) == "round 2"
    with annotating(folder, recipe_of(tmp_path, 6)) as (client, _):
        assert client.get("/project/rounds").json()["current"] == 2
        assert weights_of_next_mask(client) == "round 2"
        act(client, action="back")
        assert weights_of_next_mask(client) == "compact"


def test_a_training_ends_with_the_server_and_goes_on_later(folder: Path, tmp_path: Path) -> None:
    left = folder / ".medsam2" / "rounds" / "002" / "run" / "state.pt"
    with annotating(folder, recipe_of(tmp_path, 400)) as (client, _):
        finish_cases(client, 3)
        act(client, action="start")
        until(left.exists)
    with annotating(folder, recipe_of(tmp_path, 6)) as (client, process):
        one = latest(client)
        assert (one["state"], one["message"]) == ("stopped", "the server ended while it was training")
        time.sleep(1)
        written = left.stat().st_mtime_ns
        time.sleep(2)
        assert left.stat().st_mtime_ns == written  # nobody trains any more
        act(client, action="go on", round=2)
        until(lambda: latest(client)["state"] == "ready")
        assert process.poll() is None
