"""Our network and propagation against recorded outputs of the reference, entry by entry."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2.inference.features import normalise

_HERE = Path(__file__).resolve().parent


def _sibling(name: str):
    """Import a module from this folder; tests are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


recorded = _sibling("recorded")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Other tests keep their threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _report(capsys: pytest.CaptureFixture[str], name: str, largest: dict[str, float]) -> None:
    with capsys.disabled():
        print(f"\n  {name}: " + ", ".join(f"{what} {value:.1e}" for what, value in largest.items()), end="")


@pytest.mark.parametrize("level", [0, 1, 2])
def test_encoder_levels(level: int, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = recorded.golden_runtime()
    frames = recorded.golden_inputs().slices(6, 512, seed=7)
    with runtime.computing():
        features = runtime.network.encode_image(normalise(torch.from_numpy(frames[:1])))
    ours = getattr(features, f"level{level}")
    expected = recorded.recordings()
    assert tuple(ours.shape) == tuple(expected[f"encoder/level{level}/shape"])
    values = ours.flatten()[torch.from_numpy(expected[f"encoder/level{level}/flat_index"])].numpy()
    theirs = expected[f"encoder/level{level}/values"]
    np.testing.assert_allclose(values, theirs, rtol=recorded.RTOL, atol=recorded.ATOL)
    _report(capsys, f"encoder level {level}", {"features": float(np.abs(values - theirs).max())})


@pytest.mark.parametrize(
    ("prompts", "entries"),
    [
        pytest.param(
            {1: {"slice": 3, "box": (170, 200, 290, 330)}},
            {"box/forward": 1, "box/reverse": 1},
            id="box",
        ),
        pytest.param({1: {"slice": 3, "points": [(230, 260)]}}, {"point/forward": 1}, id="point"),
        pytest.param(
            {
                1: {"slice": 2, "box": (150, 190, 260, 330)},
                2: {"slice": 2, "points": [(300, 300), (120, 90)], "labels": [1, 0]},
            },
            {"two_objects/forward/object1": 1, "two_objects/forward/object2": 2},
            id="two objects",
        ),
    ],
)
def test_propagation(prompts: dict, entries: dict, capsys: pytest.CaptureFixture[str]) -> None:
    session = recorded.golden_session()
    for number, prompt in prompts.items():
        session.add(number, **prompt)
    for _ in session.propagate():
        pass
    for entry, number in entries.items():
        _report(capsys, entry, recorded.compare(session, number, entry))


def test_every_recorded_entry_is_compared() -> None:
    compared = ("encoder/level", "box/forward/", "box/reverse/", "point/forward/", "two_objects/forward/")
    assert len(recorded.recordings()) == 29
    assert all(name.startswith(compared) for name in recorded.recordings())


def test_the_recordings_are_whole_and_small() -> None:
    """They are part of the repository: a test that skips without them would prove nothing in a clone."""
    files = sorted(path for path in recorded.GOLDEN.iterdir() if path.is_file())
    assert {f"{group}.npz" for group in recorded.GROUPS} <= {path.name for path in files}
    assert all(path.stat().st_size < 2**20 for path in files)
    assert len(recorded.golden_inputs().entries()) == 471
