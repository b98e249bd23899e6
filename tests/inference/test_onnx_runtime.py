"""Exported parts against the network that they come from: each part, whole runs, and half-size files."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from onnx_parity import compare_parts

import medsam2
from medsam2.checkpoints import save_weights
from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.inference.onnx.chain import CHAIN_FILE, Origin, read_facts
from medsam2.inference.onnx.export import chain_of, export_network
from medsam2.inference.onnx.networks import OnnxCompactNetwork, OnnxNetwork
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.inference.session import Session
from medsam2.measure.overlap import dice
from medsam2.model.compact.network import CompactNetwork

pytestmark = pytest.mark.slow

ORIGIN = Origin(name="test", sha256="0" * 64)
# Other numbers than the exporter's examples, and those that are special: one of each, and no pointer.
SIZES = (
    {"batch": 1, "points": 1, "tokens": 2, "memories": 1, "pointers": 1, "rows": 16, "columns": 16},
    {"batch": 3, "points": 5, "tokens": 6, "memories": 7, "pointers": 9, "rows": 64, "columns": 64},
    {"batch": 1, "points": 2, "tokens": 3, "memories": 2, "pointers": 0, "rows": 64, "columns": 48},
)
CLOSE = 1e-4  # of an output's spread
CLOSE_ROUNDED = 2e-2  # float16 has eleven bits


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    """The weights that ship, in PyTorch."""
    return medsam2.load("compact", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def shipped_parts(shipped: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The same in ONNX Runtime, through files."""
    return _through_files(shipped, tmp_path_factory.mktemp("shipped") / "parts")


def _through_files(predictor: Predictor, folder: Path) -> Predictor:
    network = predictor.runtime.network
    written = list(export_network(network, folder, origin=ORIGIN))
    assert written == [part.name for part in chain_of(network).parts]
    return medsam2.load(folder, runtime="onnx")


@pytest.fixture(scope="module", params=["compact", "official"])
def predictors(
    request: pytest.FixtureRequest, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Predictor, Predictor]:
    """A network in both runtimes: the one that ships, and a small one of the official kind."""
    if request.param == "compact":
        return request.getfixturevalue("shipped"), request.getfixturevalue("shipped_parts")
    ours = Predictor(runtime)
    return ours, _through_files(ours, tmp_path_factory.mktemp("official") / "parts")


@pytest.mark.parametrize("sizes", SIZES)
def test_every_part_gives_the_same_numbers(
    predictors: tuple[Predictor, Predictor], sizes: dict[str, int]
) -> None:
    ours, theirs = (predictor.runtime.network for predictor in predictors)
    assert isinstance(theirs, (OnnxNetwork, OnnxCompactNetwork))
    assert theirs.config == ours.config
    scores = list(compare_parts(ours, theirs.parts, sizes, repeats=1))
    assert len(scores) == len(theirs.parts.facts["parts"])
    for score in scores:
        assert max(score.differences) < CLOSE, score


def _box(session: Session) -> None:
    session.add(1, slice=4, box=(18, 12, 37, 25))
    session.add(2, slice=4, points=[(27, 18), (50, 35)], labels=[1, 0])


def _corrected(session: Session) -> None:
    session.add(1, slice=4, box=(18, 12, 37, 25))
    session.finish()
    session.add(1, slice=6, points=[(30, 20)], labels=[1])
    session.add(1, slice=4, points=[(20, 14)], labels=[0])


def _drawn(session: Session) -> None:
    mask = np.zeros((40, 56), dtype=np.uint8)
    mask[12:26, 18:38] = 1
    session.add(1, slice=4, mask=mask)


@pytest.mark.parametrize("prompt", [_box, _corrected, _drawn])
@pytest.mark.parametrize("memory", ["recent", "self-sorting"])
def test_runs_give_the_same_masks(
    predictors: tuple[Predictor, Predictor], scan: Volume, prompt, memory: str
) -> None:
    found = []
    for predictor in predictors:
        options = InferenceOptions(memory=memory)
        session = predictor.session(scan, window=(0, 255), options=options)
        prompt(session)
        session.finish()
        found.append(session.result().array)
    assert found[0].any()
    # A voxel where two objects have nearly the same logit may go to either.
    assert np.count_nonzero(found[0] != found[1]) <= 1e-3 * np.count_nonzero(found[0])


def test_the_record_names_the_runtime(predictors: tuple[Predictor, Predictor]) -> None:
    assert [predictor.runtime.name for predictor in predictors] == ["torch", "onnx"]


@pytest.fixture(scope="module")
def frozen() -> ModuleType:
    """The runs whose masks are recorded."""
    path = Path(__file__).resolve().parents[1] / "frozen" / "test_frozen_runs.py"
    spec = importlib.util.spec_from_file_location("frozen_runs_through_onnx", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("run", ["corrections", "two_objects", "undo"])
def test_frozen_runs_give_the_recorded_masks(
    frozen: ModuleType, shipped_parts: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: str
) -> None:
    monkeypatch.setattr(frozen, "predictor", lambda: shipped_parts)
    recorded = frozen.recorded()
    for name, mask in frozen.RUNS[run](tmp_path, None).items():
        expected = recorded[f"{run}/{name}"]
        for number in np.unique(expected):
            assert dice(expected == number, mask == number) > 0.999, f"{name}, label {number}"


def test_half_size_files_hold_rounded_weights(runtime: Runtime, tmp_path: Path) -> None:
    network = runtime.network
    folder = tmp_path / "parts"
    list(export_network(network, folder, origin=ORIGIN, stored_as="float16"))
    theirs = medsam2.load(folder, runtime="onnx").runtime.network
    assert isinstance(theirs, OnnxNetwork)
    for score in compare_parts(network, theirs.parts, SIZES[1], repeats=1):
        assert max(score.differences) < CLOSE_ROUNDED, score
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.onnx"))
    assert num_bytes < 0.6 * 4 * sum(value.numel() for value in network.parameters())


def test_weights_are_exported_once(
    compact_network: CompactNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_weights(compact_network.state_dict(), compact_network.config, weights, dtype=torch.float32)
    monkeypatch.setenv("MEDSAM2_HOME", str(tmp_path / "home"))
    with caplog.at_level(logging.WARNING, "medsam2"):
        medsam2.load(weights, runtime="onnx")
        medsam2.load(weights, runtime="onnx")
    assert caplog.text.count("to ONNX once") == 1
    (folder,) = (tmp_path / "home" / "onnx").iterdir()
    facts = read_facts(folder)
    assert facts["weights"]["name"] == weights.name, "no folder of the user's is told"
    (folder / facts["parts"][0]["file"]).write_bytes(b"damaged")
    with pytest.raises(InputError, match="its parts cannot be loaded"):
        medsam2.load(folder, runtime="onnx")
    (folder / CHAIN_FILE).write_text('{"format": 1}')
    with pytest.raises(InputError, match="export"):
        medsam2.load(folder, runtime="onnx")
