"""The package's own names: complete, real and found late."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import medsam2

ROOT = Path(__file__).resolve().parents[1]
PROMISED = {
    *("Box", "Client", "InferenceOptions", "InputError", "MaskPrompt", "MedSAM2Error", "Point", "Predictor"),
    *("Session", "VideoSession", "Volume", "as_volume", "load", "open_video", "read", "write"),
}


def test_the_names_are_those_of_the_design() -> None:
    assert set(medsam2.__all__) == {*PROMISED, "__version__"}
    assert set(dir(medsam2)) >= set(medsam2.__all__)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_name_is_there_and_the_same_each_time(name: str) -> None:
    value = getattr(medsam2, name)
    assert value.__name__ == name
    assert value.__module__.startswith("medsam2.")
    assert getattr(medsam2, name) is value


def test_editors_see_the_same_names_as_python() -> None:
    tree = ast.parse(Path(medsam2.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared.keys() == PROMISED
    for name, module in declared.items():
        assert getattr(medsam2, name).__module__ == module


def test_the_version_is_the_installed_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert medsam2.__version__ == version("medsam2") == project["version"]


def test_other_names_are_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'medsam2' has no attribute 'Volumes'"):
        _ = medsam2.Volumes


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str | None
) -> None:
    ours = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | given
    script = (
        "import sys, medsam2\n"
        "assert 'torch' not in sys.modules\n"  # or it would be too late
        "import os; print(repr(os.environ.get('GOMP_SPINCOUNT')))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert result.stdout == f"{expected!r}\n"
